"""The quotas that the ledger keeps, how far each is used, and what was told of it.

Whom a quota of an app, a user or everybody is for, the ledger knows; what an executable or a cgroup has used, only the
kernel counts, and `fold_kernel` writes it down.

Where one of the configuration and one that was added with the command line have the same name, the former holds, and
the latter is as good as not there (`overruled`); each begins like a new one when it comes to hold.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import Final

from esimbpf.errors import CannotError, UsageError
from esimbpf.ledger import plans
from esimbpf.ledger.database import transaction
from esimbpf.ledger.fold import QUARTER_S
from esimbpf.ledger.query import ReportBy, Usage, usage
from esimbpf.model import Counters, Kind
from esimbpf.modem.numbering import masked
from esimbpf.plan import Plan
from esimbpf.quota import (
    App,
    Cgroup,
    Direction,
    Event,
    Everybody,
    Exe,
    Kept,
    Quota,
    QuotaPer,
    Record,
    Standing,
    User,
    advance,
    check_room,
    counts_alike,
    period_at,
)
from esimbpf.saver import Saver
from esimbpf.spans import Cycle, Span, zone_named
from esimbpf.text import printable

__all__ = [
    "added",
    "app_seen",
    "changed",
    "chosen",
    "drop_saver",
    "exes_seen",
    "fold_kernel",
    "hold",
    "keep",
    "keep_saver",
    "kept",
    "ledger_knows",
    "note",
    "of_configuration",
    "overruled",
    "period_of",
    "put",
    "record",
    "remove",
    "resume",
    "saver",
    "standing",
    "standings",
    "unknown",
]

_RECORDS: Final = 100
"""Periods of a quota of which it stays known what was told."""


# -- what was agreed ---------------------------------------------------------------------


def added(db: sqlite3.Connection, quota: Quota, now: datetime, said_bytes: int | None, zone: tzinfo) -> Kept:
    """A quota that counts from now on, or from the beginning of the running period as far as the ledger knows it.

    `said_bytes` is what a person says was used of that by now, and then stands for what the ledger has.
    """
    fresh = Kept(quota, now, said_bytes)
    if said_bytes is None:
        if quota.per is not QuotaPer.ONCE:
            return fresh
        fresh = replace(fresh, said_bytes=0)
    # What only the kernel counts, it begins to count now.
    period = _ground(db, quota, zone).period(fresh, now) if ledger_knows(quota) else None
    return replace(fresh, counted_bytes=_counted(_Ledger(db), fresh, period)) if period else fresh


def changed(
    db: sqlite3.Connection, old: Kept, quota: Quota, now: datetime, said_bytes: int | None, zone: tzinfo
) -> Kept:
    """A kept quota with other terms; held as it was.

    What was used stays as long as the same is counted in the same periods. Else, and where a person says what was used,
    it counts as if it had been added now.
    """
    if said_bytes is None and counts_alike(old.quota, quota):
        return replace(old, quota=quota)
    fresh = added(db, quota, now, said_bytes, zone)
    return replace(fresh, paused=old.paused, snoozed_until=old.snoozed_until)


def keep(db: sqlite3.Connection, new: Kept, configured: Sequence[Quota] = ()) -> None:
    """Keep a quota that was added with the command line.

    Raises UsageError if its name is taken, or there are as many as there may be.
    """
    name = new.quota.name
    with transaction(db):
        there = [one.quota for one in kept(db, configured, new.added)]
        for one in there:
            if one.name == name:
                where = one.place or "among those that were added with the command line"
                raise UsageError(f"name {name!r} is taken: {where}", _way_out(one))
        check_room([*there, new.quota])
        db.execute("INSERT INTO quota VALUES (?, ?)", (name, json.dumps(new.quota.to_json())))
        _note(db, new)


def put(db: sqlite3.Connection, old: Kept, new: Kept, configured: Sequence[Quota] = ()) -> None:
    """Put a quota into the place of the one that it was changed from.

    Raises UsageError if there are as many as there may be for the same, CannotError if it is no longer what it was.
    """
    name = new.quota.name
    with transaction(db):
        there = {one.quota.name: one.quota for one in kept(db, configured, new.added)}
        if there.pop(name, None) != old.quota:
            raise CannotError(f"the quota {name!r} has been changed or removed meanwhile", "look at it, and try again")
        check_room([*there.values(), new.quota])
        db.execute("UPDATE quota SET quota = ? WHERE name = ?", (json.dumps(new.quota.to_json()), name))
        if new != replace(old, quota=new.quota):
            _note(db, new)


def _way_out(quota: Quota) -> str:
    if quota.place:
        return "give another name, or change it there"
    return f"give another name, or remove it first: esimbpf quota remove {quota.name!r}"


def remove(db: sqlite3.Connection, names: Sequence[str], configured: Sequence[Quota] = ()) -> None:
    """Forget quotas, or none of them; UsageError for one of the configuration, CannotError for one that is not there.

    Of two of the same name it is the one that was added with the command line.
    """
    by_name = {quota.name: quota for quota in configured}
    with transaction(db):
        for name in dict.fromkeys(names):
            if not db.execute("DELETE FROM quota WHERE name = ?", (name,)).rowcount:
                if name in by_name:
                    raise of_configuration(by_name[name], "remove it there, or: esimbpf quota pause")
                raise unknown(name)
            db.execute("DELETE FROM quota_state WHERE name = ? AND origin = 'state'", (name,))


def kept(db: sqlite3.Connection, configured: Sequence[Quota], now: datetime) -> list[Kept]:
    """All quotas, those of the configuration first.

    One that nobody has noted yet counts from now.
    """
    rows = db.execute("SELECT name, quota FROM quota ORDER BY name")
    states = {
        (name, origin): state
        for name, origin, *state in db.execute(
            "SELECT name, origin, added_s, said_bytes, counted_bytes, paused, snoozed_until_s FROM quota_state"
        )
    }
    return [
        _kept(quota, states.get((quota.name, quota.origin)), now)
        for quota in (*configured, *_not_overruled(rows, configured))
    ]


def _not_overruled(rows: Iterable[tuple[str, str]], configured: Sequence[Quota]) -> list[Quota]:
    """Those of the table `quota` whose names the configuration does not have."""
    taken = {quota.name for quota in configured}
    return [Quota.from_json(json.loads(text)) for name, text in rows if name not in taken]


def overruled(db: sqlite3.Connection, configured: Sequence[Quota]) -> dict[str, str]:
    """The names that two quotas have, and, in words, which of the two holds."""
    by_command = {name for (name,) in db.execute("SELECT name FROM quota")}
    return {
        quota.name: f"two quotas are named {quota.name!r}: {quota.place} holds, and the one that was added with the "
        f"command line does not; rename it there, or remove the other one: esimbpf quota remove {quota.name!r}"
        for quota in configured
        if quota.name in by_command
    }


def _kept(quota: Quota, state: Sequence[float | None] | None, now: datetime) -> Kept:
    if state is None:
        return Kept(quota, now)
    added_s, said_bytes, counted_bytes, paused, until_s = state
    assert added_s is not None
    return Kept(
        quota,
        _moment(added_s),
        None if said_bytes is None else int(said_bytes),
        int(counted_bytes or 0),
        bool(paused),
        None if until_s is None else _moment(until_s),
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def note(db: sqlite3.Connection, configured: Sequence[Quota], now: datetime, zone: tzinfo) -> None:
    """Note since when those quotas count that are new: of the configuration, or no longer overruled by it."""
    with transaction(db):
        known = set(db.execute("SELECT name, origin FROM quota_state"))
        unknown_rows = db.execute(
            "SELECT name, quota FROM quota WHERE name NOT IN (SELECT name FROM quota_state WHERE origin = 'state')"
        )
        for quota in (*configured, *_not_overruled(unknown_rows, configured)):
            if (quota.name, quota.origin) not in known:
                _note(db, added(db, quota, now, None, zone))


def _note(db: sqlite3.Connection, new: Kept) -> None:
    """In the place of what was known of another one that had this name."""
    db.execute("DELETE FROM quota_state WHERE name = ?", (new.quota.name,))
    db.execute(
        "INSERT INTO quota_state (name, origin, added_s, said_bytes, counted_bytes, paused, snoozed_until_s) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(new.quota.name, new.quota.origin, new.added.timestamp(), new.said_bytes, new.counted_bytes),
            *(new.paused, new.snoozed_until and new.snoozed_until.timestamp()),
        ),
    )


def chosen(
    db: sqlite3.Connection, names: Sequence[str], configured: Sequence[Quota], now: datetime, zone: tzinfo
) -> list[Standing]:
    """How those quotas stand that are named, all of them noted; raises CannotError if one is not there."""
    note(db, configured, now, zone)
    by_name = {one.kept.quota.name: one for one in standings(db, configured, now, zone)}
    for name in names:
        if name not in by_name:
            raise unknown(name)
    return [by_name[name] for name in dict.fromkeys(names)]


def of_configuration(quota: Quota, way_out: str) -> UsageError:
    """The error for a quota that only the configuration can change."""
    return UsageError(f"the quota {quota.name!r} stands in the configuration: {quota.place}", way_out)


def unknown(name: str) -> CannotError:
    """The error for a quota that is not there."""
    return CannotError(f"no quota is named {printable(name)!r}", "see which there are: esimbpf quota list")


def hold(db: sqlite3.Connection, one: Kept, until: datetime | None) -> None:
    """Hold a quota until a moment, or for good: it counts, and does nothing else. It must have been noted."""
    with transaction(db):
        db.execute(
            "UPDATE quota_state SET paused = ?, snoozed_until_s = ? WHERE name = ?",
            (until is None, until and until.timestamp(), one.quota.name),
        )


def resume(db: sqlite3.Connection, one: Kept) -> None:
    """End a quota's hold."""
    with transaction(db):
        db.execute("UPDATE quota_state SET paused = 0, snoozed_until_s = NULL WHERE name = ?", (one.quota.name,))


