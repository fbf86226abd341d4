"""What the ledger says: a table with bars, JSON lines, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

import orjson
from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from esimbpf.ledger.query import ReportBy, Usage
from esimbpf.model import NOTHING, Counters
from esimbpf.places import ByPlace
from esimbpf.spans import Per, Span, rfc3339
from esimbpf.units import Units, bytes_text
from esimbpf.users import user_name

__all__ = [
    "Heading",
    "blocked_text",
    "by_heading",
    "by_span",
    "cut_text",
    "duration_text",
    "headings",
    "largest",
    "moment_text",
    "places",
    "report_csv",
    "report_json",
    "seconds_missing",
]

Cut = Sequence[tuple[Span, Sequence[Usage]]]
"""The rows of each span, the spans without a hole."""

_WIDE: Final = 100
_NARROW: Final = 60
"""Columns of a terminal below which a row has its total only, not what it is made of."""
_MOST_DAYS: Final = 60
_FEWEST_DAYS: Final = 7
_NEGLIGIBLE_S: Final = 1.0
_SPARKS: Final = {False: "▁▂▃▄▅▆▇█", True: ".:-=+*#@"}
_NOT_COUNTED: Final = "x"
_ASCII_HEAD: Final = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_COLUMNS: Final = (
    *("from", "to", "link", "profile", "roaming", "kind", "name"),
    *("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "gap_s", "unread_s"),
    *("blocked_rx_bytes", "blocked_tx_bytes"),
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


def headings(rows: Iterable[Usage], blocked: bool = False) -> dict[Heading, Counters]:
    """The sums of all headings of which anything was counted, or was `blocked`, the largest first."""
    sums: dict[Heading, Counters] = {}
    for row in rows:
        counters = row.blocked if blocked else row.counters
        if counters:
            heading = Heading(row.kind, row.name)
            sums[heading] = sums.get(heading, NOTHING) + counters
    return dict(sorted(sums.items(), key=lambda item: (-item[1].total_bytes, item[0].shown)))


def places(cut: Cut) -> ByPlace:
    """What was counted at home and abroad."""
    return ByPlace.of((row.roaming, row.counters.total_bytes) for _, rows in cut for row in rows)


def largest(rows: Sequence[Usage], top: int | None) -> list[Usage]:
    """The largest rows of a span, and those that are there only for a gap."""
    moved = [row for row in rows if row.counters or row.blocked]
    return moved[:top] + [row for row in rows if not (row.counters or row.blocked)]


def seconds_missing(rows: Iterable[Usage]) -> dict[str, float]:
    """By link, for how long of one span it was not counted."""
    return {row.link: row.gap_s for row in rows}


def _seconds_unread(rows: Iterable[Usage]) -> dict[str, float]:
    return {row.link: row.unread_s for row in rows}


def by_heading(
    cut: Cut,
    by: ReportBy,
    zone: tzinfo,
    units: Units = Units.SI,
    top: int | None = None,
    ascii_only: bool = False,
    width: int = 120,
) -> RenderableType:
    """Who has used how much in a period that is cut into days, with a line of the last of these."""
    blocked = headings((row for _, rows in cut for row in rows), blocked=True)
    sums = headings(row for _, rows in cut for row in rows)
    total = sum(sums.values(), NOTHING)
    sums |= {heading: NOTHING for heading in blocked if heading not in sums}
    by_place = places(cut)
    abroad = headings(row for _, rows in cut for row in rows if row.roaming) if by_place.apart else {}
    shown = list(sums.items())[:top]
    down, up = ("down", "up") if ascii_only else ("↓", "↑")
    summary = f"{bytes_text(total.total_bytes, units)} ({down} {bytes_text(total.rx_bytes, units)} "
    parts: list[RenderableType] = [
        Text(
            f"{moment_text(cut[0][0].begin, zone)} to {moment_text(cut[-1][0].end, zone)}: "
            f"{summary}{up} {bytes_text(total.tx_bytes, units)}){blocked_text(blocked, units)}",
            "bold",
        )
    ]
    if by_place.apart:
        parts.append(Text(by_place.text(units)))
    name_width = min(max([cell_len(heading.shown) for heading, _ in shown] + [8]), max(16, width // 4))
    bar = 12 if width >= _WIDE else 6
    titles = ("total",) if width < _NARROW else (down, up, "total")
    apart = {title: amounts for title, amounts in (("abroad", abroad), ("blocked", blocked)) if amounts}
    # What is left beside the name, the amounts, the share and its bar.
    days = min(len(cut), _MOST_DAYS, width - name_width - 9 * len((*titles, *apart)) - 8 - bar)
    last = cut[-days:] if (len(cut) > 1 and days >= _FEWEST_DAYS) or days == len(cut) > 1 else ()
    table = _table(ascii_only)
    table.add_column(str(by), overflow="fold", min_width=8, max_width=name_width)
    for title in (*titles, *apart):
        table.add_column(title, justify="right", no_wrap=True, overflow="crop")
    table.add_column("share", no_wrap=True, overflow="crop")
    if last:
        table.add_column("by day" if len(last) == len(cut) else f"last {len(last)} days", no_wrap=True)
    by_day = [(headings(rows), _wholly_missing(span, rows)) for span, rows in last]
    for heading, counters in shown:
        part = counters.total_bytes / total.total_bytes if total.total_bytes else 0.0
        cells = [
            Text(heading.shown, "" if heading.name else "italic"),
            *_amounts(counters, units)[-len(titles) :],
            *(_aside(amounts.get(heading, NOTHING), units) for amounts in apart.values()),
            Text(f"{part:4.0%} ") + Text(_bar(part, bar, ascii_only), "cyan"),
        ]
        if last:
            cells.append(
                _spark([(day.get(heading, NOTHING).total_bytes, missing) for day, missing in by_day], ascii_only)
            )
        table.add_row(*cells)
    if shown:
        parts.append(table)
    else:
        parts.append(Text("nothing was counted in this time"))
    if len(sums) > len(shown):
        rest = sum((counters.total_bytes for _, counters in list(sums.items())[len(shown) :]), 0)
        parts.append(
            Text(
                f"and {len(sums) - len(shown)} more with {bytes_text(rest, units)}; --top {len(sums)} shows them", "dim"
            )
        )
    if any(missing for _, missing in by_day):
        parts.append(Text(f"{_NOT_COUNTED}: a day that was not counted", "yellow"))
    return Group(*parts, *_gap_lines(cut))


def by_span(
    cut: Cut,
    per: Per,
    zone: tzinfo,
    units: Units = Units.SI,
    top: int | None = None,
    ascii_only: bool = False,
    width: int = 120,
    begun: datetime | None = None,
) -> RenderableType:
    """What each span has used, and who most of it; `top` names so many.

    `begun` is when the first span has begun, if the report begins within it.
    """
    table = _table(ascii_only)
    down, up = ("down", "up") if ascii_only else ("↓", "↑")
    table.add_column(per, no_wrap=True, overflow="crop")
    titles = ("total",) if width < _NARROW else (down, up, "total")
    blocked = headings((row for _, rows in cut for row in rows), blocked=True)
    by_place = places(cut)
    apart = [title for title, there in (("abroad", by_place.apart), ("blocked", blocked)) if there]
    in_columns = apart if width >= _NARROW else []
    for title in (*titles, *in_columns):
        table.add_column(title, justify="right", no_wrap=True, overflow="crop")
    bar, between = (24, Text("  ")) if width >= _WIDE else (8 if width >= _NARROW else 2, Text("\n"))
    table.add_column("", no_wrap=True, overflow="crop")
    table.add_column("most", overflow="fold")
    totals = [sum((row.counters for row in rows), NOTHING) for _, rows in cut]
    most = max((counters.total_bytes for counters in totals), default=0)
    for number, ((span, rows), counters) in enumerate(zip(cut, totals, strict=True)):
        since = begun if begun and not number else span.begin
        unknown = not counters and _wholly_missing(span, rows)
        aside = {
            "abroad": sum((row.counters for row in rows if row.roaming), NOTHING),
            "blocked": sum((row.blocked for row in rows), NOTHING),
        }
        told = [
            Text(f"{title} ").append_text(_aside(aside[title], units))
            for title in apart
            if aside[title] and title not in in_columns
        ]
        if since != span.begin:
            told.append(Text(cut_text(span, zone), "dim"))
        if unknown:
            amounts, drawn = [Text("-")] * 3, Text((_NOT_COUNTED if ascii_only else "░") * bar, "yellow")
        else:
            amounts = _amounts(counters, units)
            drawn = Text(_bar(counters.total_bytes / most if most else 0.0, bar, ascii_only), "cyan")
        table.add_row(
            Text(moment_text(since, zone, per)),
            *amounts[-len(titles) :],
            *(Text("-") if unknown else _aside(aside[title], units) for title in in_columns),
            drawn,
            between.join(part for part in (_who(headings(rows), counters, top), *told, *_gap_words(rows)) if part),
        )
    total = sum(totals, NOTHING)
    where = f": {by_place.text(units)}" if by_place.apart else ""
    together = Text(f"together {bytes_text(total.total_bytes, units)}{where}{blocked_text(blocked, units)}", "bold")
    return Group(table, together, *(_gap_lines(cut) if len(cut) == 1 or len(_links(cut)) > 1 else []))


def _table(ascii_only: bool) -> Table:
    box = _ASCII_HEAD if ascii_only else SIMPLE_HEAD
    return Table(box=box, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _amounts(counters: Counters, units: Units) -> list[Text]:
    return [
        Text(bytes_text(counters.rx_bytes, units), "green"),
        Text(bytes_text(counters.tx_bytes, units), "magenta"),
        Text(bytes_text(counters.total_bytes, units), "bold"),
    ]


def _aside(counters: Counters, units: Units) -> Text:
    return Text(bytes_text(counters.total_bytes, units), "yellow" if counters else "dim")


def blocked_text(blocked: Mapping[Heading, Counters], units: Units) -> str:
    """What quotas have blocked in all, as in `, blocked 700 kB`; nothing where they have not."""
    total = sum(blocked.values(), NOTHING)
    return f", blocked {bytes_text(total.total_bytes, units)}" if total else ""


def cut_text(span: Span, zone: tzinfo) -> str:
    """That a span is cut off at the report's begin, and where."""
    return f"cut: from {span.begin.astimezone(zone):%m-%d %H:%M}"


