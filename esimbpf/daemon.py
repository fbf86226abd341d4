"""The daemon at work: it keeps counting attached, follows the links, and writes down what is counted."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from esimbpf.apps import process_name
from esimbpf.attachment import keep_attached, keeping_the_ledger, open_attached
from esimbpf.attribution import Namer
from esimbpf.config import Config
from esimbpf.dispatch import Dispatcher
from esimbpf.enforcement import QUOTAS_OF_ONE_PROCESS, Enforcer
from esimbpf.errors import EsimbpfError, LedgerError, NoSuchLink
from esimbpf.event_gatherer import EventGatherer
from esimbpf.events import Event, link_down, link_up, roaming_changed, tracer_gap
from esimbpf.journal import log, notify, notify_reloading
from esimbpf.kernel import pins
from esimbpf.kernel.links import FoundLink, LinkMonitor, cellular_links, choose, list_links
from esimbpf.kernel.pins import About, PinnedEngine
from esimbpf.ledger import quotas
from esimbpf.ledger.database import FILE_NAME, check_version, connect, said, transaction
from esimbpf.ledger.fold import Folding, thin
from esimbpf.modem.identity import Identity, in_words
from esimbpf.modem.watch import ModemWatch
from esimbpf.pace import Pace
from esimbpf.pinned import attachment_of, reader_of
from esimbpf.quota import Standing
from esimbpf.saver import Service
from esimbpf.snapshot import NO_ROOM_FOR_BLOCKED, ReservedSlot
from esimbpf.spans import local_zone
from esimbpf.text import printable

__all__ = ["Daemon"]

_THIN_EVERY_S: Final = 3600.0
_MODEMS_S: Final = 2.0
"""So long it is waited for what ModemManager says, before what is counted counts for an unknown SIM profile."""
_LOOK_EVERY_S: Final = 1.0
"""So long a process that the kernel takes for another app's is limited with that, or not at all."""
_STEP_NS: Final = 2 * 10**9
"""By so much the wall clock does not drift between two foldings: it was set."""
_JUMP_NS: Final = 3600 * 10**9
_TRUSTED_AFTER_NS: Final = 86400 * 10**9


