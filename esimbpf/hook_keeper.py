"""The process that runs one hook and keeps it to its limits: `python -m esimbpf.hook_keeper`.

A process of its own, for two reasons. When the daemon is killed, the hook is still ended in time, and how it ended is
still written down, so that nobody has to run it again. And a hook that floods, hangs or forks holds no daemon up.

Its standard input is a file with one line of JSON, the order (`Order`); it appends another, the outcome (`Outcome`).
The file is locked (flock(2)) for as long as this process lives: who gets the lock knows that it has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from esimbpf.errors import CannotError
from esimbpf.hooks import account, trusted_program
from esimbpf.text import printable

__all__ = ["KILL_AFTER_S", "MOST_LINES", "MOST_OUTPUT_BYTES", "Order", "Outcome", "main"]

KILL_AFTER_S: Final = 5.0
"""From SIGTERM to SIGKILL, and from that until a hook that the kernel does not let die is left alone."""
MOST_LINES: Final = 100
MOST_OUTPUT_BYTES: Final = 16384

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run."""

    command: tuple[str, ...]
    user: str
    timeout_s: float
    variables: dict[str, str]
    line: str
    """For the hook's standard input."""

    @classmethod
    def read(cls, line: bytes) -> Order:
        """Of its line."""
        fields = json.loads(line)
        return cls(**fields | {"command": tuple(fields["command"])})

    def written(self) -> bytes:
        """As one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended."""

    why: str | None
    """It failed; None if it did what it should."""
    seconds: float
    output: tuple[str, ...]
    """Of stdout and stderr, the first lines, safe to print."""
    left: bool = False
    """Whether it left processes behind, which were ended."""

    @classmethod
    def read(cls, line: bytes) -> Outcome:
        """Of its line."""
        fields = json.loads(line)
        return cls(**fields | {"output": tuple(fields["output"])})

    def written(self) -> bytes:
        """As one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> int:
    """Run the hook of the order on standard input, and append the outcome."""
    with open(0, "r+b", buffering=0, closefd=False) as file:
        file.seek(0)
        file.write(_outcome(Order.read(file.readall())).written())
    return 0


def _outcome(order: Order) -> Outcome:
    begun_s = time.monotonic()
    try:
        with _Hook(order) as hook:
            return hook.kept()
    except CannotError as error:
        return Outcome(f"{error.message} ({error.hint})", time.monotonic() - begun_s, ())


class _Hook:
    """The running hook, within `with`. Raises CannotError if it cannot be started."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._begun_s = time.monotonic()
        _settle()
        # All that wakes: a child has ended, or somebody ends this process.
        self._wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._output, output_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(output_write, True)
        input_read, self._input = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._input, False)
        self._unwritten = memoryview(order.line.encode() + b"\n")
        self._kept = bytearray()
        self._output_bytes = 0
        self._output_ended = False
        self._status: int | None = None
        self._left = False
        try:
            self._process = _started(order, input_read, output_write)
        finally:
            os.close(input_read)
            os.close(output_write)

    def __enter__(self) -> _Hook:
        return self

    def __exit__(self, *_: object) -> None:
        # Its end was waited for, as that of all children.
        self._process.returncode = self._status

    def kept(self) -> Outcome:
        """Wait for the end of the hook and of all that it has started; end them when their time is over."""
        why = None
        ask_s = self._begun_s + self._order.timeout_s
        kill_s = leave_s = float("inf")
        while self._reap():
            now_s = time.monotonic()
            if self._status is not None and kill_s == float("inf"):
                # What a hook leaves behind is held by no limit.
                self._left, kill_s = True, now_s
            if now_s >= ask_s:
                why = why or f"it took longer than {self._order.timeout_s:g} s"
                self._signal(signal.SIGTERM)
                ask_s, kill_s = float("inf"), min(kill_s, now_s + KILL_AFTER_S)
            if now_s >= kill_s:
                self._signal(signal.SIGKILL)
                # Once more for what was forked meanwhile.
                leave_s, kill_s = min(leave_s, now_s + KILL_AFTER_S), now_s + 0.1
            if now_s >= leave_s:
                why = f"{why or 'it has ended'}, and a process of it cannot be killed"
                break
            if self._ended_by_others(min(ask_s, kill_s, leave_s) - time.monotonic()) and not why:
                why, ask_s = "esimbpf was ended before it had", time.monotonic()
        self._read()
        return Outcome(why or _said(self._status), time.monotonic() - self._begun_s, self._lines(), self._left)

    def _ended_by_others(self, timeout_s: float) -> bool:
        """Wait until something happens, read and write what can be; whether this process is to end."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if not self._output_ended:
            poll.register(self._output, select.POLLIN)
        if self._unwritten:
            poll.register(self._input, select.POLLOUT)
        ready = {fd for fd, _ in poll.poll(max(0.0, timeout_s) * 1000)}
        if self._input in ready:
            self._write()
        if self._output in ready:
            self._read()
        if self._wake in ready:
            return signal.SIGTERM in os.read(self._wake, 4096)
        return False

    def _write(self) -> None:
        try:
            self._unwritten = self._unwritten[os.write(self._input, self._unwritten) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It does not want to know.
            self._unwritten = self._unwritten[:0]
        if not self._unwritten:
            os.close(self._input)

    def _reap(self) -> bool:
        """Take note of what has ended; whether anything still runs."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self._process.pid:
                    self._status = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        """To the hook's process group; SIGKILL also to what has left it, or was left by what has ended."""
        if self._status is None:
            os.killpg(self._process.pid, number)
        if number is signal.SIGKILL:
            for pid in _children():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _read(self) -> None:
        """Take what the hook has written, and keep the beginning."""
        with suppress(BlockingIOError):
            while part := os.read(self._output, 65536):
                self._output_bytes += len(part)
                self._kept += part[: MOST_OUTPUT_BYTES - len(self._kept)]
                if self._output_bytes > MOST_OUTPUT_BYTES:
                    # Of a flood a piece at a time: the clock has to be looked at.
                    return
            self._output_ended = True

    def _lines(self) -> tuple[str, ...]:
        lines = bytes(self._kept).splitlines()
        told = [printable(line.expandtabs()) for line in lines[:MOST_LINES]]
        if self._output_bytes > len(self._kept) or len(lines) > MOST_LINES:
            told.append(f"(cut off: {len(lines[:MOST_LINES])} lines of {self._output_bytes} bytes are kept)")
        return tuple(told)


