"""`esimbpf run`: what did this command cost?"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from esimbpf.cli.options import Common, Links, MaxProcesses, checked_interval, open_session
from esimbpf.cli.streams import complain, give_up
from esimbpf.errors import CannotError, EsimbpfError, UsageError
from esimbpf.model import NOTHING, Counters, GroupBy, Kind, Process, Tick
from esimbpf.text import printable
from esimbpf.units import Units

if TYPE_CHECKING:
    from esimbpf.kernel.cgroups import OwnCgroup
    from esimbpf.session import Session
    from esimbpf.sinks.summary import Summary

_FORWARDED: Final = frozenset(
    {
        *(signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH),
    }
)
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127


class _CommandError(EsimbpfError):
    """The command could not be run; the status is the shells' for it."""

    def __init__(self, message: str, hint: str, status: int) -> None:
        super().__init__(message, hint)
        self.exit_status = status


def run(
    context: typer.Context,
    links: Links = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE|-", help="Write one JSON object instead of the summary.")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            metavar="",
            help="When the command has ended, count on until its last descendant has too, or Ctrl-C.",
        ),
    ] = True,
    interval: Annotated[float, typer.Option(metavar="S", help="Seconds over which peak rates are measured.")] = 1.0,
    units: Annotated[Units, typer.Option(help="Decimal or binary prefixes.")] = Units.SI,
    max_processes: MaxProcesses = 16384,
) -> int:
    """Run a command, and say what it and all of its descendants moved: esimbpf run [LINK]… -- COMMAND [ARG]…

    Its exit status is kept (128 + n if signal n ended it; 127 if it was not found, 126 if it cannot be executed), its
    stdin, stdout and stderr are untouched, and signals are passed on. The summary goes to stderr when it has ended and
    all that it started: processes count that outlive it, go into the background, or move to another cgroup.

    [dim]What does an update cost?[/dim]   esimbpf run -- apt-get update
    """
    from esimbpf.kernel.cgroups import OwnCgroup
    from esimbpf.kernel.mounts import cgroup2_root

    common: Common = context.obj
    if not common.command:
        example = " ".join(links) if links else "curl -O https://example.org/file"
        raise UsageError("there is no command to run", f"put it behind two dashes: esimbpf run -- {printable(example)}")
    checked_interval(interval)
    with ExitStack() as stack:
        session = stack.enter_context(
            open_session(common, links or (), interval, [GroupBy.PROCESS], max_processes, follow=True)
        )
        try:
            cgroup = stack.enter_context(OwnCgroup(cgroup2_root(common.cgroup)))
        except CannotError:
            # Ancestry tells the descendants too, where it can be followed.
            if not session.can_follow:
                raise
            cgroup = None
        output = _opened(json, stack)
        summary = _Run(session, cgroup, common.command, interval, wait).go()
        try:
            _report(summary, output, units)
        except BrokenPipeError:
            give_up(sys.stdout.fileno())
        except OSError as error:
            # The command has done its work: its status stands.
            complain(f"esimbpf: cannot write what the command has moved: {error.strerror}", "check where it goes")
        return summary.status


