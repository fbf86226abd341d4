"""The interfaces of this network namespace: listing them, choosing among them, watching them come and go.

    LinkMonitor()          opened first, so that no change is missed
    found = list_links()
    chosen = choose(names, found)
    …
    each tick: changes = monitor.poll(); if changes.concerns(link): link is at follow(link, list_links(), changes.gone)

A listing takes 1 ms, of 500 interfaces 90 ms; a poll 2 µs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOBUFS
from types import TracebackType
from typing import Any, Final, Self

from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
)
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from esimbpf.cellular import Certainty, Facts, judge
from esimbpf.errors import CannotError, NoSuchLink, UsageError
from esimbpf.kernel import netns
from esimbpf.kernel.abi import MAX_LINKS
from esimbpf.kernel.rtnetlink import SKIP_STATISTICS, listed, raw, rtnetlink
from esimbpf.model import Link
from esimbpf.text import printable

__all__ = ["Changes", "FoundLink", "LinkMonitor", "cellular_links", "choose", "follow", "list_links"]

# linux/if_addr.h, linux/if.h
_IFA_F_DEPRECATED: Final = 0x20
_IFF_UP: Final = 0x1

# RFC 2863's states by pyroute2's names of them.
_OPERSTATES: Final = {"NOTPRESENT": "not present", "LOWERLAYERDOWN": "lower layer down"} | {
    name.upper(): name for name in ("down", "testing", "dormant", "up")
}

# The kernel fills at most 32 KiB of messages into one datagram.
_DATAGRAM_BYTES: Final = 1 << 16

# linux/if_arp.h
_DEVICE_TYPES = {
    1: "ethernet",
    32: "infiniband",
    512: "ppp",
    519: "rawip",
    768: "ipip",
    769: "ip6tnl",
    772: "loopback",
    776: "sit",
    778: "gre",
    823: "ip6gre",
    65534: "none",
}
_ARPHRD_LOOPBACK = 772

_SHOWN_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class FoundLink:
    """An interface, and what is known about its being cellular."""

    link: Link
    device_type: int
    """The kernel's ARPHRD_* (1 Ethernet, 519 raw IP, 65534 none, …): whether frames have a link-layer header."""
    certainty: Certainty
    evidence: tuple[str, ...] = ()
    note: str = ""
    driver: str = ""
    mtu: int = 0
    operstate: str = "unknown"
    """RFC 2863's operational state; many modem drivers leave it unknown while the link works."""
    altnames: tuple[str, ...] = ()
    lower: str = ""
    """The name of the link that carries this one's packets as well; empty if there is none."""
    uppers: tuple[str, ...] = ()
    """The names of the links whose packets this one carries as well."""
    countable: bool = True
    """False if it carries no IP packets of its own, only its uppers'."""

    @property
    def cellular(self) -> bool:
        """Whether there is evidence, a weak one included, that it is cellular."""
        return self.certainty is not Certainty.NO

    @property
    def state(self) -> str:
        """`up`, `down`, or what keeps an interface that was brought up from working."""
        if not self.link.up:
            return "down"
        return {"unknown": "up", "down": "no carrier"}.get(self.operstate, self.operstate)


@dataclass(frozen=True, slots=True)
class _Interface:
    """What rtnetlink says about one interface."""

    ifindex: int
    name: bytes
    altnames: tuple[bytes, ...]
    device_type: int
    address: str
    kind: str
    up: bool
    operstate: str
    mtu: int
    below: int


@dataclass(frozen=True, slots=True)
class _Ancestry:
    """What sysfs says about one interface."""

    devtype: str = ""
    driver: str = ""
    below: int = 0


def list_links() -> tuple[FoundLink, ...]:
    """All interfaces of this network namespace, by ifindex; needs no privilege. Raises CannotError."""
    try:
        with rtnetlink() as netlink:
            link_messages = listed(lambda: netlink.get_links(ext_mask=SKIP_STATISTICS))
            address_messages = listed(netlink.get_addr)
    except OSError as error:
        raise CannotError(
            f"cannot list the network interfaces: {error.strerror}",
            "check that AF_NETLINK sockets are not forbidden here",
        ) from error
    interfaces = _interfaces(link_messages)
    with netns.sysfs_net() as (directory, certain):
        ancestries = {i.ifindex: _ancestry(directory, certain, i) for i in interfaces if _has_hardware(i)}
    return _found(interfaces, ancestries, _addresses(address_messages))


