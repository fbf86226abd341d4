"""What a plan says of what was used: remaining, forecast, safe to use, cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.errors import UsageError
from esimbpf.plan import Assessment, DayUse, Plan, assess, parse_cycle, parse_end
from esimbpf.spans import EveryDays, Monthly, Once, Span, day_at
from esimbpf.units import parse_rate, parse_size

NOW = datetime(2026, 11, 16, 12, tzinfo=UTC)
GB = 1_000_000_000


def plan(**changed: object) -> Plan:
    fields: dict[str, object] = {
        "target": "link:wwan0",
        "allowance": "10GB",
        "cycle": Monthly(1),
        "zone": "UTC",
        "since": datetime(2026, 10, 1, tzinfo=UTC),
    }
    return Plan(**(fields | changed))  # type: ignore[arg-type]


def days(*amounts: int, gaps: dict[int, float] | None = None) -> list[DayUse]:
    """Days that end with today."""
    today = day_at(NOW, UTC)
    return [
        DayUse(
            Span(today.begin - timedelta(days=ago), today.end - timedelta(days=ago)), amount, (gaps or {}).get(ago, 0.0)
        )
        for ago, amount in zip(range(len(amounts) - 1, -1, -1), amounts, strict=True)
    ]


def test_used_remaining_and_days_left() -> None:
    told = assess(plan(), NOW, days(), 4 * GB)
    assert (told.used_bytes, told.remaining_bytes, told.over_bytes) == (4 * GB, 6 * GB, 0)
    assert told.cycle == Span(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    assert told.days_left == 14.5
    assert told.elapsed == 15.5 / 30
    assert told.pace == pytest.approx(0.4 / (15.5 / 30))


def test_the_forecast_is_the_median_of_recent_days_and_not_a_line_from_two() -> None:
    told = assess(plan(), NOW, days(GB, GB, 9 * GB, GB, GB, 0), 4 * GB)
    assert told.typical_day_bytes == GB
    # Today another GB, then five more days of one.
    assert told.runs_out == datetime(2026, 11, 22, tzinfo=UTC)


def test_what_lasts_beyond_the_cycle_does_not_run_out() -> None:
    told = assess(plan(), NOW, days(*[GB // 10] * 8), 4 * GB)
    assert told.typical_day_bytes == GB // 10
    assert told.runs_out is None


def test_it_may_run_out_today() -> None:
    told = assess(plan(), NOW, days(*[2 * GB] * 5, GB), 9 * GB + GB // 2)
    assert told.runs_out == NOW + timedelta(hours=6)


def test_from_too_few_days_nothing_is_forecast() -> None:
    told = assess(plan(), NOW, days(GB, GB, 5), 4 * GB)
    assert (told.typical_day_bytes, told.runs_out, told.days_known) == (None, None, 2)


def test_days_that_were_mostly_not_counted_are_left_out() -> None:
    told = assess(plan(), NOW, days(GB, GB, GB, 0, 0, gaps={1: 50_000.0}), 4 * GB)
    assert (told.typical_day_bytes, told.days_known) == (GB, 3)
    assert told.gap_s == 50_000.0


def test_what_is_safe_today_leaves_as_much_for_each_day_to_come() -> None:
    # 15 days with today: 6 GB remain, and 0.3 GB were used today.
    told = assess(plan(), NOW, days(300_000_000), 4 * GB)
    assert told.safe_today_bytes == (6 * GB + 300_000_000) // 15 - 300_000_000
    assert assess(plan(), NOW, days(3 * GB), 4 * GB).safe_today_bytes == 0


def test_beyond_the_allowance_it_costs_in_proportion() -> None:
    billed = plan(**parse_end("billed:0.01EUR/MB"))
    told = assess(billed, NOW, days(), 10 * GB + 1_234_567)
    assert (told.over_bytes, told.remaining_bytes, told.cost) == (1_234_567, 0, Decimal("0.01234567"))
    assert told.runs_out == NOW
    assert assess(billed, NOW, days(), 10 * GB).cost == 0


def test_what_was_left_of_the_cycle_before_is_added_once() -> None:
    rolling = plan(rollover=True)
    told = assess(rolling, NOW, days(), 11 * GB, previous_bytes=7 * GB)
    assert (told.allowance_bytes, told.rolled_over_bytes, told.remaining_bytes) == (13 * GB, 3 * GB, 2 * GB)
    assert assess(rolling, NOW, days(), 0, previous_bytes=12 * GB).rolled_over_bytes == 0
    assert assess(rolling, NOW, days(), 0, previous_bytes=None).rolled_over_bytes == 0
    assert assess(plan(), NOW, days(), 0, previous_bytes=0).rolled_over_bytes == 0


def test_a_travel_plan_begins_with_its_first_use() -> None:
    travel = plan(cycle=Once(7))
    assert assess(travel, NOW, days(), 0).cycle is None
    told = assess(travel, NOW, days(), GB, first_use=date(2026, 11, 15))
    assert told.cycle == Span(datetime(2026, 11, 15, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC))
    assert assess(travel, NOW, days(), GB, first_use=date(2026, 11, 1)).cycle is None


def test_levels_warn_when_they_are_reached_and_the_largest_apps_are_named() -> None:
    told = assess(plan(warn=(95, 80)), NOW, days(), 8 * GB, by_app={"a": 1, "b": 5, "c": 2, "d": 9})
    assert told.warnings == (80,)
    assert told.blame == (("d", 9), ("b", 5), ("c", 2))


def test_in_the_first_hours_there_is_no_pace() -> None:
    begin = datetime(2026, 11, 1, 0, 1, tzinfo=UTC)
    assert assess(plan(), begin, [], 5).pace is None


@given(
    st.integers(0, 30 * GB),
    st.lists(st.integers(0, 3 * GB), max_size=20),
    st.integers(0, 30 * 86400 - 1),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 20 * GB)),
)
def test_nothing_is_ever_negative_and_the_forecast_lies_ahead(
    used: int, amounts: list[int], passed_s: int, rollover: bool, previous: int | None
) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=passed_s)
    told: Assessment = assess(plan(rollover=rollover), now, days(*amounts), used, previous)
    assert told.cycle
    assert min(told.remaining_bytes, told.over_bytes, told.safe_today_bytes) >= 0
    assert told.cost >= 0
    assert told.used_bytes + told.remaining_bytes - told.over_bytes == told.allowance_bytes
    assert told.safe_today_bytes <= told.remaining_bytes
    if told.runs_out:
        assert now <= told.runs_out < told.cycle.end


CYCLES = st.one_of(
    st.builds(Monthly, st.integers(1, 31)),
    st.builds(EveryDays, st.integers(1, 400), st.dates(date(2000, 1, 1), date(2100, 1, 1))),
    st.builds(Once, st.integers(1, 400), st.one_of(st.none(), st.dates(date(2000, 1, 1), date(2100, 1, 1)))),
)


@given(CYCLES, st.booleans(), st.sampled_from(["cut", "throttled:64kbit", "billed:0.0075EUR/MiB"]), st.integers(1, 999))
def test_a_plan_is_read_back_as_it_was_written(
    cycle: Monthly | EveryDays | Once, rollover: bool, end: str, percent: int
) -> None:
    made = plan(cycle=cycle, rollover=rollover, warn=(percent,), used="3.21GB", **parse_end(end))
    assert Plan.from_json(made.target, made.to_json()) == made


@pytest.mark.parametrize(
    "text", ["", "monthly", "monthly:32", "monthly:x", "30:2026-01-01", "30d:2026-02-30", "once:7"]
)
def test_what_is_no_cycle_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_cycle(text)


@pytest.mark.parametrize(
    ("text", "price", "per", "currency"),
    [
        ("billed:0.01EUR/MB", "0.01", 10**6, "EUR"),
        ("billed:2/GiB", "2", 2**30, ""),
        ("billed:1.50 €/5MB", "1.50", 5 * 10**6, "€"),
        ("billed:1EUR/0.5GB", "1", 5 * 10**8, "EUR"),
    ],
)
def test_a_price_is_for_a_unit_or_for_so_many_of_it(text: str, price: str, per: int, currency: str) -> None:
    assert parse_end(text) == {"at_end": "billed", "price": Decimal(price), "price_per": per, "currency": currency}


@pytest.mark.parametrize(
    "text", ["", "billed", "billed:x/MB", "billed:1EUR", "billed:-1EUR/MB", "throttled:fast", "cut:x"]
)
def test_what_does_not_say_how_it_ends_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_end(text)


@pytest.mark.parametrize(
    "changed", [{"allowance": "0"}, {"allowance": "much"}, {"zone": "Nowhere"}, {"used": "-1"}, {"warn": (0,)}]
)
def test_a_plan_without_sense_is_wrong_usage(changed: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        plan(**changed)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1200", 1200), ("1200B", 1200), ("500MB", 500_000_000), ("1.5GiB", 1_610_612_736), ("1 kB", 1000)),
        *(("1KB", 1000), ("1KiB", 1024), ("0.0005kb", 0), ("2.5tb", 2_500_000_000_000), ("10 GB", 10 * GB)),
    ],
)
def test_sizes_are_exact(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e9", "nan", "GB", "1XB", "1iB", "1.GB", "99999999999PB", "1 GB x", "٣GB"])
def test_what_is_no_size_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("128kbit", 16000.0), ("1Mbit/s", 125_000.0), ("200kB/s", 200_000.0), ("8bit", 1.0), ("1KiB/s", 1024.0)],
)
def test_rates_are_exact(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0kbit", "128", "fast", "-1kbit", "1kB"])
def test_what_is_no_rate_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rate(text)
