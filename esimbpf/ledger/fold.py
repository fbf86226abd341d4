"""Folding the kernel's counters into the ledger, each byte exactly once.

The kernel's counters only grow. How far they have been folded in stands in the ledger beside what was folded, written
in one transaction: whenever the folding process is killed, the next one goes on from there. The slot of an ended
process goes to another one only after a commit that has its last bytes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from esimbpf.apps import process_name
from esimbpf.attribution import Namer
from esimbpf.difference import KIND_OF_SLOT, Difference, Standing, sum_of
from esimbpf.ledger.database import transaction
from esimbpf.ledger.identities import identity_of, ids_of, key_of, key_when_counted_last
from esimbpf.model import NOTHING, Counters, Kind, Process
from esimbpf.modem.identity import UNKNOWN, Identity
from esimbpf.snapshot import ReservedSlot, Snapshot

__all__ = [
    "DAY_S",
    "KEEP_MINUTES_S",
    "KEEP_QUARTERS_S",
    "MINUTE_S",
    "QUARTER_S",
    "Attachment",
    "Folding",
    "note_downtime",
    "thin",
]

MINUTE_S: Final = 60
QUARTER_S: Final = 900
DAY_S: Final = 86400

KEEP_MINUTES_S: Final = 7 * DAY_S
"""How long what was counted can be told by the minute; longer than that, by the quarter of an hour."""
KEEP_QUARTERS_S: Final = 400 * DAY_S
"""How long by the quarter of an hour, of which the days of any time zone are made; after that, by days of UTC."""

LOOKED_AWAY_S: Final = 90.0
"""From so long on, the time awake since the last folding is a gap: nobody knows when in it the bytes have moved."""

_NO_IP: Final = "other"
_NEVER_WHOLE: Final = "never whole"
_DEBT: Final = "debt"


@dataclass(frozen=True, slots=True)
class Attachment:
    """Whose counters are folded in: the counting that began once and has gone on since."""

    attach_id: str
    boot_id: str
    started_wall_s: float
    started_boottime_ns: int
    started_awake_ns: int
    links: tuple[str, ...]
    """The names of the links by their number."""
    sees_all: bool


@dataclass(frozen=True, slots=True)
class _Key:
    """Of a bucket's row."""

    begin_s: int
    link: int
    identity: Identity
    kind: str
    app: str
    uid: int


@dataclass(slots=True)
class _Pending:
    """What is not committed yet."""

    counters: dict[_Key, Counters] = field(default_factory=dict)
    blocked: dict[_Key, Counters] = field(default_factory=dict)
    programs: dict[tuple[str, str, str], int] = field(default_factory=dict)
    slots: set[tuple[int, int]] = field(default_factory=set)
    blocked_slots: set[tuple[int, int]] = field(default_factory=set)
    gaps: list[tuple[float, float, int, str]] = field(default_factory=list)


