"""SIM profiles: a table for people, and lines for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from esimbpf.ledger.profiles import ProfileUse
from esimbpf.profiles import ProfileNames
from esimbpf.sinks.links import operator_entry
from esimbpf.sinks.plan import plan_words
from esimbpf.spans import rfc3339, zone_named
from esimbpf.units import Units, bytes_text

__all__ = ["Presence", "profiles_json", "profiles_table"]

_WIDE: Final = 110
"""Columns of a terminal from which on a profile has a row of a table; below, a paragraph."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a profile is in use now."""

    active: bool | None
    """None if nobody says."""
    links: tuple[str, ...] = ()
    """The links that it is behind."""

    def __str__(self) -> str:
        if self.active is None:
            return "unknown"
        return ", ".join(self.links) or "active" if self.active else ""


Row = tuple[ProfileUse, Presence]


def profiles_table(
    rows: Sequence[Row], names: ProfileNames, zone: tzinfo, units: Units = Units.SI, width: int = 120
) -> RenderableType:
    """All profiles: label and number, whether it is active, when it was counted last, what it has used, its plan."""
    if width < _WIDE:
        return Text("\n", overflow="fold").join(_paragraph(*row, names, zone, units) for row in rows)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    anywhere = any(use.used.unknown_bytes for use, _ in rows)
    table.add_column("profile", overflow="fold", min_width=8)
    table.add_column("number", no_wrap=True)
    table.add_column("home network", overflow="fold", min_width=8)
    for heading in ("now", "last counted", "since"):
        table.add_column(heading, no_wrap=True)
    for heading in ("at home", "abroad", *(["unknown"] if anywhere else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("plan", overflow="fold")
    for use, presence in rows:
        used = use.used
        amounts = (used.home_bytes, used.abroad_bytes, *([used.unknown_bytes] if anywhere else []))
        table.add_row(
            Text(_name(use), "bold"),
            Text(_number(use, names)),
            Text(str(use.profile.operator or "")),
            Text(str(presence) if use.profile.known else "", "green" if presence.active else "dim"),
            _moment(use.last_counted, zone) or "never",
            _since(use, zone),
            *(Text(bytes_text(amount, units), "" if amount else "dim") for amount in amounts),
            Text(_plan(use)),
        )
    return table


def _paragraph(use: ProfileUse, presence: Presence, names: ProfileNames, zone: tzinfo, units: Units) -> Text:
    active = {True: f", active {f'on {presence}' if presence.links else 'now'}", False: "", None: ""}[presence.active]
    lines = [
        f"{_number(use, names)}{active}".strip(),
        f"home network: {use.profile.operator}" if use.profile.operator else "",
        f"last counted: {_moment(use.last_counted, zone) or 'never'}",
        f"since {_since(use, zone)}: {use.used.text(units) or 'nothing'}",
        f"plan: {_plan(use)}" if use.plan else "",
    ]
    return Text.assemble((_name(use), "bold"), *(f"\n  {line}" for line in lines if line), "\n")


def _name(use: ProfileUse) -> str:
    return use.profile.label or ("" if use.profile.known else use.profile.iccid)


def _number(use: ProfileUse, names: ProfileNames) -> str:
    if not use.profile.known:
        return ""
    return {True: "eSIM ", False: "SIM ", None: ""}[use.profile.esim] + names.number(use.profile.iccid)


def _plan(use: ProfileUse) -> str:
    if use.plan is None:
        return ""
    return plan_words(use.plan) + ("" if use.in_cycle else ": not in use")


def _since(use: ProfileUse, zone: tzinfo) -> str:
    """Since when the use is told, by the date: in the plan's zone where there is one."""
    return f"{use.span.begin.astimezone(zone_named(use.plan.zone) if use.in_cycle and use.plan else zone):%Y-%m-%d}"


def _moment(moment: datetime | None, zone: tzinfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}" if moment else ""


def profiles_json(rows: Sequence[Row], names: ProfileNames, now: datetime) -> bytes:
    """Lines of type `profile`, version 1; null for what is not known."""
    return b"".join(
        orjson.dumps(_line(use, presence, names, now), option=orjson.OPT_APPEND_NEWLINE) for use, presence in rows
    )


def _line(use: ProfileUse, presence: Presence, names: ProfileNames, now: datetime) -> dict[str, object]:
    profile = use.profile
    operator = profile.operator
    return {
        "type": "profile",
        "v": 1,
        "time": rfc3339(now),
        "profile": names.number(profile.iccid),
        "label": profile.label or None,
        "label_from": profile.label_from,
        "esim": profile.esim,
        "operator": operator and operator_entry(operator),
        "active": presence.active,
        "links": presence.links,
        "last_counted": use.last_counted and rfc3339(use.last_counted),
        "begin": rfc3339(use.span.begin),
        "end": rfc3339(use.span.end),
        "per": "cycle" if use.in_cycle else "month",
        "home_bytes": use.used.home_bytes,
        "roaming_bytes": use.used.abroad_bytes,
        "unknown_bytes": use.used.unknown_bytes,
        "plan": use.plan.to_json() if use.plan else None,
    }
