"""From slots to rows: whose bytes an interval's bytes are, by process, app, user and cgroup.

A row's total is the sum of what its intervals added, each attributed as the process was described at that time: a
process that runs another program (exec) keeps its process row, and its later bytes are another app's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from esimbpf.apps import Rule, app_name, process_name
from esimbpf.difference import KIND_OF_SLOT, LinkDelta
from esimbpf.model import NOTHING, Counters, GroupBy, Kind, Process, Row
from esimbpf.users import user_name

__all__ = ["LinkTally", "Namer"]

_ALWAYS: Final = (Kind.KERNEL, Kind.FORWARDED, Kind.UNATTRIBUTED)
_NAMES_KEPT: Final = 4096


class Namer:
    """Names the apps of processes."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = rules
        self._names: dict[tuple[object, ...], str] = {}

    def app(self, process: Process) -> str:
        """The app that a process belongs to; what names it is the same for many processes, and kept."""
        named_by = process.exe, process.comm, process.args, process.cgroup
        name = self._names.get(named_by)
        if name is None:
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            name = self._names[named_by] = app_name(process, self._rules)
        return name


@dataclass(slots=True)
class _Group:
    """One row in the making."""

    kind: Kind
    id: str
    name: str
    app: str = ""
    total: Counters = NOTHING
    delta: Counters = NOTHING
    total_blocked: Counters = NOTHING
    blocked: Counters = NOTHING
    process: Process | None = None
    """Of a `process` row."""
    members: dict[tuple[int, int], Process] | None = None
    """Of an `app`, `user` or `cgroup` row."""

    def add(self, counters: Counters) -> None:
        self.delta = self.delta + counters if self.delta else counters
        self.total = self.total + counters if self.total else counters

    def add_blocked(self, counters: Counters) -> None:
        self.blocked += counters
        self.total_blocked += counters

    def begin_anew(self) -> None:
        self.delta = self.blocked = NOTHING

    def row(self) -> Row:
        processes = (self.process,) if self.process else tuple(self.members.values()) if self.members else ()
        return Row(
            self.kind,
            self.id,
            self.name,
            self.delta,
            self.total,
            self.app,
            processes,
            self.blocked,
            self.total_blocked,
        )


class LinkTally:
    """The rows of one link, in all groupings that are asked for."""

    def __init__(self, namer: Namer, groupings: Sequence[GroupBy]) -> None:
        self._namer = namer
        self._groups: dict[GroupBy, dict[str, _Group]] = {by: {} for by in groupings}
        self._active: dict[GroupBy, list[_Group]] = {by: [] for by in groupings}
        self._others = {kind: _Group(kind, kind.value, kind.value) for kind in (*_ALWAYS, Kind.OVERFLOW)}
        self._ended: list[Process] = []
        self._memberships: dict[tuple[int, int], list[_Group]] = {}

    def add(self, delta: LinkDelta, processes: Mapping[int, Process], ended: Sequence[Process]) -> None:
        """Begin a new interval with what it added, and the processes that ended in it."""
        for process in self._ended:
            self._leave(process)
        for by, groups in self._groups.items():
            for group in self._active[by]:
                group.begin_anew()
            active: dict[str, _Group] = {}
            for slot, counters in delta.processes.items():
                group = self._group(groups, by, processes[slot])
                group.add(counters)
                active[group.id] = group
            for slot, counters in delta.blocked.items():
                if slot not in KIND_OF_SLOT:
                    group = self._group(groups, by, processes[slot])
                    group.add_blocked(counters)
                    active[group.id] = group
            self._active[by] = list(active.values())
        for process in ended:
            self._mark(process)
        self._ended = [*ended, *(process for process in processes.values() if process.exited)]
        for kind, group in self._others.items():
            group.begin_anew()
            group.add(delta.others[kind])
        for slot, counters in delta.blocked.items():
            if slot in KIND_OF_SLOT:
                self._others[KIND_OF_SLOT[slot]].add_blocked(counters)

    def rows(self, by: GroupBy, everything: bool) -> tuple[Row, ...]:
        """The interval's rows; with `everything` also those that it added nothing to.

        Kernel, forwarded and unattributed are always among them, overflow once it has something.
        """
        groups = self._groups[by].values() if everything else self._active[by]
        others = [self._others[kind] for kind in _ALWAYS]
        overflow = self._others[Kind.OVERFLOW]
        if overflow.total or overflow.total_blocked:
            others.append(overflow)
        return tuple(group.row() for group in (*groups, *others))

    def _group(self, groups: dict[str, _Group], by: GroupBy, process: Process) -> _Group:
        """The group of a process, made if it is new, with the process in it as it is described now."""
        match by:
            case GroupBy.PROCESS:
                return self._group_of_one(groups, process)
            case GroupBy.APP:
                key = name = self._namer.app(process)
            case GroupBy.USER:
                key, name = str(process.uid), user_name(process.uid)
            case GroupBy.CGROUP:
                key = name = process.cgroup
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(Kind(by.value), key, name, members={})
        assert group.members is not None
        identity = process.pid, process.start_ns
        if identity not in group.members:
            self._memberships.setdefault(identity, []).append(group)
        group.members[identity] = process
        return group

    def _group_of_one(self, groups: dict[str, _Group], process: Process) -> _Group:
        key = _process_id(process)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(Kind.PROCESS, key, "")
        if group.process is not process:
            group.process, group.name, group.app = process, process_name(process), self._namer.app(process)
        return group

    def _mark(self, process: Process) -> None:
        """Show a process as ended."""
        alone = self._groups.get(GroupBy.PROCESS, {}).get(_process_id(process))
        if alone is not None:
            alone.process = process
        for group in self._memberships.get((process.pid, process.start_ns), ()):
            if group.members is not None:
                group.members[process.pid, process.start_ns] = process

    def _leave(self, process: Process) -> None:
        """A process that has ended leaves its groups; its bytes stay, and so does its own row."""
        for group in self._memberships.pop((process.pid, process.start_ns), ()):
            if group.members is not None:
                group.members.pop((process.pid, process.start_ns), None)


def _process_id(process: Process) -> str:
    return f"{process.pid}.{process.start_ns}"