class Folding:
    """Folds the snapshots of one attachment into the ledger.

    `take` notes a snapshot, and `commit` writes all that was noted; a commit that failed is made up for by the next.
    `debts`, by link, are those of the attachment that this one has relieved; they count when it is new to the ledger.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        attachment: Attachment,
        namer: Namer,
        debts: Mapping[str, Counters] | None = None,
    ) -> None:
        self._db = db
        self._attachment = attachment
        self.namer = namer
        self._pending = _Pending()
        self.identities: Mapping[str, Identity] = {}
        """By link, on whose account it moves what the next snapshot adds; those that are left out are unknown."""
        with transaction(db):
            self._links = [_id_of(db, "link", "name", name) for name in attachment.links]
            known = db.execute(
                "SELECT id, followed, folded_s, folded_boottime_ns, folded_awake_ns FROM attachment "
                "WHERE attach_id = ?",
                (attachment.attach_id,),
            ).fetchone()
            if known is None:
                known = self._begin(attachment, debts or {})
            joined = {
                link for (link,) in db.execute("SELECT link_id FROM folded_kind WHERE attachment_id = ?", known[:1])
            }
            for link in self._links:
                if link not in joined:
                    self._join(known[0], attachment, link, NOTHING, time.time())
        self._id, self.followed, self._last_s, self._last_ns, self._last_awake_ns = known
        """`followed`: another attachment has been folded since; nothing more of this one is to be."""
        numbers = {link: number for number, link in enumerate(self._links)}
        self._cumulative = {
            (numbers[link], slot): Counters(*counters)
            for link, slot, *counters in db.execute(
                "SELECT link_id, slot, rx_bytes, tx_bytes, rx_packets, tx_packets FROM folded_slot "
                "WHERE attachment_id = ?",
                (self._id,),
            )
            if link in numbers
        }
        self._first = True
        self._last_identities = [key_when_counted_last(db, link) for link in self._links]
        self._differences = [Difference(attachment.sees_all, self._standing(link)) for link in self._links]

    @property
    def last_s(self) -> float:
        """When the last committed folding was, in seconds since the Unix epoch."""
        return float(self._last_s)

    @property
    def standings(self) -> Mapping[str, Standing]:
        """By link, how far its counters have been told."""
        told = (difference.standing for difference in self._differences)
        return dict(zip(self._attachment.links, told, strict=True))

    def _begin(self, attachment: Attachment, debts: Mapping[str, Counters]) -> tuple[int, int, float, int, int]:
        """Note an attachment that is new; those before it, and their counters, are gone."""
        started = (attachment.started_wall_s, attachment.started_boottime_ns, attachment.started_awake_ns)
        self._db.execute("DELETE FROM attachment WHERE boot_id <> ?", (attachment.boot_id,))
        self._db.execute("UPDATE attachment SET followed = 1")
        for table in ("folded_slot", "folded_kind", "folded_blocked"):
            self._db.execute(f"DELETE FROM {table}")
        number = self._db.execute(
            "INSERT INTO attachment (attach_id, boot_id, folded_s, folded_boottime_ns, folded_awake_ns) "
            "VALUES (?, ?, ?, ?, ?)",
            (attachment.attach_id, attachment.boot_id, *started),
        ).lastrowid
        assert number is not None
        for name, link in zip(attachment.links, self._links, strict=True):
            self._join(number, attachment, link, debts.get(name, NOTHING), attachment.started_wall_s)
        return number, 0, *started

    def _join(self, number: int, attachment: Attachment, link: int, debt: Counters, now_s: float) -> None:
        """Note that a link is counted by an attachment from now on."""
        self._note_downtime(attachment, link, now_s)
        self._db.execute(
            "INSERT OR IGNORE INTO counted (link_id, since_s, until_s, boot_id) VALUES (?, ?, ?, ?)",
            (link, now_s, now_s, attachment.boot_id),
        )
        self._db.execute("INSERT INTO folded_kind VALUES (?, ?, ?, ?, ?, ?, ?)", (number, link, _DEBT, *_four(debt)))

    def _note_downtime(self, attachment: Attachment, link: int, until_s: float) -> None:
        """A link was not counted from when it was last until now; if it ever was, that is a gap."""
        before = self._db.execute("SELECT until_s, boot_id FROM counted WHERE link_id = ?", (link,)).fetchone()
        if before is None:
            return
        since_s, boot_id = before
        booted_s = attachment.started_wall_s - attachment.started_boottime_ns / 1e9
        # When it went off is not known; that it was, is.
        off_until_s = max(since_s, booted_s) if boot_id != attachment.boot_id else since_s
        gaps = (("off", since_s, off_until_s), ("down", off_until_s, until_s))
        self._db.executemany(
            "INSERT OR REPLACE INTO gap (begin_s, end_s, link_id, cause) VALUES (?, ?, ?, ?)",
            [(begin, end, link, cause) for cause, begin, end in gaps if begin < end],
        )

    def note_missed(self, link_name: str, now_s: float) -> None:
        """A link was there and not counted from the last folding until now: its interface had come back unseen."""
        link = self._links[self._attachment.links.index(link_name)]
        if self._last_s < now_s:
            self._pending.gaps.append((self._last_s, now_s, link, "down"))

    def _standing(self, link: int) -> Standing:
        kinds = {
            kind: Counters(*counters)
            for kind, *counters in self._db.execute(
                "SELECT kind, rx_bytes, tx_bytes, rx_packets, tx_packets FROM folded_kind "
                "WHERE attachment_id = ? AND link_id = ?",
                (self._id, link),
            )
        }
        no_ip, never_whole, debt = (kinds.pop(kind, NOTHING) for kind in (_NO_IP, _NEVER_WHOLE, _DEBT))
        blocked = {
            slot: Counters(*counters)
            for slot, *counters in self._db.execute(
                "SELECT slot, rx_bytes, tx_bytes, rx_packets, tx_packets FROM folded_blocked "
                "WHERE attachment_id = ? AND link_id = ?",
                (self._id, link),
            )
        }
        totals = {Kind(kind): counters for kind, counters in kinds.items()}
        return Standing(totals, no_ip, never_whole, debt, blocked)

    def take(self, snapshot: Snapshot) -> None:
        """Note what a snapshot adds; the first one has all since the attachment, of which the folded part is known."""
        elapsed_s = (snapshot.boottime_ns - self._last_ns) / 1e9
        awake_s = (snapshot.awake_ns - self._last_awake_ns) / 1e9
        end_s = snapshot.wall_ns / 1e9
        away = awake_s > LOOKED_AWAY_S
        if away:
            self._pending.gaps += [(end_s - elapsed_s, end_s, link, "unread") for link in self._links]
        # What a short interval has moved stands in the minute in which most of it lies.
        begin_s = int(end_s if away else end_s - awake_s / 2) // MINUTE_S * MINUTE_S
        for number, link in enumerate(self._links):
            self._take_link(number, link, begin_s, self._identity(number, away), snapshot)
        self._last_ns, self._last_awake_ns = snapshot.boottime_ns, snapshot.awake_ns
        self._last_s = end_s
        self._last_identities = [key_of(self._known(name)) for name in self._attachment.links]
        self._first = False

    def go_by_the_last(self) -> None:
        """What moves is on whose account, and where, it was when it was counted last: for who reads while a daemon is
        at work, which would have folded in a change."""
        self.identities = {
            name: identity_of(key) for name, key in zip(self._attachment.links, self._last_identities, strict=True)
        }

    def _known(self, name: str) -> Identity:
        """As what a link is known now."""
        return self.identities.get(name, UNKNOWN)

    def _identity(self, number: int, away: bool) -> Identity:
        """On whose account a link has moved what it has moved since the last snapshot.

        Of a time in which nobody looked that is known only if nothing has changed in it.
        """
        now = self._known(self._attachment.links[number])
        return UNKNOWN if away and key_of(now) != self._last_identities[number] else now

    def _take_link(self, number: int, link: int, begin_s: int, identity: Identity, snapshot: Snapshot) -> None:
        delta = self._differences[number].advance(snapshot.links[number], snapshot.boottime_ns)
        for slot, added in delta.processes.items():
            before = self._cumulative.get((number, slot), NOTHING)
            moved = added - before if self._first else added
            self._cumulative[number, slot] = before + moved
            if not moved:
                continue
            self._pending.slots.add((number, slot))
            key = self._key_of(begin_s, link, identity, snapshot.processes[slot])
            _add(self._pending.counters, key, moved)
        for kind, counters in delta.others.items():
            if counters:
                _add(self._pending.counters, _Key(begin_s, link, identity, kind, "", -1), counters)
        for slot, counters in delta.blocked.items():
            self._pending.blocked_slots.add((number, slot))
            if slot in KIND_OF_SLOT:
                key = _Key(begin_s, link, identity, KIND_OF_SLOT[slot], "", -1)
            else:
                key = self._key_of(begin_s, link, identity, snapshot.processes[slot])
            _add(self._pending.blocked, key, counters)

    def _key_of(self, begin_s: int, link: int, identity: Identity, process: Process) -> _Key:
        app = self.namer.app(process)
        self._pending.programs[app, process_name(process), process.exe] = begin_s
        return _Key(begin_s, link, identity, Kind.APP, app, process.uid)

    def debts(self, snapshot: Snapshot) -> dict[str, Counters]:
        """By link, what has been told beyond what had come in by this snapshot, the last one; see Standing."""
        found = {}
        for number, (name, difference) in enumerate(zip(self._attachment.links, self._differences, strict=True)):
            standing = difference.standing
            slots = [counters for (link, _), counters in self._cumulative.items() if link == number]
            told = sum_of((*standing.totals.values(), *slots))
            debt = told - snapshot.links[number].reserved[ReservedSlot.LINK] + standing.debt
            found[name] = replace(debt, tx_bytes=0, tx_packets=0)
        return found

    def commit(self, also: Callable[[], None] | None = None) -> None:
        """Write what was noted, and what `also` writes with it; sqlite3.Error if that cannot be, and it stays noted."""
        db, pending = self._db, self._pending
        with transaction(db):
            keys = pending.counters.keys() | pending.blocked.keys()
            apps = _ids_of(db, "app", "name", {key.app for key in keys if key.kind == Kind.APP})
            identities = ids_of(db, {key.identity for key in keys} | set(map(self._known, self._attachment.links)))
            for table, step, added in (
                ("minute", MINUTE_S, pending.counters),
                ("quarter", QUARTER_S, pending.counters),
                ("blocked_minute", MINUTE_S, pending.blocked),
                ("blocked_quarter", QUARTER_S, pending.blocked),
            ):
                db.executemany(
                    _ADD.format(table=table),
                    [
                        (
                            key.begin_s // step * step,
                            key.link,
                            identities[key.identity],
                            key.kind,
                            apps.get(key.app, 0),
                            key.uid,
                            *_four(counters),
                        )
                        for key, counters in added.items()
                    ],
                )
            db.executemany(
                "INSERT INTO program (app_id, name, exe, last_seen_s) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET last_seen_s = max(last_seen_s, excluded.last_seen_s)",
                [(apps[app], name, exe, seen_s) for (app, name, exe), seen_s in pending.programs.items()],
            )
            db.executemany(
                "INSERT OR REPLACE INTO folded_slot VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (self._id, self._links[number], slot, *_four(self._cumulative[number, slot]))
                    for number, slot in pending.slots
                ],
            )
            standings = [difference.standing for difference in self._differences]
            db.executemany(
                "INSERT OR REPLACE INTO folded_blocked VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (self._id, self._links[number], slot, *_four(standings[number].blocked[slot]))
                    for number, slot in pending.blocked_slots
                ],
            )
            db.executemany(
                "INSERT OR REPLACE INTO folded_kind VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (self._id, link, kind, *_four(counters))
                    for link, standing in zip(self._links, standings, strict=True)
                    for kind, counters in _named(standing)
                ],
            )
            db.executemany(
                "INSERT OR REPLACE INTO gap (begin_s, end_s, link_id, cause) VALUES (?, ?, ?, ?)", pending.gaps
            )
            db.executemany(
                "UPDATE counted SET until_s = ?, boot_id = ?, identity_id = ? WHERE link_id = ?",
                [
                    (self._last_s, self._attachment.boot_id, identities[self._known(name)], link)
                    for name, link in zip(self._attachment.links, self._links, strict=True)
                ],
            )
            db.execute(
                "UPDATE attachment SET folded_s = ?, folded_boottime_ns = ?, folded_awake_ns = ? WHERE id = ?",
                (self._last_s, self._last_ns, self._last_awake_ns, self._id),
            )
            if also:
                also()
        self._pending = _Pending()


_ADD: Final = """
    INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        rx_bytes = rx_bytes + excluded.rx_bytes,
        tx_bytes = tx_bytes + excluded.tx_bytes,
        rx_packets = rx_packets + excluded.rx_packets,
        tx_packets = tx_packets + excluded.tx_packets
