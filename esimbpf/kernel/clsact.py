"""tc filters on a link's clsact qdisc: how programs get onto a link before kernel 6.6 has tcx.

Ours have one fixed priority and handle, so that a restart finds and replaces what a killed run left behind, and a
name by which we know them from anybody else's. Others' filters and qdiscs are never touched.

- Priority 6 (lower numbers run first): before the priorities that tc hands out by itself (from 49152 downwards),
  so that a filter which ends the classification does not hide packets from us, and off 1 to 5, which people and
  other programs take. A filter that runs earlier and ends it does hide packets: `others` names them for `doctor`.
- Our programs must return TC_ACT_UNSPEC (-1), for a direct-action filter that returns anything else ends the
  classification, and the filters behind it would no longer run (net/sched/cls_bpf.c).
- The qdisc is removed with our last filter, if we made it and nobody else has put a filter there meanwhile. That
  we made it is written into the filters' name, for whoever has to clean up after a kill.

Sources: tc-bpf(8), linux/pkt_sched.h, linux/pkt_cls.h, net/sched/sch_ingress.c.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Final

from pyroute2 import IPRoute

from esimbpf.errors import CannotError, EsimbpfError, KernelLacks, NoSuchLink, NotPermitted
from esimbpf.kernel.rtnetlink import listed, raw, rtnetlink
from esimbpf.text import printable

__all__ = ["HANDLE", "PRIORITY", "Direction", "Filter", "attach", "detach", "others", "stale"]

PRIORITY = 6
HANDLE = 0xE51B

_NAME: Final = "esimbpf"
_NAME_WITH_QDISC: Final = "esimbpf+clsact"

_CLSACT_HANDLE: Final = 0xFFFF0000  # linux/pkt_sched.h: TC_H_MAKE(TC_H_CLSACT, 0)

_NOTHING_TO_REMOVE: Final = (errno.ENOENT, errno.ENODEV, errno.EINVAL)


class Direction(IntEnum):
    """Which way packets go; the values are the filters' parents (TC_H_MAKE of TC_H_CLSACT and TC_H_MIN_*)."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, slots=True)
class Filter:
    """A tc filter on a link."""

    ifindex: int
    direction: Direction
    priority: int
    handle: int
    kind: str
    """`bpf`, `u32`, `flower`, …"""
    name: str
    """The name that its owner gave it, as `file.o:[section]` or of the program; empty if it has none."""
    is_ours: bool = False
    with_qdisc: bool = False
    """Whether whoever attached it, one of us, also made the qdisc."""


def attach(ifindex: int, prog_fd: int, direction: Direction) -> None:
    """Put a program on a link, in the place of one that a former run left there.

    Raises NoSuchLink, NotPermitted, KernelLacks (no clsact or no BPF filters), CannotError if somebody else's
    filter or qdisc is in the way.
    """
    tc = _Tc(ifindex)
    made_qdisc = tc.provide_qdisc()
    listed = tc.filters()
    taken = [f for f in listed if f.direction is direction and f.priority == PRIORITY and not f.is_ours]
    if taken:
        if made_qdisc:
            tc.remove_qdisc()
        raise CannotError(
            f"a foreign tc filter ({taken[0].name or taken[0].kind}) has the priority {PRIORITY} on {tc.link_name}",
            f"give it another one; it is shown by: tc filter show dev {tc.link_name} {direction.name.lower()}",
        )
    made_qdisc = made_qdisc or any(f.is_ours and f.with_qdisc for f in listed)
    try:
        tc.put(prog_fd, direction, made_qdisc)
    except EsimbpfError:
        if made_qdisc and not tc.filters():
            tc.remove_qdisc()
        raise


def detach(ifindex: int, direction: Direction) -> bool:
    """Take our filter off a link, and the qdisc with the last one if it was made for them; False if none is there.

    A link that is gone has no filters: no error. Raises NotPermitted, CannotError.
    """
    tc = _Tc(ifindex)
    ours = [f for f in tc.filters() if f.is_ours and f.direction is direction]
    for mine in ours:
        tc.remove(mine)
    if any(f.with_qdisc for f in ours) and not tc.filters():
        tc.remove_qdisc()
    return bool(ours)


def stale(ifindex: int) -> tuple[Filter, ...]:
    """Filters of ours on a link: before `attach`, what a killed run left behind."""
    tc = _Tc(ifindex)
    return tuple(f for f in tc.filters() if f.is_ours)


def others(ifindex: int) -> tuple[Filter, ...]:
    """Everybody else's filters on a link, in the order in which they run; those before PRIORITY may hide packets."""
    tc = _Tc(ifindex)
    return tuple(f for f in tc.filters() if not f.is_ours)