# -- the saver mode ----------------------------------------------------------------------


def keep_saver(db: sqlite3.Connection, new: Saver, configured: Sequence[Quota] = ()) -> None:
    """Turn the saver mode on, in the place of the one that was.

    Raises UsageError where there are so many quotas that it would not be enforced.
    """
    with transaction(db):
        check_room([one.quota for one in kept(db, configured, new.since)])
        db.execute("INSERT OR REPLACE INTO saver VALUES (1, ?)", (json.dumps(new.to_json()),))


def drop_saver(db: sqlite3.Connection) -> bool:
    """Turn the saver mode off; whether it was on."""
    with transaction(db):
        return db.execute("DELETE FROM saver").rowcount > 0


def saver(db: sqlite3.Connection) -> Saver | None:
    """The saver mode; None if it is off."""
    row = db.execute("SELECT saver FROM saver").fetchone()
    return Saver.from_json(json.loads(row[0])) if row else None


# -- how far they are used ---------------------------------------------------------------


def standings(db: sqlite3.Connection, configured: Sequence[Quota], now: datetime, zone: tzinfo) -> list[Standing]:
    """How all quotas stand; `zone` is the machine's, for those without a plan."""
    ledger = _Ledger(db)
    known = list(plans.kept(db))
    return [_standing(db, ledger, known, one, now, zone) for one in kept(db, configured, now)]


