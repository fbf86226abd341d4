"""What one reading of the maps says, before anything is concluded from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from esimbpf.model import Counters, Process

__all__ = ["FIRST_PROCESS_SLOT", "NO_ROOM_FOR_BLOCKED", "LinkReading", "ReservedSlot", "Snapshot"]


class ReservedSlot(IntEnum):
    """The slots of a link that no process holds: enum reserved_slot of bpf/abi.h, where each is explained."""

    KERNEL = 0
    FORWARDED = 1
    UNATTRIBUTED = 2
    OVERFLOW = 3
    LINK = 4
    OTHER = 5
    FRAGMENT = 6
    FRAGMENT_HEADER = 7
    REASSEMBLED = 8
    FORWARDED_FRAGMENT = 9
    TAKEN = 10


FIRST_PROCESS_SLOT: Final = 16

NO_ROOM_FOR_BLOCKED: Final = (
    "the kernel has no room left to tell whose is what quotas block: the rest of it is counted under `overflow`; "
    "begin anew: esimbpf detach; esimbpf attach"
)
"""To be said where something was blocked under OVERFLOW."""


@dataclass(frozen=True, slots=True)
class LinkReading:
    """One link's counters."""

    reserved: Mapping[ReservedSlot, Counters]
    """Since counting began. What was received stands as of one moment, between two packets."""
    processes: Mapping[int, Counters]
    """By slot, what has been added since the reading before; slots with nothing are left out."""
    blocked: Mapping[int, Counters] = field(default_factory=dict)
    """By slot, reserved ones included, all that quotas have blocked since counting began. What of it was received is
    in the other counters as well; what was to be sent has not crossed the link, and is in none."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of all links."""

    boottime_ns: int
    """Nanoseconds since boot, those in which the machine slept included (CLOCK_BOOTTIME)."""
    awake_ns: int
    """The same without those (CLOCK_MONOTONIC)."""
    wall_ns: int
    """Nanoseconds since the Unix epoch, at the same moment."""
    links: tuple[LinkReading, ...]
    processes: Mapping[int, Process]
    """Who holds the slots that have added something, were it that something of theirs was blocked."""
    exited: tuple[Process, ...]
    """Processes that have ended since the reading before."""
