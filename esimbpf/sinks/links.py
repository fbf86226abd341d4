"""The list of interfaces, as a table for people and as JSON for programs.

What modems tell of them comes as a survey. ICCIDs are masked unless they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esimbpf.cellular import Certainty
from esimbpf.modem.identity import LinkStatus
from esimbpf.modem.model import Modem, Operator, Registration, Signal
from esimbpf.modem.numbering import masked

if TYPE_CHECKING:
    from esimbpf.kernel.links import FoundLink

__all__ = ["links_json", "links_table", "operator_entry"]

_RANKS = {Certainty.YES: 0, Certainty.WEAK: 1, Certainty.NO: 2}
_NARROW = 60
_STYLES = {Certainty.YES: "green", Certainty.WEAK: "yellow", Certainty.NO: "dim"}


Owned = Mapping[str, tuple[Modem, LinkStatus]]
"""Whose the links are that modems own, by name."""


def links_table(
    found: Sequence[FoundLink],
    counted: Sequence[FoundLink],
    width: int = 80,
    owned: Owned = MappingProxyType({}),
    show_ids: bool = False,
) -> Group:
    """A table of all links, cellular ones first; those in `counted`, which need not be named, have an asterisk.

    A second one has the modems' links, if there are any. Where the terminal is narrow, each has a paragraph instead.
    """
    starred = {found_link.link.name for found_link in counted}
    ordered = sorted(found, key=lambda one: (_RANKS[one.certainty], one.link.ifindex))
    legend = Text(_legend(counted))
    if width < _NARROW:
        return Group(*(_paragraph(one, one.link.name in starred, owned, show_ids) for one in ordered), legend)
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
    named = [found_link.link.name for found_link in ordered if found_link.link.name in owned]
    if not named:
        return Group(table, Text(""), legend)
    return Group(table, Text(""), _modems_table({name: owned[name] for name in named}, show_ids), Text(""), legend)


def _modems_table(owned: Owned, show_ids: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("link", "modem", "operator", "network", "profile"):
        table.add_column(heading, overflow="fold")
    for name, (modem, status) in owned.items():
        table.add_row(Text(f"  {name}"), *map(Text, _told(modem, status, show_ids)))
    return table


def _told(modem: Modem, status: LinkStatus, show_ids: bool) -> tuple[str, str, str, str]:
    """Modem, operator, kind of network and profile, in words."""
    identity = status.identity
    registration = status.registration
    where = {
        Registration.HOME: "at home",
        Registration.ROAMING: f"roaming in {identity.visited}" if identity.visited else "roaming",
        Registration.UNKNOWN: "unknown",
    }.get(registration, str(registration))
    network = ", ".join(filter(None, (where, identity.technology)))
    kind = {True: "eSIM ", False: "SIM ", None: ""}[identity.esim]
    profile = kind + _number(identity.profile, show_ids) if identity.profile else "unknown"
    return modem.name, str(identity.operator or "unknown"), network, profile


def _number(iccid: str, show_ids: bool) -> str:
    return iccid if show_ids else masked(iccid)


def _paragraph(found_link: FoundLink, starred: bool, owned: Owned, show_ids: bool) -> Text:
    link = found_link.link
    lines = [
        f"{'* ' if starred else '  '}{link.name}",
        f"  {link.kind}, {found_link.state}",
        *(f"  {address}" for address in _told_apart(link.addresses)),
        f"  cellular: {found_link.certainty}",
        *(f"  {reason}" for reason in _reasons(found_link)),
    ]
    if link.name in owned:
        labels = ("modem", "operator", "network", "profile")
        told = zip(labels, _told(*owned[link.name], show_ids), strict=True)
        lines += [f"  {label}: {words}" for label, words in told]
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


def links_json(
    found: Sequence[FoundLink],
    counted: Sequence[FoundLink],
    owned: Owned = MappingProxyType({}),
    show_ids: bool = False,
) -> bytes:
    """All links by ifindex as one JSON object and a newline; the rest as in `links_table`."""
    starred = {found_link.link.name for found_link in counted}
    entries = [
        {
            **_entry(one, one.link.name in starred),
            "modem": _modem_entry(*owned[one.link.name], show_ids) if one.link.name in owned else None,
        }
        for one in found
    ]
    document = {"type": "links", "v": 1, "links": entries}
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


def _modem_entry(modem: Modem, status: LinkStatus, show_ids: bool) -> dict[str, object]:
    """What its modem tells of a link; null for what is not known."""
    identity = status.identity
    operator = identity.operator
    return {
        "name": modem.name,
        "state": modem.state,
        "plugin": modem.plugin or None,
        "profile": _number(identity.profile, show_ids) if identity.profile else None,
        "esim": identity.esim,
        "operator": operator and operator_entry(operator),
        "registration": status.registration,
        "roaming": identity.roaming,
        "country": identity.country,
        "technology": identity.technology,
        "connected": status.connected,
        "signal": _signal_entry(modem.signal),
    }


def operator_entry(operator: Operator) -> dict[str, object]:
    """A network; null for what is not known of it."""
    return {"plmn": str(operator.plmn) if operator.plmn else None, "name": operator.name or None}


def _signal_entry(signal: Signal) -> dict[str, object]:
    return {
        "quality_percent": signal.quality_percent,
        "technology": signal.technology,
        "rssi_dbm": signal.rssi_dbm,
        "rsrp_dbm": signal.rsrp_dbm,
        "rsrq_db": signal.rsrq_db,
        "snr_db": signal.snr_db,
    }
