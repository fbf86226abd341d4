"""Days, weeks, months and cycles, where clocks change, months are short and zones skip a date."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.errors import UsageError
from esimbpf.spans import (
    Cycle,
    EveryDays,
    Monthly,
    Once,
    Per,
    Span,
    cycle_at,
    day_at,
    days_of,
    first_instant,
    local_zone,
    spans,
    zone_named,
)

ZONES = st.sampled_from(
    [
        *("UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Beirut", "Asia/Kathmandu"),
        *("Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "America/St_Johns"),
    ]
).map(ZoneInfo)
MOMENTS = st.integers(1_230_768_000, 2_082_758_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
CYCLES = st.one_of(
    st.builds(Monthly, st.integers(1, 31)),
    st.builds(EveryDays, st.integers(1, 400), st.dates(date(2008, 1, 1), date(2030, 1, 1))),
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(CYCLES, MOMENTS, ZONES)
def test_each_moment_is_in_one_cycle_and_cycles_follow_without_a_hole(
    cycle: Cycle, moment: datetime, zone: ZoneInfo
) -> None:
    span = cycle_at(cycle, moment, zone)
    assert span
    assert span.begin <= moment < span.end
    assert cycle_at(cycle, span.begin, zone) == span
    assert cycle_at(cycle, span.end - timedelta(microseconds=1), zone) == span
    following = cycle_at(cycle, span.end, zone)
    assert following
    assert following.begin == span.end
    assert span.begin == first_instant(span.begin.astimezone(zone).date(), zone)


@given(st.integers(1, 31), MOMENTS, ZONES)
def test_a_monthly_cycle_begins_on_its_day_or_the_months_last(day: int, moment: datetime, zone: ZoneInfo) -> None:
    span = cycle_at(Monthly(day), moment, zone)
    assert span
    begin = span.begin.astimezone(zone).date()
    tomorrow = begin + timedelta(days=1)
    # In a zone that has skipped the date, it begins with the next one.
    assert begin.day == day or tomorrow.month != begin.month or zone.key == "Pacific/Apia"


@given(st.sampled_from([per for per in Per if per is not Per.CYCLE]), MOMENTS, st.integers(0, 5000), ZONES)
def test_a_period_is_cut_without_a_hole_or_an_overlap(per: Per, since: datetime, hours: int, zone: ZoneInfo) -> None:
    until = since + timedelta(hours=hours)
    cut = list(spans(per, since, until, zone))
    assert sum((span.end - span.begin for span in cut), timedelta()) == until - since
    assert all(first.end == second.begin for first, second in pairwise(cut))
    assert all(span.seconds > 0 for span in cut)


@given(
    st.one_of(CYCLES, st.builds(Once, st.integers(1, 400), st.one_of(st.none(), st.dates(date(2009, 1, 1))))),
    *(MOMENTS, st.integers(0, 20_000), ZONES),
)
def test_a_period_is_cut_into_cycles_and_what_lies_around_a_single_one(
    cycle: Cycle, since: datetime, hours: int, zone: ZoneInfo
) -> None:
    until = since + timedelta(hours=hours)
    cut = list(spans(Per.CYCLE, since, until, zone, cycle))
    assert sum((span.end - span.begin for span in cut), timedelta()) == until - since
    assert all(first.end == second.begin for first, second in pairwise(cut))
    assert all(span.seconds > 0 for span in cut)
    for span in cut:
        whole = cycle_at(cycle, span.begin, zone)
        assert whole is None or (span.begin, span.end) == (max(whole.begin, since), min(whole.end, until))


def test_a_single_cycle_lies_between_what_came_before_and_after() -> None:
    cut = list(spans(Per.CYCLE, utc("2026-11-01"), utc("2026-12-01"), UTC, Once(7, date(2026, 11, 20))))
    assert [span.begin for span in cut] == [utc("2026-11-01"), utc("2026-11-20"), utc("2026-11-27")]
    assert len(list(spans(Per.CYCLE, utc("2026-11-01"), utc("2026-12-01"), UTC, Once(7)))) == 1


@given(MOMENTS, ZONES)
def test_a_day_is_the_date_that_a_clock_there_shows(moment: datetime, zone: ZoneInfo) -> None:
    day = day_at(moment, zone)
    shown = {instant.astimezone(zone).date() for instant in (day.begin, moment, day.end - timedelta(microseconds=1))}
    assert len(shown) == 1
    assert day.end.astimezone(zone).date() not in shown


@pytest.mark.parametrize(
    ("zone", "at", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", 25),
        ("Europe/Berlin", "2026-11-23T12:00", 24),
        ("Australia/Lord_Howe", "2026-04-05T02:00", 24.5),
        ("America/Sao_Paulo", "2018-11-04T12:00", 23),
    ],
)
def test_days_on_which_clocks_change_are_shorter_or_longer(zone: str, at: str, hours: float) -> None:
    assert day_at(utc(at), ZoneInfo(zone)).seconds == hours * 3600


def test_a_day_whose_midnight_is_skipped_begins_when_clocks_change() -> None:
    zone = ZoneInfo("America/Sao_Paulo")
    assert first_instant(date(2018, 11, 4), zone) == utc("2018-11-04T03:00")
    assert day_at(utc("2018-11-04T02:59"), zone).end == utc("2018-11-04T03:00")


def test_a_date_that_a_zone_skipped_is_no_day() -> None:
    zone = ZoneInfo("Pacific/Apia")
    days = list(days_of(Span(utc("2011-12-29T12:00"), utc("2012-01-01T00:00")), zone))
    assert [day.begin.astimezone(zone).date().day for day in days] == [29, 31, 1]


@pytest.mark.parametrize(
    ("day", "at", "begin", "end"),
    [
        (31, "2026-02-27", "2026-01-31", "2026-02-28"),
        (31, "2026-02-28", "2026-02-28", "2026-03-31"),
        (31, "2028-02-29", "2028-02-29", "2028-03-31"),
        (29, "2026-03-01", "2026-02-28", "2026-03-29"),
        (29, "2028-03-01", "2028-02-29", "2028-03-29"),
        (1, "2026-12-31", "2026-12-01", "2027-01-01"),
        (15, "2027-01-01", "2026-12-15", "2027-01-15"),
    ],
)
def test_short_months_have_the_cycles_day_on_their_last(day: int, at: str, begin: str, end: str) -> None:
    assert cycle_at(Monthly(day), utc(at), UTC) == Span(utc(begin), utc(end))


def test_a_travel_plan_has_one_cycle_from_its_first_use() -> None:
    zone = ZoneInfo("Asia/Tokyo")
    assert cycle_at(Once(7), utc("2026-11-23"), zone) is None
    plan = Once(7, date(2026, 11, 20))
    assert cycle_at(plan, utc("2026-11-23"), zone) == Span(utc("2026-11-19T15:00"), utc("2026-11-26T15:00"))
    assert cycle_at(plan, utc("2026-11-26T15:00"), zone) is None
    assert cycle_at(plan, utc("2026-11-19T14:59"), zone) is None


def test_before_the_first_date_of_a_plan_cycles_are_counted_backwards() -> None:
    assert cycle_at(EveryDays(30, date(2026, 12, 1)), utc("2026-11-23"), UTC) == Span(
        utc("2026-11-01"), utc("2026-12-01")
    )


def test_when_the_zone_changes_on_the_last_day_of_a_cycle_the_plans_own_counts() -> None:
    last_evening = utc("2026-11-30T20:00")
    assert cycle_at(Monthly(1), last_evening, ZoneInfo("Europe/Berlin")) != cycle_at(
        Monthly(1), last_evening, ZoneInfo("Asia/Tokyo")
    )


@pytest.mark.parametrize("made", [(Monthly, 0), (Monthly, 32), (EveryDays, 0), (Once, -1), (Once, 99999)])
def test_cycles_without_sense_are_wrong_usage(made: tuple[type, int]) -> None:
    kind, number = made
    with pytest.raises(UsageError):
        kind(number, date(2026, 1, 1)) if kind is EveryDays else kind(number)


@pytest.mark.parametrize("name", ["Nowhere/Land", "", "../etc/passwd", "\x1b[2J"])
def test_a_zone_that_is_none_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match="there is no time zone"):
        zone_named(name)


def test_the_machines_zone_is_known_with_its_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    assert local_zone() == ZoneInfo("America/New_York")
    monkeypatch.setenv("TZ", "Nonsense/Zone")
    assert local_zone() is UTC
