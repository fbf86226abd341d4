"""What the ledger says: a table with bars, JSON lines, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from esimbpf.ledger.query import ReportBy, Usage
from esimbpf.model import NOTHING, Counters
from esimbpf.spans import Span
from esimbpf.units import Units, bytes_text
from esimbpf.users import user_name

__all__ = ["Heading", "by_heading", "by_span", "report_csv", "report_json"]

_BAR: Final = 24
_SPARKS: Final = {False: "▁▂▃▄▅▆▇█", True: ".:-=+*#@"}
_COLUMNS: Final = (
    *("from", "to", "link", "profile", "roaming", "kind", "name"),
    *("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "gap_s"),
)


@dataclass(frozen=True, slots=True)
class Heading:
    """What a row of the table for people is about, over all links and profiles."""

    kind: str
    name: str

    @property
    def shown(self) -> str:
        """As people read it."""
        if self.kind == ReportBy.USER:
            return user_name(int(self.name))
        return self.name or self.kind


def _headings(rows: Sequence[Usage]) -> dict[Heading, Counters]:
    sums: dict[Heading, Counters] = {}
    for row in rows:
        heading = Heading(row.kind, row.name)
        sums[heading] = sums.get(heading, NOTHING) + row.counters
    return dict(sorted(sums.items(), key=lambda item: (-item[1].total_bytes, item[0].shown)))


def by_heading(
    rows: Sequence[Usage],
    days: Sequence[Sequence[Usage]],
    whole: Span,
    by: ReportBy,
    zone: tzinfo,
    units: Units = Units.SI,
    top: int | None = None,
    ascii_only: bool = False,
) -> RenderableType:
    """Who has used how much in a period, with a line of its days; `days` are the same rows, day by day."""
    sums = _headings(rows)
    total = sum(sums.values(), NOTHING)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    down, up = ("down", "up") if ascii_only else ("↓", "↑")
    table.add_column(str(by), overflow="fold", min_width=8)
    for title in (down, up, "total"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("share", no_wrap=True)
    if len(days) > 1:
        table.add_column("by day", no_wrap=True)
    by_day = [_headings(day) for day in days]
    for heading, counters in list(sums.items())[:top]:
        part = counters.total_bytes / total.total_bytes if total.total_bytes else 0.0
        cells = [
            Text(heading.shown, "" if heading.name else "italic"),
            Text(bytes_text(counters.rx_bytes, units), "green"),
            Text(bytes_text(counters.tx_bytes, units), "magenta"),
            Text(bytes_text(counters.total_bytes, units), "bold"),
            Text(f"{part:4.0%} ") + Text(_bar(part, 12, ascii_only), "cyan"),
        ]
        if len(days) > 1:
            cells.append(Text(_spark([day.get(heading, NOTHING).total_bytes for day in by_day], ascii_only), "green"))
        table.add_row(*cells)
    parts: list[RenderableType] = [
        Text(
            f"{_moment(whole.begin, zone)} to {_moment(whole.end, zone)}: {bytes_text(total.total_bytes, units)} "
            f"({down} {bytes_text(total.rx_bytes, units)} {up} {bytes_text(total.tx_bytes, units)})",
            "bold",
        ),
        table,
    ]
    if top is not None and len(sums) > top:
        parts.append(Text(f"and {len(sums) - top} more; --top {len(sums)} shows them", "dim"))
    parts += _gap_lines(rows)
    return Group(*parts)


def by_span(
    cut: Sequence[tuple[Span, Sequence[Usage]]],
    per: str,
    zone: tzinfo,
    units: Units = Units.SI,
    ascii_only: bool = False,
) -> RenderableType:
    """What each span has used, and who most."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    down, up = ("down", "up") if ascii_only else ("↓", "↑")
    table.add_column(per, no_wrap=True)
    for title in (down, up, "total"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("most", overflow="fold")
    totals = [sum((row.counters for row in rows), NOTHING) for _, rows in cut]
    most = max((counters.total_bytes for counters in totals), default=0)
    for (span, rows), counters in zip(cut, totals, strict=True):
        gap_s = max((row.gap_s for row in rows), default=0.0)
        part = counters.total_bytes / most if most else 0.0
        first = next(iter(_headings(rows).items()), None)
        words = Text(first[0].shown if first and first[1] else "")
        if gap_s >= 1:
            words.append(f"{'  ' if words.plain else ''}gap {_duration(gap_s)}", "yellow")
        table.add_row(
            Text(_moment(span.begin, zone, per)),
            Text(bytes_text(counters.rx_bytes, units), "green"),
            Text(bytes_text(counters.tx_bytes, units), "magenta"),
            Text(bytes_text(counters.total_bytes, units), "bold"),
            Text(_bar(part, _BAR, ascii_only), "cyan"),
            words,
        )
    total = sum(totals, NOTHING)
    return Group(table, Text(f"together {bytes_text(total.total_bytes, units)}", "bold"))


def _gap_lines(rows: Sequence[Usage]) -> list[RenderableType]:
    gaps = {row.link: row.gap_s for row in rows if row.gap_s >= 1}
    return [
        Text(f"{link}: nobody counted or looked for {_duration(seconds)} of it", "yellow")
        for link, seconds in gaps.items()
    ]


def report_json(rows: Sequence[Usage]) -> bytes:
    """JSON lines of type `report`, version 1."""
    return b"".join(orjson.dumps(_line(row), option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _line(row: Usage) -> dict[str, object]:
    line: dict[str, object] = {
        "type": "report",
        "v": 1,
        "from": _utc(row.span.begin),
        "to": _utc(row.span.end),
        "link": row.link,
        "profile": row.profile,
        "roaming": row.roaming,
        "kind": row.kind,
    }
    if row.kind == ReportBy.APP:
        line["app"] = row.name
    elif row.kind == ReportBy.USER:
        line |= {"uid": int(row.name), "user": user_name(int(row.name))}
    return line | {
        "rx_bytes": row.counters.rx_bytes,
        "tx_bytes": row.counters.tx_bytes,
        "rx_packets": row.counters.rx_packets,
        "tx_packets": row.counters.tx_packets,
        "gap_s": round(row.gap_s, 3),
    }


def report_csv(rows: Sequence[Usage]) -> str:
    """A header and a line each, as RFC 4180 has them; times in UTC."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for row in rows:
        counters = row.counters
        roaming = "" if row.roaming is None else str(row.roaming).lower()
        writer.writerow(
            [
                *(_utc(row.span.begin), _utc(row.span.end), row.link, row.profile, roaming, row.kind, _cell(row.name)),
                *(counters.rx_bytes, counters.tx_bytes, counters.rx_packets, counters.tx_packets, round(row.gap_s, 3)),
            ]
        )
    return text.getvalue()


def _cell(text: str) -> str:
    """What a spreadsheet would take for a formula is kept text by an apostrophe."""
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(moment: datetime, zone: tzinfo, per: str = "") -> str:
    local = moment.astimezone(zone)
    if per == "month":
        return local.strftime("%Y-%m")
    if per in ("day", "week"):
        return local.strftime("%a %Y-%m-%d")
    return local.strftime("%Y-%m-%d %H:%M")


def _bar(part: float, width: int, ascii_only: bool) -> str:
    if ascii_only:
        return "#" * round(part * width)
    eighths = round(part * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")


def _spark(values: Sequence[int], ascii_only: bool) -> str:
    levels = _SPARKS[ascii_only]
    most = max(values, default=0)
    if not most:
        return ""
    return "".join(
        levels[min(len(levels) - 1, value * len(levels) // (most + 1))] if value else " " for value in values
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"
