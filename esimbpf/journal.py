"""What a service says: lines for systemd's journal, and that it is ready."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import Final, Literal

__all__ = ["log", "notify", "notify_reloading"]

# sd-daemon(3): a priority in angle brackets before a line on stderr.
_PRIORITIES: Final = {"info": "<6>", "warning": "<4>", "error": "<3>"}


def log(message: str, level: Literal["info", "warning", "error"] = "info") -> None:
    """Write one line to stderr: with its priority for the journal, with the time for anybody else."""
    if os.environ.get("JOURNAL_STREAM"):
        line = _PRIORITIES[level] + message
    else:
        now = datetime.now().astimezone().strftime("%Y-%m-%dT%H:%M:%S%z")
        line = f"{now} {'' if level == 'info' else level + ': '}{message}"
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def notify(*states: str) -> None:
    """Tell the service manager, if there is one that wants to know (sd_notify(3)): `READY=1`, `STATUS=…`, …"""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send("\n".join(states).encode())


def notify_reloading() -> None:
    """Tell it that the configuration is being read anew, and since when; `READY=1` is to follow."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
