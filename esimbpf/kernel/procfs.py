"""What /proc says: of a process that is still alive, what its record had no room for; of this one, what it may."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from esimbpf.text import printable

# linux/capability.h
_CAPABILITIES: Final = {
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}


def capabilities() -> frozenset[str]:
    """The capabilities of this process that have to do with eBPF and the network, as far as they are in effect."""
    effective = 0
    with suppress(OSError, ValueError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    return frozenset(name for name, bit in _CAPABILITIES.items() if effective >> bit & 1)


def _same(pid: int, start_ns: int) -> bool:
    """Whether the pid is still that process; /proc/PID/stat has its start in clock ticks (field 22)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    ticks = os.sysconf("SC_CLK_TCK")
    return abs(int(fields[19]) - start_ns * ticks // 10**9) <= 1


def command_line(pid: int, start_ns: int) -> tuple[str, ...]:
    """The command line of a living process; empty if it is gone or has none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            raw = file.read(1 << 16)
    except OSError:
        return ()
    if not raw or not _same(pid, start_ns):
        return ()
    return tuple(printable(arg) for arg in raw.rstrip(b"\0").split(b"\0"))


def executable(pid: int, start_ns: int) -> str:
    """The path of a living process's executable; empty if it is gone."""
    try:
        target = os.readlink(os.fsencode(f"/proc/{pid}/exe"))
    except OSError:
        return ""
    return printable(target.removesuffix(b" (deleted)")) if _same(pid, start_ns) else ""
