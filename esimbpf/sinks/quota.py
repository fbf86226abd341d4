"""How quotas stand: sentences, a table and a screen for people, and an object for programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Final

from rich.box import SIMPLE_HEAD, Box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from esimbpf.quota import (
    LIMIT,
    App,
    Cgroup,
    Direction,
    Exe,
    Quota,
    QuotaPer,
    Standing,
    State,
    Then,
    User,
    When,
    Whom,
    whom_text,
)
from esimbpf.saver import Saver
from esimbpf.spans import rfc3339
from esimbpf.units import Units, bytes_text
from esimbpf.users import user_name

__all__ = ["named", "quota_fields", "quota_screen", "quota_sentence", "quotas_table", "saver_sentence", "used_sentence"]

_WIDE: Final = 110
"""Columns of a terminal from which on a quota has a row of a table; below, a paragraph."""
_BAR: Final = 10
_SMALL_BAR: Final = 6
_ASCII_HEAD: Final = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)

_PER: Final = {
    QuotaPer.HOUR: ("an hour", "this hour"),
    QuotaPer.DAY: ("a day", "today"),
    QuotaPer.WEEK: ("a week", "this week"),
    QuotaPer.MONTH: ("a month", "this month"),
    QuotaPer.CYCLE: ("a cycle", "this cycle"),
    QuotaPer.ONCE: ("in all", "since it was added"),
}
_WHEN: Final = {When.ROAMING: "while roaming", When.HOME: "while not roaming"}
_STYLES: Final = {
    State.IN_FORCE: "green",
    State.EXCEEDED: "bold red",
    State.PAUSED: "yellow",
    State.SNOOZED: "yellow",
    State.NOT_IN_FORCE: "yellow",
}


def named(quota: Quota, as_shown: Callable[[str], str]) -> Quota:
    """The quota with its profile as it is to be shown."""
    return replace(quota, profile=quota.profile and as_shown(quota.profile))


# -- sentences ---------------------------------------------------------------------------


def quota_sentence(quota: Quota) -> str:
    """What a quota says: `backup (app restic): at most 1 GB a day, down and up, on wwan0; then blocked`."""
    return f"{quota.name} ({whom_text(quota.whom)}): at most {_terms(quota)}; then {_then(quota)}"


def _terms(quota: Quota) -> str:
    """How much, of what and where."""
    direction = "down and up" if quota.direction is Direction.BOTH else f"{quota.direction} only"
    return ", ".join([_limit(quota), direction, *_where(quota)])


def _limit(quota: Quota) -> str:
    """As it was written, with a space before the unit."""
    written = re.sub(r"(?<=[0-9])\s*(?=[A-Za-z])", " ", quota.limit)
    return f"{written}{'' if written[-1].isalpha() else ' B'} {_PER[quota.per][0]}"


def _where(quota: Quota) -> list[str]:
    places = [f"on {quota.link}"] * bool(quota.link) + [f"with profile {quota.profile}"] * bool(quota.profile)
    return [*places, *([_WHEN[quota.when]] if quota.when else [])]


def _then(quota: Quota) -> str:
    match quota.action.then:
        case Then.NOTIFY:
            return "told"
        case Then.BLOCK:
            return "blocked"
        case Then.THROTTLE:
            return f"throttled to {quota.action.rate}"


def used_sentence(told: Standing, units: Units = Units.SI) -> str:
    """What was used of the running period, or why there is none."""
    if told.period is None:
        return f"Not in force: {told.reason}."
    return f"Used {_PER[told.kept.quota.per][1]}: {bytes_text(told.used_bytes, units)}."


def saver_sentence(saver: Saver | None) -> str:
    """What the saver mode says."""
    if saver is None:
        return "saver mode is off"
    allowed = [*saver.allow, *(service.upper() for service in saver.services)]
    whose = f"only {', '.join(allowed)} may use" if allowed else "nothing may use"
    where = f" {_WHEN[saver.when]}" if saver.when else ""
    return f"saver mode is on: {whose} {saver.link or 'any link'}{where}"


# -- for people --------------------------------------------------------------------------


def quotas_table(
    told: Sequence[Standing], width: int, units: Units = Units.SI, ascii_only: bool = False
) -> RenderableType:
    """All quotas, a row each, and below why some do nothing; where the terminal is narrow, a paragraph each."""
    if width < _WIDE:
        return Text("\n\n", overflow="fold").join(_paragraph(one, units, ascii_only) for one in told)
    table = Table(box=_ASCII_HEAD if ascii_only else SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("name", "whom", "limit"):
        table.add_column(title, overflow="fold", min_width=6)
    table.add_column("used", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    table.add_column("resets", no_wrap=True)
    table.add_column("then", no_wrap=True)
    table.add_column("origin", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for one in told:
        quota = one.kept.quota
        direction = [] if quota.direction is Direction.BOTH else [f"{quota.direction} only"]
        known = one.period is not None
        table.add_row(
            Text(quota.name, "bold"),
            Text(whom_text(quota.whom)),
            Text(", ".join([_limit(quota), *direction, *_where(quota)])),
            _bar(one, _SMALL_BAR, ascii_only) if known else "",
            bytes_text(one.used_bytes, units) if known else "",
            bytes_text(one.remaining_bytes, units) if known else "",
            _moment(one.resets, one.zone) if one.resets else "never" if known else "",
            str(quota.action),
            quota.origin,
            Text(one.state, _STYLES[one.state]),
        )
    more = [Text(f"{one.kept.quota.name}: {_state(one)}") for one in told if _state(one) != one.state]
    return Group(table, *more)


def _paragraph(one: Standing, units: Units, ascii_only: bool) -> Text:
    quota = one.kept.quota
    lines = Text.assemble((quota.name, "bold"), quota_sentence(quota)[len(quota.name) :], "\n")
    if one.period:
        used = f"{bytes_text(one.used_bytes, units)} used, {bytes_text(one.remaining_bytes, units)} left, "
        resets = f"resets {_moment(one.resets, one.zone)}" if one.resets else "never resets"
        lines.append(Text.assemble("  ", _bar(one, _BAR, ascii_only), "  ", used, resets, "\n"))
    return lines.append(Text.assemble("  ", (_state(one), _STYLES[one.state]), f"; {_origin(quota)}"))


def _bar(one: Standing, width: int, ascii_only: bool) -> Text:
    full = min(width, int(one.used_part * width))
    drawn = ("#" if ascii_only else "█") * full + ("." if ascii_only else "░") * (width - full)
    # What is not used up is not shown as if it were.
    percent = f"{one.used_part:4.0%}" if one.exceeded else f"{int(one.used_part * 100):3}%"
    return Text(f"{drawn} {percent}", "bold red" if one.exceeded else "yellow" if one.levels else "green")


def _state(one: Standing) -> str:
    match one.state:
        case State.SNOOZED:
            assert one.kept.snoozed_until
            return f"snoozed until {_moment(one.kept.snoozed_until, one.zone)}"
        case State.NOT_IN_FORCE:
            return f"not in force: {one.reason}"
        case state:
            return state


def _origin(quota: Quota) -> str:
    return quota.place or "added with the command line"


def _moment(moment: datetime, zone: tzinfo) -> str:
    return moment.astimezone(zone).strftime("%d %b %H:%M")


def quota_screen(told: Standing, units: Units = Units.SI, ascii_only: bool = False) -> RenderableType:
    """All about one quota."""
    quota, zone = told.kept.quota, told.zone
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True)
    lines.add_column(overflow="fold")
    lines.add_row("for", Text(whom_text(quota.whom)))
    lines.add_row("limit", Text(_terms(quota), "bold"))
    if told.period:
        used = Text.assemble(f"{bytes_text(told.used_bytes, units)}  ", _bar(told, 4 * _BAR, ascii_only))
        lines.add_row("used", used)
        lines.add_row("remaining", bytes_text(told.remaining_bytes, units))
        lines.add_row("period", f"since {_day(told.period.begin, zone)}")
        lines.add_row("resets", _day(told.resets, zone) if told.resets else "never")
    levels = [f"{level} %{' (reached)' if level in told.levels else ''}" for level in quota.warn]
    lines.add_row("warns at", ", ".join(levels) or "no level")
    burst = f", after bursts of {bytes_text(quota.action.burst_bytes, units)}" if quota.action.rate else ""
    lines.add_row("then", Text(f"{_then(quota)}{burst}"))
    lines.add_row("state", Text(_state(told), _STYLES[told.state]))
    lines.add_row("added", _day(told.kept.added, zone))
    lines.add_row("origin", Text(_origin(quota)))
    return Group(Text(quota.name, "bold cyan"), lines)


def _day(moment: datetime, zone: tzinfo) -> str:
    return moment.astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z")


# -- for programs ------------------------------------------------------------------------


def quota_fields(told: Standing) -> dict[str, object]:
    """An object of type `quota`, version 1; null where nothing can be said."""
    quota, known = told.kept.quota, told.period is not None
    return {
        "type": "quota",
        "v": 1,
        "time": rfc3339(told.now),
        "name": quota.name,
        "whom": _whom(quota.whom),
        "limit_bytes": quota.limit_bytes,
        "direction": quota.direction,
        "per": quota.per,
        "link": quota.link or None,
        "profile": quota.profile or None,
        "when": quota.when,
        "warn": quota.warn,
        "do": quota.action.then,
        "rate_bytes_per_s": quota.action.bytes_per_second or None,
        "burst_bytes": quota.action.burst_bytes or None,
        "origin": quota.origin,
        "place": quota.place or None,
        "added": rfc3339(told.kept.added),
        "state": told.state,
        "reason": told.reason or None,
        "paused": told.kept.paused,
        "snoozed_until": rfc3339(told.kept.snoozed_until) if told.snoozed else None,
        "period_begin": rfc3339(told.period.begin) if told.period else None,
        "resets": rfc3339(told.resets),
        "used_bytes": told.used_bytes if known else None,
        "remaining_bytes": told.remaining_bytes if known else None,
        "used_percent": round(told.used_part * 100, 3) if known else None,
        "levels": [level for level in told.levels if level != LIMIT],
        "exceeded": told.exceeded,
    }


def _whom(whom: Whom) -> dict[str, object]:
    match whom:
        case App(name):
            return {"kind": "app", "app": name}
        case Exe(path):
            return {"kind": "exe", "exe": path}
        case Cgroup(path):
            return {"kind": "cgroup", "cgroup": path}
        case User(uid):
            return {"kind": "user", "uid": uid, "user": user_name(uid)}
        case _:
            return {"kind": "all", "except": whom.except_apps}
