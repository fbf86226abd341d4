"""Quotas joined to the kernel: up to where each lets pass, and whom it is about.

What a quota has used, the ledger says, and the kernel has a counter of the same packets that only grows: between the
two lies an offset that stays the same. It is known exactly when nothing moves while both are read, and until then
within what has moved meanwhile; then the earlier end of that is where the quota stops.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esimbpf.apps import NamedBy, Rule, named_by
from esimbpf.attribution import Namer
from esimbpf.errors import EsimbpfError
from esimbpf.kernel.abi import NAME_BYTES, SAVER_QUOTA
from esimbpf.kernel.mounts import cgroup2_root, device_of
from esimbpf.kernel.pins import PinnedEngine
from esimbpf.kernel.quotas import NEVER, Action, Counts, Exe, KernelQuotas, OpenServices, Some, Whom
from esimbpf.kernel.quotas import Rule as KernelRule
from esimbpf.ledger.database import transaction
from esimbpf.ledger.quotas import ledger_knows
from esimbpf.model import Process
from esimbpf.modem.identity import UNKNOWN, Identity
from esimbpf.quota import App, Cgroup, Direction, Everybody, Quota, Standing, Then, User
from esimbpf.quota import Exe as ExePath
from esimbpf.saver import NAME as SAVER
from esimbpf.saver import Service
from esimbpf.text import original

__all__ = ["Apps", "Enforcer"]

_COUNTS: Final = {
    Direction.BOTH: Counts.RECEIVED | Counts.SENT,
    Direction.DOWN: Counts.RECEIVED,
    Direction.UP: Counts.SENT,
}
_ACTIONS: Final = {Then.NOTIFY: Action.NOTIFY, Then.BLOCK: Action.BLOCK, Then.THROTTLE: Action.THROTTLE}


@dataclass(frozen=True, slots=True)
class _Offset:
    """What the kernel's counter is ahead of what the ledger says, between two numbers."""

    basis: object
    """What the ledger's amount was made of; with another it is another offset."""
    least: int
    most: int

    def with_(self, later: _Offset) -> _Offset:
        """What both say; the later one alone if they contradict each other."""
        least, most = max(self.least, later.least), min(self.most, later.most)
        return _Offset(self.basis, least, most) if self.basis == later.basis and least <= most else later


