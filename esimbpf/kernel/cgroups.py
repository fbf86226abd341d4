"""A cgroup (v2) of its own for a command, so that all of its descendants are known."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from esimbpf.errors import CannotError
from esimbpf.model import Process

__all__ = ["OwnCgroup"]

_PREFIX: Final = "esimbpf-run-"


class OwnCgroup:
    """A cgroup below the one that this process is in, or below `root` if that does not take processes.

    Within `with`. At the end what still runs in it goes back to where it came from, and the cgroup is removed.
    Raises CannotError if none can be made.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._name = f"{_PREFIX}{os.getpid()}"
        self._path = self._root

    def __enter__(self) -> Self:
        reasons = []
        for parent in dict.fromkeys((self._current(), self._root)):
            _remove_stale(parent)
            try:
                (parent / self._name).mkdir()
            except OSError as error:
                reasons.append(f"{parent}: {error.strerror}")
                continue
            self._path = parent / self._name
            return self
        raise CannotError(
            f"no cgroup can be made for the command ({'; '.join(reasons)})",
            "run as root, where the cgroup v2 hierarchy can be written",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for folder, _, _ in sorted(os.walk(self._path), reverse=True):
            self._send_back(Path(folder))
            with suppress(OSError):
                os.rmdir(folder)

    def _current(self) -> Path:
        """The cgroup that this process is in (proc(5): the line `0::PATH`); the root if that is unknown."""
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if line.startswith("0::"):
                path = self._root / line.removeprefix("0::").lstrip("/")
                return path if path.is_dir() else self._root
        return self._root

    def take(self, pid: int) -> None:
        """Put a process into it; OSError if the kernel refuses."""
        (self._path / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def has(self, process: Process) -> bool:
        """Whether a process was in it, or in a cgroup below it, when it opened its first socket."""
        return f"/{self._name}/" in f"{process.cgroup}/"

    def running(self) -> frozenset[int]:
        """The pids of what runs in it and below it."""
        return frozenset(pid for folder, _, _ in os.walk(self._path) for pid in _pids(Path(folder)))

    def _send_back(self, folder: Path) -> None:
        """Move the processes of a cgroup out, one by one; some may be gone by then."""
        for pid in _pids(folder):
            with suppress(OSError):
                (self._path.parent / "cgroup.procs").write_text(str(pid), encoding="ascii")


def _remove_stale(parent: Path) -> None:
    """Remove the cgroups of runs that were killed, but for those in which something still runs."""
    for path in parent.glob(f"{_PREFIX}*"):
        if not os.path.exists(f"/proc/{path.name.removeprefix(_PREFIX)}"):
            for folder, _, _ in sorted(os.walk(path), reverse=True):
                with suppress(OSError):
                    os.rmdir(folder)


def _pids(folder: Path) -> list[int]:
    try:
        return [int(pid) for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split()]
    except OSError:
        return []
