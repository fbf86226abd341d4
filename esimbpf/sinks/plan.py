"""How a plan stands: one screen for people, and an object for programs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Final, Literal
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from esimbpf.plan import Assessment, Plan
from esimbpf.spans import Cycle, EveryDays, Monthly, Once, rfc3339
from esimbpf.units import Units, bytes_text

__all__ = ["plan_fields", "plan_lines", "plan_screen", "plan_words"]

_BAR: Final = 40
_SMALL_BAR: Final = 16
# Columns from which on a plan has two lines, and from which on all has room in one.
_TWO_LINES: Final = 80
_ONE_LINE: Final = 120


def plan_screen(
    plan: Plan, told: Assessment, units: Units = Units.SI, ascii_only: bool = False, target: str = ""
) -> RenderableType:
    """Used, remaining, will it last, what is safe today, what it costs, and who is to blame.

    `target` is what to call what the plan is for, a link's name if empty.
    """
    target, zone = target or plan.target.partition(":")[2], ZoneInfo(plan.zone)
    if told.cycle is None:
        first = plan.cycle.first if isinstance(plan.cycle, Once) else None
        begins = f"it begins on {first}" if first else "it begins with the first use"
        why = f"over since {_day(told.ended, zone)}" if told.ended else begins
        return Text.assemble((f"{target}  {plan_words(plan)}", "bold cyan"), f": {why}")
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    style = _style(told)
    used = Text(f"{bytes_text(told.used_bytes, units)} of {bytes_text(told.allowance_bytes, units)}", "bold")
    used.append(f"  {_bar(told.used_part, ascii_only)} {told.used_part:.0%}", style)
    lines.add_row("used", used)
    if told.over_bytes:
        lines.add_row("over", Text(f"{bytes_text(told.over_bytes, units)}: {_end(plan, told)}", style))
    else:
        lines.add_row(
            "remaining", Text(f"{bytes_text(told.remaining_bytes, units)} for {told.days_left:.1f} days", "bold")
        )
        if told.warnings:
            lines.add_row("warning", Text(f"{told.warnings[-1]} % of it is reached", style))
    lines.add_row("will it last", _forecast(told, zone, units))
    lines.add_row(
        "safe today",
        f"{bytes_text(told.safe_today_bytes, units)} more ({bytes_text(told.used_today_bytes, units)} used today)",
    )
    if plan.at_end == "billed":
        price = f"{plan.price} {plan.currency} for each {bytes_text(plan.price_per)} beyond the allowance"
        lines.add_row("cost so far", f"{_cost(plan, told)} ({price})")
    if told.pace is not None:
        faster = "faster" if told.pace > 1 else "slower"
        lines.add_row("pace", f"{told.pace:.2f} times the plan's: {faster} than the days pass")
    last = told.cycle.end - timedelta(seconds=1)
    lines.add_row("cycle", f"{_day(told.cycle.begin, zone)} to {_day(last, zone)} ({plan.zone})")
    if told.rolled_over_bytes:
        lines.add_row("rolled over", f"{bytes_text(told.rolled_over_bytes, units)} of the cycle before, in the above")
    if told.blame:
        apps = ", ".join(f"{name} {bytes_text(amount, units)}" for name, amount in told.blame)
        lines.add_row("most used by", Text(apps))
    if told.gap_s >= 60:
        lines.add_row(
            "gaps",
            Text(f"{told.gap_s / 3600:.1f} h of the cycle were not counted: what was used then is missing", "yellow"),
        )
    return Group(Text(f"{target}  {plan_words(plan)}", "bold cyan"), lines)


def plan_words(plan: Plan) -> str:
    """What was agreed, as in `10GB a month, from day 15`."""
    return f"{plan.allowance} {_cycle_words(plan.cycle)}"


def _cycle_words(cycle: Cycle) -> str:
    match cycle:
        case Monthly(day):
            return f"a month, from day {day}"
        case EveryDays(days, first):
            return f"every {days} days from {first}"
        case Once(days, first):
            return f"once for {days} days" + (f" from {first}" if first else "")


def plan_lines(
    plan: Plan, told: Assessment, width: int, low: bool, units: Units = Units.SI, ascii_only: bool = False
) -> list[Text]:
    """The same in one or two lines for above a table; with little width, or where it is `low`, in one short one.

    No figure is cut off: what has no room is left out.
    """
    if told.cycle is None:
        return [_first_that_fits([Text(f"plan {plan.allowance}: not in use", "dim")], width)]
    style, outlook = _style(told), _outlook_text(told, ZoneInfo(plan.zone))
    allowance, part = bytes_text(told.allowance_bytes, units), Text(f"{told.used_part:.0%}", style)
    remaining = (
        Text(f"{bytes_text(told.over_bytes, units)} over", style)
        if told.over_bytes
        else Text(f"{bytes_text(told.remaining_bytes, units)} left for {told.days_left:.1f} days")
    )
    if not low and width >= _TWO_LINES:
        bar = _bar(told.used_part, ascii_only, _SMALL_BAR)
        of_allowance = f"{bytes_text(told.used_bytes, units)} of {allowance}"
        used = Text.assemble(("plan ", "dim"), (of_allowance, "bold"), (f"  {bar} ", style), part, "  ", remaining)
        more = f"   safe today: {bytes_text(told.safe_today_bytes, units)} more"
        future = Text.assemble(outlook, f": {_end(plan, told)}" if told.over_bytes else more)
        if width >= _ONE_LINE and used.cell_len + 3 + future.cell_len <= width:
            return [Text.assemble(used, "   ", future)]
        if max(used.cell_len, 5 + future.cell_len) <= width:
            return [used, Text.assemble("     ", future)]
    ways = (
        Text.assemble("plan ", part, f" of {allowance}, ", remaining, "  ", outlook),
        Text.assemble("plan ", part, f" of {allowance}  ", outlook),
        Text.assemble("plan ", part, "  ", outlook),
        Text.assemble("plan ", part),
        part,
    )
    return [_first_that_fits(ways, width)]


def _first_that_fits(ways: Iterable[Text], width: int) -> Text:
    return next((way for way in ways if way.cell_len <= width), Text())


def _style(told: Assessment) -> str:
    return "bold red" if told.over_bytes else "yellow" if told.warnings else "bold green"


Outlook = Literal["too early", "used up", "runs out", "lasts"]


def _outlook(told: Assessment) -> Outlook:
    if told.typical_day_bytes is None and not told.over_bytes:
        return "too early"
    if told.over_bytes or (told.runs_out and told.runs_out <= told.now):
        return "used up"
    return "runs out" if told.runs_out else "lasts"


def _outlook_text(told: Assessment, zone: ZoneInfo) -> Text:
    match _outlook(told):
        case "too early":
            return Text("too early to say", "dim")
        case "used up":
            return Text("used up", "bold red")
        case "runs out":
            assert told.runs_out
            return Text(f"runs out {told.runs_out.astimezone(zone):%a %d %b}", "bold red")
        case "lasts":
            return Text("lasts", "bold green")


def _forecast(told: Assessment, zone: ZoneInfo, units: Units) -> Text:
    outlook = _outlook(told)
    if outlook == "too early":
        return Text(f"too early to say: {told.days_known} whole days are known, and it takes 3", "dim")
    basis = (
        f" if days stay as the median of the last {told.days_known}: {bytes_text(told.typical_day_bytes, units)}"
        if told.typical_day_bytes is not None
        else ""
    )
    if outlook == "used up":
        return Text("no, it is used up", "bold red")
    if told.runs_out:
        return Text.assemble((f"no, it runs out on {_day(told.runs_out, zone)}", "bold red"), basis)
    return Text.assemble(("yes", "bold green"), basis)


def _end(plan: Plan, told: Assessment) -> str:
    if plan.at_end == "billed":
        return f"costs {_cost(plan, told)} so far"
    if plan.at_end == "throttled":
        return f"throttled to {plan.rate}" if plan.rate else "throttled"
    return "the carrier cuts it off"


def _cost(plan: Plan, told: Assessment) -> str:
    return f"{told.cost.quantize(Decimal('0.01'), rounding=ROUND_HALF_UP)} {plan.currency}".rstrip()


def _bar(part: float, ascii_only: bool, width: int = _BAR) -> str:
    full = min(width, round(part * width))
    return ("#" if ascii_only else "█") * full + ("." if ascii_only else "░") * (width - full)


def _day(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).strftime("%a %Y-%m-%d")


def plan_fields(plan: Plan, told: Assessment, target: str) -> dict[str, object]:
    """An object of type `plan`, version 1; null where nothing can be said. Money is a decimal number in a string.

    `target` is the plan's, as it is shown.
    """
    return {
        "type": "plan",
        "v": 1,
        "time": rfc3339(told.now),
        "target": target,
        "plan": plan.to_json(),
        "cycle_begin": rfc3339(told.cycle.begin) if told.cycle else None,
        "cycle_end": rfc3339(told.cycle.end) if told.cycle else None,
        "used_bytes": told.used_bytes,
        "allowance_bytes": told.allowance_bytes,
        "rolled_over_bytes": told.rolled_over_bytes,
        "remaining_bytes": told.remaining_bytes,
        "over_bytes": told.over_bytes,
        "days_left": round(told.days_left, 3),
        "pace": told.pace and round(told.pace, 3),
        "typical_day_bytes": told.typical_day_bytes,
        "days_known": told.days_known,
        "runs_out": rfc3339(told.runs_out),
        "used_today_bytes": told.used_today_bytes,
        "safe_today_bytes": told.safe_today_bytes,
        "cost": str(told.cost),
        "currency": plan.currency or None,
        "warnings": told.warnings,
        "blame": [{"app": name, "bytes": amount} for name, amount in told.blame],
        "gap_s": round(told.gap_s, 3),
    }