def _interfaces(messages: Iterable[Any]) -> tuple[_Interface, ...]:
    found = []
    for message in messages:
        if message["header"]["type"] != RTM_NEWLINK:
            continue
        properties = message.get_attr("IFLA_PROP_LIST")
        found.append(
            _Interface(
                ifindex=message["index"],
                name=raw(message.get_attr("IFLA_IFNAME")),
                altnames=tuple(raw(name) for name in properties.altnames()) if properties else (),
                device_type=message["ifi_type"],
                address=message.get_attr("IFLA_ADDRESS") or "",
                kind=printable(raw(message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"))),
                up=bool(message["flags"] & _IFF_UP),
                operstate=_OPERSTATES.get(message.get_attr("IFLA_OPERSTATE"), "unknown"),
                mtu=message.get_attr("IFLA_MTU") or 0,
                # With a namespace's id, the index is one of another namespace.
                below=0 if message.get_attr("IFLA_LINK_NETNSID") is not None else message.get_attr("IFLA_LINK") or 0,
            )
        )
    return tuple(sorted(found, key=lambda interface: interface.ifindex))


def _addresses(messages: Iterable[Any]) -> dict[int, tuple[str, ...]]:
    """Addresses by ifindex: IPv4 first, wide scopes before narrow ones, deprecated ones last."""
    found: dict[int, list[tuple[bool, int, int, str]]] = {}
    for message in messages:
        if message["header"]["type"] != RTM_NEWADDR or message["family"] not in (socket.AF_INET, socket.AF_INET6):
            continue
        # On a point-to-point link IFA_ADDRESS is the peer's.
        shown = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if shown:
            deprecated = bool(message["flags"] & _IFA_F_DEPRECATED)
            found.setdefault(message["index"], []).append((deprecated, message["family"], message["scope"], shown))
    return {
        ifindex: tuple(shown for *_, shown in sorted(entries, key=lambda entry: entry[:3]))
        for ifindex, entries in found.items()
    }


def _has_hardware(interface: _Interface) -> bool:
    """Whether sysfs may know more: software devices say by their kind what they are."""
    return interface.kind in ("", "wwan", "rmnet") and interface.device_type != _ARPHRD_LOOPBACK


def _ancestry(directory: str, certain: bool, interface: _Interface) -> _Ancestry:
    """What sysfs says about an interface; nothing if it is not sure to be the same interface."""
    own = os.path.join(directory, os.fsdecode(interface.name))
    uevent = dict(line.partition("=")[::2] for line in _read(own, "uevent").splitlines())
    if uevent.get("IFINDEX") != str(interface.ifindex):
        return _Ancestry()
    if not certain and (
        _read(own, "address").strip() != interface.address or _read(own, "type").strip() != str(interface.device_type)
    ):
        return _Ancestry()
    return _Ancestry(
        devtype=printable(uevent.get("DEVTYPE", "")), driver=printable(_driver(own)), below=_below(own, directory)
    )


def _driver(own: str) -> str:
    """The driver of the nearest device above that has one.

    A wwan interface hangs below a wwan device, and that below the modem's PCI device: three steps up.
    The kernel resolves `..` after the link `device`, so the steps go up the device tree.
    """
    for steps in range(4):
        with suppress(OSError):
            return os.path.basename(os.readlink(os.path.join(own, "device", *[".."] * steps, "driver")))
    return ""


def _below(own: str, directory: str) -> int:
    """The ifindex of the interface that it stands upon, where netlink does not tell (qmimux and its like)."""
    parent = _read(own, "device/ifindex").strip()
    if parent.isdecimal():
        return int(parent)
    with suppress(OSError):
        for entry in os.listdir(own):
            if entry.startswith("lower_"):
                lower = _read(os.path.join(directory, entry.removeprefix("lower_")), "ifindex").strip()
                return int(lower) if lower.isdecimal() else 0
    return 0


def _read(directory: str, name: str) -> str:
    """A small file of sysfs; empty where it is absent or the interface has just gone."""
    with suppress(OSError), open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""


def _found(
    interfaces: Sequence[_Interface], ancestries: dict[int, _Ancestry], addresses: dict[int, tuple[str, ...]]
) -> tuple[FoundLink, ...]:
    facts = []
    for interface in interfaces:
        ancestry = ancestries.get(interface.ifindex, _Ancestry())
        facts.append(
            Facts(
                ifindex=interface.ifindex,
                name=printable(interface.name),
                kind=interface.kind,
                devtype=ancestry.devtype,
                driver=ancestry.driver,
                mtu=interface.mtu,
                below=interface.below or ancestry.below,
            )
        )
    verdicts = judge(facts)
    names = {fact.ifindex: fact.name for fact in facts}
    found = []
    for interface, fact in zip(interfaces, facts, strict=True):
        verdict = verdicts[interface.ifindex]
        device_type = _DEVICE_TYPES.get(interface.device_type, f"type {interface.device_type}")
        found.append(
            FoundLink(
                link=Link(
                    name=fact.name,
                    ifindex=interface.ifindex,
                    kind=fact.kind or fact.devtype or device_type,
                    addresses=addresses.get(interface.ifindex, ()),
                    up=interface.up,
                ),
                device_type=interface.device_type,
                certainty=verdict.cellular,
                evidence=verdict.evidence,
                note=verdict.note,
                driver=fact.driver,
                mtu=interface.mtu,
                operstate=interface.operstate,
                altnames=tuple(map(printable, interface.altnames)),
                lower=names.get(verdict.lower, ""),
                uppers=tuple(names[other] for other, v in verdicts.items() if v.lower == interface.ifindex),
                countable=verdict.countable,
            )
        )
    return tuple(found)


def cellular_links(found: Sequence[FoundLink]) -> tuple[FoundLink, ...]:
    """The links that are counted when none is named.

    Those that are surely cellular or, only where there is none such, the weakly evident ones. Never one that
    carries only other links' packets, nor the lower device of a cellular link: it would count twice. (What an
    MBIM modem moves untagged beside its VLAN sessions is then not counted; name the lower device for that.)
    Of more than can be watched, as on a phone with rmnet_data0 to 10, only those that are up.
    """
    carried = {link.lower for link in found if link.cellular}
    eligible = [link for link in found if link.cellular and link.countable and link.link.name not in carried]
    sure = [link for link in eligible if link.certainty is Certainty.YES]
    counted = sure or eligible
    if len(counted) > MAX_LINKS:
        counted = [link for link in counted if link.link.up] or counted
    return tuple(counted)


def choose(names: Sequence[str], found: Sequence[FoundLink]) -> tuple[FoundLink, ...]:
    """The links that are named, by name or alternative name, once each; with no names, `cellular_links`.

    A link that is down is chosen as it is, and so is loopback when named (each of its packets is both sent and
    received). Raises NoSuchLink; UsageError for a link together with the one that carries its packets as well.
    """
    if not names:
        chosen = cellular_links(found)
        if not chosen:
            raise _none_cellular(found)
        return chosen
    by_name = {alternative: link for link in found for alternative in link.altnames}
    by_name |= {link.link.name: link for link in found}
    chosen_by_name: dict[str, FoundLink] = {}
    for name in names:
        link = by_name.get(printable(name)) or by_name.get(name)
        if link is None:
            raise NoSuchLink(f"there is no link named {printable(name) or repr(name)}", _how_to_choose(found))
        chosen_by_name[link.link.name] = link
    for link in chosen_by_name.values():
        lower = link.lower
        while lower:
            if lower in chosen_by_name:
                upper = link.link.name
                raise UsageError(
                    f"{lower} carries the packets of {upper} too: together they would be counted twice",
                    f"name either {upper} or {lower}",
                )
            lower = by_name[lower].lower if lower in by_name else ""
    return tuple(chosen_by_name.values())


def _none_cellular(found: Sequence[FoundLink]) -> NoSuchLink:
    carriers = [link.link.name for link in found if link.cellular and not link.countable]
    if carriers:
        return NoSuchLink(
            f"the modem is not connected: {carriers[0]} only carries links that are not there yet",
            "connect first (ModemManager: mmcli -m any --simple-connect=apn=…); esimbpf links shows what is there",
        )
    return NoSuchLink("no cellular link found", _how_to_choose(found))


def _how_to_choose(found: Sequence[FoundLink]) -> str:
    """Names the candidates, the likeliest first."""
    ranked = sorted(
        (link for link in found if link.device_type != _ARPHRD_LOOPBACK and link.countable),
        key=lambda link: (not link.cellular, not link.note, not link.link.up, not link.link.addresses),
    )
    if not ranked:
        return "there is no interface here but loopback; to see it work, try: esimbpf demo"
    listed = ", ".join(f"{link.link.name} ({link.link.kind}, {link.state})" for link in ranked[:_SHOWN_CANDIDATES])
    more = f" and {len(ranked) - _SHOWN_CANDIDATES} more" if len(ranked) > _SHOWN_CANDIDATES else ""
    return f"interfaces here: {listed}{more}; name one of them; or try: esimbpf demo"


def follow(link: Link, found: Sequence[FoundLink], gone: frozenset[int] = frozenset()) -> FoundLink | None:
    """Where a link is now: the same device, renamed or not, else a new one of its name; None while it is away.

    `gone` holds the ifindexes that vanished since `link` was seen: a device that has the same index now is a
    new one, which matters to whoever attached something to the old one.
    """
    if link.ifindex not in gone:
        for candidate in found:
            if candidate.link.ifindex == link.ifindex:
                return candidate
    for candidate in found:
        if candidate.link.name == link.name:
            return candidate
    return None


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to the links and their addresses since the last look; false if nothing did."""

    touched: frozenset[int] = frozenset()
    """The ifindexes of all links that came, went or changed."""
    names: frozenset[str] = frozenset()
    """The names that links which came or changed have now."""
    gone: frozenset[int] = frozenset()
    """The ifindexes of links that vanished, even if they are there again."""
    lost: bool = False
    """Too much happened: some of it was lost, and the sets are incomplete."""

    def __bool__(self) -> bool:
        return bool(self.touched) or self.lost

    def concerns(self, link: Link) -> bool:
        """Whether this link may be another than it was: no need to list all anew where containers come and go."""
        return self.lost or link.ifindex in self.touched or link.name in self.names


class LinkMonitor:
    """A subscription to the comings, goings and changes of this network namespace's links and addresses.

    What happens after it was opened is never missed: open it before the first `list_links`. Raises CannotError.
    """

    def __init__(self) -> None:
        # A plain socket: one of pyroute2's is of no use after a loss (ENOBUFS), and cannot be read without waiting.
        self._decoder = MarshalRtnl()
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            self._socket.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        except OSError as error:
            raise CannotError(
                f"cannot watch the network interfaces: {error.strerror}",
                "check that AF_NETLINK sockets are not forbidden here",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription; twice is harmless."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, readable when something happened."""
        return self._socket.fileno()

    def poll(self) -> Changes:
        """What happened since the last call, without waiting."""
        touched: set[int] = set()
        names: set[str] = set()
        gone: set[int] = set()
        datagrams, lost = self._received()
        for message in (message for datagram in datagrams for message in self._decoder.parse(datagram)):
            kind = message["header"]["type"]
            if kind in (RTM_NEWADDR, RTM_DELADDR):
                touched.add(message["index"])
            # AF_BRIDGE tells of a port that left its bridge, not of an interface that is gone.
            elif kind in (RTM_NEWLINK, RTM_DELLINK) and message["family"] == socket.AF_UNSPEC:
                touched.add(message["index"])
                if kind == RTM_DELLINK:
                    gone.add(message["index"])
                else:
                    names.add(printable(raw(message.get_attr("IFLA_IFNAME"))))
        return Changes(frozenset(touched), frozenset(names), frozenset(gone), lost)

    def _received(self) -> tuple[list[bytes], bool]:
        """What the kernel has sent, and whether some of it was lost."""
        datagrams: list[bytes] = []
        lost = False
        while True:
            try:
                datagram, _, flags, (port, _groups) = self._socket.recvmsg(_DATAGRAM_BYTES)
            except BlockingIOError:
                return datagrams, lost
            except OSError as error:
                if error.errno != ENOBUFS:
                    raise
                lost = True
                continue
            if flags & socket.MSG_TRUNC:
                lost = True
            elif port == 0:  # the kernel's own; a process must not be able to feed us news
                datagrams.append(datagram)
