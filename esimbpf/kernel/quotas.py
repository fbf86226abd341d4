"""Quotas as the kernel enforces them: rules, how far they are used, and whom they name.

All is changed while the packet path reads it: at each moment what held before holds, or what holds from now on.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from types import TracebackType
from typing import Final, Self

from esimbpf.errors import EsimbpfError
from esimbpf.kernel import abi
from esimbpf.kernel.libbpf import Map
from esimbpf.kernel.naming import app_hashes, cgroup_hash, exe_hash, name_hash
from esimbpf.kernel.pins import PinnedEngine
from esimbpf.model import Counters
from esimbpf.text import original

__all__ = ["NEVER", "Action", "Counts", "Exe", "KernelQuotas", "OpenServices", "Otherwise", "Rule", "Some", "Whom"]

NEVER: Final = (1 << 64) - 1
"""Of `Rule.stop_at_bytes`: it is never used up."""


class Action(IntEnum):
    """enum quota_action."""

    NOTIFY = 0
    BLOCK = 1
    THROTTLE = 2


class OpenServices(IntFlag):
    """enum open_service."""

    DNS = 1
    DHCP = 2
    NTP = 4


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


class _Named(IntEnum):
    """enum named."""

    APP = 0
    EXE = 1
    CGROUP = 2
    UNIT = 3
    APP_OF_EXE = 4
    APP_OF_CGROUP = 5

    def key(self, *hashes: int) -> Iterator[tuple[str, bytes]]:
        """Names as their map has them; those that the kernel cannot know are left out."""
        return (("quota_names", abi.NAME_KEY.pack(found, self)) for found in hashes if found)


@dataclass(frozen=True, slots=True)
class Some:
    """Some processes, by whatever names them; texts are printable, paths begin at a root."""

    apps: frozenset[str] = frozenset()
    exes: frozenset[Exe] = frozenset()
    exe_paths: frozenset[str] = frozenset()
    cgroups: frozenset[int] = frozenset()
    """By their ids; all that is below them is meant, too."""
    cgroup_paths: frozenset[str] = frozenset()
    """The same by their paths."""
    units: frozenset[str] = frozenset()
    """The same by the last part of their paths."""
    users: frozenset[int] = frozenset()

    def known_by(self) -> Iterator[tuple[str, bytes]]:
        """By what the kernel knows each, but for the apps: a map, and a key of it."""
        yield from (("quota_exes", abi.EXE_KEY.pack(exe.inode, exe.device)) for exe in self.exes)
        yield from _Named.EXE.key(*map(exe_hash, self.exe_paths))
        yield from (("quota_cgroups", _CGROUP_KEY.pack(cgroup)) for cgroup in self.cgroups)
        yield from _Named.CGROUP.key(*map(cgroup_hash, self.cgroup_paths))
        yield from _Named.UNIT.key(*map(name_hash, map(original, self.units)))
        yield from (("quota_users", _USER_KEY.pack(user)) for user in self.users)


@dataclass(frozen=True, slots=True)
class Otherwise:
    """Which app processes are, whatever the kernel takes them for by their names."""

    processes: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """By pid and start (nanoseconds since boot)."""
    exes: Mapping[str, str] = field(default_factory=dict)
    """By the executable's path, those of which nothing is said by pid."""
    cgroups: Mapping[str, str] = field(default_factory=dict)
    """By the cgroup's path, those of which nothing is said by pid or executable."""

    def known_by(self) -> Iterator[tuple[str, bytes, str]]:
        """By what the kernel knows each, and the app: a map, a key of it, and the app's name."""
        for (pid, start), app in self.processes.items():
            yield "quota_processes", abi.PROCESS_KEY.pack(start, pid, 0), app
        for path, app in self.exes.items():
            yield from ((name, key, app) for name, key in _Named.APP_OF_EXE.key(exe_hash(path)))
        for path, app in self.cgroups.items():
            yield from ((name, key, app) for name, key in _Named.APP_OF_CGROUP.key(cgroup_hash(path)))


@dataclass(frozen=True, slots=True)
class Whom:
    """Whom a quota is about: some, or everybody but some."""

    some: Some
    everybody: bool = False