class _Tc:
    """tc's requests about one link, with the kernel's refusals as errors of ours."""

    def __init__(self, ifindex: int) -> None:
        self._ifindex = ifindex

    @property
    def link_name(self) -> str:
        """The link's name, for messages."""
        try:
            return printable(socket.if_indextoname(self._ifindex))
        except OSError:
            return f"the link with the index {self._ifindex}"

    def provide_qdisc(self) -> bool:
        """Make the clsact qdisc unless it is there; whether it was made."""
        kinds = self._qdiscs()
        if "ingress" in kinds:
            # It would take egress filters too, and run them on received packets.
            raise CannotError(
                f"{self.link_name} has an ingress qdisc, which leaves no place for programs on sent packets",
                f"replace it: tc qdisc del dev {self.link_name} ingress; tc qdisc add dev {self.link_name} clsact",
            )
        return "clsact" not in kinds and self._ask(
            lambda netlink: netlink.tc("add", "clsact", self._ifindex),
            harmless=(errno.EEXIST,),  # somebody else was faster
            lacking="the clsact qdisc (CONFIG_NET_SCH_INGRESS)",
        )

    def remove_qdisc(self) -> None:
        """Remove the clsact qdisc; none is no error."""
        self._ask(lambda netlink: netlink.tc("del", "clsact", self._ifindex), harmless=_NOTHING_TO_REMOVE)

    def put(self, prog_fd: int, direction: Direction, with_qdisc: bool) -> None:
        """Add our filter, or replace the one of our priority and handle in one step."""
        options = {
            "parent": int(direction),
            "prio": PRIORITY,
            "fd": prog_fd,
            "name": _NAME_WITH_QDISC if with_qdisc else _NAME,
            "direct_action": True,
        }
        self._ask(
            lambda netlink: netlink.tc("replace-filter", "bpf", self._ifindex, HANDLE, **options),
            lacking="tc's BPF filters (CONFIG_NET_CLS_BPF)",
        )

    def remove(self, mine: Filter) -> None:
        """Remove one filter; one that is gone is no error."""
        place = {"parent": int(mine.direction), "prio": mine.priority}
        self._ask(
            lambda netlink: netlink.tc("del-filter", "bpf", self._ifindex, mine.handle, **place),
            harmless=_NOTHING_TO_REMOVE,
        )

    def filters(self) -> tuple[Filter, ...]:
        """All filters on the link, each direction's in the order in which they run."""
        if "clsact" not in self._qdiscs():
            return ()
        return tuple(
            _filter(message, direction)
            for direction in Direction
            for message in self._list(partial(self._dump_filters, int(direction)))
            if message["handle"]  # the kernel lists each chain's head too, with handle 0: no filter
        )

    def _dump_filters(self, parent: int, netlink: IPRoute) -> Any:
        return netlink.get_filters(index=self._ifindex, parent=parent)

    def _qdiscs(self) -> set[str]:
        """The kinds of qdisc at the place of clsact, which only one can have: clsact or ingress."""
        return {
            printable(raw(message.get_attr("TCA_KIND")))
            for message in self._list(lambda netlink: netlink.get_qdiscs(self._ifindex))
            if message["handle"] == _CLSACT_HANDLE
        }

    def _list(self, dump: Callable[[IPRoute], Iterable[Any]]) -> list[Any]:
        """What a dump lists; nothing if the link is gone, or there is no tc at all."""
        messages: list[Any] = []
        self._ask(
            lambda netlink: messages.extend(listed(partial(dump, netlink))), harmless=(errno.ENODEV, errno.EOPNOTSUPP)
        )
        return messages

    def _ask(self, do: Callable[[IPRoute], object], harmless: Container[int] = (), lacking: str = "tc") -> bool:
        """Have the kernel do something; False if it did not for a harmless reason."""
        try:
            with rtnetlink() as netlink:
                do(netlink)
        except OSError as error:
            if error.errno in harmless:
                return False
            raise self._refusal(error, lacking) from error
        return True

    def _refusal(self, error: OSError, lacking: str) -> EsimbpfError:
        if error.errno in (errno.EPERM, errno.EACCES):
            return NotPermitted(f"may not change tc on {self.link_name}", "run it as root (CAP_NET_ADMIN is needed)")
        if error.errno == errno.ENODEV:
            return NoSuchLink(f"{self.link_name} is gone", "esimbpf links shows what is there")
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return KernelLacks(
                f"the kernel lacks {lacking}: {error.strerror}", "use a kernel that has it, or one of 6.6 or later"
            )
        return CannotError(
            f"the kernel refused tc's change of {self.link_name}: {error.strerror}",
            "esimbpf doctor shows what is in the way",
        )


def _filter(message: Any, direction: Direction) -> Filter:
    kind = printable(raw(message.get_attr("TCA_KIND")))
    options = message.get_attr("TCA_OPTIONS") if kind == "bpf" else None
    name = printable(raw(options.get_attr("TCA_BPF_NAME"))) if options else ""
    return Filter(
        ifindex=message["index"],
        direction=direction,
        priority=message["info"] >> 16,
        handle=message["handle"],
        kind=kind,
        name=name,
        is_ours=kind == "bpf" and message["handle"] == HANDLE and name in (_NAME, _NAME_WITH_QDISC),
        with_qdisc=name == _NAME_WITH_QDISC,
    )
