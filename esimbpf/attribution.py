"""From slots to rows: whose bytes an interval's bytes are, by process, app, user and cgroup.

A row's total is the sum of what its intervals added, each attributed as the process was described at that time: a
process that runs another program (exec) keeps its process row, and its later bytes are another app's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from esimbpf.apps import Rule, app_name, process_name
from esimbpf.difference import LinkDelta
from esimbpf.model import NOTHING, Counters, GroupBy, Kind, Process, Row
from esimbpf.users import user_name

__all__ = ["LinkTally", "Namer"]

_ALWAYS: Final = (Kind.KERNEL, Kind.FORWARDED, Kind.UNATTRIBUTED)


class Namer:
    """Names the apps of processes, once for each description of a process."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = rules
        self._names: dict[Process, str] = {}

    def app(self, process: Process) -> str:
        """The app that a process belongs to."""
        name = self._names.get(process)
        if name is None:
            name = self._names[process] = app_name(process, self._rules)
        return name

    def forget(self, process: Process) -> None:
        """Drop what is kept of a process that has ended."""
        self._names.pop(process, None)


@dataclass(slots=True)
class _Group:
    """One row in the making."""

    kind: Kind
    id: str
    name: str
    app: str = ""
    total: Counters = NOTHING
    delta: Counters = NOTHING
    processes: dict[tuple[int, int], Process] = field(default_factory=dict)

    def add(self, counters: Counters) -> None:
        self.delta += counters
        self.total += counters

    def row(self) -> Row:
        return Row(
            self.kind, self.id, self.name, self.delta, self.total, self.app, tuple(self.processes.values())
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
        self._ended = list(ended)
        for by, groups in self._groups.items():
            for group in self._active[by]:
                group.delta = NOTHING
            active: dict[str, _Group] = {}
            for slot, counters in delta.processes.items():
                process = processes[slot]
                group = self._group(groups, by, process)
                group.add(counters)
                self._join(group, process)
                active[group.id] = group
            self._active[by] = list(active.values())
        self._ended += [process for process in processes.values() if process.exited]
        for process in ended:
            for group in self._memberships.get(_identity(process), ()):
                group.processes[_identity(process)] = process
        for kind, group in self._others.items():
            group.delta = NOTHING
            group.add(delta.others[kind])

    def rows(self, by: GroupBy, everything: bool) -> tuple[Row, ...]:
        """The interval's rows; with `everything` also those that it added nothing to.

        Kernel, forwarded and unattributed are always among them, overflow once it has something.
        """
        groups = self._groups[by].values() if everything else self._active[by]
        others = [self._others[kind] for kind in _ALWAYS]
        if self._others[Kind.OVERFLOW].total:
            others.append(self._others[Kind.OVERFLOW])
        return tuple(group.row() for group in (*groups, *others))

    def _group(self, groups: dict[str, _Group], by: GroupBy, process: Process) -> _Group:
        """The group of a process, made if it is new, its name brought up to date."""
        app = ""
        match by:
            case GroupBy.PROCESS:
                key, name, app = f"{process.pid}.{process.start_ns}", process_name(process), self._namer.app(process)
            case GroupBy.APP:
                key = name = self._namer.app(process)
            case GroupBy.USER:
                key, name = str(process.uid), user_name(process.uid)
            case GroupBy.CGROUP:
                key = name = process.cgroup
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(Kind(by.value), key, name)
        group.name, group.app = name, app
        return group

    def _join(self, group: _Group, process: Process) -> None:
        identity = _identity(process)
        if identity not in group.processes:
            self._memberships.setdefault(identity, []).append(group)
        group.processes[identity] = process

    def _leave(self, process: Process) -> None:
        """A process that has ended leaves its groups; its bytes stay, and so does its own row."""
        self._namer.forget(process)
        for group in self._memberships.pop(_identity(process), ()):
            if group.kind is not Kind.PROCESS:
                group.processes.pop(_identity(process), None)


def _identity(process: Process) -> tuple[int, int]:
    return process.pid, process.start_ns
