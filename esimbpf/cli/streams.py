"""The standard streams, whatever the caller has made of them."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["complain", "give_up", "open_standard_streams"]


def open_standard_streams() -> None:
    """Put something in the place of standard streams that were closed: the next file opened would take their number.

    What is read from stdin or written to stdout then fails, as it should; stderr's words are lost in silence.
    Characters that an encoding lacks become question marks.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    # Python has None for those that were closed.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 -- for the life of the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def give_up(descriptor: int) -> None:
    """Let what is still to be written there go nowhere: Python must not complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def complain(*lines: str) -> None:
    """Say what is wrong, if there is anybody to hear it."""
    try:
        print(*lines, sep="\n  ", file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr.fileno())
