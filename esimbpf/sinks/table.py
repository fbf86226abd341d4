"""The table of `top`: one interval as text, for any width and height."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.text import Text

from esimbpf.model import GroupBy, Kind, LinkTick, Row, Tick
from esimbpf.sinks.plan import plan_lines
from esimbpf.units import Units, bytes_text, rate_text
from esimbpf.use import LEDGER_KNOWS, LinkUse, Used, with_rows_before
from esimbpf.users import user_name

__all__ = ["KEYS", "SPARK_WIDTH", "Sort", "View", "render"]

KEYS: Final = (
    ("q", "quit"),
    ("s, ← →", "sort by the next, previous or following column"),
    ("r", "turn the order around"),
    ("↑ ↓, PgUp PgDn, Home", "scroll"),
    ("b", "rows by app, process, user, cgroup"),
    ("l, Tab", "another link in full, where not all have room"),
    ("p, space", "pause the display; counting goes on"),
    ("/", "filter by name; Enter keeps it, Esc clears it"),
    ("u", "decimal or binary units"),
    ("?", "this help; any key leaves it"),
)

_MEANINGS: Final = (
    ("kernel", "answers to pings, resets: nobody asked for them here"),
    ("forwarded", "of tethered devices, containers and virtual machines"),
    ("unattributed", "what is left; should be next to nothing"),
    ("overflow", "what has no room for its name: processes beyond --max-processes"),
)

_LEDGER_MEANINGS: Final = (
    ("today", "both directions, since the day began, from the ledger"),
    ("cycle", "the same, since the plan's cycle began"),
    ("plan", "used, left, whether it lasts, what is safe today"),
)

_BLOCKED_MEANING: Final = (
    "blocked",
    "by quotas, in this run: sent and never crossed the link; or received, paid for, and dropped",
)

_SPECIAL: Final = (Kind.KERNEL, Kind.FORWARDED, Kind.UNATTRIBUTED, Kind.OVERFLOW)
_SPARKS: Final = {False: " ▁▂▃▄▅▆▇█", True: " .:-=+*#@"}
_BARS: Final = {False: ("█", "▏▎▍▌▋▊▉"), True: ("#", "")}
SPARK_WIDTH: Final = 12
_NARROW_SPARK_WIDTH: Final = 8
_NEVER: Final = 1 << 30
# A link's header, the titles, a row, the rule and those rows that are always there.
_LEAST_BLOCK: Final = 8
# Columns of the terminal from which on the table is laid out with more air.
_WIDE: Final = 96
# What a column of use takes, with the space before it.
_USE_WIDTH: Final = 8
# Lines of the terminal from which on a plan may have two of them.
_HIGH: Final = 20


class Sort(StrEnum):
    """What rows are sorted by."""

    NAME = "name"
    DOWN = "down"
    UP = "up"
    TOTAL_DOWN = "total down"
    TOTAL_UP = "total up"
    TODAY = "today"
    CYCLE = "cycle"
    BLOCKED = "blocked"


@dataclass(slots=True)
class View:
    """How the user wants to see it."""

    by: GroupBy
    sort: Sort = Sort.DOWN
    reverse: bool = False
    filter: str = ""
    editing: bool = False
    """The filter is being typed."""
    paused: bool = False
    help: bool = False
    scroll: int = 0
    link: int | None = None
    """The link to show in full where not all have room; None for the one that has moved most."""
    units: Units = Units.SI
    ascii: bool = False
    """The terminal shows no more than ASCII."""
    keys: bool = True
    """Whether there is a keyboard, and so a line that tells the keys."""
    history: Mapping[tuple[str, Kind, str], Sequence[float]] = field(default_factory=dict)
    """By link, kind and id: bytes per second of the last intervals, the newest last."""
    uses: Mapping[str, LinkUse] = field(default_factory=dict)
    """By link, what the ledger knows; empty without one."""
    warning: str = ""
    """What is to be said all the time."""

    def sorts(self, tick: Tick) -> list[Sort]:
        """The orders that there are: those of columns that are not always there only where they are."""
        known = self.uses.values() if self.by in LEDGER_KNOWS else ()
        missing = {Sort.TODAY} if not known else set()
        if not any(use.cycle for use in known):
            missing.add(Sort.CYCLE)
        if not any(link.total_blocked for link in tick.links):
            missing.add(Sort.BLOCKED)
        return [sort for sort in Sort if sort not in missing]


@dataclass(frozen=True, slots=True)
class _Column:
    """One column: its title, its width (0: what is left), and a row's text in it."""

    title: str
    width: int
    text: Callable[[Row], Text]
    sort: Sort | None = None
    left: bool = False
    needs: int = 0
    """The least width of the table with which it is shown."""
    gap: int = 1
    """Spaces before it."""


