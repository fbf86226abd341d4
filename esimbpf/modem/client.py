"""Asks ModemManager, and follows what it tells.

What it is asked is read-only, but for one thing that callers may ask for: `Signal.Setup`, without which most modems
give no rsrp, rsrq or snr. (USSD is in `ussd`.) oFono is asked in the same way where ofono2mm gives it this API.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from esimbpf.errors import ModemError
from esimbpf.machine import ModemManager
from esimbpf.modem.bus import BUS_NAME, BUS_PATH, Bus, BusLost, CallFailed, Signal, TimedOut, plain
from esimbpf.modem.decode import SIGNAL
from esimbpf.modem.identity import link_statuses
from esimbpf.modem.model import Moment, Service, Survey
from esimbpf.modem.objects import Objects
from esimbpf.modem.ppp import ppp_interface
from esimbpf.text import printable

__all__ = ["MODEM_MANAGER", "OBJECT_MANAGER", "PATH", "PROPERTIES", "Follower", "modem_manager", "survey"]

MODEM_MANAGER: Final = "org.freedesktop.ModemManager1"
PATH: Final = "/org/freedesktop/ModemManager1"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"

_RULES: Final = (
    f"type='signal',sender='{BUS_NAME}',member='NameOwnerChanged',arg0='{MODEM_MANAGER}'",
    f"type='signal',sender='{MODEM_MANAGER}',interface='{OBJECT_MANAGER}'",
    f"type='signal',sender='{MODEM_MANAGER}',interface='{PROPERTIES}'",
)
_INSTALLED: Final = (
    "/usr/share/dbus-1/system-services/org.freedesktop.ModemManager1.service",
    "/usr/sbin/ModemManager",
    "/usr/bin/ModemManager",
)
"""Any of these is there where it is installed, by whichever distribution."""
_NO_OWNER: Final = f"{BUS_NAME}.Error.NameHasNoOwner"
_DENIED: Final = f"{BUS_NAME}.Error.AccessDenied"
_RETRY_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before an unanswered question is asked again: the first, the second, …, all others."""


