"""A run of counting: from attached programs to ticks, link by link."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from esimbpf.apps import Rule
from esimbpf.attribution import LinkTally, Namer
from esimbpf.difference import Difference, Standing
from esimbpf.errors import CannotError, NoSuchLink, UsageError
from esimbpf.kernel.abi import MAX_LINKS
from esimbpf.kernel.engine import Engine, header_bytes
from esimbpf.kernel.links import FoundLink, LinkMonitor, follow, list_links
from esimbpf.kernel.mounts import cgroup2_root
from esimbpf.kernel.netns import cookie
from esimbpf.kernel.pins import About, PinnedEngine, boot_id, changing, pinned_here
from esimbpf.kernel.reader import Reader
from esimbpf.model import NOTHING, GroupBy, LinkTick, Process, Start, Tick
from esimbpf.snapshot import FIRST_PROCESS_SLOT, NO_ROOM_FOR_BLOCKED, ReservedSlot, Snapshot

__all__ = ["DEFAULT_MAX_PROCESSES", "Session", "attach_all"]

DEFAULT_MAX_PROCESSES: Final = 16384


class _Watched:
    """One link of the run, followed by name: its interface may go, and come back as another."""

    def __init__(self, index: int, found: FoundLink, tally: LinkTally, difference: Difference) -> None:
        self.index = index
        self.link = found.link
        self.present = False
        self.tally = tally
        self.difference = difference
        self.delta = NOTHING
        self.total = NOTHING
        self.no_ip = NOTHING
        self.blocked = NOTHING
        self.total_blocked = NOTHING


class Session:
    """Counts the traffic of `links` from its making until it is closed.

    What moved before `start.time` is left out. `groupings` are those that `tick` and `view` can give; the first is
    `tick`'s. `monitor` must have been opened before the links were listed. With `follow`, `follow_command` can be
    used. Raises the errors of the engine.
    """

    def __init__(
        self,
        links: Sequence[FoundLink],
        monitor: LinkMonitor,
        interval_s: float,
        groupings: Sequence[GroupBy],
        max_processes: int = DEFAULT_MAX_PROCESSES,
        cgroup: str | None = None,
        rules: Sequence[Rule] = (),
        follow: bool = False,
    ) -> None:
        if len(links) > MAX_LINKS:
            raise UsageError(
                f"{len(links)} links are more than can be watched at once", f"name at most {MAX_LINKS} of them"
            )
        self._by = groupings[0]
        self._monitor = monitor
        self._gone: set[int] = set()
        self._overflow_shown = self._blocked_overflow_shown = False
        with ExitStack() as undo:
            pinned = None if cgroup else undo.enter_context(_pinned_for(links))
            if pinned:
                self._engine: Engine = pinned
                numbers = [pinned.about.links.index(found.link.name) for found in links]
                sees_all = pinned.about.sees_all
            else:
                _refuse_to_replace_filters(links)
                self._engine = undo.enter_context(Engine(max_processes, len(links), follow=follow))
                numbers = list(range(len(links)))
                sees_all = attach_all(self._engine, cgroup)
            namer = Namer(rules)
            self._links = [
                _Watched(number, found, LinkTally(namer, groupings), Difference(sees_all))
                for number, found in zip(numbers, links, strict=True)
            ]
            self._owns_slots = pinned is None
            for watched, found in zip(self._links, links, strict=True):
                if not self._attach(watched, found):
                    raise NoSuchLink(f"{found.link.name} has just vanished", "see what is there: esimbpf links")
            self.about: About | None = pinned.about if pinned else None
            """What is pinned, if that is what is read."""
            self._sees_all = sees_all
            self._reader = self._new_reader()
            if pinned:
                self.begin_anew()
            self._undo = undo.pop_all()
        self._last_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall_ns = time.time_ns()
        self.start = Start(
            time=_utc(wall_ns),
            host=socket.gethostname(),
            boot_id=boot_id(),
            boot_time_ns=wall_ns - self._last_ns,
            engine=self._engine.name,
            interval_s=interval_s,
            by=self._by,
            links=tuple(watched.link for watched in self._links),
        )
        self._time = self.start.time
        self._interval_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detach everything; nothing of this run stays in the kernel."""
        self._undo.close()

    def begin_anew(self) -> Snapshot:
        """Begin the run of what is pinned now, before its first tick; what was counted before, since the attachment.

        It has the links that are pinned up to the last one of the run.
        """
        self._reader = self._new_reader()
        before = self._reader.read()
        for watched in self._links:
            watched.difference = Difference(self._sees_all)
            watched.difference.advance(before.links[watched.index], before.boottime_ns)
        self._last_ns = before.boottime_ns
        return before

    def go_on_from(self, standings: Mapping[str, Standing]) -> None:
        """Tell what is not told yet where this stands, by link: all of what `begin_anew` gave, fragments apart."""
        for watched in self._links:
            watched.difference = Difference(self._sees_all, standings[watched.link.name])

    @property
    def all_gone(self) -> bool:
        """Whether no link of the run is there any more."""
        return not any(watched.present for watched in self._links)

    def tick(self, everything: bool = True, final: bool = False) -> Tick:
        """Measure now: what has been added since the last call.

        Without `everything`, rows that nothing was added to are left out. `final` carries nothing over.
        """
        self.follow_links()
        snapshot = self._reader.read()
        if self._owns_slots:
            self._reader.take_back()
        self._interval_s = (snapshot.boottime_ns - self._last_ns) / 1e9
        self._last_ns = snapshot.boottime_ns
        self._time = _utc(snapshot.wall_ns)
        for watched in self._links:
            reading = snapshot.links[watched.index]
            delta = watched.difference.advance(reading, snapshot.boottime_ns, final)
            watched.tally.add(delta, snapshot.processes, snapshot.exited)
            watched.delta = delta.total
            watched.total += watched.delta
            watched.no_ip = reading.reserved[ReservedSlot.OTHER]
            watched.blocked = delta.total_blocked
            watched.total_blocked += watched.blocked
            if reading.reserved[ReservedSlot.OVERFLOW]:
                self._overflow_shown = True
            if reading.blocked.get(ReservedSlot.OVERFLOW):
                self._blocked_overflow_shown = True
        return self._tick(self._by, everything)

    def view(self, by: GroupBy) -> Tick:
        """The last interval again, grouped in another way."""
        self._by = by
        return self._tick(by, True)

    @property
    def can_follow(self) -> bool:
        """Whether the descendants of commands can be known."""
        return self._engine.program_fd("process_forked") is not None

    def follow_command(self, pid: int) -> None:
        """Know the descendants of a command from now on; call it before the command has any."""
        self._engine.follow(pid)
        self._undo.callback(self._engine.unfollow, pid)

    def descends(self, process: Process) -> bool:
        """Whether a process is a descendant of a command that is followed."""
        return self._engine.descends(process.pid, process.start_ns)

    def living_descendants(self) -> frozenset[int]:
        """The pids of the descendants that have not ended."""
        return self._engine.living_descendants()

    def fileno(self) -> int:
        """A descriptor that is readable when a link has come, gone or changed: call `follow_links` at once."""
        return self._monitor.fileno()

    def follow_links(self) -> None:
        """Bring the links up to date: one that came back is counted on, under its name."""
        changes = self._monitor.poll()
        if not any(changes.concerns(watched.link) for watched in self._links):
            return
        found = list_links()
        for watched in self._links:
            now = follow(watched.link, found, changes.gone)
            if now is None:
                if watched.present:
                    self._engine.detach_link(watched.index)
                    watched.present = False
            elif watched.present and now.link.ifindex == watched.link.ifindex not in changes.gone:
                watched.link = now.link
            else:
                watched.present = False
                self._attach(watched, now)

    def _new_reader(self) -> Reader:
        return Reader(self._engine, max(watched.index for watched in self._links) + 1, self._owns_slots)

    def _attach(self, watched: _Watched, found: FoundLink) -> bool:
        """Count this interface as the watched link; False if it is gone again."""
        try:
            with nullcontext() if self._owns_slots else changing():
                self._engine.attach_link(watched.index, found.link.ifindex, header_bytes(found.device_type))
        except OSError:
            return False
        watched.link = found.link
        watched.present = True
        return True

    def _tick(self, by: GroupBy, everything: bool) -> Tick:
        return Tick(
            time=self._time,
            interval_s=self._interval_s,
            links=tuple(
                LinkTick(
                    link=watched.link,
                    present=watched.present,
                    rows=watched.tally.rows(by, everything),
                    delta=watched.delta,
                    total=watched.total,
                    other=watched.no_ip,
                    blocked=watched.blocked,
                    total_blocked=watched.total_blocked,
                )
                for watched in self._links
            ),
            warnings=self._warnings(),
        )

    def _warnings(self) -> tuple[str, ...]:
        warnings = [f"without `{lost.program.name}` ({lost.reason}): {lost.program.lost}" for lost in self._engine.lost]
        if self._overflow_shown:
            warnings.append(
                f"more than {self._engine.last_slot + 1 - FIRST_PROCESS_SLOT} processes have used the network at once: "
                "what the others moved is counted under `overflow`; raise --max-processes"
            )
        if self._blocked_overflow_shown:
            warnings.append(NO_ROOM_FOR_BLOCKED)
        warnings += [
            f"{watched.link.name} is gone; it is counted on when it comes back"
            for watched in self._links
            if not watched.present
        ]
        return tuple(warnings)


