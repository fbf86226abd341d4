"""Waits: for the next interval, for a signal, for a descriptor, whichever comes first."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Pace"]


class Pace:
    """A steady interval that signals can end.

    Within `with`, the signals of `end_on` set `ended` instead of ending the process, and end a wait; those of
    `wake_on` end it too, and set `woken` until the next one; `early` is set by a wait that was not to last so long.
    Intervals keep to their own clock: a late one does not shift those that follow; missed ones are left out.
    """

    def __init__(
        self, interval_s: float, end_on: Iterable[signal.Signals] = (), wake_on: Iterable[signal.Signals] = ()
    ) -> None:
        self._interval_s = interval_s
        self._end_on = frozenset(end_on)
        self._wake_on = frozenset(wake_on)
        self._before: dict[signal.Signals, Any] = {}
        self._next_s = time.monotonic() + interval_s
        self.ended: signal.Signals | None = None
        self.woken = False
        self.early = False

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in self._end_on | self._wake_on:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number in self._end_on:
            self.ended = signal.Signals(number)
        # A full pipe wakes just as well.
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def wait(self, readable: Iterable[int] = (), closing: Iterable[int] = (), within_s: float = math.inf) -> set[int]:
        """Wait for the end of the interval; nothing then, or when a signal came, or after `within_s` (`early`).

        Else the descriptors that have something to read, or, of `closing`, those whose other end was closed.
        """
        poll = select.poll()
        for fd in readable:
            poll.register(fd, select.POLLIN)
        for fd in closing:
            poll.register(fd, 0)
        poll.register(self._wake_read, select.POLLIN)
        self.woken = self.early = False
        until_s = time.monotonic() + within_s
        while not self.ended:
            now_s = time.monotonic()
            left_s = self._next_s - now_s
            if left_s > 0 and now_s >= until_s:
                self.early = True
                return set()
            if left_s <= 0:
                missed = int(-left_s / self._interval_s)
                self._next_s += self._interval_s * (missed + 1)
                return set()
            ready = {fd for fd, _ in poll.poll(min(left_s, until_s - now_s) * 1000)}
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
                self.woken = True
                return set()
            if ready:
                return ready
        return set()
