"""The loop of `top`: ticks, keys and the screen."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live

from esimbpf.model import GroupBy, Kind, Start, Tick
from esimbpf.pace import Pace
from esimbpf.sinks.table import SPARK_WIDTH, Sort, View, render
from esimbpf.sinks.terminal import Keyboard
from esimbpf.units import Units
from esimbpf.use import LEDGER_KNOWS, LinkUse, carried_on

__all__ = ["Session", "top"]

_PIPE_WIDTH: Final = 120
_ENDING: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


class Session(Protocol):
    """What `top` needs of a run of counting."""

    start: Start

    def tick(self) -> Tick:
        """Measure the interval that ends now."""
        ...

    def view(self, by: GroupBy) -> Tick:
        """The last interval again, grouped in another way."""
        ...

    def fileno(self) -> int:
        """A descriptor that is readable when `follow_links` has something to do."""
        ...

    def follow_links(self) -> None:
        """Bring the links up to date."""
        ...


def top(
    session: Session,
    interval_s: float,
    by: GroupBy,
    units: Units = Units.SI,
    once: bool = False,
    uses: Mapping[str, LinkUse] | None = None,
    warning: str = "",
) -> None:
    """Show the live table until q, Ctrl-C or SIGTERM; one plain table where stdout is no terminal, or with `once`.

    On a terminal that only prints (TERM=dumb), a plain table each interval. `uses` is what the ledger knows of the
    links when the run begins; `warning` is shown all the time.
    """
    view = View(by, units=units, uses=uses or {}, warning=warning)
    console = Console(highlight=False, soft_wrap=False)
    if once or not console.is_terminal:
        _plain(session, interval_s, view, console, once=True)
    elif console.is_dumb_terminal or not os.environ.get("TERM"):
        _plain(session, interval_s, view, console, once=False)
    else:
        _Top(session, interval_s, view, console).run()


def _plain(session: Session, interval_s: float, view: View, console: Console, once: bool) -> None:
    """Intervals as plain text: no control codes, as wide as COLUMNS says, or the terminal, or 120."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        width = int(columns)
    else:
        width = console.width if console.is_terminal else _PIPE_WIDTH
    plain = Console(width=width, color_system=None, force_terminal=False, highlight=False, soft_wrap=True)
    view.ascii, view.keys, view.sort = _ascii(plain), False, Sort.TOTAL_DOWN
    with Pace(interval_s, end_on=_ENDING) as pace:
        while True:
            while pace.wait(readable=(session.fileno(),)):
                session.follow_links()
            session.tick()
            ticks = {by: session.view(by) for by in _with_last(view.by)}
            view.uses = _carried_on(view.uses, ticks)
            with plain.capture() as captured:
                plain.print(render(ticks[view.by], view, width, None))
            text = "\n".join(line.rstrip() for line in captured.get().splitlines())
            sys.stdout.write(text + ("\n" if once else "\n\n"))
            sys.stdout.flush()
            if once or pace.ended:
                return


def _with_last(by: GroupBy) -> list[GroupBy]:
    """All groupings, this one at the end: the session goes on with the last one it was asked for."""
    return [*(other for other in GroupBy if other is not by), by]


def _carried_on(uses: Mapping[str, LinkUse], ticks: Mapping[GroupBy, Tick]) -> Mapping[str, LinkUse]:
    """What the links have used after an interval."""
    carried = dict(uses)
    known = [ticks[by] for by in LEDGER_KNOWS]
    for views in zip(*(tick.links for tick in known), strict=True):
        name = views[0].link.name
        if name in carried:
            carried[name] = carried_on(carried[name], views, known[0].time, known[0].interval_s)
    return carried


def _ascii(console: Console) -> bool:
    return not console.encoding.lower().startswith("utf")