_READ_WITHIN_S: Final = 0.01
"""The packet path has read a quota's terms, and found those of a process, long before."""
_NAMES: Final = 0
"""No quota has this number."""
_NO_SET: Final = bytes(abi.QUOTA_SET.size)
_CGROUP_KEY: Final = struct.Struct("=Q")
_USER_KEY: Final = struct.Struct("=I")
_KEY_BYTES: Final = {
    "quota_exes": abi.EXE_KEY.size,
    "quota_cgroups": _CGROUP_KEY.size,
    "quota_users": _USER_KEY.size,
    "quota_processes": abi.PROCESS_KEY.size,
    "quota_names": abi.NAME_KEY.size,
}


class KernelQuotas:
    """The quotas of what is pinned, from number 1 on."""

    def __init__(self, engine: PinnedEngine) -> None:
        self._engine = engine
        self._rules = mmap.mmap(engine.map_fd("quota_rules"), abi.MAX_QUOTAS * abi.QUOTA_RULE.size)
        self._changed_s: dict[int, float] = {}
        """When a quota's terms were changed last; under _NAMES, whom they are about."""
        self._uses = mmap.mmap(engine.map_fd("quota_uses"), abi.MAX_QUOTAS * abi.QUOTA_USE.size)

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
        return self._engine.blocked()

    def write(self, number: int, rule: Rule) -> None:
        """Let a rule hold, in one step."""
        packed = abi.QUOTA_TERMS.pack(
            rule.stop_at_bytes, rule.bytes_per_s, rule.burst_ns, rule.links, rule.counts, rule.action, rule.whole
        )
        at = number * abi.QUOTA_RULE.size
        current = ctypes.c_uint64.from_buffer(self._rules, at + 2 * abi.QUOTA_TERMS.size)
        other = current.value ^ 1
        self._let_readers_go(number)
        start = at + other * abi.QUOTA_TERMS.size
        self._rules[start : start + abi.QUOTA_TERMS.size] = packed
        current.value = other
        self._changed_s[number] = time.monotonic()

    def erase(self, number: int) -> None:
        """Let no rule hold any more, of a quota that names nobody; what it has saved up is gone, too."""
        self.write(number, Rule(NEVER, links=0, counts=Counts(0)))
        at = number * abi.QUOTA_USE.size
        saved = slice(at + abi.QUOTA_FREE_AT_OFFSET, at + abi.QUOTA_USE.size)
        self._uses[saved] = bytes(saved.stop - saved.start)

    def rules(self) -> dict[int, Rule]:
        """The rules that hold, by number."""
        rules = {}
        for number, (both, current) in enumerate(abi.QUOTA_RULE.iter_unpack(self._rules)):
            terms = abi.QUOTA_TERMS.unpack_from(both, current * abi.QUOTA_TERMS.size)
            stop_at, bytes_per_s, burst_ns, links, counts, action, whole = terms
            if counts:
                rules[number] = Rule(stop_at, links, Counts(counts), Action(action), bytes_per_s, burst_ns, bool(whole))
        return rules

    def about_anybody(self) -> frozenset[int]:
        """The numbers of the quotas that name somebody, by whatever the kernel knows him; what is gone included."""
        held = [self._named("quota_everybody").lookup(0)]
        for name, key_bytes in _KEY_BYTES.items():
            held += [sets for _, sets in self._named(name).items(key_bytes)]
        unpacked = [abi.QUOTA_SET.unpack(self._holding(sets)) for sets in held]
        return frozenset(number for *numbers, count, _, _ in unpacked for number in numbers[:count])

    def known(self) -> frozenset[int]:
        """The numbers of which anything is known, a rule or whom it is about."""
        return self.about_anybody() | self.rules().keys()

    def settle(self) -> None:
        """Wait until no packet goes any more by what held before whom quotas are about was said last."""
        self._let_readers_go(_NAMES)

    def name(self, quotas: Mapping[int, Whom], otherwise: Otherwise | None = None) -> None:
        """Say whom quotas are about, in one step; processes learn of it with their next packet.

        Of what `otherwise` says is which app, nothing else says that it is another.

        Raises EsimbpfError if more name the same than there is room for, OSError if a map is full; then what held
        before holds on.
        """
        if not quotas and not self._engine.quota_epoch:
            return  # There never were any, and no packet needs to ask.
        everybody = _Set([number for number, whom in quotas.items() if whom.everybody])
        sets: dict[str, dict[bytes, _Set]] = {name: {} for name in _KEY_BYTES}
        apps: dict[str, _Set] = {}
        for number, whom in quotas.items():
            named = [sets[name].setdefault(key, _Set()) for name, key in whom.some.known_by()]
            named += [apps.setdefault(app, _Set()) for app in whom.some.apps]
            for one in named:
                if whom.everybody:
                    one.spare(everybody.numbers.index(number))
                else:
                    one.add(number)
        for app, one in apps.items():
            sets["quota_names"].update((key, one) for _, key in _Named.APP.key(*app_hashes(app)))
        for name, key, app in (otherwise or Otherwise()).known_by():
            sets[name][key] = apps.get(app, _Set()).as_app()
        self._let_readers_go(_NAMES)
        for name, wanted in sets.items():
            self._prepare(name, wanted)
        only = (0).to_bytes(4, sys.byteorder)
        for_everybody = self._named("quota_everybody")
        self._put(for_everybody, only, for_everybody.lookup(0), everybody)
        self._engine.raise_quota_epoch()
        self._changed_s[_NAMES] = time.monotonic()

    def crowded(self) -> int | None:
        """A slot for whose process there was no room for all quotas that are about it, since this was asked last."""
        return self._engine.crowded()

    def _prepare(self, name: str, wanted: Mapping[bytes, _Set]) -> None:
        """Write what will hold under the next epoch; what names nothing under either goes."""
        named = self._named(name)
        present = dict(named.items(_KEY_BYTES[name]))
        for key, sets in present.items():
            if key not in wanted and self._holding(sets) == _NO_SET:
                named.delete(key)
            elif key not in wanted:
                self._put(named, key, sets, _Set())
        for key, one in wanted.items():
            self._put(named, key, present.get(key, 2 * _NO_SET), one)

    def _put(self, named: Map, key: bytes, present: bytes, following: _Set) -> None:
        under = list(abi.QUOTA_SETS.unpack(present))
        under[self._engine.quota_epoch + 1 & 1] = following.packed()
        packed = abi.QUOTA_SETS.pack(*under)
        if packed != present:
            named.put(key, packed)

    def _holding(self, sets: bytes) -> bytes:
        under: tuple[bytes, bytes] = abi.QUOTA_SETS.unpack(sets)
        return under[self._engine.quota_epoch & 1]

    def _named(self, name: str) -> Map:
        return self._engine.map_of(name, abi.QUOTA_SETS.size)

    def _let_readers_go(self, number: int) -> None:
        """Wait until nobody reads any more what held before the last change."""
        time.sleep(max(0.0, self._changed_s.get(number, 0.0) + _READ_WITHIN_S - time.monotonic()))

    def leave_open(self, services: OpenServices) -> None:
        """What the quota SAVER_QUOTA lets pass, whoever sends or receives it."""
        self._engine.open_services(services)

    def tell_senders(self, wanted: bool) -> None:
        """Whether sending what is blocked fails at once; it costs each packet of the machine a few nanoseconds."""
        program = self._engine.program_fd("refused")
        hook = self._engine.hook("refused")
        if program is not None and wanted and not hook.exists():
            self._engine.attach_program("refused", program)
        elif not wanted:
            hook.unlink(missing_ok=True)


class _Set:
    """struct quota_set in the making."""

    def __init__(self, numbers: Sequence[int] = ()) -> None:
        self.numbers: list[int] = []
        self.spared = 0
        self.is_app = False
        for number in numbers:
            self.add(number)

    def add(self, number: int) -> None:
        if len(self.numbers) >= abi.QUOTAS_PER_SET:
            raise _too_many()
        self.numbers.append(number)

    def spare(self, position: int) -> None:
        self.spared |= 1 << position

    def as_app(self) -> _Set:
        """The same, and saying which app it is."""
        one = _Set(self.numbers)
        one.spared, one.is_app = self.spared, True
        return one

    def packed(self) -> bytes:
        filled = self.numbers + [0] * (abi.QUOTAS_PER_SET - len(self.numbers))
        return abi.QUOTA_SET.pack(*filled, len(self.numbers), self.is_app, self.spared)


def _too_many() -> EsimbpfError:
    return EsimbpfError(f"more than {abi.QUOTAS_PER_SET} quotas name the same", "remove some: esimbpf quota list")
