"""What the ledger says, as a picture: an SVG that needs nothing from outside, for light and dark surroundings."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import tzinfo
from typing import Final
from xml.etree import ElementTree as ET

from rich.cells import cell_len, set_cell_size

from esimbpf.ledger.query import ReportBy, Usage
from esimbpf.model import NOTHING, Counters
from esimbpf.sinks.report import (
    Cut,
    Heading,
    blocked_text,
    duration_text,
    headings,
    moment_text,
    places,
    seconds_missing,
)
from esimbpf.spans import Per, Span
from esimbpf.units import Units, bytes_text

__all__ = ["picture"]

_WIDTH: Final = 960
_MARGIN: Final = 24
_LEFT: Final = 84
"""Where a chart begins, right of its axis."""
_COLOURS: Final = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#edc948", "#e15759", "#76b7b2", "#9c755f")
_OTHERS: Final = "#9aa0a6"
_BLOCKED: Final = "#cf222e"
_MOST_ROWS: Final = 12
_MOST_COLOURS: Final = 6
_NO_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot have, not even escaped."""
_STYLE: Final = """
text { font: 13px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
.title { font-size: 20px; font-weight: 600 }
.dim { fill: #656d76 }
.small { font-size: 11px }
.end { text-anchor: end }
.middle { text-anchor: middle }
.paper { fill: #ffffff }
.grid { stroke: #d0d7de; stroke-width: 1 }
.track { fill: #eef1f4 }
.hatch { stroke: #bf8700; stroke-width: 2 }
.blocked { fill: #cf222e }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .dim { fill: #9198a1 }
  .paper { fill: #0d1117 }
  .grid { stroke: #30363d }
  .track { fill: #1c2128 }
  .hatch { stroke: #d29922 }
  .blocked { fill: #ff7b72 }
}
"""


def picture(
    cut: Cut,
    per: Per | None,
    by: ReportBy,
    zone: tzinfo,
    units: Units = Units.SI,
    top: int | None = None,
    notes: Sequence[str] = (),
) -> bytes:
    """An SVG document: a stacked column for each span, or, of days without `per`, a bar for each heading."""
    sums = headings(row for _, rows in cut for row in rows)
    blocked = headings((row for _, rows in cut for row in rows), blocked=True)
    drawing = _Drawing(units, zone)
    total = sum(sums.values(), NOTHING)
    drawing.text(_MARGIN, 40, f"{bytes_text(total.total_bytes, units)} by {by}", "title")
    period = f"{moment_text(cut[0][0].begin, zone)} to {moment_text(cut[-1][0].end, zone)}"
    drawing.text(
        *(_MARGIN, 62),
        f"{period}   ↓ {bytes_text(total.rx_bytes, units)}   ↑ {bytes_text(total.tx_bytes, units)}"
        f"{blocked_text(blocked, units)}",
        "dim",
    )
    by_place = places(cut)
    y = 84.0
    if by_place.apart:
        drawing.text(_MARGIN, y, by_place.text(units), "dim")
        y += 22
    if per is None:
        y = _bars(drawing, sums, blocked, total, top, y)
        if len(cut) > 1:
            drawing.text(_MARGIN, y + 14, "by day", "dim")
            y = _columns(drawing, cut, Per.DAY, {}, y + 36, 120)
            if blocked:
                y = _blocked_columns(drawing, cut, Per.DAY, y)
    else:
        count = min(top or _MOST_COLOURS, len(_COLOURS))
        colours = dict(zip(list(sums)[:count], _COLOURS, strict=False))
        y = _columns(drawing, cut, per, colours, y, 320)
        y = _legend(drawing, sums, colours, y)
        if blocked:
            y = _blocked_columns(drawing, cut, per, y)
    for line in (*_gap_lines(cut), *notes):
        drawing.text(_MARGIN, y + 14, line, "small dim")
        y += 18
    return drawing.document(y + 16)


