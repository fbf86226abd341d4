"""Finds the network interface of the PPP that runs over a TTY.

The kernel does not tell: sysfs joins neither `pppN` with its channel nor a TTY with its line discipline, and the ioctls
that do (linux/ppp-ioctl.h) take pppd's own descriptors. So pppd is asked, by what it leaves:

    NAME.pid     in /run, from 2.5 on in /run/pppd: the interface's name, and pppd's pid in it
    the TTY      among its arguments (as NetworkManager and wvdial call it), in its lock of the device
                 (/run/lock/LCK..ttyUSB2, which holds its pid), or among its open files, where those may be seen

Where these do not lead to one interface, nothing is known. A connection of some other program than pppd is not found.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from esimbpf.text import original, printable

__all__ = ["ppp_interface"]

_RUN: Final = Path("/run")
_PROC: Final = Path("/proc")


def ppp_interface(tty: str, run: Path = _RUN, proc: Path = _PROC) -> str | None:
    """The interface, in this network namespace, whose PPP runs over a TTY (`ttyUSB2`); None if it cannot be told."""
    device = os.fsdecode(original(tty))
    found = [name for name, pid in _pppds(run) if _uses(pid, device, run, proc)]
    return printable(found[0]) if len(found) == 1 else None


def _pppds(run: Path) -> Iterator[tuple[str, int]]:
    """Interfaces for which there is a file with a pid."""
    for _, name in socket.if_nameindex():
        for folder in (run, run / "pppd"):
            pid = _pid(folder / f"{name}.pid")
            if pid:
                yield name, pid
                break


def _uses(pid: int, device: str, run: Path, proc: Path) -> bool:
    names = (device, f"/dev/{device}")
    arguments = _read(proc / str(pid) / "cmdline").split("\0")
    if os.path.basename(arguments[0]) != "pppd":
        return False
    return (
        any(argument in names for argument in arguments[1:])
        or _pid(run / "lock" / f"LCK..{device}") == pid
        or names[1] in _open_files(proc / str(pid) / "fd")
    )


def _open_files(folder: Path) -> Iterator[str]:
    """What a process has open; nothing where that may not be seen."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):
                yield os.readlink(entry.path)


def _pid(path: Path) -> int:
    """The pid in a file's first line; 0 if there is none."""
    words = _read(path).split()
    return int(words[0]) if words and words[0].isdecimal() else 0


def _read(path: Path) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read(1 << 17)
    return ""