def _who(sums: Mapping[Heading, Counters], total: Counters, top: int | None) -> Text:
    """The largest headings with their shares, and how many there are besides if some were asked for."""
    names = list(sums.items())[: top or 1]
    shares = [f"{one.shown} {counters.total_bytes / (total.total_bytes or 1):.0%}" for one, counters in names]
    words = Text(", ".join(shares))
    if top and len(sums) > len(names):
        words.append(f" and {len(sums) - len(names)} more", "dim")
    return words


def _gap_words(rows: Sequence[Usage]) -> list[Text]:
    return [
        Text(f"{text} {duration_text(max(found.values()))}", style)
        for found, text, style in (
            (seconds_missing(rows), "gap", "yellow"),
            (_seconds_unread(rows), "noted late", "dim"),
        )
        if max(found.values(), default=0.0) >= _NEGLIGIBLE_S
    ]


def _wholly_missing(span: Span, rows: Sequence[Usage]) -> bool:
    """Whether no link of which anything is known was counted in a span."""
    missing = seconds_missing(rows)
    return bool(missing) and min(missing.values()) >= span.seconds - _NEGLIGIBLE_S


def _links(cut: Cut) -> list[str]:
    return sorted({row.link for _, rows in cut for row in rows})


def _gap_lines(cut: Cut) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for link in _links(cut):
        missing = sum(seconds_missing(rows).get(link, 0.0) for _, rows in cut)
        unread = sum(_seconds_unread(rows).get(link, 0.0) for _, rows in cut)
        if missing >= _NEGLIGIBLE_S:
            words = f"{link}: {duration_text(missing)} were not counted: what it moved then is missing"
            lines.append(Text(words, "yellow"))
        if unread >= _NEGLIGIBLE_S:
            words = f"{link}: {duration_text(unread)} were noted late: complete, but told at their end"
            lines.append(Text(words, "dim"))
    return lines