class _Drawing:
    """The elements of a picture, from top to bottom."""

    def __init__(self, units: Units, zone: tzinfo) -> None:
        self.units = units
        self.zone = zone
        self._root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
        ET.SubElement(self._root, "title").text = "esimbpf report"
        ET.SubElement(self._root, "style").text = _STYLE
        size = {"width": "8", "height": "8", "patternUnits": "userSpaceOnUse", "patternTransform": "rotate(45)"}
        pattern = ET.SubElement(ET.SubElement(self._root, "defs"), "pattern", {"id": "gap"} | size)
        ET.SubElement(pattern, "path", {"class": "hatch", "d": "M1 0V8"})
        self._paper = ET.SubElement(self._root, "rect", {"class": "paper", "width": "100%", "height": "100%"})

    def text(self, x: float, y: float, words: str, style: str = "") -> None:
        """Words whose base line is at y."""
        element = ET.SubElement(self._root, "text", {"x": _number(x), "y": _number(y), "class": style})
        element.text = _NO_XML.sub("\ufffd", words)

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str = "", style: str = "", title: str = ""
    ) -> None:
        """A filled area; `title` is shown where the pointer is."""
        place = {"x": _number(x), "y": _number(y), "width": _number(width), "height": _number(height)}
        look = {"fill": fill} if fill else {"class": style}
        element = ET.SubElement(self._root, "rect", place | look)
        if title:
            ET.SubElement(element, "title").text = _NO_XML.sub("\ufffd", title)

    def line(self, y: float) -> None:
        """A line of the grid, across a chart."""
        ET.SubElement(self._root, "path", {"class": "grid", "d": f"M{_LEFT} {_number(y)}H{_WIDTH - _MARGIN}"})

    def document(self, height: float) -> bytes:
        """The whole of it, as high as it has become."""
        self._root.set("viewBox", f"0 0 {_WIDTH} {_number(height)}")
        self._root.set("width", str(_WIDTH))
        self._root.set("height", _number(height))
        ET.indent(self._root)
        document: bytes = ET.tostring(self._root, encoding="utf-8", xml_declaration=True)
        return document + b"\n"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _bars(
    drawing: _Drawing,
    sums: dict[Heading, Counters],
    blocked: dict[Heading, Counters],
    total: Counters,
    top: int | None,
    y: float,
) -> float:
    """A bar for each of the largest, received and sent beside each other; where it ends."""
    sums = sums | {heading: NOTHING for heading in blocked if heading not in sums}
    shown = list(sums.items())[: top or _MOST_ROWS]
    if not shown:
        drawing.text(_MARGIN, y + 14, "nothing was counted in this time", "dim")
        return y + 34
    begin, full = 250, _WIDTH - 250 - (240 if blocked else 150)
    most = shown[0][1].total_bytes or 1
    for heading, counters in shown:
        down, up = (full * amount / most for amount in (counters.rx_bytes, counters.tx_bytes))
        amounts = f"↓ {bytes_text(counters.rx_bytes, drawing.units)} ↑ {bytes_text(counters.tx_bytes, drawing.units)}"
        words = f"{heading.shown}: {amounts}"
        drawing.text(begin - 10, y + 15, _cut_off(heading.shown, 28), "end")
        drawing.rect(begin, y + 3, full, 16, style="track")
        drawing.rect(begin, y + 3, down, 16, _COLOURS[0], title=words)
        drawing.rect(begin + down, y + 3, up, 16, _COLOURS[1], title=words)
        part = counters.total_bytes / (total.total_bytes or 1)
        drawing.text(begin + full + 80, y + 15, bytes_text(counters.total_bytes, drawing.units), "end")
        if heading in blocked:
            amount = bytes_text(blocked[heading].total_bytes, drawing.units)
            drawing.text(begin + full + 170, y + 15, amount, "end blocked")
        drawing.text(_WIDTH - _MARGIN, y + 15, f"{part:.0%}", "end dim")
        y += 24
    drawing.rect(begin, y + 6, 10, 10, _COLOURS[0])
    drawing.text(begin + 16, y + 15, "received", "small dim")
    drawing.rect(begin + 80, y + 6, 10, 10, _COLOURS[1])
    drawing.text(begin + 96, y + 15, "sent", "small dim")
    if blocked:
        drawing.text(begin + full + 170, y + 15, "blocked", "small end blocked")
    if len(sums) > len(shown):
        rest = sum(counters.total_bytes for _, counters in list(sums.items())[len(shown) :])
        words = f"and {len(sums) - len(shown)} more with {bytes_text(rest, drawing.units)}"
        drawing.text(begin + full, y + 15, words, "small dim end")
    return y + 34


def _blocked_columns(drawing: _Drawing, cut: Cut, per: Per, y: float) -> float:
    """What was blocked has a scale of its own: of what was to be sent, a program may have tried any amount."""
    drawing.text(_MARGIN, y + 14, "blocked by quotas", "dim")
    return _columns(drawing, cut, per, {}, y + 36, 80, blocked=True)


