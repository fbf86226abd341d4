"""The values that flow from the kernel's maps to the sinks.

    maps -> kernel.reader -> Snapshot -> ledger -> attribution -> Tick -> sinks

All are frozen; every string in them is already safe to print (see `text.printable`).
Bytes are billable bytes: bytes of IP packets, IP header included, link-layer header excluded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

__all__ = [
    "NOTHING",
    "Counters",
    "GroupBy",
    "Kind",
    "Link",
    "LinkTick",
    "Process",
    "Row",
    "Start",
    "Tick",
]


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes and packets, received (rx, down) and sent (tx, up)."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.rx_bytes + other.rx_bytes,
            self.tx_bytes + other.tx_bytes,
            self.rx_packets + other.rx_packets,
            self.tx_packets + other.tx_packets,
        )

    def __sub__(self, other: Counters) -> Counters:
        return Counters(
            self.rx_bytes - other.rx_bytes,
            self.tx_bytes - other.tx_bytes,
            self.rx_packets - other.rx_packets,
            self.tx_packets - other.tx_packets,
        )

    def __bool__(self) -> bool:
        return bool(self.rx_bytes or self.tx_bytes or self.rx_packets or self.tx_packets)

    @property
    def total_bytes(self) -> int:
        """Bytes of both directions."""
        return self.rx_bytes + self.tx_bytes


NOTHING = Counters()


class Kind(StrEnum):
    """What a row of the ledger stands for."""

    PROCESS = "process"
    APP = "app"
    USER = "user"
    CGROUP = "cgroup"
    KERNEL = "kernel"
    FORWARDED = "forwarded"
    UNATTRIBUTED = "unattributed"
    OVERFLOW = "overflow"


class GroupBy(StrEnum):
    """How rows of processes are grouped."""

    APP = "app"
    PROCESS = "process"
    USER = "user"
    CGROUP = "cgroup"


@dataclass(frozen=True, slots=True)
class Process:
    """A process as the kernel recorded it when it opened its first socket.

    `pid` and `start_ns` together identify it: a reused pid is another process.
    """

    pid: int
    """The thread group id, as the initial pid namespace numbers it."""
    start_ns: int
    """Nanoseconds from boot to its start (CLOCK_BOOTTIME)."""
    uid: int
    comm: str
    """The command name, at most 15 bytes of it (task_struct.comm of the group leader)."""
    exe: str
    """Path of the executable; empty if unknown."""
    args: tuple[str, ...]
    """The command line, possibly cut off; empty if unknown."""
    cgroup: str
    """Path of the cgroup (v2) below the hierarchy's root, as in `/user.slice/…`; empty if unknown."""
    exited: bool = False
    cgroup_id: int = 0
    exe_device: int = 0
    exe_inode: int = 0
    app_hash: int = 0
    """Of the name of the app for which the kernel takes it (esimbpf.kernel.naming); 0 if it does not know."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface whose traffic is counted."""

    name: str
    ifindex: int
    kind: str
    """rtnetlink's kind (`wwan`, `rmnet`, `veth`, `tun`, …), or the device type's name where it has none."""
    addresses: tuple[str, ...] = ()
    up: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a link's ledger for one interval.

    `processes` holds the process of a `process` row; of an `app`, `user` or `cgroup` row those that have moved
    bytes and have not ended before this interval; and nothing for the other kinds.
    """

    kind: Kind
    id: str
    """Stable for the life of what the row names; unique within its kind."""
    name: str
    delta: Counters
    """What this interval added; never negative."""
    total: Counters
    """Since counting began; never goes back."""
    app: str = ""
    """Name of the app that a `process` row belongs to; else empty."""
    processes: tuple[Process, ...] = ()
    blocked: Counters = NOTHING
    """What quotas have blocked in this interval. What of it was received was paid for, and is in `delta` as well; what
    was to be sent never crossed the link, and is not."""
    total_blocked: Counters = NOTHING
    """The same since counting began."""


@dataclass(frozen=True, slots=True)
class LinkTick:
    """One link's closed ledger of one interval: the rows' sums are its own, in all counters."""

    link: Link
    present: bool
    """False while the interface is gone (a modem that resets); its totals are kept."""
    rows: tuple[Row, ...]
    delta: Counters
    total: Counters
    other: Counters = NOTHING
    """Since counting began: frames that are no IP packets (ARP, LLDP, …), which no carrier bills; not in `total`."""
    blocked: Counters = NOTHING
    total_blocked: Counters = NOTHING


@dataclass(frozen=True, slots=True)
class Start:
    """What is said once, when counting has begun."""

    time: datetime
    host: str
    boot_id: str
    boot_time_ns: int
    """Nanoseconds from the Unix epoch to boot, so that boot_time_ns + Process.start_ns is wall time."""
    engine: str
    interval_s: float
    by: GroupBy
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """One interval of all links."""

    time: datetime
    """End of the interval, UTC."""
    interval_s: float
    """Its measured length (CLOCK_BOOTTIME)."""
    links: tuple[LinkTick, ...]
    warnings: tuple[str, ...] = field(default=())
    """What a user should know, one sentence each: a full map, a lost program, a link that vanished."""
