"""Events in the ledger: each is written down once, and stays until every hook that wants it has been run.

An event is posted in the transaction that writes down what caused it. For each of its hooks there is a delivery, which
goes its own way:

    pending -> running -> done
       ^          |
       +----------+---> given up      failed: again after 10 s, 1 min, 10 min and 1 h

An order is kept: of one subject (a quota, a plan, …), no two hooks run at once, and a hook is run for a later event
only when the earlier one is done or given up. Else a hook that hangs or fails holds up no other one: each has places of
its own (MOST_OF_ONE_HOOK), and what was not tried yet comes before what has failed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esimbpf.events import Event, EventType
from esimbpf.ledger.database import FILE_NAME, LedgerError, connect, said, transaction

__all__ = [
    "MOST_AT_ONCE",
    "MOST_OF_ONE_HOOK",
    "RETRY_AFTER_S",
    "Delivery",
    "Follower",
    "Posted",
    "begin",
    "done",
    "due",
    "failed",
    "hand_out",
    "never_begun",
    "post",
    "recent",
    "running",
    "thin",
]

RETRY_AFTER_S: Final = (10.0, 60.0, 600.0, 3600.0)
"""After the first, second, … failure; after one more a delivery is given up."""

MOST_AT_ONCE: Final = 8
"""Hooks that run at the same time."""
MOST_OF_ONE_HOOK: Final = 2
"""How often the same hook may run at the same time; more than once only while more than half of all places are free."""

_KEEP_S: Final = 400 * 86400
_OPEN: Final = "state IN ('pending', 'running')"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A hook that is to be run for an event."""

    event_id: int
    hook: str
    event: Event
    attempts: int
    """Begun until now, the one under way included."""
    run: str | None = None
    """The attempt that is under way; the name is never used again, so that another ledger does not mistake it."""


@dataclass(frozen=True, slots=True)
class Posted:
    """An event as it was written down, and what has become of it."""

    number: int
    """Grows with each event; never used again."""
    event: Event
    hooks: tuple[tuple[str, str, int, str | None], ...]
    """Of each hook: name, state, attempts, why the last one failed."""


def post(db: sqlite3.Connection, event: Event) -> bool:
    """Write an event down; False if that was done before. To be called where its cause is written down too."""
    return (
        db.execute(
            "INSERT OR IGNORE INTO event (type, subject, same, line, keep_until_s) VALUES (?, ?, ?, ?, ?)",
            (event.type.value, event.subject, event.id, json.dumps(event.to_json()), _keep_until_s(event)),
        ).rowcount
        > 0
    )


def _keep_until_s(event: Event) -> float | None:
    """When the event can no longer happen again; None if it always can."""
    if event.type is EventType.APP_FIRST_SEEN:
        return None
    if event.period_begin is None:
        return event.time.timestamp()
    return event.period_end.timestamp() if event.period_end else None


def hand_out(db: sqlite3.Connection, hooks_for: Callable[[EventType], Iterable[str]], now_s: float) -> int:
    """Decide which hooks are run for the events that are new; how many events there were."""
    with transaction(db):
        new = db.execute("SELECT id, type FROM event WHERE NOT handed_out ORDER BY id").fetchall()
        for event_id, kind in new:
            db.executemany(
                "INSERT INTO delivery (event_id, hook, next_try_s) VALUES (?, ?, ?)",
                [(event_id, hook, now_s) for hook in hooks_for(EventType(kind))],
            )
            db.execute("UPDATE event SET handed_out = 1 WHERE id = ?", (event_id,))
    return len(new)


