"""What is pinned, as those want it who read it."""

from __future__ import annotations

from esimbpf.kernel.pins import About, PinnedEngine
from esimbpf.kernel.reader import Reader
from esimbpf.ledger.fold import Attachment

__all__ = ["attachment_of", "reader_of"]


def reader_of(engine: PinnedEngine, owns_slots: bool) -> Reader:
    """A reader of all links that are counted."""
    return Reader(engine, len(engine.about.links), owns_slots)


def attachment_of(about: About) -> Attachment:
    """What the ledger wants to know of what is attached."""
    return Attachment(
        about.attach_id,
        about.boot_id,
        about.started_wall_ns / 1e9,
        about.started_boottime_ns,
        about.started_awake_ns,
        about.links,
        about.sees_all,
    )