def standing(db: sqlite3.Connection, one: Kept, now: datetime, zone: tzinfo) -> Standing:
    """How one quota stands."""
    return _standing(db, _Ledger(db), list(plans.kept(db)), one, now, zone)


def _standing(
    db: sqlite3.Connection, ledger: _Ledger, known: Sequence[Plan], one: Kept, now: datetime, zone: tzinfo
) -> Standing:
    ground = _ground(db, one.quota, zone, known)
    period = ground.period(one, now)
    if period is None:
        return Standing(one, now, ground.zone, None, reason=ground.lacks or "the plan's only cycle is not under way")
    return Standing(one, now, ground.zone, period, _used(ledger, one, period))


@dataclass(frozen=True, slots=True)
class _Ground:
    """What a quota's periods are cut by."""

    zone: tzinfo
    cycle: Cycle | None = None
    lacks: str = ""
    """Why there is no cycle where one is needed."""

    def period(self, one: Kept, moment: datetime) -> Span | None:
        return period_at(one, moment, self.zone, self.cycle)


def _ground(db: sqlite3.Connection, quota: Quota, zone: tzinfo, known: Sequence[Plan] | None = None) -> _Ground:
    """By the plan of the quota's profile, else of its link; one that names neither goes by the only plan there is."""
    by_target = {plan.target: plan for plan in (plans.kept(db) if known is None else known)}
    named = [f"profile:{quota.profile}"] * bool(quota.profile) + [f"link:{quota.link}"] * bool(quota.link)
    plan = next((by_target[target] for target in named if target in by_target), None)
    if plan is None and not named and len(by_target) == 1:
        [plan] = by_target.values()
    if plan is None:
        if quota.per is not QuotaPer.CYCLE:
            return _Ground(zone)
        several = not named and by_target
        whose = f" for {masked(quota.profile) if quota.profile else quota.link}" if named else ""
        lacks = "there are several plans, and it names neither link nor profile" if several else ""
        return _Ground(zone, lacks=lacks or f"no plan is known{whose}: esimbpf plan set")
    cycle = plans.cycle_of(db, plan) if quota.per is QuotaPer.CYCLE else None
    return _Ground(zone_named(plan.zone), cycle)