def _settle() -> None:
    """What the hook inherits: no way to more rights, no core files; and whose orphans are this process's children."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for option in (_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER):
        if libc.prctl(option, 1, 0, 0, 0):
            raise CannotError(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}", "see doctor")


def _started(order: Order, stdin: int, output: int) -> subprocess.Popen[bytes]:
    entry = account(order.user)
    program = trusted_program(order.command[0])
    is_root = os.geteuid() == 0
    if not is_root and entry.pw_uid != os.geteuid():
        raise CannotError(f"only root can run it as {printable(order.user)}", "run as root")
    try:
        return subprocess.Popen(
            order.command,
            executable=program,
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": _PATH, "LANG": "C.UTF-8", "HOME": entry.pw_dir, **order.variables},
            start_new_session=True,
            umask=0o022,
            user=entry.pw_uid if is_root else None,
            group=entry.pw_gid if is_root else None,
            extra_groups=os.getgrouplist(entry.pw_name, entry.pw_gid) if is_root else None,
        )
    except OSError as error:
        raise CannotError(
            f"{printable(program)} cannot be run as {printable(order.user)}: {error.strerror}",
            "is it a program or a script with #!, and may that user read and run it, and enter the folders above it?",
        ) from error


def _children() -> list[int]:
    """The pids of this process's children; /proc/PID/stat is `pid (comm) state ppid …` (proc(5))."""
    found = []
    for path in Path("/proc").glob("[1-9]*/stat"):
        with suppress(OSError):
            fields = path.read_bytes().rpartition(b")")[2].split()
            if int(fields[1]) == os.getpid() and fields[0] != b"Z":
                found.append(int(path.parent.name))
    return found


def _said(status: int | None) -> str | None:
    if status is None:
        return "how it has ended is not known"
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with status {status}" if status else None


if __name__ == "__main__":
    sys.exit(main())
