"""Follows ModemManager in a thread of its own, and tells which link is whose, and since when."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from esimbpf.errors import ModemError
from esimbpf.modem.bus import Bus, BusLost, Stopped
from esimbpf.modem.changes import Change, Chronicle, Known
from esimbpf.modem.client import Follower
from esimbpf.modem.identity import LinkStatus, link_statuses, runs_ppp
from esimbpf.modem.model import Moment, Service, Survey
from esimbpf.modem.ppp import ppp_interface

__all__ = ["SIGNAL_EVERY_S", "ModemWatch"]

SIGNAL_EVERY_S: Final = 30
"""How often a modem may measure its signal, where that is asked for: enough for minutes, the ledger's finest grain."""

_RECONNECT_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Waits before the bus is tried again: the first, the second, …, all others."""
_PPP_LOOK_S: Final = 1.0
"""How often it is looked for the interface of a connected bearer's TTY, which appears when pppd is through with it."""
_END_S: Final = 10.0


class ModemWatch:
    """Which SIM profile, network and technology stand behind each link, from its making until it is closed.

        with ModemWatch(signal_every_s=SIGNAL_EVERY_S) as watch:
            watch.settle(2)                          # at the start, so that the first bytes have an identity
            …
            when watch.fileno() is readable:
                for change in watch.poll():          # in order, each once
                    … close the segment of change.link …
            when links have come or gone:
                watch.look_again()
            watch.status("wwan0").identity           # at any time, without waiting

    Nothing here waits for D-Bus or ModemManager, whatever becomes of them, and nothing raises: what a slow, hanging,
    restarted or missing one does not tell is unknown (`identity.UNKNOWN`), and it is asked again. So that this holds
    for the code that reads D-Bus as well, a thread of its own does it: it owns the connection, every one of its waits
    has a limit, and it hands over frozen values only. It takes no signals (they stay the main thread's), and lives in
    the network namespace in which the watch was made.

    What was known holds until ModemManager says otherwise, is gone from the bus, or the bus is gone; then all links are
    unknown, for what happens meanwhile cannot be known. A modem that resets comes back as another object: its links are
    unknown in between.

    `signal_every_s` has ModemManager ask each modem for its signal that often (`Signal.Setup`, a setting of
    ModemManager's that lasts as long as its modem object): without it most give no rsrp, rsrq or snr. It is set only
    where nobody else has, and taken back at the end. 0 leaves it alone. `address` is a D-Bus address, for the system
    bus if empty; `limit_s` is how long one question may take.
    """

    def __init__(self, address: str = "", *, signal_every_s: int = 0, limit_s: float = 5.0) -> None:
        self._address = address
        self._follower = Follower(self._take, limit_s, signal_every_s)
        self._lock = threading.Lock()
        self._survey = Survey(Service.UNKNOWN, at=Moment.now())
        self._chronicle = Chronicle(self._survey.at)
        self._changes: list[Change] = []
        self._asked = threading.Event()
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="modems", daemon=True)
        # A signal that the thread took would not wake the main one, which is to handle it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the watch; twice is harmless."""
        if self._news < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join(_END_S)
        os.close(self._news)
        os.close(self._stop)
        self._news = self._stop = -1

    def fileno(self) -> int:
        """The descriptor, readable when `poll` has changes."""
        return self._news

    def poll(self) -> tuple[Change, ...]:
        """What has changed since the last call, in order, without waiting."""
        with self._lock:
            with suppress(BlockingIOError):
                os.eventfd_read(self._news)
            changes, self._changes = tuple(self._changes), []
        return changes

    def status(self, link: str) -> LinkStatus:
        """What a link is now; `NO_MODEM` for one that no modem is known to own."""
        return self.known(link).status

    def known(self, link: str) -> Known:
        """What a link is now, and since when; for one that was never a modem's, since the watch began."""
        with self._lock:
            return self._chronicle.known(link)

    def links(self) -> Mapping[str, LinkStatus]:
        """All links that modems own now, by name."""
        with self._lock:
            return self._chronicle.links()

    @property
    def survey(self) -> Survey:
        """All that ModemManager tells of its modems, signal and bearers' statistics included, or why it does not."""
        return self._survey

    def settle(self, limit_s: float) -> bool:
        """Wait until it is known what ModemManager says, or that it says nothing; False if that takes longer."""
        return self._asked.wait(limit_s)

    def look_again(self) -> None:
        """Links have come or gone: find out anew which is the PPP interface of which TTY."""
        with self._lock:
            self._note(self._chronicle.take(self._statuses(), Moment.now()))

    # -- the thread's ------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                with Bus(self._address, self._follower.heard, self._stop) as bus:
                    self._follower.begin(bus)
                    failures = 0
                    self._follow(bus)
            except Stopped:
                return
            except BusLost as error:
                self._follower.lost(error)
            wait_s = _RECONNECT_S[min(failures, len(_RECONNECT_S) - 1)]
            failures += 1
            if select.select([self._stop], [], [], wait_s)[0]:
                return

    def _follow(self, bus: Bus) -> None:
        try:
            while True:
                self._follower.catch_up(bus)
                looking = self._awaits_ppp()
                self._follower.wait(bus, self._wait_s(looking))
                if looking:
                    self.look_again()
                with self._lock:
                    self._note(self._chronicle.pass_time(Moment.now()))
        except Stopped:
            bus.run_to_the_end()
            with suppress(ModemError):
                self._follower.let_go(bus)
            raise

    def _wait_s(self, looking: bool) -> float | None:
        """How long to wait for ModemManager at most."""
        with self._lock:
            due_ns = self._chronicle.due_ns
        waits_s = [_PPP_LOOK_S] if looking else []
        if due_ns is not None:
            waits_s.append(max(0.0, (due_ns - Moment.now().boottime_ns) / 1e9))
        return min(waits_s, default=None)

    def _awaits_ppp(self) -> bool:
        """Whether a bearer is connected over a TTY whose interface is not known yet."""
        carried = {status.bearer for status in self.links().values()}
        return any(
            bearer.connected and runs_ppp(modem, bearer) and bearer.path not in carried
            for modem in self._survey.modems
            for bearer in modem.bearers
        )

    def _take(self, survey: Survey) -> None:
        with self._lock:
            self._survey = survey
            self._note(self._chronicle.take(self._statuses(), survey.at))
        self._asked.set()

    def _statuses(self) -> dict[str, LinkStatus]:
        return link_statuses(self._survey.modems, ppp_interface)

    def _note(self, changes: list[Change]) -> None:
        """Keep them for `poll`; whoever calls holds the lock."""
        self._changes += changes
        if changes:
            os.eventfd_write(self._news, 1)