def period_of(db: sqlite3.Connection, one: Kept, now: datetime, zone: tzinfo) -> Span | None:
    """The period of a quota that runs; None if none does."""
    return _ground(db, one.quota, zone).period(one, now)


def ledger_knows(quota: Quota) -> bool:
    """Whether the ledger can tell what those have used whom a quota is for."""
    return not isinstance(quota.whom, Exe | Cgroup)


def app_seen(db: sqlite3.Connection, name: str) -> bool:
    """Whether an app of this name was ever counted."""
    return db.execute("SELECT 1 FROM app WHERE name = ?", (name,)).fetchone() is not None


def exes_seen(db: sqlite3.Connection) -> tuple[str, ...]:
    """The executables of all programs that were ever counted."""
    return tuple(exe for (exe,) in db.execute("SELECT DISTINCT exe FROM program"))


def _used(ledger: _Ledger, one: Kept, period: Span) -> int:
    """What was used of a period, with what was said of it when the quota was added."""
    amount = _counted(ledger, one, period)
    if one.said_bytes is not None and period.begin <= one.added < period.end:
        return one.said_bytes + amount - min(amount, one.counted_bytes)
    return amount


def _counted(ledger: _Ledger, one: Kept, period: Span) -> int:
    """What was counted in a period, by the ledger or, where that cannot tell, by the kernel."""
    quota = one.quota
    if not ledger_knows(quota):
        return ledger.period_bytes(quota, period)
    if quota.per is QuotaPer.ONCE:
        # Whole quarters of an hour stay what they are when the ledger forgets the minutes.
        begin_s = int(period.begin.timestamp()) // QUARTER_S * QUARTER_S
        period = Span(_moment(begin_s), period.end)
    rows = ledger.rows(period, ReportBy.USER if isinstance(quota.whom, User) else ReportBy.APP)
    return sum(_of(row.counters, quota.direction) for row in rows if _concerns(quota, row))


def _concerns(quota: Quota, row: Usage) -> bool:
    if not quota.is_about(row.link, row.profile, row.roaming):
        return False
    match quota.whom:
        case App(name):
            return row.kind == Kind.APP and row.name == name
        case User(uid):
            return row.kind == Kind.USER and row.name == str(uid)
        case Everybody(apps):
            return row.kind != Kind.APP or row.name not in apps
        case _:
            return False


def _of(counters: Counters, direction: Direction) -> int:
    match direction:
        case Direction.DOWN:
            return counters.rx_bytes
        case Direction.UP:
            return counters.tx_bytes
        case Direction.BOTH:
            return counters.total_bytes