def render(tick: Tick, view: View, width: int, height: int | None) -> RenderableType:
    """The screen: a block for each link, warnings, and the keys; `height` None shows every row."""
    if view.help:
        return Group(*_help(view, width, any(link.total_blocked for link in tick.links)))
    footer = _footer(tick, view, width)
    tick = replace(
        tick,
        links=tuple(
            with_rows_before(link, view.uses[link.link.name], view.by) if link.link.name in view.uses else link
            for link in tick.links
        ),
    )
    low = height is not None and height < _HIGH
    if height is None:
        rooms: list[int | None] = [None] * len(tick.links)
    else:
        if height < len(footer) + _LEAST_BLOCK:
            footer = []
        rooms = list(_rooms(tick, view, width, height - len(footer), low))
    blocks: list[Text] = []
    for link, room in zip(tick.links, rooms, strict=True):
        if room == 1 and len(tick.links) > 1:
            blocks.append(_line_of_link(link, tick, view, width))
        else:
            blocks += _block(link, tick, view, width, room, low)
        # What is in full stands apart.
        if link is not tick.links[-1] and room != 1:
            blocks.append(Text())
    if height is not None:
        room = max(height - len(footer), 1)
        blocks = blocks[:room] + [Text()] * (room - len(blocks))
    return Group(*blocks, *footer)