def due(db: sqlite3.Connection, now_s: float, room: int = MOST_AT_ONCE) -> list[Delivery]:
    """What may be begun now where so many places are free, in its order: at most one of each subject."""
    rows = db.execute(
        "SELECT event_id, hook, state, attempts, next_try_s, subject, line FROM delivery "
        f"JOIN event ON event.id = event_id WHERE {_OPEN} ORDER BY event_id, hook"
    )
    busy: set[str] = set()
    at_work: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[bool, int, str, str, int, str]] = []
    for event_id, hook, state, attempts, next_try_s, subject, line in rows:
        # No retry is that far: the clock was set back.
        due_now = now_s >= next_try_s or next_try_s > now_s + 2 * RETRY_AFTER_S[-1]
        if state == "running":
            busy.add(subject)
            at_work[hook] += 1
        elif due_now and (subject, hook) not in seen:
            waiting.append((attempts > 0, event_id, hook, subject, attempts, line))
        seen.add((subject, hook))
    ready: list[Delivery] = []
    waiting.sort()
    for place in range(MOST_OF_ONE_HOOK):
        for _, event_id, hook, subject, attempts, line in waiting:
            free = room - len(ready) - (MOST_AT_ONCE // 2 if place else 0)
            if free > 0 and subject not in busy and at_work[hook] <= place:
                ready.append(Delivery(event_id, hook, _event(line), attempts))
                busy.add(subject)
                at_work[hook] += 1
    return ready


def begin(db: sqlite3.Connection, delivery: Delivery, run: str) -> Delivery:
    """Note that an attempt is about to begin, and its name."""
    with transaction(db):
        db.execute(
            "UPDATE delivery SET state = 'running', attempts = attempts + 1, run = ? WHERE event_id = ? AND hook = ?",
            (run, delivery.event_id, delivery.hook),
        )
    return Delivery(delivery.event_id, delivery.hook, delivery.event, delivery.attempts + 1, run)


def running(db: sqlite3.Connection) -> list[Delivery]:
    """The attempts that were begun and have not ended, as far as was written down."""
    rows = db.execute(
        "SELECT event_id, hook, line, attempts, run FROM delivery JOIN event ON event.id = event_id "
        "WHERE state = 'running' ORDER BY event_id, hook"
    )
    return [Delivery(event_id, hook, _event(line), attempts, run) for event_id, hook, line, attempts, run in rows]


def done(db: sqlite3.Connection, delivery: Delivery) -> None:
    """An attempt has succeeded."""
    _end(db, delivery, "done", 0.0, None)


def failed(db: sqlite3.Connection, delivery: Delivery, why: str, now_s: float) -> float | None:
    """An attempt has failed; seconds until the next one, or None if it is given up."""
    if delivery.attempts > len(RETRY_AFTER_S):
        _end(db, delivery, "given up", 0.0, why)
        return None
    after_s = RETRY_AFTER_S[delivery.attempts - 1]
    _end(db, delivery, "pending", now_s + after_s, why)
    return after_s


def _end(db: sqlite3.Connection, delivery: Delivery, state: str, next_try_s: float, why: str | None) -> None:
    with transaction(db):
        db.execute(
            "UPDATE delivery SET state = ?, next_try_s = ?, run = NULL, why = ? "
            "WHERE event_id = ? AND hook = ? AND run = ?",
            (state, next_try_s, why, delivery.event_id, delivery.hook, delivery.run),
        )


def never_begun(db: sqlite3.Connection, delivery: Delivery) -> None:
    """An attempt that was noted did not begin: it is as if it had not been noted."""
    with transaction(db):
        db.execute(
            "UPDATE delivery SET state = 'pending', attempts = attempts - 1, run = NULL "
            "WHERE event_id = ? AND hook = ? AND run = ?",
            (delivery.event_id, delivery.hook, delivery.run),
        )


def thin(db: sqlite3.Connection, now_s: float) -> None:
    """Let go of events that are finished and whose period ended 400 days ago; before, they could happen again."""
    with transaction(db):
        db.execute(
            "DELETE FROM event WHERE handed_out AND keep_until_s < ? "
            f"AND id NOT IN (SELECT event_id FROM delivery WHERE {_OPEN})",
            (now_s - _KEEP_S,),
        )


def recent(db: sqlite3.Connection, after: int | None = None, most: int = 100) -> list[Posted]:
    """The last events in the order of their posting; with `after`, the first of those behind that number."""
    if after is None:
        rows = db.execute("SELECT id, line FROM event ORDER BY id DESC LIMIT ?", (most,)).fetchall()[::-1]
    else:
        rows = db.execute("SELECT id, line FROM event WHERE id > ? ORDER BY id LIMIT ?", (after, most)).fetchall()
    return [Posted(number, _event(line), _hooks(db, number)) for number, line in rows]


class Follower:
    """What is posted in a state folder's ledger from its making on; where none can be read, nothing."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        # Of a ledger that is still to come, all is new.
        self._seen: int | None = None if (state_dir / FILE_NAME).exists() else 0
        self.new()

    def new(self) -> list[Event]:
        """The events since the last call."""
        try:
            with said(self._state_dir / FILE_NAME), closing(connect(self._state_dir, read_only=True)) as db:
                return self._new(db)
        except LedgerError:
            return []

    def _new(self, db: sqlite3.Connection) -> list[Event]:
        row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
        newest = row[0] if row else 0
        if self._seen is None:
            self._seen = newest
        # Numbers only grow, but in another ledger.
        posted = recent(db, after=self._seen if newest >= self._seen else 0)
        self._seen = posted[-1].number if posted else newest
        return [one.event for one in posted]


def _hooks(db: sqlite3.Connection, number: int) -> tuple[tuple[str, str, int, str | None], ...]:
    return tuple(
        db.execute(
            "SELECT hook, state, attempts, why FROM delivery WHERE event_id = ? ORDER BY hook", (number,)
        ).fetchall()
    )


def _event(line: str) -> Event:
    return Event.from_json(json.loads(line))
