"""Spans of time as people cut it: hours, days, weeks, months and the cycles of a plan, in a time zone.

Everything is counted in UTC; a span is two instants of it, the second not included. A day begins with the first
instant of its date in the zone, which daylight saving may move away from midnight; a date that a zone has skipped has
no instant, and no span.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import overload
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from esimbpf.errors import UsageError
from esimbpf.text import printable

__all__ = [
    "Cycle",
    "EveryDays",
    "Monthly",
    "Once",
    "Per",
    "Span",
    "cycle_at",
    "day_at",
    "days_of",
    "first_instant",
    "local_zone",
    "rfc3339",
    "span_at",
    "spans",
    "whole_at",
    "zone_named",
]


@dataclass(frozen=True, slots=True)
class Span:
    """From an instant up to another, in UTC."""

    begin: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return (self.end - self.begin).total_seconds()


class Per(StrEnum):
    """What a period is cut into."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    CYCLE = "cycle"
    """Of a plan."""


def zone_named(name: str) -> ZoneInfo:
    """The time zone of an IANA name; UsageError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"there is no time zone named {printable(name)!r}",
            "name it as in Europe/Berlin; timedatectl list-timezones shows them (the package tzdata has them)",
        ) from error


def local_zone() -> tzinfo:
    """The zone of this machine, with its past and coming changes; UTC if it is not known."""
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            target = os.path.realpath("/etc/localtime")
            key = target.partition("/zoneinfo/")[2]
            return ZoneInfo(key) if key else ZoneInfo.from_file(file)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def first_instant(day: date, zone: tzinfo) -> datetime:
    """When a date begins in a zone, in UTC.

    Where midnight is skipped, Python takes the offset from before: that is the instant of the change. Where there are
    two, it takes the first (PEP 495).
    """
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def day_at(moment: datetime, zone: tzinfo) -> Span:
    """The day in which a moment lies."""
    day = moment.astimezone(zone).date()
    return _between(day, _tomorrow, zone)


def days_of(span: Span, zone: tzinfo) -> Iterator[Span]:
    """The days that a span touches, whole, in their order."""
    moment = span.begin
    while moment < span.end:
        day = day_at(moment, zone)
        yield day
        moment = day.end


def spans(per: Per, since: datetime, until: datetime, zone: tzinfo, cycle: Cycle | None = None) -> Iterator[Span]:
    """What a period is cut into, the first and the last cut off at its ends.

    Cycles are those of `cycle`; what lies before or after a single one is a span too. None is one that never begins.
    """
    moment = since
    while moment < until:
        whole = whole_at(per, moment, zone, cycle)
        yield Span(max(whole.begin, since), min(whole.end, until))
        moment = whole.end


def whole_at(per: Per, moment: datetime, zone: tzinfo, cycle: Cycle | None = None) -> Span:
    """What of `spans` a moment lies in, not cut off; before or after a single cycle, the rest from this moment on."""
    return _cycle_or_rest(cycle, moment, zone) if per is Per.CYCLE else span_at(per, moment, zone)


def _cycle_or_rest(cycle: Cycle | None, moment: datetime, zone: tzinfo) -> Span:
    if cycle is None or isinstance(cycle, Once):
        only = cycle_at(cycle, first_instant(cycle.first, zone), zone) if cycle and cycle.first else None
        if only is None or moment >= only.end:
            return Span(moment, datetime.max.replace(tzinfo=UTC))
        return only if moment >= only.begin else Span(moment, only.begin)
    found = cycle_at(cycle, moment, zone)
    assert found is not None
    return found


def span_at(per: Per, moment: datetime, zone: tzinfo) -> Span:
    """The hour, day, week (from Monday) or month in which a moment lies."""
    local = moment.astimezone(zone)
    match per:
        case Per.HOUR:
            # Hours are counted from the day's first instant, so that all of them are whole where clocks change.
            day = day_at(moment, zone)
            passed = int((moment - day.begin).total_seconds()) // 3600
            begin = day.begin + timedelta(hours=passed)
            return Span(begin, min(begin + timedelta(hours=1), day.end))
        case Per.DAY:
            return day_at(moment, zone)
        case Per.WEEK:
            monday = local.date() - timedelta(days=local.weekday())
            return _between(monday, lambda day: day + timedelta(days=7), zone)
        case _:
            return _between(local.date().replace(day=1), lambda day: _month_later(day, 1), zone)


def _between(first: date, following: Callable[[date], date], zone: tzinfo) -> Span:
    begin, day = first_instant(first, zone), following(first)
    # A date that the zone has skipped begins when the next one does.
    while first_instant(day, zone) <= begin:
        day = _tomorrow(day)
    return Span(begin, first_instant(day, zone))


def _tomorrow(day: date) -> date:
    return day + timedelta(days=1)


# -- cycles ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Monthly:
    """A cycle begins each month on a day; in a month that is shorter, on its last."""

    day: int

    def __post_init__(self) -> None:
        if not 1 <= self.day <= 31:
            raise UsageError(f"a month has no day {self.day}", "give one from 1 to 31")


@dataclass(frozen=True, slots=True)
class EveryDays:
    """A cycle begins every so many days, counted from a date."""

    days: int
    first: date

    def __post_init__(self) -> None:
        _checked_days(self.days)


@dataclass(frozen=True, slots=True)
class Once:
    """One cycle of so many days from the first use, as of a travel eSIM; before that, none."""

    days: int
    first: date | None = None

    def __post_init__(self) -> None:
        _checked_days(self.days)


Cycle = Monthly | EveryDays | Once


def _checked_days(days: int) -> None:
    if not 1 <= days <= 3660:
        raise UsageError(f"a cycle of {days} days makes no sense", "give a number of days from 1 to 3660")


def cycle_at(cycle: Cycle, moment: datetime, zone: tzinfo) -> Span | None:
    """The cycle in which a moment lies; None if it lies in none: before a plan's first use, or after its only cycle."""
    today = moment.astimezone(zone).date()
    match cycle:
        case Monthly(day):
            first = _on(today.year, today.month, day)
            if moment < first_instant(first, zone):
                first = _on(*_month_before(today), day)
            following = _on(*_month_after(first), day)
            return Span(first_instant(first, zone), first_instant(following, zone))
        case EveryDays(days, first):
            passed = (today - first).days // days
            begin = first + timedelta(days=passed * days)
            return Span(first_instant(begin, zone), first_instant(begin + timedelta(days=days), zone))
        case Once(_, None):
            return None
        case Once(days, first):
            assert first is not None
            span = Span(first_instant(first, zone), first_instant(first + timedelta(days=days), zone))
            return span if span.begin <= moment < span.end else None


def _on(year: int, month: int, day: int) -> date:
    """A day of a month, or its last one if it is shorter."""
    last = (_month_later(date(year, month, 1), 1) - timedelta(days=1)).day
    return date(year, month, min(day, last))


def _month_later(first_of_month: date, months: int) -> date:
    number = first_of_month.year * 12 + first_of_month.month - 1 + months
    return date(number // 12, number % 12 + 1, 1)


def _month_after(day: date) -> tuple[int, int]:
    later = _month_later(day.replace(day=1), 1)
    return later.year, later.month


def _month_before(day: date) -> tuple[int, int]:
    earlier = _month_later(day.replace(day=1), -1)
    return earlier.year, earlier.month


@overload
def rfc3339(moment: datetime) -> str: ...
@overload
def rfc3339(moment: None) -> None: ...
def rfc3339(moment: datetime | None) -> str | None:
    """A moment as programs are told of it: in UTC, with milliseconds, which are cut; nothing for none."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
