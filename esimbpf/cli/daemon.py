"""`esimbpf daemon`: the ledger."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esimbpf import config
from esimbpf.attribution import Namer
from esimbpf.cli.attach import attachment_of, keep_attached, open_attached
from esimbpf.cli.options import Common, Links, MaxProcesses, checked_max_processes
from esimbpf.errors import CannotError, EsimbpfError, LedgerError, UsageError
from esimbpf.journal import log, notify
from esimbpf.ledger.database import FILE_NAME, connect, said
from esimbpf.ledger.fold import Folding, thin
from esimbpf.pace import Pace
from esimbpf.text import printable

if TYPE_CHECKING:
    from esimbpf.kernel.links import FoundLink, LinkMonitor
    from esimbpf.kernel.pins import PinnedEngine
    from esimbpf.kernel.reader import Reader

_SHORTEST_FOLD_S: Final = 1.0
_LONGEST_FOLD_S: Final = 60.0
_THIN_EVERY_S: Final = 3600.0


def daemon(
    context: typer.Context,
    links: Links = None,
    fold_every: Annotated[
        float,
        typer.Option(
            metavar="S",
            help=f"Seconds between two foldings into the ledger, {_SHORTEST_FOLD_S:g} to {_LONGEST_FOLD_S:g}.",
        ),
    ] = 10.0,
    max_processes: MaxProcesses = 16384,
) -> None:
    """Keep the ledger: attach for good, follow the links, and write down what is counted, until SIGTERM or Ctrl-C.

    What counts goes on when the daemon ends, and is written down by the next one; `detach` ends it. SIGHUP reads the
    configuration anew. The ledger is in /var/lib/esimbpf, or where --state-dir says.
    """
    from esimbpf.kernel.links import LinkMonitor, choose, list_links

    if not _SHORTEST_FOLD_S <= fold_every <= _LONGEST_FOLD_S:
        raise UsageError(
            f"--fold-every {fold_every:g} is not between {_SHORTEST_FOLD_S:g} and {_LONGEST_FOLD_S:g} seconds",
            "for example: --fold-every 10",
        )
    checked_max_processes(max_processes)
    common: Common = context.obj
    if common.cgroup:
        raise UsageError("the ledger is of all processes", "leave --cgroup out")
    rules = config.read(common.config).apps
    with ExitStack() as stack:
        stack.enter_context(_alone(common.state_dir))
        database = stack.enter_context(_database(common.state_dir))
        monitor = stack.enter_context(LinkMonitor())
        chosen = choose(links or (), list_links())
        keep_attached(chosen, max_processes)
        work = _Work(database, monitor, chosen, max_processes, Namer(rules), common)
        stack.callback(work.close)
        work.run(fold_every)


@contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock; CannotError if another daemon has it."""
    shown = printable(str(state_dir))
    try:
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = open(state_dir / "daemon.lock", "a+", encoding="ascii")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise CannotError(
            f"the state folder {shown} cannot be used: {error.strerror}", "run as root, or name another: --state-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read(32).strip()
            raise CannotError(
                f"a daemon keeps the ledger in {shown} already" + (f" (pid {owner})" if owner.isdecimal() else ""),
                "end that one first, or name another folder: --state-dir",
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextmanager
def _database(state_dir: Path) -> Iterator[sqlite3.Connection]:
    database = connect(state_dir)
    try:
        yield database
    finally:
        database.close()


class _Work:
    """The daemon at work."""

    def __init__(
        self,
        database: sqlite3.Connection,
        monitor: LinkMonitor,
        chosen: Sequence[FoundLink],
        max_processes: int,
        namer: Namer,
        common: Common,
    ) -> None:
        self._database = database
        self._monitor = monitor
        self._wanted = tuple(found.link.name for found in chosen)
        self._max_processes = max_processes
        self._namer = namer
        self._common = common
        self._path = common.state_dir / FILE_NAME
        self._troubled = ""
        self._thinned_s = 0.0
        self._engine: PinnedEngine
        self._reader: Reader
        self._folding: Folding
        self._open()

    def _open(self) -> None:
        """Take hold of what is attached."""
        from esimbpf.kernel.reader import Reader

        self._engine = open_attached()
        self._reader = Reader(self._engine, len(self._engine.about.links))
        with said(self._path):
            self._folding = Folding(self._database, attachment_of(self._engine.about), self._namer)

    def close(self) -> None:
        """Let go; what is attached stays."""
        self._engine.close()

    def run(self, fold_every_s: float) -> None:
        """Fold until a signal says that it is enough."""
        ending = (signal.SIGINT, signal.SIGTERM)
        with Pace(fold_every_s, end_on=ending, wake_on=(signal.SIGHUP,)) as pace:
            self._fold()
            log(f"counting {', '.join(self._engine.about.links)}, folding into {printable(str(self._path))}")
            print("ready", file=sys.stderr, flush=True)
            notify("READY=1")
            while not pace.ended:
                ready = pace.wait(readable=(self._monitor.fileno(),))
                if pace.woken and not pace.ended:
                    self._reload()
                elif ready:
                    self._follow_links()
                else:
                    self._fold()
            notify("STOPPING=1")
        log(f"ended by {pace.ended.name if pace.ended else 'nothing'}; what is attached goes on counting")

    def _reload(self) -> None:
        notify("RELOADING=1")
        try:
            self._folding.namer = self._namer = Namer(config.read(self._common.config).apps)
            log("the configuration was read anew")
        except EsimbpfError as error:
            log(f"the configuration stays as it was: {error.message}", "warning")
        notify("READY=1")

    # -- links -------------------------------------------------------------------

    def _follow_links(self) -> None:
        """Attach to links that have come back as other interfaces."""
        from esimbpf.kernel.links import list_links

        changes = self._monitor.poll()
        if not changes:
            return
        found = {one.link.name: one for one in list_links()}
        for number, name in enumerate(self._engine.about.links):
            there = found.get(name)
            if there is None:
                if self._engine.watched_ifindex(number):
                    self._engine.detach_link(number)
                    log(f"{printable(name)} is gone; it is counted on when it comes back")
            elif self._engine.attached_to(number) != there.link.ifindex or there.link.ifindex in changes.gone:
                try:
                    self._engine.attach_found(number, there)
                    log(f"{printable(name)} is counted, interface {there.link.ifindex}")
                except EsimbpfError as error:
                    log(error.message, "warning")

    # -- folding -----------------------------------------------------------------

    def _fold(self) -> None:
        """Read, and write down what was read; what cannot be written is kept until it can."""
        try:
            self._write_down()
        except LedgerError as error:
            if error.message != self._troubled:
                log(f"{error.message}; counting goes on, and is written down when it can be ({error.hint})", "error")
            self._troubled = error.message
        else:
            if self._troubled:
                log("the ledger can be written again; nothing is missing")
            self._troubled = ""
            self._keep_alive()

    def _write_down(self) -> None:
        self._folding.take(self._reader.read())
        with said(self._path):
            self._folding.commit()
            self._reader.take_back()
            now_s = time.time()
            if abs(now_s - self._thinned_s) >= _THIN_EVERY_S:
                thin(self._database, now_s)
                self._thinned_s = now_s

    def _keep_alive(self) -> None:
        """What somebody has detached is attached again; what somebody has added is counted too."""
        from esimbpf.kernel.links import list_links
        from esimbpf.kernel.pins import PinnedEngine

        try:
            now = PinnedEngine()
        except FileNotFoundError:
            log("what was attached has been detached; attaching again", "warning")
            # Its maps live as long as they are open here, and have what was counted until it went.
            self._write_down()
            found = [one for one in list_links() if one.link.name in self._wanted]
            keep_attached(found, self._max_processes)
        else:
            with now:
                if now.about.attach_id == self._engine.about.attach_id and now.about.links == self._engine.about.links:
                    return
        self._engine.close()
        self._open()