class Enforcer:
    """Has the kernel enforce quotas on what is attached; it goes on when this is closed."""

    def __init__(self, engine: PinnedEngine) -> None:
        self._engine = engine
        self._kernel = KernelQuotas(engine)
        self.apps = Apps(Namer(), ())
        self._numbers: dict[tuple[str, float], int] = {}
        self._offsets: dict[str, _Offset] = {}
        self._rules: dict[int, KernelRule] = {}
        self._whom: dict[int, Whom] | None = None
        self.identities: Mapping[str, Identity] = {}
        """By link, on whose account, and where, it moves bytes now; of those that are left out it is not known."""

    def close(self) -> None:
        """Let go of the maps."""
        self._kernel.close()

    def counters(self) -> dict[tuple[str, float], int]:
        """By its key, what the kernel has ever counted of each quota."""
        return {key: self._kernel.used_bytes(number) for key, number in self._numbers.items()}

    def recall(self, db: sqlite3.Connection) -> None:
        """Know the quotas' numbers as they were given before."""
        rows = db.execute(
            "SELECT number, name, added_s FROM quota_number WHERE attach_id = ?", (self._engine.about.attach_id,)
        )
        self._numbers = {(name, added_s): number for number, name, added_s in rows}

    def number(self, db: sqlite3.Connection, standings: Sequence[Standing]) -> None:
        """Give each quota the number by which the kernel knows it, the same as before if it had one.

        Raises EsimbpfError if there are no more.
        """
        attach_id = self._engine.about.attach_id
        with transaction(db):
            db.execute("DELETE FROM quota_number WHERE attach_id <> ?", (attach_id,))
            self.recall(db)
            numbers = self._numbers
            following = max((number for number in numbers.values() if number < SAVER_QUOTA), default=0) + 1
            for one in standings:
                key = one.kept.key
                if key[0] == SAVER:
                    # What it lets nobody use needs no counter of its own.
                    numbers[key] = SAVER_QUOTA
                elif key not in numbers:
                    if following >= SAVER_QUOTA:
                        raise EsimbpfError(
                            f"more than {SAVER_QUOTA - 1} quotas were added since counting began",
                            "begin to count anew: esimbpf detach; esimbpf attach",
                        )
                    db.execute("INSERT INTO quota_number VALUES (?, ?, ?, ?)", (attach_id, following, *key))
                    numbers[key] = following
                    following += 1
        wanted = {one.kept.key for one in standings}
        self._numbers = {key: number for key, number in numbers.items() if key in wanted}

    def apply(
        self,
        db: sqlite3.Connection,
        standings: Sequence[Standing],
        before: Mapping[tuple[str, float], int],
        after: Mapping[tuple[str, float], int],
        services: Sequence[Service] = (),
    ) -> None:
        """Let the kernel enforce what stands there now.

        `before` and `after` are counters around that reading, `services` those that the saver mode leaves open.

        Raises EsimbpfError if the kernel has no room for it.
        """
        whom: dict[int, Whom] = {}
        rules: dict[int, KernelRule] = {}
        for one in standings:
            quota = one.kept.quota
            number = self._numbers[one.kept.key]
            stop_at = self._stop_at(one, before.get(one.kept.key, 0), after.get(one.kept.key, 0))
            rules[number] = self._rule(quota, NEVER if stop_at is None else stop_at)
            whom[number] = self._whom_of(db, quota)
        self._kernel.leave_open(OpenServices(sum(OpenServices[one.name] for one in services)))
        for number, rule in rules.items():
            if self._rules.get(number) != rule:
                self._kernel.write(number, rule)
        if whom != self._whom:
            self._kernel.name(whom)
            for number in self._kernel.rules().keys() - rules.keys():
                self._kernel.erase(number)
        self._kernel.tell_senders(any(rule.action is Action.BLOCK for rule in rules.values()))
        self._rules, self._whom = rules, whom

    def _stop_at(self, one: Standing, before: int, after: int) -> int | None:
        """The counter's value at which a quota is used up; None if nothing is to be enforced."""
        quota = one.kept.quota
        if not ledger_knows(quota):
            # Its use is the kernel's own count.
            after = before
        # While it is about other links, the kernel counts other packets.
        basis = (one.kept.key, one.period, one.kept.said_bytes, one.kept.counted_bytes, self._links_of(quota))
        offset = _Offset(basis, before - one.used_bytes, after - one.used_bytes)
        known = self._offsets.get(quota.name)
        offset = known.with_(offset) if known else offset
        self._offsets[quota.name] = offset
        return max(0, offset.least + quota.limit_bytes) if one.enforceable else None

    def _rule(self, quota: Quota, stop_at: int) -> KernelRule:
        rate = quota.action.bytes_per_second
        return KernelRule(
            stop_at_bytes=stop_at,
            links=self._links_of(quota),
            counts=_COUNTS[quota.direction],
            action=_ACTIONS[quota.action.then],
            bytes_per_s=rate,
            burst_ns=quota.action.burst_bytes * 10**9 // rate if rate else 0,
            whole=quota.whom == Everybody(),
        )

    def _links_of(self, quota: Quota) -> int:
        """The links whose packets are used of a quota now, a bit for each."""
        about = [
            quota.is_about(name, whose.profile, whose.roaming)
            for name in self._engine.about.links
            for whose in (self.identities.get(name, UNKNOWN),)
        ]
        return sum(1 << number for number, is_about in enumerate(about) if is_about)

    def _whom_of(self, db: sqlite3.Connection, quota: Quota) -> Whom:
        match quota.whom:
            case App(name):
                return Whom(self.apps.some(db, name))
            case ExePath(path):
                exe = _exe_at(path)
                return Whom(Some(exes=frozenset({exe} if exe else ())))
            case Cgroup(path):
                return Whom(Some(cgroups=_cgroups_at(path)))
            case User(uid):
                return Whom(Some(users=frozenset({uid})))
            case Everybody(apps):
                spared = [self.apps.some(db, name) for name in apps]
                return Whom(
                    Some(
                        exes=frozenset().union(*(one.exes for one in spared)),
                        cgroups=frozenset().union(*(one.cgroups for one in spared)),
                        processes=frozenset().union(*(one.processes for one in spared)),
                        names=frozenset().union(*(one.names for one in spared)),
                    ),
                    everybody=True,
                )


