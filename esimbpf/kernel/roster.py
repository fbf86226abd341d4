"""Who holds the slots: every process that has opened a socket, whether it moves anything or not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from esimbpf.kernel import abi
from esimbpf.kernel.abi import SlotState
from esimbpf.kernel.engine import Engine
from esimbpf.kernel.procfs import command_line, executable
from esimbpf.model import Process

__all__ = ["Changes", "Descriptions", "Roster", "changed"]

_ROOM: Final = 64
"""Entries compared at once when looking for changes."""


def changed(before: memoryview, after: memoryview, stride: int) -> list[int]:
    """Where entries of `stride` bytes differ; long stretches that do not are passed over with one comparison."""
    step = _ROOM * stride
    return [
        at
        for start in range(0, len(before), step)
        if before[start : start + step] != after[start : start + step]
        for at in range(start, min(start + step, len(before)), stride)
        if before[at : at + stride] != after[at : at + stride]
    ]


@dataclass(slots=True)
class _Known:
    """What is remembered of a slot in use."""

    generation: int
    revision: int
    process: Process


class Descriptions:
    """Processes by their slots, each described once by its record, and anew when it runs another program, say.

    What a record had no room for, /proc says of those that live.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[int, _Known] = {}

    def __contains__(self, slot: int) -> bool:
        return slot in self._known

    def forget(self, slot: int) -> bool:
        """Nobody holds the slot any more; whether anybody was known to."""
        return self._known.pop(slot, None) is not None

    def of(self, slot: int, states: bytes) -> Process:
        """Who holds a slot by these states of all slots."""
        generation, state, _shares, revision = abi.SLOT.unpack_from(states, slot * abi.SLOT.size)
        known = self._known.get(slot)
        if known and known.generation == generation and known.revision == revision:
            if state == SlotState.EXITED and not known.process.exited:
                known.process = replace(known.process, exited=True)
            return known.process
        record = abi.decode_process(self._engine.processes.lookup(slot), state == SlotState.EXITED)
        process = record.process
        if not process.exited:
            if not process.args or record.cut_args:
                process = replace(process, args=command_line(process.pid, process.start_ns) or process.args)
            if record.cut_exe:
                process = replace(process, exe=executable(process.pid, process.start_ns) or process.exe)
        self._known[slot] = _Known(generation, revision, process)
        return process


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since the last look."""

    there: dict[int, Process] = field(default_factory=dict)
    """By slot, processes that are new, or of which something is new, if only that they have ended."""
    gone: set[int] = field(default_factory=set)
    """Slots that nobody holds any more."""

    def __bool__(self) -> bool:
        return bool(self.there or self.gone)


class Roster:
    """Looks for changes of who holds the slots, at little cost: it disturbs no reader, and no counter is read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._states = bytes(engine.slots * abi.SLOT.size)
        self._processes = Descriptions(engine)

    def look(self) -> Changes:
        """What has changed since the last look; at the first one, all."""
        changes = Changes()
        states = self._engine.state_memory[:]
        for at in changed(memoryview(self._states), memoryview(states), abi.SLOT.size):
            slot = at // abi.SLOT.size
            _generation, state, _shares, _revision = abi.SLOT.unpack_from(states, at)
            if state in (SlotState.LIVE, SlotState.EXITED):
                changes.there[slot] = self._processes.of(slot, states)
            elif self._processes.forget(slot):
                changes.gone.add(slot)
        self._states = states
        return changes
