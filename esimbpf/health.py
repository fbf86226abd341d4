"""What is known of counting that outlives a command."""

from __future__ import annotations

from dataclasses import dataclass

from esimbpf.model import NOTHING, Counters
from esimbpf.quota import Then
from esimbpf.saver import Service

__all__ = ["Health", "LinkHealth", "ProgramHealth", "QuotaHealth"]


@dataclass(frozen=True, slots=True)
class ProgramHealth:
    """One of the programs."""

    name: str
    attached: bool
    lost: str = ""
    """Why it is not attached; empty if it is."""


@dataclass(frozen=True, slots=True)
class LinkHealth:
    """One of the links."""

    name: str
    ifindex: int
    """Of the interface that is counted; 0 if it is gone."""
    counted: bool
    """Whether that interface is the link of this name."""
    total: Counters = NOTHING
    """Since it was attached."""
    overflow: Counters = NOTHING
    """Of processes that found no slot."""
    blocked_overflow: Counters = NOTHING
    """What quotas have blocked of those for which the kernel had no room."""


@dataclass(frozen=True, slots=True)
class QuotaHealth:
    """One of the quotas, as the kernel has it."""

    number: int
    then: Then
    bytes_per_s: int
    """To which it is throttled; 0 if it is not."""
    remaining_bytes: int | None
    """What may still pass before anything is done; 0 if it is used up, None if nothing is ever done."""
    reaches: bool
    """Whether the kernel knows anything by which somebody would be meant."""
    elsewhere: bool = False
    """Whether it is about no link as they are now: with another SIM profile, at home, or abroad."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is attached for good."""

    attached: bool
    attach_id: str = ""
    version: str = ""
    engine: str = ""
    since_s: float = 0.0
    """Seconds since the Unix epoch."""
    uptime_s: float = 0.0
    programs: tuple[ProgramHealth, ...] = ()
    links: tuple[LinkHealth, ...] = ()
    slots: int = 0
    """Room for so many processes at once."""
    slots_used: int = 0
    slots_ended: int = 0
    """Of those used, the ones whose processes have ended; the daemon frees them."""
    elsewhere: bool = False
    """It counts in another network namespace: what it says of links is of theirs."""
    daemon: bool = False
    """Whether a daemon writes down what is counted."""
    daemon_pid: int | None = None
    state_dir: str = ""
    """Where the daemon that was there last has written it down; empty if none was."""
    quotas: tuple[QuotaHealth, ...] = ()
    saver: QuotaHealth | None = None
    """The saver mode is a quota, too; None if the kernel knows none."""
    services_open: tuple[Service, ...] = ()
    """Which the saver mode leaves open to everybody."""
    strangers: tuple[str, ...] = ()
    """Pins of other versions."""