"""


def note_downtime(db: sqlite3.Connection, now_s: float) -> None:
    """Since the last folding nothing was counted, if nothing is attached any more."""
    db.execute(
        "INSERT OR REPLACE INTO gap (begin_s, end_s, link_id, cause) "
        "SELECT DISTINCT folded_s, :now_s, link_id, 'down' FROM attachment JOIN folded_kind ON attachment_id = id "
        "WHERE NOT followed AND folded_s < :now_s",
        {"now_s": now_s},
    )


def thin(db: sqlite3.Connection, now_s: float) -> None:
    """Let go of what is too old to be told in detail; its totals stay, in the coarser table."""
    with transaction(db):
        oldest = int(now_s - KEEP_QUARTERS_S) // DAY_S * DAY_S
        for what in ("", "blocked_"):
            db.execute(f"DELETE FROM {what}minute WHERE begin_s < ?", (int(now_s - KEEP_MINUTES_S),))
            db.execute(
                f"INSERT INTO {what}day SELECT begin_s / {DAY_S} * {DAY_S}, link_id, identity_id, kind, "
                "app_id, uid, sum(rx_bytes), sum(tx_bytes), sum(rx_packets), sum(tx_packets) "
                f"FROM {what}quarter WHERE begin_s < ? GROUP BY 1, 2, 3, 4, 5, 6 ON CONFLICT DO UPDATE SET "
                "rx_bytes = rx_bytes + excluded.rx_bytes, tx_bytes = tx_bytes + excluded.tx_bytes, "
                "rx_packets = rx_packets + excluded.rx_packets, tx_packets = tx_packets + excluded.tx_packets",
                (oldest,),
            )
            db.execute(f"DELETE FROM {what}quarter WHERE begin_s < ?", (oldest,))


def _add(sums: dict[_Key, Counters], key: _Key, counters: Counters) -> None:
    sums[key] = sums.get(key, NOTHING) + counters


def _named(standing: Standing) -> Iterable[tuple[str, Counters]]:
    yield from standing.totals.items()
    yield _NO_IP, standing.no_ip
    yield _NEVER_WHOLE, standing.never_whole
    yield _DEBT, standing.debt


def _four(counters: Counters) -> tuple[int, int, int, int]:
    return counters.rx_bytes, counters.tx_bytes, counters.rx_packets, counters.tx_packets


def _id_of(db: sqlite3.Connection, table: str, column: str, value: str) -> int:
    return _ids_of(db, table, column, (value,))[value]


def _ids_of(db: sqlite3.Connection, table: str, column: str, values: Iterable[str]) -> Mapping[str, int]:
    """The ids of texts, which are noted if they are new."""
    wanted: Sequence[str] = sorted(values)
    db.executemany(f"INSERT OR IGNORE INTO {table} ({column}) VALUES (?)", [(value,) for value in wanted])
    return {value: db.execute(f"SELECT id FROM {table} WHERE {column} = ?", (value,)).fetchone()[0] for value in wanted}