class _Top:
    """The live table's state."""

    def __init__(self, session: Session, interval_s: float, view: View, console: Console) -> None:
        self._session = session
        self._interval_s = interval_s
        self._console = console
        self._history: dict[tuple[str, Kind, str], deque[float]] = {}
        self._view = view
        self._uses = view.uses
        view.ascii, view.history = _ascii(console), self._history
        self._tick = session.view(view.by)
        self._resized = False

    def run(self) -> None:
        """Until the user has seen enough."""
        with ExitStack() as stack:
            pace = stack.enter_context(Pace(self._interval_s, end_on=_ENDING, wake_on=(signal.SIGWINCH,)))
            keyboard = self._keyboard(stack)
            self._view.keys = keyboard is not None
            live = stack.enter_context(
                Live(
                    console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
                )
            )
            self._stoppable(stack, keyboard, live)
            while self._show(live) and self._wait(pace, keyboard):
                pass

    @staticmethod
    def _keyboard(stack: ExitStack) -> Keyboard | None:
        """The terminal's keys; none without a terminal, or for a process in the background of one."""
        if not sys.stdin.isatty():
            return None
        with suppress(termios.error):
            return stack.enter_context(Keyboard(sys.stdin.fileno()))
        return None

    def _stoppable(self, stack: ExitStack, keyboard: Keyboard | None, live: Live) -> None:
        """Ctrl-Z gives the terminal back, and `fg` takes it again."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._console.set_alt_screen(False)
            self._console.show_cursor(True)
            if keyboard:
                keyboard.restore()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            # Here it goes on after SIGCONT.
            signal.signal(signal.SIGTSTP, stop)
            if keyboard:
                keyboard.resume()
            self._console.set_alt_screen(True)
            self._console.show_cursor(False)
            live.refresh()

        before = signal.signal(signal.SIGTSTP, stop)
        stack.callback(signal.signal, signal.SIGTSTP, before)

    def _show(self, live: Live) -> bool:
        """Draw; False if the terminal is gone."""
        width, height = self._console.size
        try:
            live.update(render(self._tick, self._view, width, height), refresh=True)
        except OSError:
            return False
        return True

    def _wait(self, pace: Pace, keyboard: Keyboard | None) -> bool:
        """Wait for what changes the picture; False when it is over."""
        readable = [self._session.fileno(), *([keyboard.fileno()] if keyboard else [])]
        ready = pace.wait(readable=readable)
        if pace.ended:
            return False
        if pace.woken:
            return True
        if not ready:
            self._measure()
            return True
        if self._session.fileno() in ready:
            self._session.follow_links()
        if keyboard and keyboard.fileno() in ready:
            keys = keyboard.keys()
            if keys is None:
                return False
            if not keys and keyboard.escape_pending():
                keys = ["escape"]
            return all(self._press(key) for key in keys)
        return True

    def _measure(self) -> None:
        """The next interval; while paused it is counted, and not shown."""
        self._session.tick()
        seen = set()
        # Of all groupings, so that changing to another one shows its history too.
        ticks = {by: self._session.view(by) for by in _with_last(self._view.by)}
        self._uses = _carried_on(self._uses, ticks)
        for tick in ticks.values():
            for link in tick.links:
                for row in link.rows:
                    key = (link.link.name, row.kind, row.id)
                    if key not in seen:
                        seen.add(key)
                        rate = row.delta.total_bytes / (tick.interval_s or 1)
                        self._history.setdefault(key, deque(maxlen=SPARK_WIDTH)).append(rate)
        for key in self._history.keys() - seen:
            del self._history[key]
        if not self._view.paused:
            self._catch_up()

    def _catch_up(self) -> None:
        """Show the last interval; what was used is told as of the same moment."""
        self._tick = self._session.view(self._view.by)
        self._view.uses = self._uses

    def _press(self, key: str) -> bool:
        """Act on a key; False to quit."""
        view = self._view
        if view.help:
            view.help = False
        elif view.editing:
            self._edit(key)
        elif key in ("q", "Q"):
            return False
        elif key == "?":
            view.help = True
        elif key in ("s", "right"):
            self._sort(1)
        elif key == "left":
            self._sort(-1)
        elif key == "r":
            view.reverse = not view.reverse
        elif key == "b":
            order = list(GroupBy)
            view.by = order[(order.index(view.by) + 1) % len(order)]
            view.scroll = 0
            self._catch_up()
        elif key in ("l", "\t"):
            count = len(self._tick.links)
            view.link = 0 if view.link is None else view.link + 1 if view.link + 1 < count else None
            view.scroll = 0
        elif key in ("p", " "):
            view.paused = not view.paused
            if not view.paused:
                self._catch_up()
        elif key == "/":
            view.editing = True
        elif key == "u":
            view.units = Units.IEC if view.units is Units.SI else Units.SI
        elif key == "escape":
            view.filter = ""
        else:
            self._scroll(key)
        return True

    def _sort(self, step: int) -> None:
        order = self._view.sorts(self._tick)
        at = order.index(self._view.sort) if self._view.sort in order else -1
        self._view.sort = order[(at + step) % len(order)]
        self._view.scroll = 0

    def _scroll(self, key: str) -> None:
        page = max(1, self._console.size.height - 8)
        steps = {"up": -1, "down": 1, "page up": -page, "page down": page}
        self._view.scroll = 0 if key == "home" else self._view.scroll + steps.get(key, 0)

    def _edit(self, key: str) -> None:
        view = self._view
        if key == "enter":
            view.editing = False
        elif key == "escape":
            view.editing, view.filter = False, ""
        elif key == "backspace":
            view.filter = view.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            view.filter += key
            view.scroll = 0
