"""What is known of counting that outlives a command."""

from __future__ import annotations

from dataclasses import dataclass

from esimbpf.model import NOTHING, Counters

__all__ = ["Health", "LinkHealth", "ProgramHealth"]


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
    strangers: tuple[str, ...] = ()
    """Pins of other versions."""
