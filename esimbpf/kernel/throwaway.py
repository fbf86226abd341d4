"""Network namespaces without a name, for trying things where they touch nobody.

They belong to a thread and go with it, whatever ends it: nothing is there to clean up.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar

from esimbpf.kernel.rtnetlink import rtnetlink

__all__ = ["FAR_ADDRESS", "NEAR_ADDRESS", "NEAR_LINK", "ThrowawayLink", "in_new_namespace"]

Result = TypeVar("Result")

NEAR_LINK: Final = "wwan0"
NEAR_ADDRESS: Final = "100.64.0.2"
FAR_ADDRESS: Final = "100.64.0.1"
_FAR_LINK: Final = "tower0"
_PREFIX_BITS: Final = 30

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h


def in_new_namespace(do: Callable[[], Result]) -> Result:
    """What `do` returns in a thread that has a network namespace of its own; the others stay where they are.

    OSError if the kernel makes none: EPERM without CAP_SYS_ADMIN, EINVAL without CONFIG_NET_NS.
    """

    def inside() -> Result:
        _unshare()
        return do()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(inside).result()


class ThrowawayLink:
    """A veth pair between two namespaces: the thread's own, and another that only the kernel and this object know.

    To be made within `in_new_namespace`. The link there is NEAR_LINK; what is sent to FAR_ADDRESS crosses it.
    """

    def __init__(self) -> None:
        self._near = -1
        self._far = -1

    def __enter__(self) -> Self:
        self._far = _own_namespace()
        try:
            _silence()
            _unshare()
            self._near = _own_namespace()
            _silence()
            with rtnetlink() as netlink:
                netlink.link("add", ifname=NEAR_LINK, kind="veth", peer={"ifname": _FAR_LINK, "net_ns_fd": self._far})
            _set_up(NEAR_LINK, NEAR_ADDRESS)
            self._at_far_end(lambda: _set_up(_FAR_LINK, FAR_ADDRESS))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for descriptor in (self._near, self._far):
            if descriptor >= 0:
                os.close(descriptor)

    def near_socket(self) -> socket.socket:
        """A UDP socket at the near end, joined with nobody yet."""
        return _udp(NEAR_ADDRESS)

    def far_socket(self) -> socket.socket:
        """The same at the far end."""
        return self._at_far_end(lambda: _udp(FAR_ADDRESS))

    def _at_far_end(self, do: Callable[[], Result]) -> Result:
        _enter(self._far)
        try:
            return do()
        finally:
            _enter(self._near)


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"a network namespace: {os.strerror(ctypes.get_errno())}")


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _silence() -> None:
    """No IPv6, which says things unasked; where /proc/sys is read-only, it may."""
    with suppress(OSError), open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w", encoding="ascii") as file:
        file.write("1")


def _set_up(link: str, address: str) -> None:
    """Give a link of the thread's namespace its address, and bring it up."""
    ifindex = socket.if_nametoindex(link)
    with rtnetlink() as netlink:
        netlink.addr("add", index=ifindex, address=address, prefixlen=_PREFIX_BITS)
        netlink.link("set", index=ifindex, state="up")


def _udp(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        made.bind((address, 0))
    except OSError:
        made.close()
        raise
    return made
