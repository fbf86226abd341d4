"""What a link has used today and in the cycle of its plan: what the ledger says, carried on by what a run counts.

Nothing is asked of the ledger again. At the end of a day, or of a cycle, the next one begins with nothing used. An
interval in which that happens belongs to the day in which most of it lies, as in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Final

from esimbpf.model import NOTHING, GroupBy, Kind, LinkTick, Row
from esimbpf.plan import Assessment, DayUse, Plan, assess, current_cycle
from esimbpf.spans import Span, day_at
from esimbpf.users import user_name

__all__ = ["LEDGER_KNOWS", "LinkUse", "Used", "carried_on", "with_rows_before"]

LEDGER_KNOWS: Final = (GroupBy.APP, GroupBy.USER)
"""The groupings that the ledger keeps."""

_JUDGE_EVERY: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes of both directions that were used in a span, less what the run counts: its totals are still to be added.

    So it is negative where the run has counted before the span.
    """

    span: Span
    link_bytes: int
    row_bytes: Mapping[tuple[Kind, str], int]
    """By kind and id of a row, of all groupings that the ledger keeps."""

    def of_link(self, link: LinkTick) -> int:
        """What the link has used by now: the sum of what the rows of any grouping have."""
        return self.link_bytes + link.total.total_bytes

    def of_row(self, row: Row) -> int:
        """What a row has used by now."""
        return self.row_bytes.get((row.kind, row.id), 0) + row.total.total_bytes


@dataclass(frozen=True, slots=True)
class LinkUse:
    """How a link stands, and its plan if it has one."""

    zone: tzinfo
    """In which its days begin."""
    today: Used
    cycle: Used | None = None
    """None without a plan, and where its only cycle has not begun or is over."""
    plan: Plan | None = None
    judged: Assessment | None = None
    """Of the plan; forecasts and what else takes long are as old as it is."""
    judged_total_bytes: int = 0
    """What the run had counted of the link when that was judged."""
    known_whole: bool = False
    """Whether all that the cycle has used is known, and so what it has left over."""

    def assessment(self, link: LinkTick) -> Assessment | None:
        """How the plan stands by now, with the forecast of when it was judged; None without a plan."""
        plan, judged = self.plan, self.judged
        if plan is None or judged is None or judged.cycle is None:
            return judged
        moved = link.total.total_bytes - self.judged_total_bytes
        used = judged.used_bytes + moved
        over = max(0, used - judged.allowance_bytes)
        return replace(
            judged,
            used_bytes=used,
            used_today_bytes=self.today.of_link(link),
            safe_today_bytes=max(0, judged.safe_today_bytes - moved),
            cost=plan.price * over / plan.price_per if plan.at_end == "billed" else Decimal(0),
            warnings=tuple(level for level in sorted(plan.warn) if used * 100 >= judged.allowance_bytes * level),
        )


def with_rows_before(link: LinkTick, use: LinkUse, by: GroupBy) -> LinkTick:
    """The link with rows, too, of what has used it today or in this cycle and has moved nothing in the run."""
    if by not in LEDGER_KNOWS:
        return link
    there = {(row.kind, row.id) for row in link.rows}
    before = {
        key: None
        for used in (use.today, use.cycle)
        if used
        for key, amount in used.row_bytes.items()
        if amount > 0 and key not in there and key[0] in (Kind(by.value), Kind.OVERFLOW)
    }
    rows = (Row(kind, key, user_name(int(key)) if kind is Kind.USER else key, NOTHING, NOTHING) for kind, key in before)
    return replace(link, rows=(*link.rows, *rows))


def carried_on(use: LinkUse, views: Sequence[LinkTick], now: datetime, interval_s: float) -> LinkUse:
    """The use after a further interval, which has ended now.

    `views` are the link's ticks of that interval, in all groupings that the ledger keeps.
    """
    link = views[0]
    moment = now - timedelta(seconds=interval_s / 2)
    new_day = moment >= use.today.span.end
    if new_day:
        use = replace(use, today=_nothing_used(day_at(moment, use.zone), views))
    if use.plan is None or use.judged is None:
        return use
    if use.judged.cycle is None:
        return _in_first_cycle(use, use.plan, use.judged, link, moment)
    if moment >= use.judged.cycle.end:
        return _in_new_cycle(use, use.plan, views, moment)
    if new_day or not timedelta(0) <= moment - use.judged.now < _JUDGE_EVERY:
        return _judged_anew(use, use.plan, use.judged, link, moment)
    return use


def _nothing_used(span: Span, views: Sequence[LinkTick]) -> Used:
    """Before the interval of these ticks."""
    return Used(
        span,
        -(views[0].total - views[0].delta).total_bytes,
        {(row.kind, row.id): -(row.total - row.delta).total_bytes for view in views for row in view.rows},
    )


def _in_first_cycle(use: LinkUse, plan: Plan, judged: Assessment, link: LinkTick, now: datetime) -> LinkUse:
    """A cycle that begins with the first use has begun if there is any."""
    first_use = now.astimezone(use.zone).date()
    span = current_cycle(plan, now, first_use)
    if judged.ended or span is None or not link.total:
        return use
    cycle = replace(use.today, span=span)
    used = counted = cycle.of_link(link)
    if span.begin <= plan.since < span.end:
        used = plan.used_bytes + counted - min(counted, plan.counted_bytes)
    days = [DayUse(day_at(now, use.zone), counted)]
    fresh = assess(plan, now, days, used, first_use=first_use)
    return replace(use, cycle=cycle, judged=fresh, judged_total_bytes=link.total.total_bytes)


def _in_new_cycle(use: LinkUse, plan: Plan, views: Sequence[LinkTick], now: datetime) -> LinkUse:
    link, judged = views[0], use.judged
    assert judged
    assert judged.cycle
    begun = _first_day(judged.cycle, use.zone)
    span = current_cycle(plan, now, begun)
    if span is None:
        return replace(use, cycle=None, judged=assess(plan, now, (), 0, first_use=begun))
    ended_with = judged.used_bytes + (link.total - link.delta).total_bytes - use.judged_total_bytes
    cycle = _nothing_used(span, views)
    fresh = assess(
        plan,
        now,
        _days(judged, use, link, now),
        cycle.of_link(link),
        ended_with if use.known_whole else None,
    )
    return replace(use, cycle=cycle, judged=fresh, judged_total_bytes=link.total.total_bytes, known_whole=True)


def _judged_anew(use: LinkUse, plan: Plan, judged: Assessment, link: LinkTick, now: datetime) -> LinkUse:
    """The plan judged by what stood in its last assessment and what has moved since."""
    assert judged.cycle
    used = judged.used_bytes + link.total.total_bytes - use.judged_total_bytes
    rolled = judged.rolled_over_bytes
    fresh = assess(
        plan,
        now,
        _days(judged, use, link, now),
        used,
        plan.allowance_bytes - rolled if rolled else None,
        first_use=_first_day(judged.cycle, use.zone),
    )
    fresh = replace(fresh, blame=judged.blame, gap_s=judged.gap_s)
    return replace(use, judged=fresh, judged_total_bytes=link.total.total_bytes)


def _first_day(cycle: Span, zone: tzinfo) -> date:
    return cycle.begin.astimezone(zone).date()


def _days(judged: Assessment, use: LinkUse, link: LinkTick, now: datetime) -> list[DayUse]:
    """Days of which an assessment makes what the last one has made of the real ones, and today."""
    today = day_at(now, use.zone)
    typical = DayUse(Span(today.begin - _DAY, today.begin), judged.typical_day_bytes or 0)
    return [typical] * judged.days_known + [DayUse(today, use.today.of_link(link))]
