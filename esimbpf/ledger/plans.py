"""The plans that the ledger keeps, and what it knows for judging them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from esimbpf.ledger.database import transaction
from esimbpf.ledger.fold import QUARTER_S
from esimbpf.ledger.query import ReportBy, Usage, usage
from esimbpf.plan import Assessment, DayUse, Plan, assess, current_cycle
from esimbpf.spans import Cycle, Once, Span, cycle_at, day_at, days_of, zone_named

__all__ = ["counted", "cycle_of", "judged", "keep", "kept", "known_since", "remove"]

_DAYS_BEFORE = 28


def keep(db: sqlite3.Connection, plan: Plan) -> None:
    """Keep a plan, in the place of the one that its target had."""
    with transaction(db):
        db.execute("INSERT OR REPLACE INTO plan VALUES (?, ?)", (plan.target, json.dumps(plan.to_json())))


def remove(db: sqlite3.Connection, target: str) -> bool:
    """Forget a target's plan; False if it had none."""
    with transaction(db):
        return db.execute("DELETE FROM plan WHERE target = ?", (target,)).rowcount > 0


def kept(db: sqlite3.Connection) -> Iterator[Plan]:
    """All plans, by target."""
    for target, text in db.execute("SELECT target, plan FROM plan ORDER BY target").fetchall():
        yield Plan.from_json(target, json.loads(text))


def judged(db: sqlite3.Connection, plan: Plan, now: datetime) -> Assessment:
    """How a plan stands by what was counted."""
    zone = zone_named(plan.zone)
    first_use = _first_use(db, plan)
    cycle = current_cycle(plan, now, first_use)
    if cycle is None:
        return assess(plan, now, [], 0, first_use=first_use)
    known = known_since(db, plan)
    begin = max(cycle.begin - timedelta(days=_DAYS_BEFORE), known or now)
    cut = list(days_of(Span(begin, now), zone))
    rows = [row for row in usage(db, cut, ReportBy.LINK) if _concerns(plan, row)]
    days = []
    for day in cut:
        mine = [row for row in rows if row.span == day]
        # The day on which counting began is not whole.
        unknown_s = max(0.0, ((known or now) - day.begin).total_seconds())
        # A machine that is off uses nothing.
        gap_s = max((row.gap_s - row.off_s for row in mine), default=0.0) + unknown_s
        days.append(DayUse(day, sum(row.counters.total_bytes for row in mine), gap_s))
    by_app: dict[str, int] = {}
    for row in usage(db, [cycle], ReportBy.APP):
        if _concerns(plan, row):
            name = row.name or row.kind
            by_app[name] = by_app.get(name, 0) + row.counters.total_bytes
    used = _used(db, plan, cycle)
    told = assess(plan, now, days, used, _previous(db, plan, cycle, known), by_app, first_use)
    return replace(told, gap_s=_missing_s(plan, cycle, now, days, known))


def known_since(db: sqlite3.Connection, plan: Plan) -> datetime | None:
    """Since when the ledger knows of a plan's link or profile; None if it knows of nothing."""
    kind, _, name = plan.target.partition(":")
    column = "link.name" if kind == "link" else "profile.iccid"
    firsts = [
        db.execute(
            f"SELECT min({first}) FROM {table} JOIN link ON link.id = link_id {joined} WHERE {column} = ?", (name,)
        ).fetchone()[0]
        for table, first, joined in _FIRSTS
        if kind == "link" or joined
    ]
    known = [first for first in firsts if first is not None]
    return datetime.fromtimestamp(min(known), UTC) if known else None


_JOINED: Final = "JOIN identity ON identity.id = identity_id JOIN profile ON profile.id = profile_id"

_FIRSTS: Final = (
    ("counted", "since_s", ""),
    ("quarter", "begin_s", _JOINED),
    ("day", "begin_s", _JOINED),
)


def _missing_s(plan: Plan, cycle: Span, now: datetime, days: Sequence[DayUse], known: datetime | None) -> float:
    """How much of a cycle was not counted, until now; what the carrier has told of is not missing."""
    since = plan.since if plan.was_said_in(cycle) else cycle.begin
    begun = known or now
    before_s = max(0.0, (begun - since).total_seconds())
    # The days' gaps have what lies before counting began on the day on which it did.
    on_that_day_s = sum((begun - one.day.begin).total_seconds() for one in days if one.day.begin <= begun < one.day.end)
    gaps_s = sum(one.gap_s for one in days if one.day.end > since)
    return max(0.0, gaps_s - on_that_day_s) + before_s


def counted(db: sqlite3.Connection, plan: Plan) -> int:
    """What the ledger has of the cycle in which a plan is made known, or of the day that may be its first use."""
    zone = zone_named(plan.zone)
    return _bytes(db, plan, current_cycle(plan, plan.since) or day_at(plan.since, zone))


def _used(db: sqlite3.Connection, plan: Plan, cycle: Span) -> int:
    """What was used of a cycle; what stands in its future, because a clock was wrong, has been used too."""
    amount = _bytes(db, plan, cycle)
    if cycle.begin <= plan.since < cycle.end:
        return plan.used_bytes + amount - min(amount, plan.counted_bytes)
    return amount


def _previous(db: sqlite3.Connection, plan: Plan, cycle: Span, known: datetime | None) -> int | None:
    """What was used of the cycle before; None if there is none, or it was not counted from its beginning."""
    if isinstance(plan.cycle, Once):
        return None
    before = cycle_at(plan.cycle, cycle.begin - timedelta(microseconds=1), zone_named(plan.zone))
    if before and (plan.was_said_in(before) or (known and known <= before.begin)):
        return _used(db, plan, before)
    return None


def _concerns(plan: Plan, row: Usage) -> bool:
    return plan.target in (f"link:{row.link}", f"profile:{row.profile}")


def _bytes(db: sqlite3.Connection, plan: Plan, span: Span) -> int:
    rows = usage(db, [span], ReportBy.LINK)
    return sum(row.counters.total_bytes for row in rows if _concerns(plan, row))


def _first_use(db: sqlite3.Connection, plan: Plan) -> date | None:
    """The date on which anything was counted since a single cycle's plan was made known."""
    if not isinstance(plan.cycle, Once) or plan.cycle.first is not None:
        return None
    kind, _, name = plan.target.partition(":")
    column = "link.name" if kind == "link" else "profile.iccid"
    since_s = int(plan.since.timestamp()) // QUARTER_S * QUARTER_S
    (begin_s,) = db.execute(
        f"SELECT min(begin_s) FROM quarter JOIN link ON link.id = link_id {_JOINED} "
        f"WHERE begin_s >= ? AND {column} = ?",
        (since_s, name),
    ).fetchone()
    return None if begin_s is None else datetime.fromtimestamp(begin_s, UTC).astimezone(zone_named(plan.zone)).date()


def cycle_of(db: sqlite3.Connection, plan: Plan) -> Cycle:
    """The plan's cycle; a single one with the date of its first use, if it was used."""
    first_use = _first_use(db, plan)
    return Once(plan.cycle.days, first_use) if isinstance(plan.cycle, Once) and first_use else plan.cycle
