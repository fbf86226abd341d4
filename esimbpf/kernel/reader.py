"""Reads the maps: what has been counted, and by whom.

Reading never disturbs counting: counters only grow, and nothing is reset.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from esimbpf.kernel import abi
from esimbpf.kernel.abi import SlotState
from esimbpf.kernel.engine import Engine
from esimbpf.kernel.libbpf import Batch
from esimbpf.kernel.roster import Descriptions, changed
from esimbpf.model import NOTHING, Counters
from esimbpf.snapshot import FIRST_PROCESS_SLOT, LinkReading, ReservedSlot, Snapshot

_MEMBARRIER: Final = {"x86_64": 324, "i686": 375, "armv7l": 389, "armv8l": 389, "ppc64le": 365, "s390x": 356}
_MEMBARRIER_ELSEWHERE: Final = 283
_MEMBARRIER_CMD_GLOBAL: Final = 1

_ARRIVALS: Final = frozenset({ReservedSlot.LINK, ReservedSlot.FRAGMENT, ReservedSlot.FRAGMENT_HEADER})
"""What is counted when a packet comes in; the rest, when it gets somewhere."""

QUIET_NS: Final = 120 * 10**9
"""An ended process keeps its slot as long as its orphaned sockets may send: until it has been quiet so long."""

_LOOK_FOR_EXITS_NS: Final = 5 * 10**9


def between_packets(read: Callable[[], bytes]) -> Iterator[tuple[bytes, bytes]]:
    """For each possible CPU, what `read` gave while that CPU was not in the middle of receiving a packet.

    Packets are received in softirq, which no process interrupts: while this thread runs on a CPU, that CPU is
    between two packets. Where this thread may not run (cpusets, CPUs that are off), two readings stand for the one:
    all packets that had arrived by the first have been handled by the second.
    """
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in _cpus("possible"):
            try:
                os.sched_setaffinity(0, {cpu})
            except OSError:
                arrived = read()
                wait_for_packets_under_way()
                yield arrived, read()
            else:
                both = read()
                yield both, both
    finally:
        os.sched_setaffinity(0, allowed)


def _cpus(which: str) -> list[int]:
    """The CPUs of a list as the kernel writes it, `0-3,8`."""
    with open(f"/sys/devices/system/cpu/{which}", encoding="ascii") as file:
        parts = [part.partition("-") for part in file.read().strip().split(",")]
    return [cpu for first, _, last in parts for cpu in range(int(first), int(last or first) + 1)]


def wait_for_packets_under_way() -> None:
    """Return when every packet has been handled that was under way.

    Packets are handled in RCU read-side sections, and membarrier(MEMBARRIER_CMD_GLOBAL) waits for the end of
    all that have begun (kernel/sched/membarrier.c). About 10 ms; no work.
    """
    number = _MEMBARRIER.get(platform.machine(), _MEMBARRIER_ELSEWHERE)
    ctypes.CDLL(None).syscall(ctypes.c_long(number), _MEMBARRIER_CMD_GLOBAL, 0, 0)


class Reader:
    """Turns the maps into snapshots, and takes back the slots of ended processes.

    Of several readers of the same maps only one may own the slots, and call `take_back`.
    """

    def __init__(self, engine: Engine, links: int, owns_slots: bool = True) -> None:
        self._engine = engine
        self._owns_slots = owns_slots
        self._blocks_per_link = engine.slots // abi.USAGES_PER_BLOCK
        self._batch = Batch(engine.usage_blocks, self._blocks_per_link * links, abi.USAGE_BLOCK.size * engine.cpus)
        self._before = bytes(len(self._batch.read()))
        self._reserved = [dict.fromkeys(ReservedSlot, NOTHING) for _ in range(links)]
        self._blocked: dict[tuple[int, int], Counters] = {}
        self._states = bytes(engine.slots * abi.SLOT.size)
        self._processes = Descriptions(engine)
        self._exited: dict[int, int] = {}
        # Those that an owner before this one has not come to free.
        self._retired = self._in_state(SlotState.RETIRED) if owns_slots else []
        self._looked_for_exits_ns = 0
        self._finds_exits = owns_slots and engine.program_fd("process_exited") is None

    def read(self) -> Snapshot:
        """Read all counters."""
        received = [self._received(link) for link in range(len(self._reserved))]
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        awake_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        if self._finds_exits:
            self._look_for_exits(now_ns)
        # The states are read before the counters: a slot given back later has all its bytes in this reading.
        states = self._engine.state_memory[:]
        added = self._added()
        blocked, active = self._newly_blocked()
        readings = []
        for link, reserved in enumerate(self._reserved):
            for slot in ReservedSlot:
                reserved[slot] += added[link].pop(slot, NOTHING)
            at_once = {
                slot: replace(reserved[slot], rx_bytes=counters.rx_bytes, rx_packets=counters.rx_packets)
                for slot, counters in received[link].items()
            }
            # Of forwarded fragments, tx says what belongs to rx.
            at_once[ReservedSlot.FORWARDED_FRAGMENT] = received[link][ReservedSlot.FORWARDED_FRAGMENT]
            readings.append(LinkReading(at_once, added[link], blocked[link]))
        active.update(slot for reading in readings for slot in reading.processes)
        ended = self._note_states(states, active, now_ns)
        return Snapshot(
            boottime_ns=now_ns,
            awake_ns=awake_ns,
            wall_ns=wall_ns,
            links=tuple(readings),
            processes={slot: self._processes.of(slot, states) for slot in active},
            exited=tuple(self._processes.of(slot, states) for slot in ended if slot in self._processes),
        )

    def _received(self, link: int) -> dict[ReservedSlot, Counters]:
        """The reserved slots of a link, of each CPU at a moment when it is not in the middle of a packet."""
        block = link * self._blocks_per_link
        totals = dict.fromkeys(ReservedSlot, NOTHING)
        for index, (arrived, handled) in enumerate(between_packets(lambda: self._engine.usage_blocks.lookup(block))):
            for slot in ReservedSlot:
                raw = arrived if slot in _ARRIVALS else handled
                at = index * abi.USAGE_BLOCK.size + slot * abi.USAGE.size
                totals[slot] += Counters(*abi.USAGE.unpack_from(raw, at))
        return totals

    def _added(self) -> list[dict[int, Counters]]:
        """By link and slot, what the last reading did not have yet."""
        added: list[dict[int, Counters]] = [{} for _ in self._reserved]
        before, after = memoryview(self._before), bytes(self._batch.read())
        for at in changed(before, memoryview(after), abi.USAGE_BLOCK.size):
            link, block = divmod(at // self._batch.stride, self._blocks_per_link)
            old = abi.USAGE.iter_unpack(before[at : at + abi.USAGE_BLOCK.size])
            new = abi.USAGE.iter_unpack(memoryview(after)[at : at + abi.USAGE_BLOCK.size])
            slots = added[link]
            for slot, (was, now) in enumerate(zip(old, new, strict=True), block * abi.USAGES_PER_BLOCK):
                if was != now:
                    slots[slot] = slots.get(slot, NOTHING) + Counters(*now) - Counters(*was)
        self._before = after
        return added

    def _newly_blocked(self) -> tuple[list[dict[int, Counters]], set[int]]:
        """By link and slot, all that was ever blocked; and the processes' slots of which the last reading had less."""
        blocked: list[dict[int, Counters]] = [{} for _ in self._reserved]
        active = set()
        now = self._engine.blocked()
        for (link, slot), counters in now.items():
            if link < len(blocked):
                blocked[link][slot] = counters
                if slot >= FIRST_PROCESS_SLOT and counters != self._blocked.get((link, slot)):
                    active.add(slot)
        self._blocked = now
        return blocked, active

    # -- slots ---------------------------------------------------------------------

    def _note_states(self, states: bytes, active: set[int], now_ns: int) -> list[int]:
        """Follow which slots' processes have ended, and since when they are quiet; the newly ended ones."""
        ended = []
        for at in changed(memoryview(self._states), memoryview(states), abi.SLOT.size):
            slot = at // abi.SLOT.size
            _generation, state, _shares, _revision = abi.SLOT.unpack_from(states, at)
            if state != SlotState.EXITED:
                self._exited.pop(slot, None)
            elif slot not in self._exited:
                self._exited[slot] = now_ns
                ended.append(slot)
        for slot in active & self._exited.keys():
            self._exited[slot] = now_ns
        self._states = states
        return ended

    def take_back(self) -> None:
        """Free the slots of ended processes, in two steps; call it when the last reading is safe with its user.

        First the generation is raised: sockets that still hold the slot count as unattributed from then on.
        With the next reading, which has the last bytes counted before, the slot can go to another process.
        """
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for slot in self._retired:
            self._processes.forget(slot)
            generation, _state, _shares, revision = abi.SLOT.unpack_from(self._states, slot * abi.SLOT.size)
            self._engine.slot_states.update(slot, abi.SLOT.pack(generation, SlotState.FREE, 0, revision))
            self._engine.free_slots.push(slot)
        self._retired = []
        scarce = bool(self._exited) and len(self._in_state(SlotState.FREE)) < self._engine.slots // 8
        for slot, since_ns in list(self._exited.items()):
            unused = slot not in self._processes
            idle_ns = now_ns - since_ns
            if unused or idle_ns >= QUIET_NS or (scarce and idle_ns > 0):
                generation, _state, _shares, revision = abi.SLOT.unpack_from(self._states, slot * abi.SLOT.size)
                retired = abi.SLOT.pack((generation + 1) & 0xFFFFFFFF, SlotState.RETIRED, 0, revision)
                self._engine.slot_states.update(slot, retired)
                del self._exited[slot]
                self._retired.append(slot)

    def _in_state(self, wanted: SlotState) -> list[int]:
        """The slots of processes that are in this state now."""
        last = self._engine.last_slot + 1
        states = abi.SLOT.iter_unpack(self._engine.state_memory[: last * abi.SLOT.size])
        return [slot for slot, (_, state, _, _) in enumerate(states) if state == wanted and slot >= FIRST_PROCESS_SLOT]

    def _look_for_exits(self, now_ns: int) -> None:
        """Without the tracepoint: slots whose process is no longer in /proc are marked as exited."""
        if now_ns - self._looked_for_exits_ns < _LOOK_FOR_EXITS_NS:
            return
        self._looked_for_exits_ns = now_ns
        living = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        states = self._engine.state_memory[:]
        for slot in range(FIRST_PROCESS_SLOT, self._engine.slots):
            generation, state, _shares, revision = abi.SLOT.unpack_from(states, slot * abi.SLOT.size)
            if state != SlotState.LIVE:
                continue
            process = abi.decode_process(self._engine.processes.lookup(slot), False).process
            if process.pid in living:
                continue
            self._engine.process_slots.delete(abi.PROCESS_KEY.pack(process.start_ns, process.pid, 0))
            self._engine.slot_states.update(slot, abi.SLOT.pack(generation, SlotState.EXITED, 0, revision))
