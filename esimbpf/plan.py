"""A data plan, and what the counted use says about it: used, remaining, and whether it will last.

All amounts are billable bytes of both directions. Money is exact (Decimal); only what is shown is rounded.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

from esimbpf.errors import UsageError
from esimbpf.fields import naming
from esimbpf.quota import parse_levels
from esimbpf.spans import Cycle, EveryDays, Monthly, Once, Span, cycle_at, day_at, days_of, first_instant, zone_named
from esimbpf.text import printable
from esimbpf.units import parse_rate, parse_size

__all__ = ["Assessment", "DayUse", "Plan", "assess", "parse_cycle", "parse_end"]

MOST_PERCENT: Final = 1000
"""Of the allowance, at which to warn."""
FEWEST_DAYS: Final = 3
"""From fewer days nothing is forecast."""
RECENT_DAYS: Final = 14
_HALF_A_DAY_S: Final = 43200.0

AtEnd = Literal["billed", "throttled", "cut"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was agreed with a carrier for a link or a SIM profile."""

    target: str
    """`link:NAME` or `profile:ICCID`."""
    allowance: str
    """For each cycle, as the carrier writes it: `10GB`, `5GiB`."""
    cycle: Cycle
    zone: str
    """The IANA name of the zone in which the carrier's days begin."""
    since: datetime
    """When the plan was made known; a single cycle's first use is looked for from then on."""
    used: str | None = None
    """What had been used of the cycle at `since`, as the carrier said; None if nobody did, and the ledger has it."""
    counted_bytes: int = 0
    """What the ledger had of the cycle at `since`, and `used` stands for."""
    rollover: bool = False
    """What a cycle has left over is added to the next one, and lost after that."""
    at_end: AtEnd = "cut"
    price: Decimal = Decimal(0)
    """Of `price_per` bytes beyond the allowance, if they are billed: in proportion, not by started steps."""
    price_per: int = 1_000_000
    currency: str = ""
    rate: str = ""
    """To which it is throttled, if it is."""
    warn: tuple[int, ...] = (80, 95)
    """Percent of the allowance."""

    def __post_init__(self) -> None:
        if self.allowance_bytes <= 0:
            raise UsageError(
                f"allowance {printable(self.allowance)!r} has nothing to be counted against",
                "give more than 0 bytes, for example: 10GB",
            )
        zone_named(self.zone)
        parse_size(self.used or "0")
        parse_levels(list(self.warn), MOST_PERCENT)

    @property
    def allowance_bytes(self) -> int:
        """Of a cycle, without what was rolled over."""
        return parse_size(self.allowance)

    @property
    def used_bytes(self) -> int:
        """What the carrier said had been used at `since`; 0 if nobody did."""
        return parse_size(self.used) if self.used is not None else 0

    def was_said_in(self, cycle: Span) -> bool:
        """Whether the carrier said in this cycle what had been used of it."""
        return self.used is not None and cycle.begin <= self.since < cycle.end

    def to_json(self) -> dict[str, Any]:
        """As it is kept; version 1."""
        return {
            "v": 1,
            "allowance": self.allowance,
            "cycle": cycle_text(self.cycle),
            "zone": self.zone,
            "since": self.since.astimezone(UTC).isoformat(),
            "used": self.used,
            "counted_bytes": self.counted_bytes,
            "rollover": self.rollover,
            "at_end": self.at_end,
            "price": str(self.price),
            "price_per": self.price_per,
            "currency": self.currency,
            "rate": self.rate,
            "warn": list(self.warn),
        }

    @classmethod
    def from_json(cls, target: str, kept: Mapping[str, Any]) -> Plan:
        """What `to_json` has made."""
        return cls(
            target=target,
            allowance=kept["allowance"],
            cycle=parse_cycle(kept["cycle"]),
            zone=kept["zone"],
            since=datetime.fromisoformat(kept["since"]),
            used=kept["used"],
            counted_bytes=kept["counted_bytes"],
            rollover=kept["rollover"],
            at_end=kept["at_end"],
            price=Decimal(kept["price"]),
            price_per=kept["price_per"],
            currency=kept["currency"],
            rate=kept["rate"],
            warn=tuple(kept["warn"]),
        )


