"""The keyboard of a terminal, key by key, and the terminal as it was when it is over."""

from __future__ import annotations

import codecs
import os
import termios
import tty
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["Keyboard", "decode"]

_SEQUENCES: Final = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
}


def decode(typed: str) -> tuple[list[str], str]:
    """The keys in what was typed, and what may be the beginning of another (an escape sequence cut in two)."""
    keys = []
    while typed:
        if typed[0] != "\x1b":
            keys.append(_SEQUENCES.get(typed[0], typed[0]))
            typed = typed[1:]
            continue
        known = next((sequence for sequence in _SEQUENCES if typed.startswith(sequence)), None)
        if known:
            keys.append(_SEQUENCES[known])
            typed = typed[len(known) :]
        elif any(sequence.startswith(typed) for sequence in _SEQUENCES):
            break
        elif typed[1] in "[O":
            # A key that is not used: passed over up to its last character.
            end = next((at for at, char in enumerate(typed[2:], 2) if "@" <= char <= "~"), None)
            if end is None:
                break
            typed = typed[end + 1 :]
        else:
            keys.append("escape")
            typed = typed[1:]
    return keys, typed


class Keyboard:
    """A terminal from which keys come one by one and unseen; signals (Ctrl-C, Ctrl-Z) work as ever.

    Within `with`; the terminal is as before afterwards.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        self.resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def resume(self) -> None:
        """Take the keys one by one."""
        tty.setcbreak(self._fd, termios.TCSANOW)

    def restore(self) -> None:
        """Give the terminal back as it was."""
        termios.tcsetattr(self._fd, termios.TCSANOW, self._before)

    def fileno(self) -> int:
        """The descriptor that is readable when a key was typed."""
        return self._fd

    def keys(self) -> list[str] | None:
        """What has been typed; None if the terminal is gone."""
        try:
            raw = os.read(self._fd, 1024)
        except OSError:
            return None
        if not raw:
            return None
        keys, self._rest = decode(self._rest + self._decoder.decode(raw))
        return keys

    def escape_pending(self) -> bool:
        """Whether an Esc has come that nothing followed: it was the key itself."""
        pending = self._rest == "\x1b"
        if pending:
            self._rest = ""
        return pending
