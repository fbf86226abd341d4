"""Runs hooks, each under a keeper (esimbpf/hook_keeper.py), without ever waiting for one.

A run has a file, named by the run, in which its keeper finds the order and writes the outcome. Keeper and file outlive
the process that began the run; another one takes the outcome then.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esimbpf.hook_keeper import Order, Outcome

__all__ = ["Runner"]

_KEEPER: Final = (sys.executable, "-I", "-m", "esimbpf.hook_keeper")

# Under systemd the daemon is shut in, more than hooks can be: systemd runs the keeper outside, and lets it end its work
# when the daemon is restarted. --pipe hands the file over as standard input, with its lock; being root is enough.
_OUTSIDE: Final = (
    *("systemd-run", "--quiet", "--wait", "--pipe", "--collect"),
    *("--description=A hook of esimbpf", "--"),
)


@dataclass(frozen=True, slots=True)
class _Begun:
    process: subprocess.Popen[bytes]
    pidfd: int


class Runner:
    """The runs that have begun, in a folder that is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: dict[str, _Begun | None] = {}
        """By name; None for a run that another process has begun."""

    def close(self) -> None:
        """Let go: what runs goes on under its keeper, and its outcome is for the next Runner."""
        for begun in self._begun.values():
            if begun:
                os.close(begun.pidfd)
                # Its end is not waited for here.
                begun.process.returncode = 0
        self._begun.clear()

    def adopt(self, runs: Iterable[str]) -> list[str]:
        """Take over the runs that an earlier process has begun, and forget all others; those that never began."""
        wanted = set(runs)
        there = set()
        with suppress(FileNotFoundError):
            there = set(os.listdir(self._folder))
        for run in there - wanted - self._begun.keys():
            (self._folder / run).unlink(missing_ok=True)
        self._begun |= dict.fromkeys(wanted & there - self._begun.keys())
        return sorted(wanted - there)

    def start(self, run: str, order: Order) -> None:
        """Begin a run; OSError if that cannot be."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / run
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.write(file, order.written())
            process = subprocess.Popen(
                (*(_OUTSIDE if _shut_in() else ()), *_KEEPER),
                stdin=file,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._begun[run] = _Begun(process, os.pidfd_open(process.pid))
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(file)

    def filenos(self) -> list[int]:
        """Descriptors that are readable when a run has ended. Of those taken over none: `turn` looks at them."""
        return [begun.pidfd for begun in self._begun.values() if begun]

    def turn(self) -> dict[str, Outcome]:
        """The outcomes of the runs that have ended, by name. They stay until they are forgotten."""
        return {run: outcome for run in self._begun if (outcome := self._outcome(run))}

    def forget(self, run: str) -> None:
        """An outcome was taken note of."""
        begun = self._begun.pop(run)
        if begun:
            os.close(begun.pidfd)
        (self._folder / run).unlink(missing_ok=True)

    def _outcome(self, run: str) -> Outcome | None:
        begun = self._begun[run]
        if begun and begun.process.poll() is None:
            return None
        try:
            with open(self._folder / run, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                lines = file.read().splitlines(keepends=True)
        except BlockingIOError:
            return None
        except OSError as error:
            return Outcome(f"how it has ended is not known: {error.strerror}", 0.0, ())
        if len(lines) < 2 or not lines[1].endswith(b"\n"):
            status = f": that ended with status {begun.process.returncode}" if begun else ""
            return Outcome(f"it was cut off, together with the process that ran it{status}", 0.0, ())
        return Outcome.read(lines[1])


def _shut_in() -> bool:
    """Whether this is a service of systemd."""
    return (
        bool(os.environ.get("NOTIFY_SOCKET"))
        and os.path.isdir("/run/systemd/system")
        and bool(shutil.which("systemd-run"))
    )