def parse_cycle(text: str) -> Cycle:
    """A cycle as people write it: `monthly:15`, `30d:2026-11-01`, `once:7d`, `once:7d:2026-11-20`.

    Raises UsageError.
    """
    parts = text.lower().split(":")
    with naming(f"cycle {printable(text)!r}:"), suppress(ValueError):
        match parts:
            case ["monthly", day]:
                return Monthly(_number(day))
            case ["once", days]:
                return Once(_days(days))
            case ["once", days, first]:
                return Once(_days(days), _date(first))
            case [days, first]:
                return EveryDays(_days(days), _date(first))
    raise UsageError(
        f"cycle {printable(text)!r} is no cycle",
        "write it as monthly:15 (from the 15th), 30d:2026-11-01 (every 30 days from then), once:7d (7 days from the "
        "first use) or once:7d:2026-11-20",
    )


def _date(text: str) -> date:
    """A date with room before and after it."""
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"there is no date {printable(text)!r}", "write it as 2026-11-20") from error
    if not 2000 <= day.year <= 2200:
        raise UsageError(f"the date {day} makes no sense", "give one from 2000 to 2200")
    return day


def _days(text: str) -> int:
    if not text.endswith("d"):
        raise ValueError(text)
    return _number(text[:-1])


def _number(text: str) -> int:
    """int() takes more than people mean: signs, spaces, underscores, the digits of all scripts."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError(text)
    return int(text)


def cycle_text(cycle: Cycle) -> str:
    """What `parse_cycle` reads."""
    match cycle:
        case Monthly(day):
            return f"monthly:{day}"
        case EveryDays(days, first):
            return f"{days}d:{first}"
        case Once(days, None):
            return f"once:{days}d"
        case Once(days, first):
            return f"once:{days}d:{first}"


def parse_end(text: str) -> dict[str, Any]:
    """What happens at the end: `cut`, `throttled:64kbit`, `billed:0.01EUR/MB`; the plan's fields. Raises UsageError."""
    if text == "cut":
        return {"at_end": "cut"}
    kind, colon, rest = text.partition(":")
    if kind == "throttled":
        if colon:
            with naming(f"then {printable(text)!r}:"):
                parse_rate(rest)
        return {"at_end": "throttled", "rate": rest}
    price = _PRICE.fullmatch(rest) if kind == "billed" else None
    if price:
        per = price["per"]
        unit = 0
        with suppress(UsageError):
            unit = parse_size(per if per[0].isdecimal() else f"1{per}")
        if not unit:
            raise UsageError(
                f"then {printable(text)!r}: {printable(per)!r} is no unit of size",
                "give one as MB, GiB or 100MB: billed:0.01EUR/MB",
            )
        currency = price["currency"].strip()
        return {"at_end": "billed", "price": Decimal(price["amount"]), "price_per": unit, "currency": currency}
    raise UsageError(
        f"then {printable(text)!r} does not say what happens at the end",
        "write cut, throttled:64kbit or billed:0.01EUR/MB",
    )


_PRICE: Final = re.compile(r"(?P<amount>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?P<currency>[A-Za-z€$£¥ ]*)/(?P<per>.+)")


@dataclass(frozen=True, slots=True)
class DayUse:
    """What was counted on a day of the plan's zone."""

    day: Span
    bytes: int
    gap_s: float = 0.0
    """How long nothing was counted."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a plan stands at a moment."""

    now: datetime
    cycle: Span | None
    """None before the first use of a single cycle, and after it."""
    ended: datetime | None = None
    """When a single cycle was over."""
    used_bytes: int = 0
    allowance_bytes: int = 0
    """With what was rolled over."""
    rolled_over_bytes: int = 0
    days_left: float = 0.0
    elapsed: float = 0.0
    """The part of the cycle that has passed, 0 to 1."""
    used_today_bytes: int = 0
    safe_today_bytes: int = 0
    """What more can be used today if the rest is to last, spread evenly over the days to come."""
    typical_day_bytes: int | None = None
    """The median of recent days; None if too few are known."""
    days_known: int = 0
    runs_out: datetime | None = None
    """When the allowance ends if days stay as they are; None if it lasts, or if nothing can be said."""
    cost: Decimal = Decimal(0)
    """Of what was used beyond the allowance."""
    blame: tuple[tuple[str, int], ...] = ()
    """The apps that have used most, the first one first."""
    gap_s: float = 0.0
    """Of the cycle, in which nothing was counted: what was used then is missing."""
    warnings: tuple[int, ...] = ()
    """The levels that are reached, in percent."""

    @property
    def remaining_bytes(self) -> int:
        """Of the allowance; 0 if it is used up."""
        return max(0, self.allowance_bytes - self.used_bytes)

    @property
    def over_bytes(self) -> int:
        """Beyond the allowance."""
        return max(0, self.used_bytes - self.allowance_bytes)

    @property
    def used_part(self) -> float:
        """Of the allowance; more than 1 if it is used up."""
        return self.used_bytes / self.allowance_bytes if self.allowance_bytes else 0.0

    @property
    def pace(self) -> float | None:
        """1 if it is used just as fast as the cycle passes, 2 if twice as fast; None in the cycle's first hours."""
        return self.used_part / self.elapsed if self.elapsed >= 0.02 else None


