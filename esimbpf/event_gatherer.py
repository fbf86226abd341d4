"""What has happened, gathered while counts are folded in: of links, apps, plans and quotas, each written down once.

An event is written down in the transaction that folds in what has caused it: it happens with that, or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from esimbpf import quota
from esimbpf.events import Event, EventType
from esimbpf.journal import log
from esimbpf.ledger import outbox, plans, quotas
from esimbpf.membership import Members
from esimbpf.quota import LIMIT, App, Standing, User, Whom
from esimbpf.units import bytes_text
from esimbpf.users import user_name

__all__ = ["EventGatherer"]

_LOOK_EVERY: Final = timedelta(minutes=1)
"""How often it is looked whether there is anything to tell of plans, and of apps that use much."""
_RAPID: Final = timedelta(minutes=5)
_RAPID_BYTES: Final = 100_000_000
"""So much in so short a time is rapid use."""


class EventGatherer:
    """Finds what has happened by what is folded into a ledger, and writes it down there; sqlite3.Error.

    The ledger is only written to within the caller's transaction, and `committed` is called when that has held; not
    before is anything logged.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._noted: list[Event] = []
        self._of_quotas: list[quota.Event] = []
        self._looked = datetime.fromtimestamp(0, UTC)
        self._last_app = self._apps_met = db.execute("SELECT coalesce(max(id), 0) FROM app").fetchone()[0]

    def note(self, event: Event) -> None:
        """Have an event written down with what is folded next."""
        self._noted.append(event)

    def write_down(self, now: datetime) -> None:
        """Write down what was noted, and what has happened to apps and plans by what is being folded in."""
        self._of_quotas = []
        happened = [*self._noted, *self._new_apps(now)]
        if abs(now - self._looked) >= _LOOK_EVERY:
            self._looked = now
            happened += [*self._levels_of_plans(now), *self._rapid_use(now)]
        for event in happened:
            outbox.post(self._db, event)

    def write_down_of(self, standings: Iterable[Standing], members: Callable[[Whom], Members]) -> None:
        """Write down what has happened to quotas by how they stand now; `members` are those whom they are for."""
        for standing in standings:
            for event in quotas.record(self._db, standing):
                if outbox.post(self._db, _told(event, members(standing.kept.quota.whom))):
                    self._of_quotas.append(event)

    def committed(self) -> None:
        """Log what has happened to quotas; what was written down is not gathered again."""
        for event in self._of_quotas:
            log(_words_of(event), "info" if event.kind is quota.EventKind.RESET else "warning")
        self._noted, self._last_app, self._of_quotas = [], self._apps_met, []

    def _new_apps(self, now: datetime) -> list[Event]:
        """Of the apps that the ledger has met with what is being folded in."""
        rows = self._db.execute("SELECT id, name FROM app WHERE id > ? ORDER BY id", (self._last_app,)).fetchall()
        self._apps_met = rows[-1][0] if rows else self._last_app
        return [Event(type=EventType.APP_FIRST_SEEN, time=now, app=name) for _, name in rows]

    def _levels_of_plans(self, now: datetime) -> Iterator[Event]:
        """Of the plans whose levels are reached; that a level is told once in a cycle, the outbox sees to."""
        for plan in plans.kept(self._db):
            stands = plans.judged(self._db, plan, now)
            if stands.cycle is None:
                continue
            reached = [(EventType.PLAN_WARNING, level) for level in stands.warnings]
            if stands.used_bytes >= stands.allowance_bytes:
                reached.append((EventType.PLAN_EXHAUSTED, LIMIT))
            for kind, level in reached:
                yield Event(
                    type=kind,
                    time=now,
                    plan=plan.target,
                    level_percent=level,
                    used_bytes=stands.used_bytes,
                    limit_bytes=stands.allowance_bytes,
                    period_begin=stands.cycle.begin,
                    period_end=stands.cycle.end,
                )

    def _rapid_use(self, now: datetime) -> list[Event]:
        """Of the apps that have used much in the last minutes; told once an hour of each."""
        begin = now - _RAPID
        hour = now.replace(minute=0, second=0, microsecond=0)
        rows = self._db.execute(
            "SELECT app.name, sum(rx_bytes) + sum(tx_bytes) AS used FROM minute JOIN app ON app.id = app_id "
            "WHERE kind = 'app' AND begin_s >= ? GROUP BY app_id HAVING used >= ?",
            (int(begin.timestamp()), _RAPID_BYTES),
        )
        return [
            Event(
                type=EventType.APP_RAPID_USE,
                time=now,
                app=app,
                used_bytes=used,
                limit_bytes=_RAPID_BYTES,
                period_begin=hour,
                period_end=hour + timedelta(hours=1),
            )
            for app, used in rows
        ]


def _told(event: quota.Event, members: Members) -> Event:
    """A quota's event, as hooks and `watch` are told of it."""
    standing, about = event.standing, event.standing.kept.quota
    period = standing.period
    return Event(
        type=EventType(event.kind.value),
        time=standing.now,
        quota=about.name,
        app=about.whom.name if isinstance(about.whom, App) else None,
        user=user_name(about.whom.uid) if isinstance(about.whom, User) else None,
        link=about.link or None,
        profile=about.profile or None,
        level_percent=None if event.kind is quota.EventKind.RESET else event.level or LIMIT,
        used_bytes=standing.used_bytes,
        limit_bytes=about.limit_bytes,
        period_begin=period.begin if period else standing.now,
        period_end=standing.resets,
        added=standing.kept.added,
        action=str(about.action),
        cgroups=members.cgroups,
        pids=members.pids,
    )


def _words_of(event: quota.Event) -> str:
    standing, about = event.standing, event.standing.kept.quota
    used = f"{bytes_text(standing.used_bytes)} of {about.limit}"
    match event.kind:
        case quota.EventKind.WARNING:
            return f"quota {about.name}: {event.level} % is reached, {used}"
        case quota.EventKind.EXCEEDED:
            return f"quota {about.name}: the limit is reached, {used}: {about.action}"
        case quota.EventKind.RESET:
            return f"quota {about.name}: a new period begins"
