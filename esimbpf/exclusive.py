"""Locks on folders: who holds one alone may do what only one may do at a time.

A lock is on the folder itself: nothing is written, it works where nothing can be, and it goes with its holder.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Held", "exclusive", "holder"]


class Held(Exception):
    """Somebody else holds the lock."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid
        """Of the holder; None if it cannot be told."""

    @property
    def words(self) -> str:
        """The holder, to be put behind what he does: ` (pid 812)`."""
        return f" (pid {self.pid})" if self.pid else ""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; Held if somebody else does, OSError if the folder cannot be opened."""
    fd = _opened(folder)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Held(_holder(fd)) from error
        yield
    finally:
        os.close(fd)


def holder(folder: Path) -> Held | None:
    """Who holds a folder's lock; None if nobody does, or the folder is not there."""
    try:
        with exclusive(folder):
            return None
    except Held as held:
        return held
    except OSError:
        return None


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _holder(fd: int) -> int | None:
    """The pid, from lines of /proc/locks (proc(5)): `1: FLOCK ADVISORY WRITE 812 00:1f:4711 0 EOF`."""
    inode = str(os.fstat(fd).st_ino)
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
            return int(fields[4]) if int(fields[4]) > 0 else None
    return None