def _columns(
    drawing: _Drawing,
    cut: Cut,
    per: Per,
    colours: dict[Heading, str],
    y: float,
    height: float,
    blocked: bool = False,
) -> float:
    """A column for each span, stacked by colour, with axes and hatched gaps; where it ends.

    Of what was counted, or of what was `blocked`.
    """
    by_span = [headings(rows, blocked) for _, rows in cut]
    rest = _OTHERS if colours else _BLOCKED if blocked else _COLOURS[0]
    most = max(sum(counters.total_bytes for counters in sums.values()) for sums in by_span)
    ticks = _ticks(most, drawing.units, 5 if height > 200 else 2)
    scale = height / (ticks[-1] or 1)
    bottom, step = y + height, (_WIDTH - _MARGIN - _LEFT) / len(cut)
    space = min(step * 0.2, 6)
    for tick in ticks:
        drawing.line(bottom - tick * scale)
        drawing.text(_LEFT - 8, bottom - tick * scale + 4, _axis_text(tick, drawing.units), "small dim end")
    for place, ((span, rows), sums) in enumerate(zip(cut, by_span, strict=True)):
        x, width, at = _LEFT + place * step + space / 2, step - space, bottom
        when = moment_text(span.begin, drawing.zone, per)
        missing_s = max(seconds_missing(rows).values(), default=0.0)
        if missing_s >= 1:
            part = min(missing_s / span.seconds, 1.0)
            words = f"{when}: not counted for {duration_text(missing_s)}"
            # A sliver would not be seen as hatched.
            drawing.rect(x, y, max(width * part, min(width, 6)), height, "url(#gap)", title=words)
        for heading, amount in _pieces(sums, colours):
            whose = heading.shown if heading else "others" if colours else "blocked" if blocked else "all"
            words = f"{when}  {whose}: {bytes_text(amount, drawing.units)}"
            at -= amount * scale
            colour = colours[heading] if heading else rest
            drawing.rect(x, at, width, amount * scale, colour, title=words)
    every = math.ceil(len(cut) / (8 if per is Per.HOUR else 12))
    for place in range(0, len(cut), every):
        middle = _LEFT + (place + 0.5) * step
        drawing.text(middle, bottom + 18, _span_text(cut[place][0], drawing.zone, per), "small dim middle")
    return bottom + 32


def _pieces(sums: dict[Heading, Counters], colours: dict[Heading, str]) -> Sequence[tuple[Heading | None, int]]:
    """Of what a column is made, from the bottom up: those with a colour, and the others in one."""
    pieces: list[tuple[Heading | None, int]] = [
        (heading, sums[heading].total_bytes) for heading in colours if heading in sums
    ]
    rest = sum(counters.total_bytes for heading, counters in sums.items() if heading not in colours)
    return [*pieces, (None, rest)] if rest else pieces


def _legend(drawing: _Drawing, sums: dict[Heading, Counters], colours: dict[Heading, str], y: float) -> float:
    entries = [(heading.shown, sums[heading].total_bytes, colour) for heading, colour in colours.items()]
    rest = [counters.total_bytes for heading, counters in sums.items() if heading not in colours]
    if rest:
        entries.append((f"others ({len(rest)})", sum(rest), _OTHERS))
    for number, (name, amount, colour) in enumerate(entries):
        x, line = _LEFT + number % 3 * 280, y + number // 3 * 22
        drawing.rect(x, line, 12, 12, colour)
        drawing.text(x + 18, line + 11, f"{_cut_off(name, 22)}  {bytes_text(amount, drawing.units)}")
    return y + math.ceil(len(entries) / 3) * 22 + 6


def _gap_lines(cut: Cut) -> list[str]:
    missing: dict[str, float] = {}
    unread: dict[str, float] = {}
    for _, rows in cut:
        once: dict[str, Usage] = {row.link: row for row in rows}
        for link, row in once.items():
            missing[link] = missing.get(link, 0.0) + row.gap_s
            unread[link] = unread.get(link, 0.0) + row.unread_s
    return [
        *(f"hatched: {link} was not counted for {duration_text(s)}" for link, s in missing.items() if s >= 1),
        *(f"{link}: {duration_text(s)} were noted late, at their end" for link, s in unread.items() if s >= 1),
    ]


def _ticks(most: float, units: Units, count: int) -> list[float]:
    """Round amounts from nothing to beyond the most."""
    if most <= 0:
        return [0.0]
    base = 1000 if units is Units.SI else 1024
    prefix = base ** int(math.log(most, base)) if most >= 1 else 1
    rough = most / prefix / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * round_one for round_one in (1, 2, 5, 10) if power * round_one >= rough * 0.999) * prefix
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def _axis_text(amount: float, units: Units) -> str:
    """As short as it can be: 5 GB, not 5.00 GB."""
    number, prefix = bytes_text(amount, units).split()
    return f"{float(number):g} {prefix}"


def _span_text(span: Span, zone: tzinfo, per: Per) -> str:
    local = span.begin.astimezone(zone)
    if per is Per.MONTH:
        return local.strftime("%Y-%m")
    return local.strftime("%m-%d %H:%M" if per is Per.HOUR else "%m-%d")


def _cut_off(text: str, cells: int) -> str:
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + "…"