class Follower:
    """What ModemManager has told over one bus, kept up with its signals.

        follower = Follower(changed, limit_s)
        with Bus(on_signal=follower.heard) as bus:
            follower.begin(bus)
            while True:
                follower.catch_up(bus)
                follower.wait(bus)

    `changed` is called with each survey that differs from the one before. It is whole: while something that a signal
    told of is being asked for, none is given; its time is that of the signal. `limit_s` is for each single call.
    """

    def __init__(self, changed: Callable[[Survey], None], limit_s: float, signal_every_s: int = 0) -> None:
        self._changed = changed
        self._limit_s = limit_s
        self._signal_every_s = signal_every_s
        self._objects = Objects()
        self._told = Survey(Service.UNKNOWN)
        self._forget()

    def _forget(self, owner: str = "") -> None:
        self._objects.clear()
        self._owner = owner
        self._version = ""
        self._loaded = False
        self._measured: set[str] = set()
        """Paths of the modems that were asked to measure their signal."""
        self._since: Moment | None = None
        self._failures = 0
        self._ask_at_s: float | None = None

    def begin(self, bus: Bus) -> None:
        """Ask for its signals, and who it is. Raises BusLost, Stopped."""
        self._forget()
        try:
            for rule in _RULES:
                bus.subscribe(rule, limit_s=self._limit_s)
            self._owner = self._ask(bus, BUS_NAME, BUS_PATH, BUS_NAME, "GetNameOwner", "s", (MODEM_MANAGER,), "s")
        except CallFailed as error:
            if error.name != _NO_OWNER:
                raise BusLost(f"the D-Bus does not say who ModemManager is: {error.message}") from error
            self._tell(Service.NOT_RUNNING)
        except TimedOut as error:
            raise BusLost(error.message, error.hint) from error

    def catch_up(self, bus: Bus) -> None:
        """Ask all that has to be asked now. Raises BusLost, Stopped."""
        while self._owner and (self._ask_at_s is None or self._ask_at_s <= time.monotonic()):
            self._ask_at_s = None
            if not self._whole:
                try:
                    if not self._loaded:
                        self._load(bus)
                    self._complete(bus)
                except BusLost:
                    raise
                except ModemError as error:
                    self._fail(error)
                    return
            if self._whole:
                self._failures = 0
                self._tell(Service.RUNNING)
                self._have_signal_measured(bus)
                # What came meanwhile may name objects that are to be asked for.
                if self._whole:
                    return

    def wait(self, bus: Bus, limit_s: float | None = None) -> None:
        """Wait for one message, for `limit_s` seconds or until something has to be asked. Raises BusLost, Stopped."""
        if self._ask_at_s is not None:
            left_s = max(0.0, self._ask_at_s - time.monotonic())
            limit_s = left_s if limit_s is None else min(limit_s, left_s)
        bus.listen(limit_s)

    def lost(self, error: BusLost) -> None:
        """The bus has gone."""
        self._forget()
        self._tell(Service.NO_BUS, error.message)

    def let_go(self, bus: Bus) -> None:
        """Take back what was set. Raises BusLost, Stopped."""
        for modem in self._told.modems:
            if modem.path in self._measured and modem.signal_rate_s == self._signal_every_s:
                self._measure(bus, modem.path, 0)

    # -- questions ---------------------------------------------------------------

    @property
    def _whole(self) -> bool:
        """Whether nothing is to be asked for."""
        return self._loaded and not self._objects.missing()

    def _ask(
        self,
        bus: Bus,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: tuple[Any, ...],
        answer: str,
    ) -> Any:
        """The one value that a method answers. Raises as Bus.call does."""
        return bus.call(name, path, interface, member, signature, body, answer=answer, limit_s=self._limit_s)[0]

    def _load(self, bus: Bus) -> None:
        owner = self._owner
        version = self._ask(bus, owner, PATH, PROPERTIES, "Get", "ss", (MODEM_MANAGER, "Version"), "v")[1]
        objects = self._ask(bus, owner, PATH, OBJECT_MANAGER, "GetManagedObjects", "", (), "a{oa{sa{sv}}}")
        if owner != self._owner:  # it has gone meanwhile, or is another one
            return
        self._version = printable(version) if isinstance(version, str) else ""
        self._objects.clear()
        for path, interfaces in objects.items():
            self._objects.add(path, {name: plain(properties) for name, properties in interfaces.items()})
        self._loaded = True
        self._since = None

    def _complete(self, bus: Bus) -> None:
        """Ask for the properties of what modems name."""
        while self._loaded and (missing := self._objects.missing()):
            owner = self._owner
            path, interface = missing[0]
            try:
                properties = self._ask(bus, owner, path, PROPERTIES, "GetAll", "s", (interface,), "a{sv}")
            except CallFailed as error:
                if error.name == _DENIED:
                    raise
                # It has gone, and the signal that says so is on its way.
                self._objects.give_up(path, interface)
            else:
                if owner == self._owner:
                    self._objects.add(path, {interface: plain(properties)})

    def _fail(self, error: ModemError) -> None:
        """Tell as much as is known, and ask for all of it again later."""
        for path, interface in self._objects.missing():
            self._objects.give_up(path, interface)
        self._loaded = False
        self._ask_at_s = time.monotonic() + _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        denied = isinstance(error, CallFailed) and error.name == _DENIED
        self._tell(Service.REFUSED if denied else Service.SILENT, error.message)

    def _have_signal_measured(self, bus: Bus) -> None:
        """Once for each modem, unless somebody else has said how often; what that one wants holds."""
        for modem in self._told.modems:
            if self._signal_every_s and modem.signal_rate_s == 0 and modem.path not in self._measured:
                self._measured.add(modem.path)
                self._measure(bus, modem.path, self._signal_every_s)

    def _measure(self, bus: Bus, path: str, every_s: int) -> None:
        # Where it cannot, or we may not, the values stay unknown.
        with suppress(CallFailed, TimedOut):
            bus.call(self._owner, path, SIGNAL, "Setup", "u", (every_s,), limit_s=self._limit_s)

    # -- what it tells -----------------------------------------------------------

    def heard(self, signal: Signal) -> None:
        """Take a signal in. Of any that others send, nothing is believed."""
        if signal.sender == BUS_NAME:
            if (signal.member, signal.signature) == ("NameOwnerChanged", "sss") and signal.body[0] == MODEM_MANAGER:
                self._forget(signal.body[2])
                if not self._owner:
                    self._tell(Service.NOT_RUNNING)
            return
        if not self._owner or signal.sender != self._owner or not self._take(signal):
            return
        self._ask_at_s = None  # it is able to answer
        if self._since is None:
            self._since = Moment.now()
        if self._whole:
            self._tell(Service.RUNNING)

    def _take(self, signal: Signal) -> bool:
        """Whether it says something of the objects."""
        match signal.member, signal.signature:
            case "PropertiesChanged", "sa{sv}as":
                interface, changed, invalidated = signal.body
                self._objects.change(signal.path, interface, plain(changed), invalidated)
            case "InterfacesAdded", "oa{sa{sv}}":
                path, interfaces = signal.body
                self._objects.add(path, {name: plain(properties) for name, properties in interfaces.items()})
            case "InterfacesRemoved", "oas":
                self._objects.remove(*signal.body)
            case _:
                return False
        return True

    def _tell(self, service: Service, words: str = "") -> None:
        at, self._since = self._since or Moment.now(), None
        now = Survey(service, words, self._version, self._objects.modems(), at)
        if replace(now, at=self._told.at) != self._told:
            self._told = now
            self._changed(now)


def survey(address: str = "", limit_s: float = 2.0) -> Survey:
    """What ModemManager says now; each question has so many seconds. Nothing is changed at it, nothing raised."""
    told = [Survey(Service.UNKNOWN)]
    follower = Follower(told.append, limit_s)
    try:
        with Bus(address, follower.heard) as bus:
            follower.begin(bus)
            follower.catch_up(bus)
    except BusLost as error:
        follower.lost(error)
    return told[-1]


def modem_manager() -> ModemManager:
    """Whether it is installed, what it says now, and of which interfaces: as `survey`."""
    told = survey()
    links = tuple(sorted(link_statuses(told.modems, ppp_interface)))
    return ModemManager(any(map(os.path.exists, _INSTALLED)), told, links)