def attach_all(engine: Engine, cgroup: str | None = None, without: Collection[str] = ()) -> bool:
    """Attach all that knows no link, but for `without`; whether all received packets are seen, wherever they go."""
    engine.set_namespace(cookie() or 0)
    attached_to = cgroup2_root(cgroup)
    engine.attach(attached_to, without)
    # Else what no socket took may have been forwarded, or another cgroup's.
    return attached_to == cgroup2_root() and all(lost.program.name != "forwarded" for lost in engine.lost)


@contextmanager
def _pinned_for(links: Sequence[FoundLink]) -> Iterator[PinnedEngine | None]:
    """What is pinned, if it counts all of these links already."""
    engine = pinned_here()
    if engine and any(engine.number(found.link.name) is None for found in links):
        engine.close()
        engine = None
    if engine is None:
        yield None
    else:
        with engine:
            yield engine


def _refuse_to_replace_filters(links: Sequence[FoundLink]) -> None:
    """CannotError where a link has one place for us only (no tcx, before 6.6), and what is pinned has it."""
    engine = pinned_here()
    if engine is None:
        return
    with engine:
        for found in links:
            number = engine.number(found.link.name)
            if number is not None and engine.has_filters(number):
                raise CannotError(
                    f"{found.link.name} is counted for good already, and this kernel has room for one to count it",
                    "leave --cgroup and links that are not counted by it out, or end it: esimbpf detach",
                )


def _utc(epoch_ns: int) -> datetime:
    return datetime.fromtimestamp(epoch_ns // 1000 / 1e6, UTC)