@dataclass(slots=True)
class _App:
    """By what the kernel knows an app, and the process of which it was learnt last."""

    exes: dict[Exe, Process] = field(default_factory=dict)
    cgroups: dict[int, Process] = field(default_factory=dict)
    processes: dict[tuple[int, int], Process] = field(default_factory=dict)


class Apps:
    """By what the kernel knows the processes of apps: executables, cgroups, and processes that share both."""

    def __init__(self, namer: Namer, rules: Sequence[Rule]) -> None:
        self._namer = namer
        self._rules = rules
        self._apps: dict[str, _App] = {}

    def rename(self, namer: Namer, rules: Sequence[Rule]) -> None:
        """Go by other names from now on, with all that was seen."""
        seen = self._apps.values()
        self._namer, self._rules, self._apps = namer, rules, {}
        for app in seen:
            for known in (app.exes, app.cgroups, app.processes):
                self.see(known.values(), ())

    def see(self, processes: Iterable[Process], ended: Iterable[Process]) -> None:
        """Learn from processes that have moved something, and forget those that have ended."""
        for process in processes:
            app = self._apps.setdefault(self._namer.app(process), _App())
            match named_by(process, self._rules):
                case NamedBy.EXE:
                    app.exes[Exe(process.exe_device, process.exe_inode)] = process
                case NamedBy.CGROUP:
                    app.cgroups[process.cgroup_id] = process
                case NamedBy.ITSELF:
                    app.processes[process.pid, process.start_ns] = process
        for process in ended:
            app = self._apps.get(self._namer.app(process), _App())
            app.processes.pop((process.pid, process.start_ns), None)

    def some(self, db: sqlite3.Connection, name: str) -> Some:
        """The processes of an app: what was seen of it, what the ledger has seen, and what a shell would find.

        Of one of which nothing is found, those of any executable of its name, until more is known.
        """
        seen = self._apps.get(name, _App())
        paths = [
            exe
            for (exe,) in db.execute(
                "SELECT DISTINCT exe FROM program JOIN app ON app.id = app_id WHERE app.name = ?", (name,)
            )
        ]
        found = shutil.which(original(name).decode(errors="surrogateescape"))
        exes = set(seen.exes)
        for path in {*paths, os.path.realpath(found) if found else ""}:
            as_process = Process(0, 0, 0, "", path, (), "/")
            if path and named_by(as_process, self._rules) is NamedBy.EXE and self._namer.app(as_process) == name:
                exe = _exe_at(path)
                if exe:
                    exes.add(exe)
        some = Some(frozenset(exes), frozenset(seen.cgroups), frozenset(), frozenset(seen.processes))
        if some != Some() or len(original(name)) >= NAME_BYTES or self._shared(name):
            return some
        return Some(names=frozenset({original(name)}))

    def _shared(self, name: str) -> bool:
        """Whether an executable of this name may run other apps, too."""
        return named_by(Process(0, 0, 0, "", f"/{name}", (), "/"), self._rules) is not NamedBy.EXE


def _exe_at(path: str) -> Exe | None:
    """The executable that is at a path now, as the kernel knows it; None if none is."""
    with suppress(OSError):
        return Exe(device_of(path), os.stat(path).st_ino)
    return None


def _cgroups_at(path: str) -> frozenset[int]:
    """The ids of a cgroup by its path, or of all that have the name of a unit; none as long as it is not there."""
    root = Path(cgroup2_root())
    if path.startswith("/"):
        places = [root / path.lstrip("/")]
    else:
        places = [Path(folder, path) for folder, below, _ in os.walk(root) if path in below]
    found = set()
    for place in places:
        with suppress(OSError):
            found.add(place.stat().st_ino)
    return frozenset(found)
