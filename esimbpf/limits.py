"""Limits as they hold: what the kernel enforces at the moment, beside what was agreed and the daemon has yet to set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from esimbpf.health import Health, QuotaHealth
from esimbpf.quota import NEVER, Standing, State, Then
from esimbpf.saver import NAME as SAVER
from esimbpf.saver import Service
from esimbpf.spans import Span
from esimbpf.units import rate_text

__all__ = ["Agreed", "Limit", "Limits", "Pending", "limits"]


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a ledger and the configuration say of quotas."""

    names: Mapping[int, tuple[str, datetime]] = field(default_factory=dict)
    """By the kernel's number, the name of the quota that it was given to, and when that was added."""
    standings: tuple[Standing, ...] = ()
    periods: Mapping[str, Span | None] = field(default_factory=dict)
    """By name, the period that ran when the daemon looked last: the kernel's limit is of that one."""
    saver: Standing | None = None
    """The saver mode is a quota, too; None if it is to be off."""


class Pending(StrEnum):
    """What the daemon will change when it looks next."""

    ADDED = "added"
    REMOVED = "removed"
    HELD = "held"
    """It is not to be enforced any more: it is paused or snoozed, or has no period."""
    RESUMED = "resumed"
    """It is to be enforced again."""
    RESET = "reset"
    """Its period has ended, and the next one has not begun."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota, as the kernel enforces it."""

    name: str | None
    """None if it is not known what the kernel's number was given to."""
    number: int | None
    """By which the kernel knows it; None if it does not."""
    state: State
    """In force, exceeded or not in force."""
    then: Then
    bytes_per_s: int = 0
    """To which it is throttled; 0 if it is not."""
    rate: str = ""
    """The same in words, as it was written if that is known."""
    remaining_bytes: int | None = None
    """What may still pass; None if nothing is enforced."""
    reaches: bool = False
    """Whether the kernel knows anything by which somebody would be meant."""
    period_end: datetime | None = None
    """Of the period that is enforced; None if it has no end, or none is known."""
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits."""

    quotas: tuple[Limit, ...] = ()
    saver: Limit | None = None
    """None if the saver mode is off, and is to be."""
    services_open: tuple[Service, ...] = ()
    """Which the saver mode leaves open to everybody, as the kernel has it."""
    trouble: str = ""
    """Why it is not known what was agreed; empty if it is."""

    @property
    def enforced(self) -> tuple[Limit, ...]:
        """The quotas that are in force, or exceeded."""
        return tuple(one for one in self.quotas if one.state is not State.NOT_IN_FORCE)

    @property
    def exceeded(self) -> tuple[Limit, ...]:
        """The quotas that are used up."""
        return tuple(one for one in self.quotas if one.state is State.EXCEEDED)


def limits(health: Health, agreed: Agreed | None, trouble: str = "") -> Limits:
    """Join what the kernel enforces with what was agreed; where that is not known (`trouble`), nothing is pending."""
    missing = {(one.kept.quota.name, one.kept.added): one for one in agreed.standings} if agreed else {}
    told = []
    for quota in health.quotas:
        name_and_added = agreed.names.get(quota.number) if agreed else None
        standing = missing.pop(name_and_added, None) if name_and_added else None
        told.append(_limit(quota, name_and_added[0] if name_and_added else None, standing, agreed))
    told += map(_added, missing.values())
    saver = None
    if health.saver:
        saver = _limit(health.saver, SAVER, agreed.saver if agreed else None, agreed)
    elif agreed and agreed.saver:
        saver = _added(agreed.saver)
    return Limits(tuple(told), saver, health.services_open, trouble)


def _added(one: Standing) -> Limit:
    action = one.kept.quota.action
    return Limit(
        one.kept.quota.name,
        None,
        State.NOT_IN_FORCE,
        action.then,
        action.bytes_per_second,
        action.rate,
        pending=Pending.ADDED,
    )


def _limit(quota: QuotaHealth, name: str | None, standing: Standing | None, agreed: Agreed | None) -> Limit:
    written = standing.kept.quota.action if standing else None
    same_rate = written and written.bytes_per_second == quota.bytes_per_s
    period = agreed.periods.get(name) if agreed and name and standing else None
    return Limit(
        name,
        quota.number,
        _state(quota),
        quota.then,
        quota.bytes_per_s,
        written.rate if written and same_rate else rate_text(quota.bytes_per_s) if quota.bytes_per_s else "",
        quota.remaining_bytes,
        quota.reaches,
        period.end if period and period.end != NEVER else None,
        _pending(quota, standing, period) if agreed else None,
    )


def _state(quota: QuotaHealth) -> State:
    if quota.remaining_bytes is None or quota.elsewhere:
        return State.NOT_IN_FORCE
    return State.IN_FORCE if quota.remaining_bytes else State.EXCEEDED


def _pending(quota: QuotaHealth, standing: Standing | None, period: Span | None) -> Pending | None:
    enforced = quota.remaining_bytes is not None
    if standing is None:
        return Pending.REMOVED
    if standing.enforceable is not enforced:
        return Pending.HELD if enforced else Pending.RESUMED
    return Pending.RESET if enforced and period and period != standing.period else None
