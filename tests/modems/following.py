"""Awaits what ModemManager says, by the events that say it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from esimbpf.modem.bus import Bus
from esimbpf.modem.changes import Change
from esimbpf.modem.client import Follower
from esimbpf.modem.model import Modem, Survey
from esimbpf.modem.watch import ModemWatch
from tests.modems.private_bus import PATIENCE_S

__all__ = ["Following", "changes"]


class Following:
    """All surveys of one Follower, from the first on."""

    def __init__(self, address: str, signal_every_s: int = 0) -> None:
        self.surveys: list[Survey] = []
        self._follower = Follower(self.surveys.append, PATIENCE_S, signal_every_s)
        self._bus = Bus(address, self._follower.heard)
        self._follower.begin(self._bus)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.close()

    def until(self, holds: Callable[[Survey], bool]) -> Survey:
        """The first survey from the last one on for which this holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        seen = max(0, len(self.surveys) - 1)
        while True:
            for survey in self.surveys[seen:]:
                if holds(survey):
                    return survey
            seen = len(self.surveys)
            assert time.monotonic() < deadline_s, self.surveys[-1]
            self._follower.catch_up(self._bus)
            self._follower.wait(self._bus, 0.5)

    def modem(self, holds: Callable[[Modem], bool]) -> Modem:
        """The one modem, as soon as this holds for it."""
        return self.until(lambda survey: len(survey.modems) == 1 and holds(survey.modems[0])).modems[0]


def changes(watch: ModemWatch, number: int, within_s: float = PATIENCE_S) -> list[Change]:
    """The next changes that a watch tells of, so many of them."""
    found: list[Change] = []
    while len(found) < number:
        assert select.select([watch], [], [], within_s)[0], f"no more changes than {found}"
        found += watch.poll()
    assert len(found) == number, found
    return found
