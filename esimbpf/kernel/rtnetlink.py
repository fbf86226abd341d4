"""rtnetlink through pyroute2: what the kernel refuses is an OSError, as it is of any other system call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from errno import EINTR
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

__all__ = ["SKIP_STATISTICS", "listed", "raw", "rtnetlink"]

# linux/rtnetlink.h: RTEXT_FILTER_SKIP_STATS. Nobody here reads an interface's own counters.
SKIP_STATISTICS: Final = 1 << 3

_DUMP_ATTEMPTS: Final = 20


@contextmanager
def rtnetlink() -> Iterator[IPRoute]:
    """The network namespace in which the calling thread is.

    What the kernel refuses is raised as OSError, with the kernel's own words in `strerror` where it has any.
    """
    try:
        with IPRoute(ext_ack=True) as netlink:
            yield netlink
    except NetlinkError as error:
        words = error.args[1]
        raise OSError(error.code, words if isinstance(words, str) else os.strerror(error.code)) from error


def listed(dump: Callable[[], Iterable[Any]]) -> list[Any]:
    """All messages of a dump. One during which the list changed has holes, and is asked for again."""
    for _ in range(_DUMP_ATTEMPTS):
        try:
            return list(dump())
        except NetlinkDumpInterrupted:
            continue
    raise OSError(EINTR, "the kernel's list keeps changing while it is read")


def raw(text: str | bytes | None) -> bytes:
    """A string's own bytes: pyroute2 gives text where it is UTF-8, bytes where not, None where there is none."""
    return os.fsencode(text or b"")