def report_json(rows: Sequence[Usage]) -> bytes:
    """JSON lines of type `report`, version 1."""
    return b"".join(orjson.dumps(_line(row), option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _line(row: Usage) -> dict[str, object]:
    line: dict[str, object] = {
        "type": "report",
        "v": 1,
        "from": rfc3339(row.span.begin),
        "to": rfc3339(row.span.end),
        "link": row.link,
        "profile": row.profile,
        "roaming": row.roaming,
        "kind": row.kind,
    }
    if row.kind == ReportBy.APP:
        line["app"] = row.name
    elif row.kind == ReportBy.USER:
        line |= {"uid": int(row.name), "user": user_name(int(row.name))}
    elif row.kind in (ReportBy.NETWORK, ReportBy.COUNTRY, ReportBy.TECHNOLOGY):
        line[row.kind] = row.name
    return line | {
        "rx_bytes": row.counters.rx_bytes,
        "tx_bytes": row.counters.tx_bytes,
        "rx_packets": row.counters.rx_packets,
        "tx_packets": row.counters.tx_packets,
        "gap_s": round(row.gap_s, 3),
        "unread_s": round(row.unread_s, 3),
        "blocked_rx_bytes": row.blocked.rx_bytes,
        "blocked_tx_bytes": row.blocked.tx_bytes,
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
                *(
                    rfc3339(row.span.begin),
                    rfc3339(row.span.end),
                    row.link,
                    row.profile,
                    roaming,
                    row.kind,
                    _cell(row.name),
                ),
                *(counters.rx_bytes, counters.tx_bytes, counters.rx_packets, counters.tx_packets),
                *(round(row.gap_s, 3), round(row.unread_s, 3), row.blocked.rx_bytes, row.blocked.tx_bytes),
            ]
        )
    return text.getvalue()


def _cell(text: str) -> str:
    """What a spreadsheet would take for a formula is kept text by an apostrophe."""
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def moment_text(moment: datetime, zone: tzinfo, per: Per | None = None) -> str:
    """The local time, as exactly as it is needed to know a span by its begin."""
    local = moment.astimezone(zone)
    if per is Per.MONTH:
        return local.strftime("%Y-%m")
    if per in (Per.DAY, Per.WEEK, Per.CYCLE):
        return local.strftime("%a %Y-%m-%d")
    return local.strftime("%Y-%m-%d %H:%M")


def _bar(part: float, width: int, ascii_only: bool) -> str:
    if ascii_only:
        return "#" * round(part * width)
    eighths = round(part * width * 8)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + ("▏▎▍▌▋▊▉"[rest - 1] if rest else "")


def _spark(days: Sequence[tuple[int, bool]], ascii_only: bool) -> Text:
    """A character for each day: its amount, or that it was not counted."""
    levels = _SPARKS[ascii_only]
    most = max((amount for amount, _ in days), default=0)
    words = Text()
    for amount, missing in days:
        if amount:
            words.append(levels[min(len(levels) - 1, amount * len(levels) // (most + 1))], "green")
        else:
            words.append(_NOT_COUNTED if missing else " ", "yellow")
    return words


def duration_text(seconds: float) -> str:
    """As in `3 d 4 h`, `2 h 5 min`, `7 min`, `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"
