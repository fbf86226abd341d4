"""ModemManager's objects, kept as its messages tell of them.

Modems come with their properties; of SIMs and bearers only the paths do, and `missing` says which are to be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from esimbpf.modem import decode
from esimbpf.modem.decode import BEARER, MODEM, SIM, Properties
from esimbpf.modem.model import Modem

__all__ = ["Objects"]

_NO_OBJECT: Final = "/"


class Objects:
    """All objects that are known, by path and interface. Nothing here waits or fails."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, dict[str, object]]] = {}
        self._stale: dict[str, str] = {}

    def clear(self) -> None:
        """Forget everything: ModemManager has gone, or is another one."""
        self._known.clear()
        self._stale.clear()

    def add(self, path: str, interfaces: Mapping[str, Properties]) -> None:
        """An object has these interfaces, beside those that it had."""
        there = self._known.setdefault(path, {})
        for interface, properties in interfaces.items():
            there[interface] = dict(properties)
        self._stale.pop(path, None)
        self._forget_strays()

    def remove(self, path: str, interfaces: Sequence[str]) -> None:
        """An object has these interfaces no longer."""
        there = self._known.get(path, {})
        for interface in interfaces:
            there.pop(interface, None)
        if not there:
            self._known.pop(path, None)
        self._forget_strays()

    def change(self, path: str, interface: str, properties: Properties, invalidated: Sequence[str] = ()) -> None:
        """Properties have changed; of those that are invalidated, the values are to be asked for."""
        there = self._known.get(path, {}).get(interface)
        if there is None:
            return
        there.update(properties)
        for name in invalidated:
            there.pop(name, None)
        if invalidated:
            self._stale[path] = interface
        self._forget_strays()

    def give_up(self, path: str, interface: str) -> None:
        """An object does not tell its properties: they are unknown."""
        self._known.setdefault(path, {}).setdefault(interface, {})
        self._stale.pop(path, None)

    def missing(self) -> tuple[tuple[str, str], ...]:
        """Paths and interfaces whose properties have to be asked for."""
        wanted = {path: interface for path, interface in self._references() if path not in self._known}
        return (*(wanted | self._stale).items(),)

    def modems(self) -> tuple[Modem, ...]:
        """All modems, in the order in which they came."""
        sims = {path: decode.sim(path, there[SIM]) for path, there in self._known.items() if SIM in there}
        bearers = {path: decode.bearer(path, there[BEARER]) for path, there in self._known.items() if BEARER in there}
        return tuple(decode.modem(path, there, sims, bearers) for path, there in self._known.items() if MODEM in there)

    def _references(self) -> Iterator[tuple[str, str]]:
        """The SIMs and bearers that modems name."""
        for there in self._known.values():
            modem = there.get(MODEM, {})
            for interface, named in (
                (SIM, [modem.get("Sim")]),
                (SIM, modem.get("SimSlots")),
                (BEARER, modem.get("Bearers")),
            ):
                for path in named if isinstance(named, list) else ():
                    if isinstance(path, str) and path != _NO_OBJECT:
                        yield path, interface

    def _forget_strays(self) -> None:
        """SIMs and bearers that no modem names any more are gone; ModemManager does not say so."""
        named = {path for path, _ in self._references()}
        for path in [path for path, there in self._known.items() if MODEM not in there and path not in named]:
            del self._known[path]
            self._stale.pop(path, None)
