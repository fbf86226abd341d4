"""Quotas joined to the kernel: up to where each lets pass, and whom it is about.

What a quota has used, the ledger says, and the kernel has a counter of the same packets that only grows: between the
two lies an offset that stays the same. It is known exactly when nothing moves while both are read, and until then
within what has moved meanwhile; then the earlier end of that is where the quota stops.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from esimbpf.errors import EsimbpfError
from esimbpf.kernel.abi import MAX_LINKS, QUOTAS_PER_PROCESS, QUOTAS_PER_SET, SAVER_QUOTA
from esimbpf.kernel.mounts import cgroup2_root, device_of
from esimbpf.kernel.pins import PinnedEngine
from esimbpf.kernel.quotas import NEVER, Action, Counts, Exe, KernelQuotas, OpenServices, Otherwise, Some, Whom
from esimbpf.kernel.quotas import Rule as KernelRule
from esimbpf.kernel.roster import Roster
from esimbpf.ledger.database import transaction
from esimbpf.ledger.quotas import ledger_knows
from esimbpf.membership import Apps, paths_at
from esimbpf.model import Process
from esimbpf.modem.identity import UNKNOWN, Identity
from esimbpf.quota import App, Cgroup, Direction, Everybody, Quota, Standing, Then, User
from esimbpf.quota import Exe as ExePath
from esimbpf.saver import NAME as SAVER
from esimbpf.saver import Service
from esimbpf.text import original

__all__ = ["QUOTAS_OF_ONE_PROCESS", "Enforcer"]

QUOTAS_OF_ONE_PROCESS: Final = QUOTAS_PER_PROCESS - QUOTAS_PER_SET
"""By whatever they name it, those for everybody aside."""

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
        self._roster = Roster(engine)
        self.apps = Apps()
        self._numbers: dict[tuple[str, float], int] = {}
        self._offsets: dict[str, _Offset] = {}
        self._quotas: dict[int, Quota] = {}
        self._rules: dict[int, KernelRule] = {}
        self._whom: dict[int, Whom] | None = None
        self._said_otherwise = Otherwise()
        self._exes: dict[str, frozenset[Exe]] = {}
        self.identities: Mapping[str, Identity] = {}
        """By link, on whose account, and where, it moves bytes now; of those that are left out it is not known."""

    def close(self) -> None:
        """Let go of the maps."""
        self._kernel.close()

    def counters(self) -> dict[tuple[str, float], int]:
        """By its key, what the kernel has ever counted of each quota."""
        return {key: self._kernel.used_bytes(number) for key, number in self._numbers.items()}

    def recall(self, db: sqlite3.Connection) -> None:
        """Know the quotas' numbers as they were given by what is committed."""
        self._numbers = self._given(db)

    def _given(self, db: sqlite3.Connection) -> dict[tuple[str, float], int]:
        rows = db.execute(
            "SELECT number, name, added_s FROM quota_number WHERE attach_id = ?", (self._engine.about.attach_id,)
        )
        return {(name, added_s): number for number, name, added_s in rows}

    def _number(self, one: Standing) -> int:
        """That of the saver mode is always the same: it lets nobody use anything and needs no counter of its own."""
        return SAVER_QUOTA if one.kept.quota.name == SAVER else self._numbers[one.kept.key]

    def number(self, db: sqlite3.Connection, standings: Sequence[Standing]) -> None:
        """Give each quota the number by which the kernel knows it, the same as before if it had one.

        That of a quota that is no more is free again as soon as the kernel knows nothing of it any more. They hold when
        this is committed and recalled. Raises EsimbpfError if there are no more.
        """
        attach_id = self._engine.about.attach_id
        wanted = {one.kept.key for one in standings if one.kept.quota.name != SAVER}
        with transaction(db):
            db.execute("DELETE FROM quota_number WHERE attach_id <> ?", (attach_id,))
            self._set_free(db, {number for key, number in self._given(db).items() if key not in wanted})
            given = self._given(db)
            taken = set(given.values())
            free = (number for number in range(1, SAVER_QUOTA) if number not in taken)
            for key in sorted(wanted - given.keys()):
                number = next(free, None)
                if number is None:
                    raise EsimbpfError(
                        f"the kernel knows {len(taken)} quotas, and some of them until others hold in their place",
                        "remove those first that shall go, and add the others then",
                    )
                db.execute("INSERT INTO quota_number VALUES (?, ?, ?, ?)", (attach_id, number, *key))
                # What the counter has is of those that had the number before.
                db.execute(
                    "UPDATE quota_state SET attach_id = ?, kernel_bytes = ? WHERE name = ?",
                    (attach_id, self._kernel.used_bytes(number), key[0]),
                )

    def _set_free(self, db: sqlite3.Connection, numbers: set[int]) -> None:
        """Let go of those numbers of which the kernel knows nothing any more."""
        if numbers:
            free = numbers - self._kernel.known()
            self._kernel.settle()
            db.executemany("DELETE FROM quota_number WHERE number = ?", [(number,) for number in free])

    def apply(
        self,
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
            number = self._number(one)
            # What was numbered since nobody has used yet.
            now = self._kernel.used_bytes(number)
            stop_at = self._stop_at(one, before.get(one.kept.key, now), after.get(one.kept.key, now))
            rules[number] = self._rule(quota, NEVER if stop_at is None else stop_at)
            whom[number] = self._whom_of(quota)
        self._kernel.leave_open(OpenServices(sum(OpenServices[one.name] for one in services)))
        for number, rule in rules.items():
            if self._rules.get(number) != rule:
                self._kernel.write(number, rule)
        otherwise = self._otherwise(whom)
        if (whom, otherwise) != (self._whom, self._said_otherwise):
            self._kernel.name(whom, otherwise)
            for number in self._kernel.rules().keys() - rules.keys():
                self._kernel.erase(number)
        self._kernel.tell_senders(any(rule.action is Action.BLOCK for rule in rules.values()))
        self._rules, self._whom, self._said_otherwise = rules, whom, otherwise
        self._quotas = {self._number(one): one.kept.quota for one in standings}

    def know_links(self) -> None:
        """Let what is enforced be about the links that there are now, before anything moves over a new one."""
        for number, rule in self._rules.items():
            links = self._links_of(self._quotas[number])
            if links != rule.links:
                self._rules[number] = replace(rule, links=links)
                self._kernel.write(number, self._rules[number])

    def look(self) -> None:
        """Look who has come, and tell the kernel of those whom it takes for others; EsimbpfError, OSError."""
        changes = self._roster.look()
        if not changes:
            return
        self.apps.see(changes)
        if self._whom is not None:
            otherwise = self._otherwise(self._whom)
            if otherwise != self._said_otherwise:
                self._kernel.name(self._whom, otherwise)
                self._said_otherwise = otherwise

    @property
    def goes_by_apps(self) -> bool:
        """Whether it matters to what is enforced which app a process is."""
        return any(one.some.apps for one in (self._whom or {}).values())

    def crowded(self) -> Process | None:
        """A process that more quotas are about than the kernel has room for, one for each time that this is asked."""
        slot = self._kernel.crowded()
        return None if slot is None else self.apps.process(slot)

    def _otherwise(self, whom: Mapping[int, Whom]) -> Otherwise:
        return self.apps.otherwise(frozenset().union(*(one.some.apps for one in whom.values())))

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
        """The links whose packets are used of a quota now, a bit for each; one that is to come is as one unknown."""
        links = self._engine.about.links
        whose = [(name, self.identities.get(name, UNKNOWN)) for name in links]
        whose += [("", UNKNOWN)] * (MAX_LINKS - len(links))
        about = [quota.is_about(name, one.profile, one.roaming) for name, one in whose]
        return sum(1 << number for number, is_about in enumerate(about) if is_about)

    def _whom_of(self, quota: Quota) -> Whom:
        match quota.whom:
            case App(name):
                return Whom(Some(apps=frozenset({name})))
            case ExePath(path):
                return Whom(Some(exes=self._exes_of(path), exe_paths=paths_at(path)))
            case Cgroup(path) if path.startswith("/"):
                there = _cgroup_at(path)
                # By the id as well, because the kernel's record of a path may have been too short.
                return Whom(Some(cgroups=frozenset({there} if there else ()), cgroup_paths=frozenset({path})))
            case Cgroup(unit):
                return Whom(Some(units=frozenset({unit})))
            case User(uid):
                return Whom(Some(users=frozenset({uid})))
            case Everybody(apps):
                return Whom(Some(apps=frozenset(apps)), everybody=True)

    def _exes_of(self, path: str) -> frozenset[Exe]:
        """What is at a path now, and what was and still runs: an upgrade leaves the programs that run in its place."""
        there = _exe_at(path)
        before = self._exes.get(path, frozenset()) & self.apps.exes_in_use()
        self._exes[path] = before | ({there} if there else frozenset())
        return self._exes[path]


def _exe_at(path: str) -> Exe | None:
    """The executable that is at a path now, as the kernel knows it; None if none is."""
    with suppress(OSError):
        there = os.fsdecode(original(path))
        return Exe(device_of(there), os.stat(there).st_ino)
    return None


def _cgroup_at(path: str) -> int | None:
    """The id of the cgroup that has a path now; None if none has."""
    with suppress(OSError):
        return Path(cgroup2_root(), os.fsdecode(original(path)).lstrip("/")).stat().st_ino
    return None
