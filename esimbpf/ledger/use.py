"""What the ledger says of links' use today and in their plans' cycles."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, tzinfo

from esimbpf.ledger import plans
from esimbpf.ledger.query import ReportBy, usage
from esimbpf.model import Kind
from esimbpf.plan import Plan
from esimbpf.spans import Span, day_at, zone_named
from esimbpf.use import LinkUse, Used

__all__ = ["use_of_links"]


def use_of_links(db: sqlite3.Connection, links: Iterable[str], now: datetime, zone: tzinfo) -> dict[str, LinkUse]:
    """By link, what it has used; days are cut in its plan's zone, or in this one if it has no plan."""
    by_target = {plan.target: plan for plan in plans.kept(db)}
    return {link: _use_of(db, link, by_target.get(f"link:{link}"), now, zone) for link in links}


def _use_of(db: sqlite3.Connection, link: str, plan: Plan | None, now: datetime, zone: tzinfo) -> LinkUse:
    if plan is None:
        return LinkUse(zone, _used(db, link, day_at(now, zone)))
    zone = zone_named(plan.zone)
    judged = plans.judged(db, plan, now)
    cycle, known = judged.cycle, plans.known_since(db, plan)
    return LinkUse(
        zone,
        _used(db, link, day_at(now, zone)),
        cycle=_used(db, link, cycle) if cycle else None,
        plan=plan,
        judged=judged,
        # What was used before the plan was made known, the carrier has said.
        known_whole=bool(cycle and (plan.was_said_in(cycle) or (known and known <= cycle.begin))),
    )


def _used(db: sqlite3.Connection, link: str, span: Span) -> Used:
    row_bytes: dict[tuple[Kind, str], int] = {}
    for row in usage(db, [span], ReportBy.APP, [link]):
        key = Kind(row.kind), row.name if row.kind == Kind.APP else row.kind
        row_bytes[key] = row_bytes.get(key, 0) + row.counters.total_bytes
    link_bytes = sum(row_bytes.values())
    for row in usage(db, [span], ReportBy.USER, [link]):
        if row.kind == Kind.USER:
            row_bytes[Kind.USER, row.name] = row_bytes.get((Kind.USER, row.name), 0) + row.counters.total_bytes
    return Used(span, link_bytes, row_bytes)
