"""The list of interfaces, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esimbpf.cellular import Certainty

if TYPE_CHECKING:
    from esimbpf.kernel.links import FoundLink

__all__ = ["links_json", "links_table"]

_RANKS = {Certainty.YES: 0, Certainty.WEAK: 1, Certainty.NO: 2}
_NARROW = 60
_STYLES = {Certainty.YES: "green", Certainty.WEAK: "yellow", Certainty.NO: "dim"}


def links_table(found: Sequence[FoundLink], counted: Sequence[FoundLink], width: int = 80) -> Group:
    """A table of all links, cellular ones first; those in `counted`, which need not be named, have an asterisk.

    Where the terminal is narrow, a paragraph each instead of a row.
    """
    starred = {found_link.link.name for found_link in counted}
    ordered = sorted(found, key=lambda one: (_RANKS[one.certainty], one.link.ifindex))
    legend = Text(_legend(counted))
    if width < _NARROW:
        return Group(*(_paragraph(one, one.link.name in starred) for one in ordered), legend)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("link", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("addresses", overflow="fold", min_width=9)
    table.add_column("cellular", no_wrap=True)
    table.add_column("because", overflow="fold")
    for found_link in ordered:
        link = found_link.link
        table.add_row(
            Text(("* " if link.name in starred else "  ") + link.name),
            Text(link.kind),
            Text(found_link.state),
            Text("\n".join(_told_apart(link.addresses))),
            Text(found_link.certainty, style=_STYLES[found_link.certainty]),
            Text("\n".join(_reasons(found_link))),
        )
    return Group(table, Text(""), legend)


def _paragraph(found_link: FoundLink, starred: bool) -> Text:
    link = found_link.link
    lines = [
        f"{'* ' if starred else '  '}{link.name}",
        f"  {link.kind}, {found_link.state}",
        *(f"  {address}" for address in _told_apart(link.addresses)),
        f"  cellular: {found_link.certainty}",
        *(f"  {reason}" for reason in _reasons(found_link)),
    ]
    return Text("\n".join(lines) + "\n", overflow="fold")


def _legend(counted: Sequence[FoundLink]) -> str:
    if counted:
        return "* counted when no link is named"
    return "no link is counted unless it is named, as in: esimbpf top NAME"


def _told_apart(addresses: Sequence[str]) -> list[str]:
    """The addresses by which a person knows a link: not the link-local ones, which every link has."""
    return [address for address in addresses if not address.startswith("fe80:")]


def _reasons(found_link: FoundLink) -> list[str]:
    """One line for each thing that is known for or against its being the link to count."""
    lines = list(found_link.evidence)
    if found_link.uppers:
        lines.append("carries " + ", ".join(found_link.uppers))
    if found_link.note:
        lines.append(found_link.note)
    return lines


def links_json(found: Sequence[FoundLink], counted: Sequence[FoundLink]) -> bytes:
    """All links by ifindex as one JSON object and a newline; `counted` as in `links_table`."""
    starred = {found_link.link.name for found_link in counted}
    document = {"type": "links", "v": 1, "links": [_entry(one, one.link.name in starred) for one in found]}
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _entry(found_link: FoundLink, counted: bool) -> dict[str, object]:
    link = found_link.link
    return {
        "link": link.name,
        "altnames": found_link.altnames,
        "ifindex": link.ifindex,
        "kind": link.kind,
        "device_type": found_link.device_type,
        "driver": found_link.driver or None,
        "up": link.up,
        "operstate": found_link.operstate,
        "mtu": found_link.mtu,
        "addresses": link.addresses,
        "cellular": found_link.certainty,
        "evidence": found_link.evidence,
        "note": found_link.note or None,
        "lower": found_link.lower or None,
        "uppers": found_link.uppers,
        "counted_by_default": counted,
    }
