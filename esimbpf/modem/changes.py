"""When a link became another's, or began to move its bytes elsewhere or otherwise.

ModemManager tells of one event in several steps: the new network's number comes first, its name and that it is roaming
follow when the modem has been asked for them. What stands in between was never true. So a change of the network alone
is told when it has held for `SETTLED_NS`, or `LATEST_NS` after the first step, and its time is the first step's. A
change of modem, profile, bearer or connection is told at once, and with it what was waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from esimbpf.modem.identity import NO_MODEM, Identity, LinkStatus
from esimbpf.modem.model import Moment, Registration

__all__ = ["LATEST_NS", "SETTLED_NS", "Change", "Chronicle", "Known"]

SETTLED_NS: Final = 500_000_000
LATEST_NS: Final = 3_000_000_000


@dataclass(frozen=True, slots=True)
class Known:
    """What a link is, and since when."""

    status: LinkStatus
    since: Moment


@dataclass(frozen=True, slots=True)
class Change:
    """A link has become another's, or moves its bytes elsewhere or otherwise: a segment of its traffic ends."""

    link: str
    before: LinkStatus
    after: LinkStatus
    at: Moment
    """When ModemManager's signal came that told of it first."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A change that is not told yet."""

    status: LinkStatus
    first: Moment
    last: Moment

    @property
    def due_ns(self) -> int:
        return min(self.last.boottime_ns + SETTLED_NS, self.first.boottime_ns + LATEST_NS)


class Chronicle:
    """What all links have been, since `begun`."""

    def __init__(self, begun: Moment) -> None:
        self._begun = begun
        self._known: dict[str, Known] = {}
        self._waiting: dict[str, _Waiting] = {}

    def known(self, link: str) -> Known:
        """What a link is; `NO_MODEM` since the beginning, if it has never been a modem's."""
        return self._known.get(link) or Known(NO_MODEM, self._begun)

    def links(self) -> dict[str, LinkStatus]:
        """All links that modems own."""
        return {name: known.status for name, known in self._known.items() if known.status != NO_MODEM}

    @property
    def due_ns(self) -> int | None:
        """When, on CLOCK_BOOTTIME, something is to be told that nothing new tells of."""
        return min((waiting.due_ns for waiting in self._waiting.values()), default=None)

    def take(self, statuses: Mapping[str, LinkStatus], at: Moment) -> list[Change]:
        """What is told now that the links are so; links that are left out are no modem's."""
        told = []
        for link in sorted({*self._known, *statuses}):
            before, after = self.known(link).status, statuses.get(link, NO_MODEM)
            waiting = self._waiting.get(link)
            if after == before:
                self._waiting.pop(link, None)
            elif _apart_from_network(after) != _apart_from_network(before):
                told.append(self._tell(link, after, at))
            elif waiting is None or waiting.status != after:
                self._waiting[link] = _Waiting(after, waiting.first if waiting else at, at)
        return told + self.pass_time(at)

    def pass_time(self, now: Moment) -> list[Change]:
        """What is told by now."""
        due = [link for link, waiting in self._waiting.items() if waiting.due_ns <= now.boottime_ns]
        return [self._tell(link, self._waiting[link].status, self._waiting[link].first) for link in sorted(due)]

    def _tell(self, link: str, after: LinkStatus, at: Moment) -> Change:
        change = Change(link, self.known(link).status, after, at)
        self._known[link] = Known(after, at)
        self._waiting.pop(link, None)
        return change


def _apart_from_network(status: LinkStatus) -> LinkStatus:
    return replace(status, identity=Identity(status.identity.profile), registration=Registration.UNKNOWN)