def _rooms(tick: Tick, view: View, width: int, height: int, low: bool) -> list[int]:
    """The lines that each link gets: one for those that are shown in short.

    Where not all have room in full, the link that the user has chosen stays, then those that have moved most.
    """
    count = len(tick.links)
    chosen = view.link if view.link is not None else -1
    ranked = sorted(range(count), key=lambda at: (at != chosen, -tick.links[at].total.total_bytes, at))
    fixed = {at: _fixed_lines(tick.links[at], tick, view, width, low) for at in ranked}
    in_full = list(ranked)
    while len(in_full) > 1 and sum(fixed[at] + 2 for at in in_full) + count - len(in_full) > height:
        in_full.pop()
    rooms = [1] * count
    if len(in_full) == 1:
        rooms[in_full[0]] = max(height - (count - 1), 2)
        return rooms
    free = height - (count - len(in_full)) - sum(fixed[at] for at in in_full) - max(0, len(in_full) - 1)
    for number, at in enumerate(in_full):
        wanted = max(1, len(_ordered(tick.links[at], view)))
        rows = max(0, min(wanted, free // (len(in_full) - number)))
        if number == len(in_full) - 1:
            rows = max(0, free)
        free -= rows
        rooms[at] = max(2, fixed[at] + rows)
    return rooms


def _fixed_lines(link: LinkTick, tick: Tick, view: View, width: int, low: bool) -> int:
    """The lines of a link in full that are no rows of processes: header, plan, titles, rule, rows always there."""
    head = len(_header(link, tick, view, width)) + len(_plan(link, view, width, low))
    return head + 2 + len(link.rows) - len(_rows_of(link))


def _rows_of(link: LinkTick) -> list[Row]:
    return [row for row in link.rows if row.kind not in _SPECIAL]


def _line_of_link(link: LinkTick, tick: Tick, view: View, width: int) -> Text:
    """A link in one line: its name, rates, totals, and what could not be attributed."""
    down, up = _arrows(view)
    seconds = tick.interval_s or 1
    line = Text.assemble((link.link.name, "bold cyan"), (f" {_state(link)}", "dim"), "  ")
    line.append(f"{down} {rate_text(link.delta.rx_bytes / seconds, view.units)}  ", "green")
    line.append(f"{up} {rate_text(link.delta.tx_bytes / seconds, view.units)}", "magenta")
    totals = (bytes_text(amount, view.units) for amount in (link.total.rx_bytes, link.total.tx_bytes))
    line.append(f"   total {down} {next(totals)}  {up} {next(totals)}")
    for piece in (*_plan(link, view, len("plan 100%"), True), *_use_pieces(link, view)):
        _append_if_it_fits(line, Text.assemble("   ", piece), width)
    if link.total_blocked:
        stopped = f"   blocked {bytes_text(link.total_blocked.total_bytes, view.units)}"
        _append_if_it_fits(line, Text(stopped, "red"), width)
    lost = sum(row.total.total_bytes for row in link.rows if row.kind is Kind.UNATTRIBUTED)
    if lost:
        line.append(f"   unattributed {bytes_text(lost, view.units)}", "yellow")
    return _fit(line, width)


def _state(link: LinkTick) -> str:
    if not link.present:
        return "GONE"
    return link.link.kind if link.link.up else f"{link.link.kind}, down"


def _block(link: LinkTick, tick: Tick, view: View, width: int, height: int | None, low: bool) -> list[Text]:
    """One link: who it is, its plan, the rows' titles, the rows, and those that are always there.

    Where even those do not fit, the lines around them go: the rule, the titles, the header, then the plan.
    """
    columns = _columns(link, tick, view, width)
    special = [row for row in link.rows if row.kind in _SPECIAL]
    rows = _ordered(link, view)
    header, plan = _header(link, tick, view, width), _plan(link, view, width, low)
    head = [*header, *plan, _titles(columns, view, width)]
    found = len(rows)
    hidden_above = hidden_below = 0
    if height is not None:
        room = max(height - len(head) - len(special) - 1, 0)
        view.scroll = max(0, min(view.scroll, len(rows) - room))
        hidden_above, hidden_below = view.scroll, max(0, len(rows) - view.scroll - room)
        rows = rows[view.scroll : view.scroll + room]
    more = []
    if hidden_above:
        more.append(f"{hidden_above} above")
    if hidden_below:
        more.append(f"{hidden_below} more")
    if not found:
        more.append(f"nothing matches {view.filter!r}" if view.filter else "nothing has moved yet")
    dash = "-" if view.ascii else "─"
    rule = [_fit(Text(dash * 2 + (f" {', '.join(more)} " if more else "") + dash * width, "dim"), width)]
    if height is not None and height < len(head) + 1 + len(special):
        rule = []
        room = max(height - len(special), 0)
        head = (header[: max(room - len(plan), 0)] + plan + head[-1:])[:room]
    return [
        *head,
        *(_line(columns, row, "" if row.delta or row.blocked else "dim", view, width) for row in rows),
        *rule,
        *(_line(columns, row, "yellow" if row.kind is Kind.OVERFLOW else "dim", view, width) for row in special),
    ]


def _header(link: LinkTick, tick: Tick, view: View, width: int) -> list[Text]:
    """Who the link is, its rates and its totals: on as many lines as the width makes of them."""
    title = Text.assemble((link.link.name, "bold cyan"), (f" {_state(link)}", "dim" if link.present else "bold red"))
    if view.paused:
        title.append("  PAUSED", "bold reverse")
    for piece in _use_pieces(link, view):
        _append_if_it_fits(title, Text.assemble("  ", piece), width)
    if link.link.addresses:
        title.append("  " + " ".join(link.link.addresses), "dim")
    down, up = _arrows(view)
    seconds = tick.interval_s or 1
    rates = [
        Text(f"{arrow} {rate_text(amount / seconds, view.units)}", style)
        for arrow, amount, style in (
            (down, link.delta.rx_bytes, "bold green"),
            (up, link.delta.tx_bytes, "bold magenta"),
        )
    ]
    totals = [bytes_text(amount, view.units) for amount in (link.total.rx_bytes, link.total.tx_bytes)]
    both_rates = Text("  ").join(rates)
    both_totals = Text.assemble(("total ", "dim"), f"{down} {totals[0]}  {up} {totals[1]}")
    # By the width alone, so that nothing jumps when the figures get longer.
    if width >= (72 if view.ascii else 60):
        lines = [Text("   ").join([both_rates, both_totals])]
    elif width >= (36 if view.ascii else 28):
        lines = [both_rates, both_totals]
    else:
        lines = [Text("  ").join([rate, Text(total)]) for rate, total in zip(rates, totals, strict=True)]
    return [_fit(title, width), *(_fit(line, width) for line in lines)]


def _use_pieces(link: LinkTick, view: View) -> list[Text]:
    """What the link has used, in words."""
    use = view.uses.get(link.link.name)
    spans = (("today", use.today), ("cycle", use.cycle)) if use else ()
    return [Text(f"{name} {bytes_text(used.of_link(link), view.units)}", "bold") for name, used in spans if used]


def _plan(link: LinkTick, view: View, width: int, low: bool) -> list[Text]:
    """How the link's plan stands; nothing without one."""
    use = view.uses.get(link.link.name)
    told = use.assessment(link) if use else None
    if use is None or use.plan is None or told is None:
        return []
    return plan_lines(use.plan, told, width, low, view.units, view.ascii)


def _append_if_it_fits(line: Text, piece: Text, width: int) -> None:
    """A figure that is cut off would be another one."""
    if line.cell_len + piece.cell_len <= width:
        line.append_text(piece)


def _columns(link: LinkTick, tick: Tick, view: View, width: int) -> list[_Column]:
    """The columns that fit. As it gets narrower they go in this order: user and path, history, processes, share,
    totals, what was blocked, the cycle, today, the rate up."""
    seconds = tick.interval_s or 1
    down, up = _arrows(view)
    busiest = max((row.delta.total_bytes for row in link.rows), default=0)
    all_bytes = link.total.total_bytes

    def rate(amount: Callable[[Row], int], style: str) -> Callable[[Row], Text]:
        return lambda row: Text(rate_text(amount(row) / seconds, view.units), style if amount(row) else "dim")

    def size(amount: Callable[[Row], int]) -> Callable[[Row], Text]:
        return lambda row: Text(bytes_text(amount(row), view.units) if amount(row) else "0")

    def processes(row: Row) -> Text:
        if row.kind in _SPECIAL:
            return Text()
        if row.kind is Kind.PROCESS:
            return Text(str(row.processes[0].pid))
        return Text(str(sum(not process.exited for process in row.processes)))

    def share(row: Row) -> Text:
        part = row.total.total_bytes / all_bytes if all_bytes else 0
        return Text(_bar(part, bar_width, view.ascii), "cyan") + Text(f" {part:4.0%}")

    def history(row: Row) -> Text:
        values = view.history.get((link.link.name, row.kind, row.id), ())
        return Text(_spark(values, busiest / seconds, spark_width, view.ascii), "green")

    def used(of: Used) -> Callable[[Row], Text]:
        return lambda row: Text(bytes_text(of.of_row(row), view.units) if of.of_row(row) else "0")

    use = view.uses.get(link.link.name) if view.by in LEDGER_KNOWS else None
    uses = (("today", use.today, Sort.TODAY, 44), ("cycle", use.cycle, Sort.CYCLE, 53)) if use else ()
    use_columns = [
        _Column(name, _USE_WIDTH, used(of), sort, needs=needs)
        for name, of, sort, needs in uses
        if of and width >= needs
    ]
    # What those take is missing for the columns that are less important.
    taken = (_USE_WIDTH + 1) * len(use_columns)
    if link.total_blocked and width >= 44 + taken:
        blocked = size(lambda row: row.total_blocked.total_bytes)
        use_columns.append(_Column("blocked", _USE_WIDTH, blocked, Sort.BLOCKED))
        taken += _USE_WIDTH + 1
    narrow = width < _WIDE + taken
    total_width = 11 if view.ascii else 8
    bar_width, spark_width = (4, _NARROW_SPARK_WIDTH) if narrow else (6, SPARK_WIDTH)
    named = {GroupBy.APP: "app", GroupBy.PROCESS: "process", GroupBy.USER: "user", GroupBy.CGROUP: "cgroup"}[view.by]
    columns = [
        _Column(named, 0, _name, Sort.NAME, left=True),
        _Column("pid", 7, processes, needs=74 + taken)
        if view.by is GroupBy.PROCESS
        else _Column("procs", 5, processes, needs=74 + taken),
        _Column(f"{down}/s", 10, rate(lambda row: row.delta.rx_bytes, "green"), Sort.DOWN, needs=20),
        _Column(f"{up}/s", 10, rate(lambda row: row.delta.tx_bytes, "magenta"), Sort.UP, needs=34),
        _Column(f"{down} total", total_width, size(lambda row: row.total.rx_bytes), Sort.TOTAL_DOWN, needs=44 + taken),
        _Column(f"{up} total", total_width, size(lambda row: row.total.tx_bytes), Sort.TOTAL_UP, needs=54 + taken),
        *use_columns,
        _Column("share", bar_width + 5, share, needs=70 + taken, left=True),
        _Column("history", spark_width, history, needs=79 + taken if view.history else _NEVER, left=True),
        _Column("user", 12, lambda row: Text(_users(row), "dim"), needs=120 + taken, left=True),
        _Column("program", 36, lambda row: Text(_program(row), "dim"), needs=150 + taken, left=True),
    ]
    return _laid_out([column for column in columns if width >= column.needs], width, 1 if narrow else 2)


def _laid_out(columns: Sequence[_Column], width: int, gap: int) -> list[_Column]:
    """With spaces between them; the first column takes what the others leave."""
    first, *others = columns
    taken = sum(column.width + gap for column in others)
    first = replace(first, width=max(8, min(width - taken, 48)), gap=0)
    return [first, *(replace(column, gap=gap) for column in others)]


def _name(row: Row) -> Text:
    """What a row is called; a process that is not called as its app with the app's name: an interpreter's script."""
    if row.kind in _SPECIAL:
        return Text(row.name, "italic")
    if row.kind is Kind.PROCESS and row.app and row.app != row.name:
        return Text.assemble(row.name, (f" {row.app}", "dim"))
    return Text(row.name)


def _users(row: Row) -> str:
    users = dict.fromkeys(user_name(process.uid) for process in row.processes)
    return ", ".join(users)


def _program(row: Row) -> str:
    programs = dict.fromkeys(process.exe or process.comm for process in row.processes)
    return ", ".join(programs)


def _titles(columns: Sequence[_Column], view: View, width: int) -> Text:
    line = Text()
    for column in columns:
        sorted_by = column.sort is view.sort
        mark = ("v" if view.ascii else "▾") if not view.reverse else ("^" if view.ascii else "▴")
        title = Text(column.title + (mark if sorted_by else ""), "bold underline" if sorted_by else "bold")
        line.append(" " * column.gap)
        line.append_text(_cell(title, column.width, column.left, view))
    return _fit(line, width)


def _line(columns: Sequence[_Column], row: Row, style: str, view: View, width: int) -> Text:
    line = Text()
    for column in columns:
        line.append(" " * column.gap)
        line.append_text(_cell(column.text(row), column.width, column.left, view))
    line.stylize_before(style)
    return _fit(line, width)


def _cell(text: Text, width: int, left: bool, view: View) -> Text:
    """Text in a cell of this width; what is too long ends in an ellipsis."""
    missing = width - cell_len(text.plain)
    if missing < 0:
        shortened = Text(set_cell_size(text.plain, max(width - 1, 0)), text.style)
        shortened.append("~" if view.ascii else "…")
        return shortened
    return text + Text(" " * missing) if left else Text(" " * missing) + text


def _fit(text: Text, width: int) -> Text:
    text.truncate(width)
    text.no_wrap = True
    return text


def _ordered(link: LinkTick, view: View) -> list[Row]:
    """The rows that match the filter, sorted; what is equal in the sort's column is sorted by bytes and name."""
    needle = view.filter.casefold()
    rows = _rows_of(link)
    chosen = [row for row in rows if needle in row.name.casefold() or needle in row.app.casefold()]
    use = view.uses.get(link.link.name) if view.by in LEDGER_KNOWS else None

    def today(row: Row) -> int:
        return use.today.of_row(row) if use else 0

    def cycle(row: Row) -> int:
        return use.cycle.of_row(row) if use and use.cycle else 0

    amount: dict[Sort, Callable[[Row], int]] = {
        Sort.DOWN: lambda row: row.delta.rx_bytes,
        Sort.UP: lambda row: row.delta.tx_bytes,
        Sort.TOTAL_DOWN: lambda row: row.total.rx_bytes,
        Sort.TOTAL_UP: lambda row: row.total.tx_bytes,
        Sort.TODAY: today,
        Sort.CYCLE: cycle,
        Sort.BLOCKED: lambda row: row.total_blocked.total_bytes,
    }
    chosen.sort(key=lambda row: (-row.total.total_bytes, -today(row), -cycle(row), row.name, row.id))
    if view.sort is Sort.NAME:
        chosen.sort(key=lambda row: row.name.casefold(), reverse=view.reverse)
    else:
        chosen.sort(key=amount[view.sort], reverse=not view.reverse)
    return chosen


def _bar(part: float, width: int, ascii_only: bool) -> str:
    full, parts = _BARS[ascii_only]
    eighths = round(max(0.0, min(part, 1.0)) * width * 8)
    whole, rest = divmod(eighths, 8)
    bar = full * whole + (parts[rest - 1] if rest and parts else "")
    return bar.ljust(width)


def _spark(values: Sequence[float], most: float, width: int, ascii_only: bool) -> str:
    """The last values as a line of bars, each as high as it is of the highest."""
    levels = _SPARKS[ascii_only]
    shown = list(values)[-width:]
    most = max([most, *shown], default=0)
    if most <= 0:
        return " " * width
    steps = len(levels) - 1
    return "".join(levels[min(steps, -int(-value * steps // most))] for value in shown).rjust(width)


def _arrows(view: View) -> tuple[str, str]:
    return ("down", "up") if view.ascii else ("↓", "↑")


def _footer(tick: Tick, view: View, width: int) -> list[Text]:
    mark = "! " if view.ascii else "⚠ "
    lines = []
    warnings = (*([view.warning] if view.warning else []), *tick.warnings)
    for warning in warnings[:3]:
        wrapped = textwrap.wrap(
            mark + warning, width, max_lines=3, break_on_hyphens=False, placeholder=" ~" if view.ascii else " …"
        )
        lines += [_fit(Text(line, "yellow"), width) for line in wrapped]
    if view.editing:
        lines.append(_fit(Text(f"filter: {view.filter}_  (Enter keeps, Esc clears)", "reverse"), width))
    elif view.keys:
        chosen = f"filter: {view.filter}   " if view.filter else ""
        link = "  l link" if len(tick.links) > 1 else ""
        ways = (
            f"{chosen}q quit  s sort: {view.sort}  b by: {view.by}{link}  p pause  / filter  ? help",
            f"{chosen}q quit  s sort  b by: {view.by}  p pause  / filter  ? help",
            "q quit  s sort  b by  p pause  ? help",
            "q quit  ? help",
        )
        keys = next((way for way in ways if cell_len(way) <= width), ways[-1])
        lines.append(_fit(Text(keys, "dim"), width))
    return lines


def _meanings(meanings: Sequence[tuple[str, str]], width: int) -> list[Text]:
    return [
        _fit(Text(f"  {name if not at else '':<14}{line}"), width)
        for name, meaning in meanings
        for at, line in enumerate(textwrap.wrap(meaning, max(width - 16, 20)))
    ]


def _help(view: View, width: int, blocked: bool) -> list[Text]:
    lines = [Text("keys", "bold")]
    for keys, meaning in KEYS:
        shown = keys.replace("← →", "left right").replace("↑ ↓", "up down") if view.ascii else keys
        wrapped = textwrap.wrap(meaning, max(width - 24, 14))
        lines += [
            _fit(Text(f"  {shown if not at else '':<22}", "bold") + Text(line), width)
            for at, line in enumerate(wrapped)
        ]
    lines += [Text(), Text("rows that are no process", "bold")]
    lines += _meanings(_MEANINGS, width)
    if view.uses:
        lines += [Text(), Text("from the daemon's ledger", "bold")]
        lines += _meanings(_LEDGER_MEANINGS, width)
    if blocked:
        lines += [Text(), Text("from quotas", "bold"), *_meanings([_BLOCKED_MEANING], width)]
    lines += [
        Text(),
        *(
            Text(line, "dim")
            for line in textwrap.wrap(
                "A byte is one that the carrier bills: IP header included, link layer not.", width
            )
        ),
    ]
    return lines
