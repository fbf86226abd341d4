"""Counts packets of known sizes on a link of throwaway namespaces, with all that counting on a real one takes."""

from __future__ import annotations

import socket
from typing import Final

from esimbpf.errors import EsimbpfError
from esimbpf.kernel.links import LinkMonitor, list_links
from esimbpf.kernel.throwaway import NEAR_LINK, ThrowawayLink, in_new_namespace
from esimbpf.machine import SelfTest
from esimbpf.model import NOTHING, Counters, GroupBy, Kind, LinkTick
from esimbpf.session import Session

__all__ = ["self_test"]

_SENT: Final = tuple(range(101, 101 + 10 * 26, 26))
_RECEIVED: Final = tuple(range(303, 303 + 10 * 58, 58))
"""Bytes of the datagrams each way: sums that no accident produces."""
_HEADERS: Final = 20 + 8  # IPv4, UDP
_PATIENCE_S: Final = 1.0


def self_test() -> SelfTest:
    """Send ten datagrams each way and compare; takes root, and about half a second."""
    try:
        return in_new_namespace(_test)
    except EsimbpfError as error:
        return SelfTest(NOTHING, NOTHING, NOTHING, error.message)
    except OSError as error:
        return SelfTest(NOTHING, NOTHING, NOTHING, error.strerror or str(error))


def _test() -> SelfTest:
    with ThrowawayLink() as link, LinkMonitor() as monitor:
        found = [one for one in list_links() if one.link.name == NEAR_LINK]
        with (
            Session(found, monitor, _PATIENCE_S, [GroupBy.PROCESS]) as session,
            link.near_socket() as near,
            link.far_socket() as far,
        ):
            _send(near, far, _SENT)
            _send(far, near, _RECEIVED)
            [tick] = session.tick(final=True).links
    expected = Counters(
        rx_bytes=sum(_RECEIVED) + _HEADERS * len(_RECEIVED),
        tx_bytes=sum(_SENT) + _HEADERS * len(_SENT),
        rx_packets=len(_RECEIVED),
        tx_packets=len(_SENT),
    )
    return SelfTest(expected, _sum(tick, Kind.PROCESS), _sum(tick, Kind.UNATTRIBUTED))


def _send(source: socket.socket, target: socket.socket, sizes: tuple[int, ...]) -> None:
    """Send datagrams of these sizes, and wait until they are there."""
    target.settimeout(_PATIENCE_S)
    for size in sizes:
        source.sendto(bytes(size), target.getsockname())
        target.recv(size)


def _sum(tick: LinkTick, kind: Kind) -> Counters:
    return sum((row.total for row in tick.rows if row.kind is kind), NOTHING)
