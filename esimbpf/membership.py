"""Which app each process is, and where the kernel, which goes by names alone, takes it for another.

The kernel names the app of a process that opens a socket at once (bpf/naming.h), so that quotas hold from its first
packet on. What it cannot know is said here, of every process that holds a slot: by its executable or its cgroup where
that decides, so that it holds for the next ones, too, and else of the process itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from esimbpf.apps import Rule, app_of_cgroup, app_of_exe, own_cgroup
from esimbpf.attribution import Namer
from esimbpf.kernel.naming import app_hashes
from esimbpf.kernel.quotas import Exe, Otherwise
from esimbpf.kernel.roster import Changes
from esimbpf.model import Process
from esimbpf.quota import App, Cgroup, Whom
from esimbpf.quota import Exe as ExePath
from esimbpf.text import original, printable

__all__ = ["Apps", "Members", "paths_at"]

_MOST_REMEMBERED: Final = 1024
"""Executables and cgroups of which is known which app they are, those learnt last, when nothing runs there any more."""
_PATTERN: Final = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class Members:
    """The living processes that a quota is for, as far as they have used the network."""

    cgroups: tuple[str, ...] = ()
    """In which nothing else is, as paths from the root of the hierarchy on."""
    pids: tuple[int, ...] = ()


class Apps:
    """Knows the app of every process that holds a slot."""

    def __init__(self) -> None:
        self._namer = Namer()
        self._rules: tuple[Rule, ...] = ()
        self._processes: dict[int, Process] = {}
        self._names: dict[int, str] = {}
        self._misnamed: set[int] = set()
        """The slots whose processes the kernel takes for another app, or none, by their names."""
        self._exes: dict[str, str] = {}
        self._cgroups: dict[str, str] = {}

    def rename(self, namer: Namer, rules: Iterable[Rule], exes: Iterable[str] = ()) -> None:
        """Go by other names from now on, with all that was seen, and with executables that are known from before."""
        self._namer, self._rules = namer, tuple(rules)
        self._exes, self._cgroups = {}, {}
        for path in (*exes, *(rule.exe for rule in self._rules if rule.exe and not _PATTERN.search(rule.exe))):
            app = app_of_exe(path, self._rules)
            if app:
                _remember(self._exes, path, app)
        for path in (rule.cgroup for rule in self._rules if rule.cgroup and not _PATTERN.search(rule.cgroup)):
            _remember(self._cgroups, path, app_of_cgroup(path, self._rules))
        for slot, process in self._processes.items():
            self._see(slot, process)

    def see(self, changes: Changes) -> None:
        """Follow who holds the slots."""
        for slot in changes.gone:
            self._processes.pop(slot, None)
            self._names.pop(slot, None)
            self._misnamed.discard(slot)
        for slot, process in changes.there.items():
            self._processes[slot] = process
            self._see(slot, process)

    def _see(self, slot: int, process: Process) -> None:
        app = self._names[slot] = self._namer.app(process)
        self._misnamed.discard(slot)
        if process.app_hash in app_hashes(app):
            return
        self._misnamed.add(slot)
        if app_of_exe(process.exe, self._rules) == app:
            _remember(self._exes, process.exe, app)
        elif app_of_cgroup(process.cgroup, self._rules) == app:
            _remember(self._cgroups, process.cgroup, app)

    def otherwise(self, apps: Collection[str]) -> Otherwise:
        """What the kernel has to know beside names, so that quotas of these apps are about all of theirs."""
        if not apps:
            return Otherwise()
        named = frozenset().union(*map(app_hashes, apps))
        processes = {}
        # Where something is said of executables or cgroups, it may be said of anybody.
        for slot in self._processes if self._exes or self._cgroups else self._misnamed:
            process, app = self._processes[slot], self._names[slot]
            taken_for = self._exes.get(process.exe) or self._cgroups.get(process.cgroup)
            if taken_for == app if taken_for else slot not in self._misnamed:
                continue
            if app in apps or (taken_for in apps if taken_for else process.app_hash in named):
                processes[process.pid, process.start_ns] = app
        return Otherwise(processes, dict(self._exes), dict(self._cgroups))

    def exes_in_use(self) -> frozenset[Exe]:
        """The executables of all processes."""
        return frozenset(Exe(process.exe_device, process.exe_inode) for process in self._processes.values())

    def process(self, slot: int) -> Process | None:
        """Who holds a slot; None if nobody does."""
        return self._processes.get(slot)

    def members(self, whom: Whom) -> Members:
        """Of an app, an executable or a cgroup. Of a user nobody: it would be all that he does."""
        match whom:
            case App(name):
                found = [slot for slot, app in self._names.items() if app == name]
                cgroups = {own_cgroup(self._processes[slot].cgroup) for slot in found if not self._is_ruled(slot)}
            case ExePath(path):
                paths = paths_at(path)
                found = [slot for slot, process in self._processes.items() if process.exe in paths]
                cgroups = set()
            case Cgroup(path):
                within = {slot: _within(process.cgroup, path) for slot, process in self._processes.items()}
                found = [slot for slot, cgroup in within.items() if cgroup]
                cgroups = {path} if path.startswith("/") else set(within.values())
            case _:
                return Members()
        pids = {self._processes[slot].pid for slot in found if not self._processes[slot].exited}
        return Members(tuple(sorted(cgroups - {""})), tuple(sorted(pids)))

    def _is_ruled(self, slot: int) -> bool:
        """Whether a rule has named a process, which is then not all that its cgroup is."""
        process = self._processes[slot]
        return any(rule.matches(process) for rule in self._rules)


def paths_at(path: str) -> frozenset[str]:
    """By which paths the kernel may know an executable that is named by one: that, and where its links lead."""
    return frozenset((path, printable(os.path.realpath(os.fsdecode(original(path))))))


def _within(cgroup: str, named: str) -> str:
    """Of a cgroup's path, the part that a path or a unit's name means; empty if it is not in there."""
    if named.startswith("/"):
        return named if f"{cgroup}/".startswith(f"{named}/") else ""
    before, unit, _ = f"{cgroup}/".partition(f"/{named}/")
    return f"{before}/{named}" if unit else ""


def _remember(known: dict[str, str], path: str, app: str) -> None:
    known.pop(path, None)
    known[path] = app
    if len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]