@dataclass(slots=True)
class _Ledger:
    """What is asked of the ledger, each thing once."""

    db: sqlite3.Connection
    _rows: dict[tuple[Span, ReportBy], list[Usage]] = field(default_factory=dict)

    def rows(self, period: Span, by: ReportBy) -> list[Usage]:
        """What was counted in a period."""
        if (period, by) not in self._rows:
            self._rows[period, by] = list(usage(self.db, [period], by))
        return self._rows[period, by]

    def period_bytes(self, quota: Quota, period: Span) -> int:
        """What the kernel has counted of a quota in a period, or in those that were cut otherwise at its time."""
        rows = self.db.execute(
            "SELECT begin_s, period_bytes FROM quota_period JOIN quota_state USING (name) "
            "WHERE name = ? AND origin = ? AND begin_s < ? AND end_s > ?",
            (quota.name, quota.origin, period.end.timestamp(), period.begin.timestamp()),
        ).fetchall()
        amounts = dict(rows)
        return int(amounts.get(period.begin.timestamp(), max(amounts.values(), default=0)))


# -- what the daemon writes --------------------------------------------------------------


def fold_kernel(db: sqlite3.Connection, quota: Quota, period: Span | None, attach_id: str, kernel_bytes: int) -> None:
    """Add what the kernel has counted of a noted quota since this was folded in last to the period that runs.

    `kernel_bytes` is the counter of the attachment `attach_id`, which only grows. Of another attachment all of it is
    new. To be called in the transaction in which all else of the same reading is folded in.
    """
    with transaction(db):
        last = db.execute("SELECT attach_id, kernel_bytes FROM quota_state WHERE name = ?", (quota.name,)).fetchone()
        fresh = max(0, kernel_bytes - (last[1] if last[0] == attach_id else 0))
        db.execute(
            "UPDATE quota_state SET attach_id = ?, kernel_bytes = ? WHERE name = ?",
            (attach_id, kernel_bytes, quota.name),
        )
        if period:
            amount = _Ledger(db).period_bytes(quota, period) + fresh
            db.execute(
                "INSERT INTO quota_period (name, begin_s, end_s, period_bytes, limit_bytes) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET period_bytes = excluded.period_bytes",
                (quota.name, period.begin.timestamp(), period.end.timestamp(), amount, quota.limit_bytes),
            )


def record(db: sqlite3.Connection, standing: Standing) -> tuple[Event, ...]:
    """Write down what is to be told by how a noted quota stands, and say it; never the same again.

    What is told after the commit is told at most once, whenever the process is killed.
    """
    name = standing.kept.quota.name
    with transaction(db):
        now_known = list(_records(db, name))
        new, events = advance(standing, now_known)
        if new is None or new in now_known:
            return events
        begin_s, end_s = new.period.begin.timestamp(), new.period.end.timestamp()
        db.execute(
            "INSERT INTO quota_period VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET end_s = excluded.end_s, limit_bytes = excluded.limit_bytes, fired = excluded.fired",
            (
                *(name, begin_s, end_s, _Ledger(db).period_bytes(standing.kept.quota, new.period)),
                *(new.limit_bytes, json.dumps(new.fired)),
            ),
        )
        db.execute(
            "DELETE FROM quota_period WHERE name = ? AND begin_s != ? AND begin_s NOT IN "
            "(SELECT begin_s FROM quota_period WHERE name = ? ORDER BY begin_s DESC LIMIT ?)",
            (name, begin_s, name, _RECORDS),
        )
    return events


def _records(db: sqlite3.Connection, name: str) -> Iterator[Record]:
    for begin_s, end_s, limit_bytes, fired in db.execute(
        "SELECT begin_s, end_s, limit_bytes, fired FROM quota_period WHERE name = ? AND fired IS NOT NULL", (name,)
    ):
        yield Record(Span(_moment(begin_s), _moment(end_s)), limit_bytes, tuple(json.loads(fired)))
