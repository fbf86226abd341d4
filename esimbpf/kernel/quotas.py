"""Quotas as the kernel enforces them: rules, how far they are used, and whom they name.

Rules are written while the packet path reads them, eight bytes at a time: each of them holds, or its successor does.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import TracebackType
from typing import Final, Self

from esimbpf.errors import EsimbpfError
from esimbpf.kernel import abi
from esimbpf.kernel.pins import PinnedEngine
from esimbpf.model import Counters

__all__ = ["NEVER", "Action", "Counts", "Exe", "KernelQuotas", "Rule", "Whom"]

NEVER: Final = (1 << 64) - 1
"""Of `Rule.stop_at_bytes`: it is never used up."""


class Action(IntEnum):
    """enum quota_action."""

    NOTIFY = 0
    BLOCK = 1
    THROTTLE = 2


class Counts(IntFlag):
    """enum quota_counts."""

    RECEIVED = 1
    SENT = 2


@dataclass(frozen=True, slots=True)
class Exe:
    """An executable, as the kernel knows it."""

    device: int
    """As the kernel encodes dev_t: major << 20 | minor."""
    inode: int


@dataclass(frozen=True, slots=True)
class Rule:
    """struct quota_rule."""

    stop_at_bytes: int
    links: int
    """A bit for each link's number."""
    counts: Counts = Counts.RECEIVED | Counts.SENT
    action: Action = Action.NOTIFY
    bytes_per_s: int = 0
    burst_ns: int = 0
    whole: bool = False
    """Of everybody without exception: the kernel's own packets and forwarded ones count, too."""


@dataclass(frozen=True, slots=True)
class Whom:
    """Whom a quota names; everybody but `spared` if nothing is."""

    exes: frozenset[Exe] = frozenset()
    cgroups: frozenset[int] = frozenset()
    """By their ids; all that is below them is meant, too."""
    users: frozenset[int] = frozenset()
    everybody: bool = False
    spared_exes: frozenset[Exe] = frozenset()
    spared_cgroups: frozenset[int] = frozenset()


class KernelQuotas:
    """The quotas of what is pinned, from number 1 on."""

    def __init__(self, engine: PinnedEngine) -> None:
        self._engine = engine
        self._rules = mmap.mmap(engine.map_fd("quota_rules"), abi.MAX_QUOTAS * abi.QUOTA_RULE.size)
        self._uses = mmap.mmap(engine.map_fd("quota_uses"), abi.MAX_QUOTAS * abi.QUOTA_USE.size, prot=mmap.PROT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the maps; the kernel goes on enforcing."""
        self._rules.close()
        self._uses.close()

    def used_bytes(self, number: int) -> int:
        """What has ever been charged to a quota of this number."""
        bytes_used, *_ = abi.QUOTA_USE.unpack_from(self._uses, number * abi.QUOTA_USE.size)
        return int(bytes_used)

    def blocked(self) -> dict[tuple[int, int], Counters]:
        """What was ever blocked, by link's number and slot."""
        found = {}
        for key, value in self._engine.map_of("blocked", abi.USAGE.size).items(abi.BLOCKED_KEY.size):
            link, slot = abi.BLOCKED_KEY.unpack(key)
            found[link, slot] = Counters(*abi.USAGE.unpack(value))
        return found

    def write(self, number: int, rule: Rule) -> None:
        """Let a rule hold; of what changes, what binds more first."""
        words = struct.unpack(
            "=4Q",
            abi.QUOTA_RULE.pack(
                rule.stop_at_bytes, rule.bytes_per_s, rule.burst_ns, rule.links, rule.counts, rule.action, rule.whole
            ),
        )
        at = number * abi.QUOTA_RULE.size
        for index in (1, 2, 3, 0):
            ctypes.c_uint64.from_buffer(self._rules, at + 8 * index).value = words[index]

    def name(self, quotas: Mapping[int, Whom]) -> None:
        """Say whom quotas are about; processes learn of it with their next packet."""
        everybody = [number for number, whom in quotas.items() if whom.everybody]
        exes: dict[Exe, _Set] = {}
        cgroups: dict[int, _Set] = {}
        users: dict[int, _Set] = {}
        for number, whom in quotas.items():
            for exe in whom.exes:
                exes.setdefault(exe, _Set()).add(number)
            for cgroup in whom.cgroups:
                cgroups.setdefault(cgroup, _Set()).add(number)
            for user in whom.users:
                users.setdefault(user, _Set()).add(number)
            for exe in whom.spared_exes:
                exes.setdefault(exe, _Set()).spare(everybody.index(number))
            for cgroup in whom.spared_cgroups:
                cgroups.setdefault(cgroup, _Set()).spare(everybody.index(number))
        self._fill("quota_exes", {abi.EXE_KEY.pack(exe.inode, exe.device): one.packed() for exe, one in exes.items()})
        self._fill("quota_cgroups", {struct.pack("=Q", key): one.packed() for key, one in cgroups.items()})
        self._fill("quota_users", {struct.pack("=I", key): one.packed() for key, one in users.items()})
        self._fill("quota_everybody", {struct.pack("=I", 0): _Set(everybody).packed()})
        self._engine.raise_quota_epoch()

    def tell_senders(self, wanted: bool) -> None:
        """Whether sending what is blocked fails at once; it costs each packet of the machine a few nanoseconds."""
        program = self._engine.program_fd("refused")
        hook = self._engine.hook("refused")
        if program is not None and wanted and not hook.exists():
            self._engine.attach_program("refused", program)
        elif not wanted:
            hook.unlink(missing_ok=True)

    def _fill(self, name: str, wanted: Mapping[bytes, bytes]) -> None:
        filled = self._engine.map_of(name, abi.QUOTA_SET.size)
        for key, value in wanted.items():
            filled.put(key, value)
        if name != "quota_everybody":
            key_bytes = {"quota_exes": abi.EXE_KEY.size, "quota_cgroups": 8, "quota_users": 4}[name]
            for key, _ in list(filled.items(key_bytes)):
                if key not in wanted:
                    filled.delete(key)


class _Set:
    """struct quota_set in the making."""

    def __init__(self, numbers: Sequence[int] = ()) -> None:
        self.numbers: list[int] = []
        self.spared = 0
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> None:
        if len(self.numbers) >= abi.QUOTAS_PER_SET:
            raise EsimbpfError(
                f"more than {abi.QUOTAS_PER_SET} quotas name the same", "remove some: esimbpf quota list"
            )
        self.numbers.append(number)

    def spare(self, position: int) -> None:
        self.spared |= 1 << position

    def packed(self) -> bytes:
        filled = self.numbers + [0] * (abi.QUOTAS_PER_SET - len(self.numbers))
        return abi.QUOTA_SET.pack(*filled, len(self.numbers), self.spared)