def _opened(json: str | None, stack: ExitStack) -> int | None:
    """The descriptor for the JSON object, opened before anything is run."""
    if json is None:
        return None
    if json == "-":
        return sys.stdout.fileno()
    try:
        fd = os.open(json, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise EsimbpfError(
            f"cannot write {printable(json)}: {error.strerror}", "name a file that can be written"
        ) from error
    stack.callback(os.close, fd)
    return fd


def _report(summary: Summary, output: int | None, units: Units) -> None:
    from rich.console import Console

    from esimbpf.sinks.summary import summary_json, summary_text

    if output is None:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        ascii_only = not console.encoding.lower().startswith("utf")
        console.print(summary_text(summary, units, ascii_only), end="")
        return
    data = summary_json(summary)
    while data:
        data = data[os.write(output, data) :]


class _Run:
    """One run of a command."""

    def __init__(
        self, session: Session, cgroup: OwnCgroup | None, command: Sequence[str], interval_s: float, wait: bool
    ) -> None:
        self._session = session
        self._cgroup = cgroup
        self._command = tuple(command)
        self._interval_s = interval_s
        self._wait_for_all = wait
        self._counters: dict[str, Counters] = {}
        self._rows: dict[str, tuple[str, str]] = {}
        self._processes: dict[str, Process] = {}
        self._peak = (0.0, 0.0)
        self._unattributed = NOTHING
        self._child = 0
        self._forked_ns = 0

    def go(self) -> Summary:
        """Run it to its end."""
        from esimbpf.sinks.summary import Cost, Summary

        watched = _FORWARDED | {signal.SIGCHLD}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        started, begun = datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME)
        self._note(self._session.tick(everything=False), False)
        self._child = self._start(before)
        status = self._follow(self._child, watched)
        duration_s = time.clock_gettime(time.CLOCK_BOOTTIME) - begun
        self._note(self._session.tick(everything=False, final=True), True)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return Summary(
            command=tuple(map(printable, self._command)),
            status=status,
            links=tuple(link.name for link in self._session.start.links),
            started=started,
            duration_s=duration_s,
            peak_rx_bytes_per_s=self._peak[0],
            peak_tx_bytes_per_s=self._peak[1],
            costs=tuple(
                Cost(process, *self._rows[key], self._counters[key]) for key, process in self._processes.items()
            ),
            still_running=len(self._running()),
            unattributed=self._unattributed,
        )

    def _start(self, mask: set[int | signal.Signals]) -> int:
        """Start the command, stopped until it is in its cgroup; _CommandError if it cannot be executed."""
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        failed_read, failed_write = os.pipe2(os.O_CLOEXEC)
        self._forked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        child = os.fork()
        if child == 0:
            self._exec(mask, go_read, go_write, failed_write)
        os.close(go_read)
        os.close(failed_write)
        try:
            self._session.follow_command(child)
            if self._cgroup:
                self._cgroup.take(child)
        except OSError as error:
            os.close(go_write)
            os.waitpid(child, 0)
            raise EsimbpfError(
                f"the command cannot be put into its cgroup: {error.strerror}", "esimbpf doctor checks cgroup v2"
            ) from error
        os.write(go_write, b"g")
        os.close(go_write)
        with open(failed_read, "rb") as failed:
            error_number = failed.read()
        if error_number:
            os.waitpid(child, 0)
            raise self._not_run(int(error_number))
        return child

    def _exec(self, mask: set[int | signal.Signals], go_read: int, go_write: int, failed_write: int) -> NoReturn:
        """In the child: wait for the word, and become the command."""
        try:
            os.close(go_write)
            if os.read(go_read, 1):
                # What Python ignores, the command must not find ignored.
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                os.execvp(self._command[0], self._command)
        except OSError as error:
            os.write(failed_write, str(error.errno).encode())
        finally:
            os._exit(_NOT_FOUND)

    def _not_run(self, number: int) -> EsimbpfError:
        name = printable(self._command[0])
        if number == 2:
            return _CommandError(f"{name}: command not found", "check its name, or give its path", _NOT_FOUND)
        return _CommandError(f"{name}: {os.strerror(number)}", "check that it can be executed", _NOT_EXECUTABLE)

    def _follow(self, child: int, watched: frozenset[signal.Signals]) -> int:
        """Measure and pass signals on until the command has ended; its exit status."""
        status: int | None = None
        due = time.monotonic() + self._interval_s
        while True:
            left = due - time.monotonic()
            if left <= 0:
                self._note(self._session.tick(everything=False), True)
                due = max(due + self._interval_s, time.monotonic())
                continue
            came = signal.sigtimedwait(watched, min(left, 0.2) if status is not None else left)
            if came is not None and came.si_signo != signal.SIGCHLD:
                if status is not None:
                    return status  # waiting for the others can be ended
                # The terminal's own signals (Ctrl-C) have reached the whole group already; si_code tells.
                if came.si_code <= 0:
                    os.kill(child, came.si_signo)
            if status is None:
                pid, wait_status = os.waitpid(child, os.WNOHANG)
                if pid:
                    status = _shell_status(wait_status)
                    left_behind = len(self._running())
                    if not self._wait_for_all:
                        return status
                    if left_behind:
                        complain(
                            f"esimbpf: the command has ended with status {status}; of what it started "
                            f"{left_behind} {'process runs' if left_behind == 1 else 'processes run'} on and count",
                            "Ctrl-C ends the counting and leaves them alone; --no-wait does not wait for them",
                        )
            if status is not None and not self._running():
                return status

    def _running(self) -> frozenset[int]:
        """The pids of what the command has started and still runs, wherever it has gone."""
        followed = self._session.living_descendants()
        return followed | self._cgroup.running() if self._cgroup else followed

    def _belongs(self, process: Process) -> bool:
        """Whether a process is the command or a descendant of it."""
        if process.pid == self._child and process.start_ns >= self._forked_ns:
            return True
        return self._session.descends(process) or (self._cgroup is not None and self._cgroup.has(process))

    def _note(self, tick: Tick, counted: bool) -> None:
        """Add what the command's processes moved in an interval."""
        moved = NOTHING
        for link in tick.links:
            for row in link.rows:
                if row.kind is Kind.UNATTRIBUTED and counted:
                    self._unattributed += row.delta
                if row.kind is not Kind.PROCESS or not counted:
                    continue
                if row.id not in self._processes and not self._belongs(row.processes[0]):
                    continue
                self._processes[row.id] = row.processes[0]
                self._rows[row.id] = (row.name, row.app)
                self._counters[row.id] = self._counters.get(row.id, NOTHING) + row.delta
                moved += row.delta
        # A shorter interval than the one asked for would make a peak of a few packets.
        seconds = max(tick.interval_s, self._interval_s)
        self._peak = (max(self._peak[0], moved.rx_bytes / seconds), max(self._peak[1], moved.tx_bytes / seconds))


def _shell_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code
