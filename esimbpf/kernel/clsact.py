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
import struct
from dataclasses import dataclass
from enum import IntEnum

from esimbpf.errors import CannotError, EsimbpfError, KernelLacks, NoSuchLink, NotPermitted
from esimbpf.kernel.rtnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Rtnetlink,
    attribute,
    attributes,
    text,
    u32,
)
from esimbpf.text import printable

__all__ = ["HANDLE", "PRIORITY", "Direction", "Filter", "attach", "detach", "others", "stale"]

PRIORITY = 6
HANDLE = 0xE51B

_NAME = b"esimbpf"
_NAME_WITH_QDISC = b"esimbpf+clsact"

_RTM_NEWQDISC, _RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTFILTER, _RTM_DELTFILTER, _RTM_GETTFILTER = 44, 45, 46
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_FD, _TCA_BPF_NAME, _TCA_BPF_FLAGS, _TCA_BPF_ID = 6, 7, 8, 11
_TCA_BPF_FLAG_ACT_DIRECT = 1
_TC_H_CLSACT = 0xFFFFFFF1
_CLSACT_HANDLE = 0xFFFF0000
_ETH_P_ALL = 0x0003

_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info


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
    program_id: int
    """The BPF program's id, 0 for filters of other kinds."""
    is_ours: bool = False
    with_qdisc: bool = False
    """Whether whoever attached it, one of us, also made the qdisc."""


def attach(ifindex: int, prog_fd: int, direction: Direction) -> None:
    """Put a program on a link, in the place of one that a former run left there.

    Raises NoSuchLink, NotPermitted, KernelLacks (no clsact or no BPF filters), CannotError if somebody else's
    filter or qdisc is in the way.
    """
    with _Tc(ifindex) as tc:
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
    with _Tc(ifindex) as tc:
        ours = [f for f in tc.filters() if f.is_ours and f.direction is direction]
        for mine in ours:
            tc.remove(mine)
        if any(f.with_qdisc for f in ours) and not tc.filters():
            tc.remove_qdisc()
        return bool(ours)


def stale(ifindex: int) -> tuple[Filter, ...]:
    """Filters of ours on a link: before `attach`, what a killed run left behind."""
    with _Tc(ifindex) as tc:
        return tuple(f for f in tc.filters() if f.is_ours)


def others(ifindex: int) -> tuple[Filter, ...]:
    """Everybody else's filters on a link, in the order in which they run; those before PRIORITY may hide packets."""
    with _Tc(ifindex) as tc:
        return tuple(f for f in tc.filters() if not f.is_ours)


class _Tc(Rtnetlink):
    """tc's requests about one link, with the kernel's refusals as errors of ours."""

    def __init__(self, ifindex: int) -> None:
        try:
            super().__init__()
        except OSError as error:
            raise CannotError(
                f"cannot speak with tc in the kernel: {error.strerror}",
                "check that AF_NETLINK sockets are not forbidden",
            ) from error
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
        if "clsact" in kinds:
            return False
        body = self._message(_CLSACT_HANDLE, _TC_H_CLSACT) + attribute(_TCA_KIND, b"clsact\0")
        try:
            self.ask(_RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)
        except OSError as error:
            if error.errno == errno.EEXIST:  # somebody else was faster
                return False
            raise self._refusal(error, "the clsact qdisc (CONFIG_NET_SCH_INGRESS)") from error
        return True

    def remove_qdisc(self) -> None:
        """Remove the clsact qdisc; none is no error."""
        self._remove(_RTM_DELQDISC, self._message(_CLSACT_HANDLE, _TC_H_CLSACT))

    def put(self, prog_fd: int, direction: Direction, with_qdisc: bool) -> None:
        """Add our filter, or replace the one of our priority and handle in one step."""
        options = (
            attribute(_TCA_BPF_FD, struct.pack("=I", prog_fd))
            + attribute(_TCA_BPF_NAME, (_NAME_WITH_QDISC if with_qdisc else _NAME) + b"\0")
            + attribute(_TCA_BPF_FLAGS, struct.pack("=I", _TCA_BPF_FLAG_ACT_DIRECT))
        )
        body = (
            self._message(HANDLE, direction, PRIORITY << 16 | socket.htons(_ETH_P_ALL))
            + attribute(_TCA_KIND, b"bpf\0")
            + attribute(_TCA_OPTIONS, options)
        )
        try:
            self.ask(_RTM_NEWTFILTER, NLM_F_CREATE, body)
        except OSError as error:
            raise self._refusal(error, "tc's BPF filters (CONFIG_NET_CLS_BPF)") from error

    def remove(self, mine: Filter) -> None:
        """Remove one filter; one that is gone is no error."""
        body = self._message(mine.handle, mine.direction, mine.priority << 16 | socket.htons(_ETH_P_ALL))
        self._remove(_RTM_DELTFILTER, body + attribute(_TCA_KIND, b"bpf\0"))

    def filters(self) -> tuple[Filter, ...]:
        """All filters on the link, each direction's in the order in which they run."""
        if "clsact" not in self._qdiscs():
            return ()
        found = []
        for direction in Direction:
            for message in self._listed(_RTM_GETTFILTER, self._message(0, direction)):
                given = _filter(message, direction)
                # The kernel lists each chain's head too, with handle 0: no filter.
                if given is not None and given.ifindex == self._ifindex and given.handle:
                    found.append(given)
        return tuple(found)

    def _qdiscs(self) -> set[str]:
        """The kinds of qdisc at the place of clsact, which only one can have: clsact or ingress."""
        kinds = set()
        for message in self._listed(_RTM_GETQDISC, self._message(0, 0)):
            if message.type == _RTM_NEWQDISC and len(message.body) >= _TCMSG.size:
                _family, ifindex, handle, _parent, _info = _TCMSG.unpack_from(message.body)
                if ifindex == self._ifindex and handle == _CLSACT_HANDLE:
                    kinds.add(printable(text(attributes(message.body[_TCMSG.size :]).get(_TCA_KIND))))
        return kinds

    def _message(self, handle: int, parent: int, info: int = 0) -> bytes:
        return _TCMSG.pack(socket.AF_UNSPEC, self._ifindex, handle, parent, info)

    def _listed(self, kind: int, body: bytes) -> list[Message]:
        try:
            return self.dump(kind, body)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):  # no such link, or no tc at all
                return []
            raise self._refusal(error, "tc") from error

    def _remove(self, kind: int, body: bytes) -> None:
        try:
            self.ask(kind, 0, body)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise self._refusal(error, "tc") from error

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


def _filter(message: Message, direction: Direction) -> Filter | None:
    if message.type != _RTM_NEWTFILTER or len(message.body) < _TCMSG.size:
        return None
    _family, ifindex, handle, _parent, info = _TCMSG.unpack_from(message.body)
    given = attributes(message.body[_TCMSG.size :])
    kind = printable(text(given.get(_TCA_KIND)))
    options = attributes(given.get(_TCA_OPTIONS, b"")) if kind == "bpf" else {}
    name = text(options.get(_TCA_BPF_NAME))
    return Filter(
        ifindex=ifindex,
        direction=direction,
        priority=info >> 16,
        handle=handle,
        kind=kind,
        name=printable(name),
        program_id=u32(options.get(_TCA_BPF_ID)),
        is_ours=kind == "bpf" and handle == HANDLE and name in (_NAME, _NAME_WITH_QDISC),
        with_qdisc=name == _NAME_WITH_QDISC,
    )
