"""The few rtnetlink messages that this program needs, spoken over a plain socket.

A dump of links, a dump of addresses, a subscription to both, and tc's qdisc and filter messages. The libraries
that cover all of rtnetlink have no small part to import: pyroute2 0.9 takes 140 ms and 24 MB whichever of its
modules is asked for, which is a quarter of the time that `watch` has until its first line and 40 % of its memory.

Sources: rtnetlink(7), netlink(7), linux/netlink.h, linux/rtnetlink.h. Numbers are in the host's byte order.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from errno import EBADMSG, ENOBUFS
from types import TracebackType
from typing import NamedTuple, Self

__all__ = [
    "NLM_F_CREATE",
    "NLM_F_EXCL",
    "Message",
    "Rtnetlink",
    "attribute",
    "attribute_list",
    "attributes",
    "messages",
    "text",
    "u32",
]

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP = 0x300
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
_NLM_F_DUMP_INTR = 0x010
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200

_NLMSG_NOOP = 1
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSG_OVERRUN = 4

_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NLMSGERR_ATTR_MSG = 1

# linux/netlink.h: the two top bits of an attribute's type are flags (nested, byte order).
_TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length with this header, type
_INT = struct.Struct("=i")
_UINT = struct.Struct("=I")

# The kernel fills at most 32 KiB of a dump into one datagram (netlink_dump in net/netlink/af_netlink.c).
_BUFFER_BYTES = 1 << 16

_DUMP_ATTEMPTS = 5


class Message(NamedTuple):
    """One netlink message: `body` is what follows the header."""

    type: int
    flags: int
    sequence: int
    body: bytes


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram; what is cut off or malformed at its end is left out."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            return
        yield Message(kind, flags, sequence, datagram[offset + _HEADER.size : offset + length])
        offset += _aligned(length)


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type, the last one of each; what is cut off or malformed at the end is left out."""
    return dict(attribute_list(data))


def attribute_list(data: bytes) -> list[tuple[int, bytes]]:
    """Attributes in their order, for nests that hold several of one type."""
    found = []
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found.append((kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]))
        offset += _aligned(length)
    return found


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(_aligned(length) - length)


def u32(payload: bytes | None) -> int:
    """An attribute's 32-bit number, 0 where it is absent or of another size."""
    return _UINT.unpack(payload)[0] if payload is not None and len(payload) == _UINT.size else 0


def text(payload: bytes | None) -> bytes:
    """An attribute's string without its terminating NUL, empty where it is absent."""
    return payload.split(b"\0", 1)[0] if payload else b""


def _aligned(length: int) -> int:
    return (length + 3) & ~3


class Rtnetlink:
    """A socket that asks the kernel about the network namespace in which it was opened.

    `groups` is a mask of multicast groups (RTMGRP_*); one with groups is read with `received`, never asked.
    What the kernel refuses is raised as OSError, with the kernel's own words in `strerror` where it has any.
    """

    def __init__(self, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice is harmless."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, readable when something was received."""
        return self._socket.fileno()

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """All that the kernel lists for a request.

        A dump during which the list changed is asked for again; after five such ones in a row the last is
        taken as it is, for a subscriber learns of the changes anyway.
        """
        listed: list[Message] = []
        for _ in range(_DUMP_ATTEMPTS):
            self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
            listed, interrupted = self._answer()
            if not interrupted:
                break
        return listed

    def ask(self, kind: int, flags: int, body: bytes) -> None:
        """Have the kernel do something and wait until it is done."""
        self._send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)
        self._answer()

    def received(self) -> tuple[list[Message], bool]:
        """What has come since the last call, without waiting, and whether some of it was lost (ENOBUFS)."""
        arrived: list[Message] = []
        lost = False
        while True:
            try:
                datagram = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return arrived, lost
            except OSError as error:
                # A datagram larger than the buffer is a loss too: its end is unknown.
                if error.errno not in (ENOBUFS, EBADMSG):
                    raise
                lost = True
                continue
            arrived.extend(messages(datagram))

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        length = _HEADER.size + len(body)
        self._socket.sendto(_HEADER.pack(length, kind, flags, self._sequence, 0) + body, (0, 0))

    def _receive(self, flags: int = 0) -> bytes:
        """One datagram from the kernel."""
        while True:
            datagram, _, result, (port, _groups) = self._socket.recvmsg(_BUFFER_BYTES, 0, flags)
            if result & socket.MSG_TRUNC:
                raise OSError(EBADMSG, "a netlink message is larger than the buffer")
            # Only the kernel's port is 0; a process must not be able to feed us an answer.
            if port == 0:
                return datagram

    def _answer(self) -> tuple[list[Message], bool]:
        listed: list[Message] = []
        interrupted = False
        while True:
            for message in messages(self._receive()):
                if message.sequence != self._sequence or message.type == _NLMSG_NOOP:
                    continue
                interrupted = interrupted or bool(message.flags & _NLM_F_DUMP_INTR)
                if message.type in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_refusal(message)
                    return listed, interrupted
                if message.type == _NLMSG_OVERRUN:
                    raise OSError(EBADMSG, "netlink lost a part of its answer")
                listed.append(message)


def _raise_refusal(message: Message) -> None:
    """Raise what the message that ends an answer says; 0 or nothing is success."""
    if len(message.body) < _INT.size:
        return
    (number,) = _INT.unpack_from(message.body)
    if number >= 0:
        return
    words = b""
    if message.flags & _NLM_F_ACK_TLVS:
        echoed = 0
        if message.type == _NLMSG_ERROR:
            echoed = _HEADER.size if message.flags & _NLM_F_CAPPED else u32(message.body[4:8])
        words = text(attributes(message.body[_INT.size + _aligned(echoed) :]).get(_NLMSGERR_ATTR_MSG))
    raise OSError(-number, words.decode("ascii", "replace") or os.strerror(-number))
