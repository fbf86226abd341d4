"""What doctor found, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import orjson
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esimbpf.doctor import Finding, State, can_count

__all__ = ["findings_json", "findings_table"]

_MARKS: Final = {State.WORKS: "✓", State.LOST: "!", State.MISSING: "✗", State.UNKNOWN: "?"}
_ASCII_MARKS: Final = {State.WORKS: "+", State.LOST: "!", State.MISSING: "x", State.UNKNOWN: "?"}
_NARROW: Final = 50
_LONGEST_TITLE: Final = 24
"""Of what has a name of ours."""
_STYLES: Final = {State.WORKS: "green", State.LOST: "yellow", State.MISSING: "bold red", State.UNKNOWN: "dim"}


def findings_table(findings: Sequence[Finding], ascii_only: bool = False, width: int = 80) -> Group:
    """A table of all findings by group, and what they come to; without Unicode if `ascii_only`.

    Where the terminal is narrow, what is said of a thing stands below its name.
    """
    marks = _ASCII_MARKS if ascii_only else _MARKS
    stacked = width < _NARROW
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    # A hook's name may be long.
    table.add_column(overflow="fold", max_width=None if stacked else max(_LONGEST_TITLE, width // 3))
    if not stacked:
        table.add_column(overflow="fold")
    first = True
    for group, members in groupby(findings, key=lambda finding: finding.group):
        if not first:
            table.add_row()
        first = False
        table.add_row("", Text(group, style="bold"))
        rows = _merged(list(members))
        alike = 1
        for (finding, title), (following, _) in zip(rows, [*rows[1:], (None, "")], strict=True):
            # What several need is said once, behind the last of them.
            again = following is not None and following.remedy == finding.remedy
            remedy = "" if again or not finding.remedy else _remedy(finding.remedy, alike)
            alike = alike + 1 if again else 1
            mark = Text(marks[finding.state], style=_STYLES[finding.state])
            name, words = Text(_ascii(title, ascii_only)), _words(finding, remedy, ascii_only)
            if stacked:
                table.add_row(mark, Text("\n").join([name, words]))
            else:
                table.add_row(mark, name, words)
    return Group(table, Text(""), Text(_ascii(_summary(findings), ascii_only)))


def _merged(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """The findings with their titles; several in a row that are unknown for one reason become one."""
    rows = []
    for _, alike in groupby(findings, key=lambda one: one.detail if one.state is State.UNKNOWN else one.id):
        first, *more = alike
        rows.append((first, f"{first.title} and {len(more)} more" if more else first.title))
    return rows


def _words(finding: Finding, remedy: str, ascii_only: bool) -> Text:
    words = Text(_ascii(finding.detail, ascii_only))
    for text in ("lost: " + finding.lost if finding.lost else "", remedy):
        if text:
            label, _, rest = text.partition(": ")
            words.append(f"\n{label}: ", style="bold")
            words.append(_ascii(rest, ascii_only))
    return words


def _remedy(remedy: str, alike: int) -> str:
    return f"do: {remedy}" if alike == 1 else f"do, for these {alike}: {remedy}"


def _ascii(text: str, ascii_only: bool) -> str:
    return text.replace("…", "...").encode("ascii", "backslashreplace").decode() if ascii_only else text


def _summary(findings: Sequence[Finding]) -> str:
    missing = sum(finding.state is State.MISSING for finding in findings)
    lost = sum(finding.state is State.LOST for finding in findings)
    unknown = sum(finding.state is State.UNKNOWN for finding in findings)
    if missing:
        said = f"Counting does not work here: {_number(missing, 'thing is', 'things are')} missing."
    elif lost:
        said = f"Counting works here; {_number(lost, 'thing is', 'things are')} lost or may disturb it."
    else:
        said = "Counting works here."
    return f"{said} {_number(unknown, 'thing', 'things')} could not be checked." if unknown else said


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def findings_json(findings: Sequence[Finding], version: str, kernel: str, machine: str) -> bytes:
    """All findings as one JSON object and a newline.

    `counting` says whether counting works here; `lost` and `remedy` are null where there is none.
    """
    document = {
        "type": "doctor",
        "v": 1,
        "esimbpf": version,
        "kernel": kernel,
        "machine": machine,
        "counting": can_count(findings),
        "findings": [
            {
                "id": finding.id,
                "group": finding.group,
                "title": finding.title,
                "state": finding.state,
                "detail": finding.detail,
                "lost": finding.lost or None,
                "remedy": finding.remedy or None,
            }
            for finding in findings
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