def assess(
    plan: Plan,
    now: datetime,
    days: Sequence[DayUse],
    used_bytes: int,
    previous_bytes: int | None = None,
    by_app: Mapping[str, int] | None = None,
    first_use: date | None = None,
) -> Assessment:
    """How a plan stands.

    `used_bytes` is what was used in the current cycle, `previous_bytes` in the one before, None if that is not known
    in whole. `days` are those of the cycle and before it, today's included, in their order.
    """
    zone = zone_named(plan.zone)
    cycle = current_cycle(plan, now, first_use)
    if cycle is None:
        only = _only_cycle(plan, first_use)
        ended = only.end if only and only.end <= now else None
        return Assessment(now, None, ended, allowance_bytes=plan.allowance_bytes)
    rolled = max(0, plan.allowance_bytes - previous_bytes) if plan.rollover and previous_bytes is not None else 0
    allowance = plan.allowance_bytes + rolled
    today = day_at(now, zone)
    used_today = sum(one.bytes for one in days if one.day.begin == today.begin)
    remaining = max(0, allowance - used_bytes)
    days_to_come = sum(1 for _ in days_of(Span(now, cycle.end), zone))
    recent = [one for one in days if one.day.end <= today.begin and one.gap_s <= _HALF_A_DAY_S][-RECENT_DAYS:]
    typical = int(statistics.median(one.bytes for one in recent)) if len(recent) >= FEWEST_DAYS else None
    over = max(0, used_bytes - allowance)
    return Assessment(
        now=now,
        cycle=cycle,
        used_bytes=used_bytes,
        allowance_bytes=allowance,
        rolled_over_bytes=rolled,
        days_left=(cycle.end - now).total_seconds() / 86400,
        elapsed=(now - cycle.begin).total_seconds() / cycle.seconds,
        used_today_bytes=used_today,
        safe_today_bytes=max(0, (remaining + used_today) // max(days_to_come, 1) - used_today),
        typical_day_bytes=typical,
        days_known=len(recent),
        runs_out=_runs_out(now, today, cycle, remaining, used_today, typical),
        cost=plan.price * over / plan.price_per if plan.at_end == "billed" else Decimal(0),
        blame=tuple(sorted((by_app or {}).items(), key=lambda item: (-item[1], item[0]))[:3]),
        gap_s=sum(one.gap_s for one in days if one.day.end > cycle.begin),
        warnings=tuple(percent for percent in sorted(plan.warn) if used_bytes * 100 >= allowance * percent),
    )


def current_cycle(plan: Plan, now: datetime, first_use: date | None = None) -> Span | None:
    """The plan's cycle in which a moment lies; `first_use` begins a single one that has no date of its own."""
    only = _only_cycle(plan, first_use)
    if isinstance(plan.cycle, Once):
        return only if only and only.begin <= now < only.end else None
    return cycle_at(plan.cycle, now, zone_named(plan.zone))


def _only_cycle(plan: Plan, first_use: date | None) -> Span | None:
    """The cycle of a plan that has but one; None if it has others, or has not begun."""
    first = plan.cycle.first or first_use if isinstance(plan.cycle, Once) else None
    if not isinstance(plan.cycle, Once) or first is None:
        return None
    zone = zone_named(plan.zone)
    return cycle_at(Once(plan.cycle.days, first), first_instant(first, zone), zone)


def _runs_out(
    now: datetime, today: Span, cycle: Span, remaining: int, used_today: int, typical: int | None
) -> datetime | None:
    """When nothing remains, if the rest of today and all days to come are typical ones; None if that is not before
    the cycle's end."""
    if remaining <= 0:
        return now
    if not typical:
        return None
    rest_of_today = max(0, typical - used_today)
    if remaining <= rest_of_today:
        return now + (today.end - now) * (remaining / rest_of_today)
    days_more = (remaining - rest_of_today) / typical
    if days_more >= (cycle.end - today.end) / timedelta(days=1):
        return None
    return today.end + timedelta(days=days_more)