class Daemon:
    """Counts `names`, or all cellular links, into the ledger of a state folder, from its making until it is closed.

    `read_config` reads the configuration. A ledger that cannot be used is no reason not to count: what is counted is
    written down when it can be. Raises the engine's errors, and CannotError if another daemon is at work.
    """

    def __init__(
        self, names: Sequence[str], state_dir: Path, max_processes: int, read_config: Callable[[], Config]
    ) -> None:
        self._names = tuple(names)
        self._state_dir = state_dir
        self._max_processes = max_processes
        self._read_config = read_config
        self._config = read_config()
        self._trouble = ""
        self._looked_s = 0.0
        self._warned: set[str] = set()
        self._book: _Book | None = None
        with ExitStack() as undo:
            undo.enter_context(keeping_the_ledger(state_dir))
            self._monitor = undo.enter_context(LinkMonitor())
            self._modems = undo.enter_context(ModemWatch())
            self._modems.settle(_MODEMS_S)
            self._attached = undo.enter_context(ExitStack())
            undo.callback(self._close_book)
            self._missed: tuple[str, ...] = ()
            found = list_links()
            self._say_what_is_missing(found)
            if keep_attached((), max_processes).fresh:
                self._open()
                self._fold()
                for one in self._wanted(found):
                    self._attach(one)
            self._missed = keep_attached(self._wanted(found), max_processes).missed
            self._open()
            self._dispatcher = undo.enter_context(closing(Dispatcher(state_dir, self._config)))
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Let go; what is attached stays."""
        self._undo.close()

    def run(self, fold_every_s: float) -> None:
        """Fold until SIGTERM or SIGINT, and once more then; SIGHUP reads the configuration anew."""
        ending = (signal.SIGINT, signal.SIGTERM)
        with Pace(fold_every_s, end_on=ending, wake_on=(signal.SIGHUP,)) as pace:
            self._fold()
            log(f"counting {self._counted()}, folding into {printable(str(self._state_dir / FILE_NAME))}")
            print("ready", file=sys.stderr, flush=True)
            notify("READY=1")
            while not pace.ended:
                followed = (self._monitor.fileno(), self._modems.fileno())
                ready = pace.wait((*followed, *self._dispatcher.filenos()), within_s=self._look_within_s())
                if pace.ended:
                    break
                if pace.woken:
                    self._reload()
                elif pace.early:
                    self._look()
                elif not ready:
                    self._fold()
                    self._keep_alive()
                elif self._monitor.fileno() in ready:
                    self._follow_links()
                elif self._modems.fileno() in ready:
                    self._follow_modems()
                self._dispatcher.turn()
            notify("STOPPING=1")
            self._fold()
        log(f"ended by {pace.ended.name if pace.ended else 'nothing'}; what is attached goes on counting")

    def _reload(self) -> None:
        notify_reloading()
        trouble = ""
        try:
            self._config = self._read_config()
            self._dispatcher.reload(self._config)
            if self._book:
                self._book.use(self._config)
        except EsimbpfError as error:
            trouble = error.message
        # Quotas may have changed as well; what is said now holds.
        self._fold()
        if trouble:
            log(f"the configuration stays as it was: {trouble}", "warning")
        else:
            log("the configuration was read anew")
        notify("READY=1")

    def _look_within_s(self) -> float:
        """When it is to be looked who has come: soon, where it matters which app it is."""
        if not self._book or not self._book.goes_by_apps:
            return math.inf
        return max(0.0, self._looked_s + _LOOK_EVERY_S - time.monotonic())

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        if self._book:
            self._book.look()

    # -- what is attached --------------------------------------------------------

    def _open(self) -> None:
        """Take hold of what is attached."""
        self._close_book()
        self._attached.close()
        self._engine: PinnedEngine = self._attached.enter_context(open_attached())
        self._attached.enter_context(self._engine.owned())
        with pins.changing():
            self._engine.kept_in(str(self._state_dir.absolute()))

    def _keep_alive(self) -> None:
        """What somebody has detached is attached again; what somebody has added is counted too."""
        try:
            now = About.of(pins.place())
        except FileNotFoundError:
            log("what was attached has been detached; attaching again", "warning")
            # Its maps live as long as they are open here, and have what was counted until it went.
            self._fold()
            keep_attached(self._wanted(list_links()), self._max_processes)
        else:
            about = self._engine.about
            if (now.attach_id, now.links) == (about.attach_id, about.links):
                return
        self._open()

    # -- links -------------------------------------------------------------------

    def _say_what_is_missing(self, found: Sequence[FoundLink]) -> None:
        for name in self._names or [None]:
            try:
                choose([name] if name else [], found)
            except NoSuchLink as error:
                log(f"{error.message}; it is counted when it comes ({error.hint})", "warning")

    def _wanted(self, found: Sequence[FoundLink]) -> tuple[FoundLink, ...]:
        """Of the links that are to be counted, those that are there."""
        if not self._names:
            return cellular_links(found)
        known = {name for one in found for name in (one.link.name, *one.altnames)}
        there = [name for name in self._names if printable(name) in known]
        return choose(there, found) if there else ()

    def _follow_links(self) -> None:
        """Attach to links that have come, or have come back as other interfaces."""
        changes = self._monitor.poll()
        if not changes:
            return
        self._modems.look_again()
        found = list_links()
        by_name = {one.link.name: one for one in found}
        for number, name in enumerate(self._engine.about.links):
            there = by_name.get(name)
            if there is None:
                if self._engine.watched_ifindex(number):
                    with pins.changing():
                        self._engine.detach_link(number)
                    log(f"{printable(name)} is gone; it is counted on when it comes back")
                    self._happened(link_down(name, datetime.now(UTC)))
            elif self._engine.attached_to(number) != there.link.ifindex or there.link.ifindex in changes.gone:
                self._count(there)
        new = [one for one in self._wanted(found) if self._engine.number(one.link.name) is None]
        if new:
            self._fold()
            for one in new:
                self._count(one)
            self._open()

    def _follow_modems(self) -> None:
        """What has moved until now was moved on the account, and in the place, that was; what comes next on another."""
        changes = self._modems.poll()
        if not changes:
            return
        self._fold()
        self._know_identities()
        others = [
            change
            for change in changes
            if self._engine.number(change.link) is not None and change.after.identity != change.before.identity
        ]
        for change in others:
            event = roaming_changed(change.link, change.before.identity, change.after.identity, change.at.utc)
            if event:
                self._happened(event)
        # Quotas may be about what is now.
        self._fold()
        for change in others:
            log(f"{printable(change.link)}: {in_words(change.after.identity)}")

    def _know_identities(self) -> None:
        if self._book:
            links = self._engine.about.links
            self._book.know({name: self._modems.status(name).identity for name in links})

    def _attach(self, found: FoundLink) -> None:
        """Attach to a link; quotas hold on it from its first packet on."""
        with pins.changing():
            is_new = self._engine.number(found.link.name) is None
            number = self._engine.add(found.link.name)
            if is_new:
                self._know_identities()
            self._engine.attach_found(number, found)

    def _count(self, found: FoundLink) -> None:
        try:
            self._attach(found)
            log(f"{printable(found.link.name)} is counted, interface {found.link.ifindex}")
            self._happened(link_up(found.link.name, datetime.now(UTC)))
        except EsimbpfError as error:
            if error.message not in self._warned:
                log(f"{error.message} ({error.hint})", "warning")
                self._warned.add(error.message)

    def _happened(self, event: Event) -> None:
        """Have an event written down with what is folded next."""
        if self._book:
            self._book.events.note(event)

    # -- the ledger --------------------------------------------------------------

    def _fold(self) -> None:
        """Write down what is counted; what cannot be written is kept, at the latest by the kernel, until it can."""
        try:
            if self._book and self._book.gone:
                log("the ledger was moved away or removed; a new one begins, with all that is still in the kernel")
                self._close_book()
            opened = self._book is None
            if self._book is None:
                self._book = _Book(self._state_dir, self._engine, self._config)
                self._know_identities()
                for name in self._missed:
                    self._book.note_missed(name)
                self._missed = ()
            self._book.fold()
        except LedgerError as error:
            if error.message != self._trouble:
                log(f"{error.message}; counting goes on, and is written down when it can be ({error.hint})", "error")
            self._trouble = error.message
            if not error.passing:
                self._close_book()
        else:
            if self._trouble and opened and self._book.begun_anew:
                log("a new ledger has begun, with all that is still in the kernel; the history is in the old one")
            elif self._trouble:
                log("the ledger can be written again; nothing is missing")
            self._trouble = ""
        written = f"not written down: {self._trouble}" if self._trouble else f"folded at {time.strftime('%T')}"
        notify("WATCHDOG=1", f"STATUS=counting {self._counted()}; {written}")

    def _counted(self) -> str:
        """The links that are counted, in words."""
        return ", ".join(map(printable, self._engine.about.links)) or "nothing yet"

    def _close_book(self) -> None:
        if self._book:
            self._book.close()
        self._book = None


class _Book:
    """The open ledger, and how far what is attached is read into it. Raises LedgerError."""

    def __init__(self, state_dir: Path, engine: PinnedEngine, config: Config) -> None:
        self._path = state_dir / FILE_NAME
        self._db = connect(state_dir)
        self._thinned_s = 0.0
        self._clock_ns: int | None = None
        self._thin_from_ns = 0
        self._attach_id = engine.about.attach_id
        self._trouble = self._refused = ""
        self._said_no_room = False
        self._crowded: set[tuple[int, int]] = set()
        self._overruled: dict[str, str] = {}
        self._services: tuple[Service, ...] = ()
        self._standings: list[Standing] | None = None
        try:
            with said(self._path):
                self._inode = os.stat(self._path).st_ino
                self.begun_anew = self._db.execute("SELECT count(*) FROM attachment").fetchone() == (0,)
                """Nothing was in it when it was opened."""
                self.events = EventGatherer(self._db)
                self._folding = Folding(self._db, attachment_of(engine.about), Namer(config.apps))
                self._reader = reader_of(engine, owns_slots=True)
                self._enforcer = Enforcer(engine)
                self._enforcer.recall(self._db)
            self.use(config)
        except BaseException:
            self._db.close()
            raise

    def use(self, config: Config) -> None:
        """Go by this configuration from now on."""
        with said(self._path):
            exes = quotas.exes_seen(self._db) if config.apps else ()
        self._config = config
        self._folding.namer = namer = Namer(config.apps)
        self._enforcer.apps.rename(namer, config.apps, exes)

    def know(self, identities: Mapping[str, Identity]) -> None:
        """Say on whose account, and where, links move what they move from the last snapshot on."""
        self._folding.identities = self._enforcer.identities = identities
        self._enforcer.know_links()

    @property
    def gone(self) -> bool:
        """Whether the file is no longer there under its name."""
        with suppress(OSError):
            return os.stat(self._path).st_ino != self._inode
        return True

    def fold(self) -> None:
        """Read, and write down what was read; let the kernel enforce what follows from it."""
        self.look()
        before = self._enforcer.counters()
        snapshot = self._reader.read()
        after = self._enforcer.counters()
        self._watch_the_clock(snapshot.wall_ns - snapshot.boottime_ns, snapshot.boottime_ns)
        if not self._said_no_room and any(link.blocked.get(ReservedSlot.OVERFLOW) for link in snapshot.links):
            log(NO_ROOM_FOR_BLOCKED, "warning")
            self._said_no_room = True
        self._folding.take(snapshot)
        now = datetime.fromtimestamp(snapshot.wall_ns / 1e9, UTC)
        with said(self._path):
            check_version(self._db, self._path)
            self._folding.commit(lambda: self._judge(now, before))
            self.events.committed()
            self._enforcer.recall(self._db)
            self._reader.take_back()
            self._enforce(before, after)
            now_s = time.time()
            if abs(now_s - self._thinned_s) >= _THIN_EVERY_S and snapshot.boottime_ns >= self._thin_from_ns:
                thin(self._db, now_s)
                self._thinned_s = now_s

    @property
    def goes_by_apps(self) -> bool:
        """Whether quotas are enforced for which it matters what app a process is."""
        return self._enforcer.goes_by_apps

    def look(self) -> None:
        """Tell the kernel of the processes that have come and that it takes for another app's."""
        self._have(self._enforcer.look)
        process = self._enforcer.crowded()
        if process and (process.pid, process.start_ns) not in self._crowded:
            self._crowded.add((process.pid, process.start_ns))
            log(
                f"more than {QUOTAS_OF_ONE_PROCESS} quotas are about {process_name(process)} (pid {process.pid}) "
                "and not about all; the kernel has no room for more, and some do not limit it: remove one",
                "error",
            )

    def _enforce(self, before: Mapping[tuple[str, float], int], after: Mapping[tuple[str, float], int]) -> None:
        """Let the kernel go by how the quotas stand; where it has no room for that, what it has had holds on."""
        standings = self._standings
        if standings is not None and self._have(lambda: self._enforcer.apply(standings, before, after, self._services)):
            self._refused = ""

    def _have(self, told: Callable[[], None]) -> bool:
        """Have the kernel told something; whether it had room for that. If not, it is said once."""
        try:
            told()
        except (EsimbpfError, OSError) as error:
            words = error.message if isinstance(error, EsimbpfError) else f"the kernel refuses them: {error.strerror}"
            if words != self._refused:
                log(f"quotas hold as before: {words}", "error")
            self._refused = words
            return False
        return True

    def _judge(self, now: datetime, counted: Mapping[tuple[str, float], int]) -> None:
        """Say how quotas stand by what is being folded in, and write down with it what is to be told of them."""
        zone, configured = local_zone(), self._config.quotas
        self.events.write_down(now)
        try:
            with transaction(self._db):
                quotas.note(self._db, configured, now, zone)
                for one in quotas.kept(self._db, configured, now):
                    if one.key in counted and not quotas.ledger_knows(one.quota):
                        period = quotas.period_of(self._db, one, now, zone)
                        quotas.fold_kernel(self._db, one.quota, period, self._attach_id, counted[one.key])
                agreed = quotas.standings(self._db, configured, now, zone)
                standings = list(agreed)
                saver = quotas.saver(self._db)
                if saver:
                    standings.append(saver.standing(now, zone))
                self._services = saver.services if saver else ()
                self._enforcer.number(self._db, standings)
                self.events.write_down_of(agreed, self._enforcer.apps.members)
        except LedgerError:
            raise
        except EsimbpfError as error:
            if error.message != self._trouble:
                log(f"quotas stay as they were: {error.message} ({error.hint})", "error")
            self._trouble = error.message
        else:
            self._trouble = ""
            self._standings = standings
            self._say_what_is_overruled()

    def _say_what_is_overruled(self) -> None:
        before, self._overruled = self._overruled, quotas.overruled(self._db, self._config.quotas)
        for name, words in self._overruled.items():
            if before.get(name) != words:
                log(words, "warning")

    def note_missed(self, link: str) -> None:
        """A link was there and not counted since the last folding."""
        now_s = time.time()
        self._folding.note_missed(link, now_s)
        begin, end = (datetime.fromtimestamp(at_s, UTC) for at_s in (self._folding.last_s, now_s))
        self.events.note(tracer_gap(link, begin, end, "down"))

    def _watch_the_clock(self, booted_ns: int, boottime_ns: int) -> None:
        step_ns = booted_ns - (booted_ns if self._clock_ns is None else self._clock_ns)
        self._clock_ns = booted_ns
        if step_ns > _JUMP_NS:
            # Nothing is let go of as too old because of one jump: it may be wrong, and is mended within a day.
            self._thin_from_ns = boottime_ns + _TRUSTED_AFTER_NS
        if abs(step_ns) > _STEP_NS:
            way = "forward" if step_ns > 0 else "back"
            log(
                f"the clock was set {way} by {abs(step_ns) / 1e9:.0f} s; what is counted stands where it says",
                "warning",
            )

    def close(self) -> None:
        """Let go; what was not committed is still in the kernel, and the kernel goes on enforcing."""
        self._enforcer.close()
        self._db.close()
