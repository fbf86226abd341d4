"""A link that is counted, an executable of which there is but one, and quotas about it, written into the kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esimbpf.kernel import abi
from esimbpf.kernel.pins import PinnedEngine
from esimbpf.kernel.quotas import Action, Counts, Exe, KernelQuotas, Rule, Some, Whom
from esimbpf.model import NOTHING, Counters
from esimbpf.snapshot import FIRST_PROCESS_SLOT
from tests.live.netlab import Lab
from tests.live.traffic import PATIENCE_S, Puppet

LIMIT = 10_000_001
LARGEST_PACKET = 1500
PUPPET = str(Path(__file__).parent / "puppet.py")


@dataclass(frozen=True, slots=True)
class Limited:
    """A lab whose link is counted, and an executable of which there is but this one."""

    lab: Lab
    engine: PinnedEngine
    quotas: KernelQuotas
    program: Path

    @property
    def exe(self) -> Exe:
        found = self.program.stat()
        return Exe(os.major(found.st_dev) << 20 | os.minor(found.st_dev), found.st_ino)

    def start(self) -> Puppet:
        """A process of the executable that quotas are about."""
        return Puppet.start(self.lab.device, str(self.program), "-IS", PUPPET)

    def start_of(self, pid: int) -> int:
        """When a process started, in nanoseconds since boot: /proc tells it by the hundredth of a second only."""
        for key, _ in self.engine.process_slots.items(abi.PROCESS_KEY.size):
            start_ns, tgid, _ = abi.PROCESS_KEY.unpack(key)
            if tgid == pid:
                return int(start_ns)
        raise AssertionError(f"process {pid} has no slot")

    def blocked(self, pid: int) -> Counters:
        """What was blocked of a process on the first link."""
        slots = range(FIRST_PROCESS_SLOT, FIRST_PROCESS_SLOT + 1024)
        [slot] = (at for at in slots if abi.decode_process(self.engine.processes.lookup(at), False).process.pid == pid)
        return self.quotas.blocked().get((0, slot), NOTHING)

    def block(self, limit: int = LIMIT, counts: Counts = Counts.RECEIVED | Counts.SENT) -> None:
        self.quotas.write(1, Rule(limit, 1, counts, Action.BLOCK))
        self.quotas.name({1: Whom(Some(exes=frozenset({self.exe})))})
        self.quotas.tell_senders(True)


def settled(crossed: Callable[[], Counters]) -> Counters:
    """What has crossed when nothing more does for a while."""
    deadline, before, since = time.monotonic() + PATIENCE_S, crossed(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = crossed()
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > 1.0:
            return now
    raise AssertionError("it goes on")
