"""How this version of the programs takes over from another one, whose maps are laid out otherwise.

Whatever crosses a link meanwhile is counted by one of the two: each hook changes between two packets. A packet may come
in under one and get somewhere under the other; what either has then told too much or too little is known from its
counters, and handed on (Standing.debt). All steps can be done again when they were cut off; the last one removes the
other version's pins.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from esimbpf.kernel import abi, libbpf
from esimbpf.kernel.engine import header_bytes
from esimbpf.kernel.links import list_links
from esimbpf.kernel.pins import SIDES, About, PinnedEngine, exchange, exchange_on_link, hook_of, link_hook_of
from esimbpf.kernel.programs import Hook
from esimbpf.kernel.reader import wait_for_packets_under_way
from esimbpf.model import NOTHING, Counters, Process
from esimbpf.snapshot import LinkReading, ReservedSlot, Snapshot

__all__ = ["TAKEN_OVER", "last_words", "take_over"]

TAKEN_OVER: Final = frozenset({"delivered", "forwarded"})
"""The programs that know no link and count: they are attached by `take_over`, in its order."""

_PROGRAMS: Final = {Hook.TC_EGRESS: "sent", Hook.TC_INGRESS: "received"}


def take_over(engine: PinnedEngine, path: Path) -> None:
    """Count from now on what the pins in a folder have counted until now, on the same links.

    All but TAKEN_OVER must be attached. To be called with the lock of pins held. OSError.
    """
    found = {one.link.name: one for one in list_links()}
    for index, name in enumerate(About.of(path).links):
        there = found.get(name)
        if there is None:
            continue
        number = engine.add(name)
        engine.watch_link(number, there.link.ifindex, header_bytes(there.device_type))
        for hook, side in SIDES.items():
            pin, program = link_hook_of(path, index, side), engine.program_fd(_PROGRAMS[hook])
            assert program is not None, "what counts is required, and so it is loaded"
            if exchange_on_link(pin, there.link.ifindex, side, program) and pin.exists():
                _share(pin, engine.link_hook(number, side))
        if engine.attached_to(number) != there.link.ifindex:
            engine.attach_link(number, there.link.ifindex, header_bytes(there.device_type))
    # What has come in under the other version shall get where it goes under it, too.
    wait_for_packets_under_way()
    _take_over_delivery(engine, path)
    for pin in sorted((path / "hooks").glob("*")):
        pin.unlink()
    wait_for_packets_under_way()


def _take_over_delivery(engine: PinnedEngine, path: Path) -> None:
    delivered, forwarded = engine.program_fd("delivered"), engine.program_fd("forwarded")
    assert delivered is not None, "what counts is required, and so it is loaded"
    if not engine.hook("delivered").exists():
        if exchange(hook_of(path, "delivered"), delivered):
            _share(hook_of(path, "delivered"), engine.hook("delivered"))
        else:
            engine.attach_program("delivered", delivered)
    if forwarded is not None:
        engine.attach_program("forwarded", forwarded)


def _share(pin: Path, other: Path) -> None:
    """Pin under another name what is pinned."""
    fd = libbpf.pinned(pin)
    try:
        libbpf.repin(fd, other)
    finally:
        os.close(fd)


def last_words(path: Path) -> Snapshot:
    """All that the pins in a folder, whose hooks are gone, have counted, by their own layout; OSError, KeyError."""
    about = About.of(path)
    layout = about.layout
    usages, processes = (libbpf.opened(name, libbpf.pinned(path / "maps" / name)) for name in _MAPS)
    try:
        blocks = layout.slots_per_link // layout.usages_per_block
        totals = [
            [counters for block in range(blocks) for counters in _block(layout, usages.lookup(index * blocks + block))]
            for index in range(len(about.links))
        ]
        blocked = _blocked(path, layout, len(totals))
        described: dict[int, Process] = {}
        links = []
        for of_link, stopped in zip(totals, blocked, strict=True):
            names = dict(zip(layout.reserved, of_link, strict=False))
            moved = {slot: one for slot, one in enumerate(of_link) if one and slot >= layout.first_process_slot}
            for slot in (moved.keys() | stopped.keys() - set(ReservedSlot)) - described.keys():
                described[slot] = abi.process_of(layout.process(processes.lookup(slot)), True).process
            links.append(LinkReading({slot: names.get(slot.name, NOTHING) for slot in ReservedSlot}, moved, stopped))
    finally:
        os.close(usages.fd)
        os.close(processes.fd)
    return Snapshot(
        boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        awake_ns=time.monotonic_ns(),
        wall_ns=time.time_ns(),
        links=tuple(links),
        processes=described,
        exited=(),
    )


_MAPS: Final = ("usage_blocks", "processes")


def _blocked(path: Path, layout: abi.Layout, links: int) -> list[dict[int, Counters]]:
    """By link and slot, what quotas have blocked; nothing of a version that had none."""
    blocked: list[dict[int, Counters]] = [{} for _ in range(links)]
    try:
        found = libbpf.opened("blocked", libbpf.pinned(path / "maps" / "blocked"))
    except FileNotFoundError:
        return blocked
    try:
        for key, value in found.items(abi.BLOCKED_KEY.size):
            link, slot = abi.BLOCKED_KEY.unpack(key)
            usage = layout.usage(value, 0)
            if slot < layout.first_process_slot:
                slot = ReservedSlot[layout.reserved[slot]]
            if link < links:
                blocked[link][slot] = Counters(*(usage[name] for name in abi.USAGE_FIELDS))
    finally:
        os.close(found.fd)
    return blocked


def _block(layout: abi.Layout, raw: bytes) -> list[Counters]:
    """The usages of a block, each the sum over all CPUs."""
    size = len(raw) // libbpf.possible_cpus()
    stride = size // layout.usages_per_block
    sums = []
    for at in range(0, stride * layout.usages_per_block, stride):
        usages = [layout.usage(raw, cpu + at) for cpu in range(0, len(raw), size)]
        sums.append(Counters(*(sum(usage[name] for usage in usages) for name in abi.USAGE_FIELDS)))
    return sums
