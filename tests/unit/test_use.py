"""What a link has used, carried on by what a run counts: nothing lost, nothing twice, over midnights and cycles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from esimbpf.model import Counters, GroupBy, Kind, Link, LinkTick, Row
from esimbpf.plan import DayUse, Plan, assess
from esimbpf.spans import Cycle, Monthly, Once, Span, cycle_at, day_at
from esimbpf.use import LinkUse, Used, carried_on, with_rows_before

LINK = Link("wwan0", 2, "wwan")
NOW = datetime(2026, 11, 30, 23, 59, 58, tzinfo=UTC)
MB = 1_000_000


def row(kind: Kind, name: str, delta: int, total: int) -> Row:
    return Row(kind, name, name, Counters(tx_bytes=delta), Counters(tx_bytes=total))


def views(apps: dict[str, tuple[int, int]], kernel: tuple[int, int] = (0, 0)) -> list[LinkTick]:
    """An interval by app and by user, from what each app added and has in all; one user has them all."""
    delta = sum(amount for amount, _ in apps.values())
    total = sum(amount for _, amount in apps.values())
    special = row(Kind.KERNEL, "kernel", *kernel)
    by_app = (*(row(Kind.APP, name, *amounts) for name, amounts in apps.items()), special)
    by_user = (*([row(Kind.USER, "0", delta, total)] if apps else []), special)
    both = Counters(tx_bytes=delta + kernel[0]), Counters(tx_bytes=total + kernel[1])
    return [LinkTick(LINK, True, rows, *both) for rows in (by_app, by_user)]


def used(span: Span, apps: dict[str, int], kernel: int = 0) -> Used:
    rows = {(Kind.APP, name): amount for name, amount in apps.items()}
    rows |= {(Kind.USER, "0"): sum(apps.values()), (Kind.KERNEL, "kernel"): kernel}
    return Used(span, sum(apps.values()) + kernel, rows)


def plan(cycle: Cycle, rollover: bool = False) -> Plan:
    return Plan("link:wwan0", "100MB", cycle, "UTC", datetime(2026, 10, 1, tzinfo=UTC), rollover=rollover)


def planned(cycle: Cycle, used_bytes: int, rollover: bool = False, days: Sequence[int] = (5 * MB,) * 4) -> LinkUse:
    """A link whose plan was judged now: of its days before today, and of what it has used."""
    made, today = plan(cycle, rollover), day_at(NOW, UTC)
    before = [
        DayUse(Span(today.begin - timedelta(days=ago), today.end - timedelta(days=ago)), amount)
        for ago, amount in zip(range(len(days), 0, -1), days, strict=True)
    ]
    judged = assess(made, NOW, [*before, DayUse(today, 777)], used_bytes, by_app={"video": 5}, previous_bytes=90 * MB)
    assert judged.cycle
    return LinkUse(
        UTC,
        used(today, {"video": 700}, 77),
        used(judged.cycle, {"video": used_bytes}),
        made,
        judged,
        known_whole=True,
    )


def today_by_row(use: LinkUse, link: LinkTick, by: GroupBy) -> dict[str, int]:
    return {one.id: use.today.of_row(one) for one in with_rows_before(link, use, by).rows}


def test_what_is_counted_is_added_to_what_the_ledger_said() -> None:
    use = LinkUse(UTC, used(day_at(NOW, UTC), {"video": 700, "mail": 30}, 77))
    link, by_user = views({"video": (5, 9), "backup": (2, 2)}, (1, 3))
    assert carried_on(use, [link, by_user], NOW, 1.0) is use
    assert today_by_row(use, link, GroupBy.APP) == {"video": 709, "backup": 2, "mail": 30, "kernel": 80}
    assert today_by_row(use, by_user, GroupBy.USER) == {"0": 741, "kernel": 80}
    assert use.today.of_link(link) == 821


def test_groupings_that_the_ledger_does_not_keep_get_no_rows() -> None:
    use = LinkUse(UTC, used(day_at(NOW, UTC), {"video": 700}))
    link = views({})[0]
    assert with_rows_before(link, use, GroupBy.PROCESS) is link


def test_what_overflowed_before_the_run_has_its_row() -> None:
    use = LinkUse(UTC, Used(day_at(NOW, UTC), 5, {(Kind.OVERFLOW, "overflow"): 5}))
    assert [one.kind for one in with_rows_before(views({})[0], use, GroupBy.APP).rows] == [Kind.KERNEL, Kind.OVERFLOW]


def test_an_interval_over_midnight_is_of_the_day_in_which_most_of_it_lies() -> None:
    use = LinkUse(UTC, used(day_at(NOW, UTC), {"video": 700}, 77))
    midnight = use.today.span.end
    both = views({"video": (5, 9)}, (1, 3))
    still = carried_on(use, both, midnight + timedelta(seconds=0.4), 1.0)
    assert still.today.of_link(both[0]) == 789
    next_day = carried_on(use, both, midnight + timedelta(seconds=0.5), 1.0)
    assert next_day.today.span.begin == midnight
    assert next_day.today.of_link(both[0]) == 6
    assert today_by_row(next_day, both[0], GroupBy.APP) == {"video": 5, "kernel": 1}
    assert today_by_row(next_day, both[1], GroupBy.USER) == {"0": 5, "kernel": 1}


def test_midnight_is_that_of_the_plans_zone() -> None:
    zone = ZoneInfo("Asia/Kolkata")
    use = LinkUse(zone, used(day_at(NOW, zone), {"video": 700}))
    assert use.today.span.end == datetime(2026, 12, 1, 18, 30, tzinfo=UTC)
    both = views({"video": (5, 9)})
    assert carried_on(use, both, NOW + timedelta(hours=1), 1.0) is use
    assert carried_on(use, both, use.today.span.end + timedelta(seconds=1), 1.0).today.of_link(both[0]) == 5


def test_the_plan_goes_on_with_what_is_counted_and_is_judged_anew_once_a_minute() -> None:
    use = planned(Monthly(15), 40 * MB)
    moved = views({"video": (5, 50 * MB)})
    told = use.assessment(moved[0])
    assert told
    assert (told.used_bytes, told.used_today_bytes, told.warnings) == (90 * MB, 50 * MB + 777, (80,))
    assert use.judged
    assert told.safe_today_bytes == max(0, use.judged.safe_today_bytes - 50 * MB)
    assert carried_on(use, moved, NOW + timedelta(seconds=1), 1.0) is use
    later = carried_on(
        replace(use, today=replace(use.today, span=day_at(NOW + timedelta(days=1), UTC))),
        moved,
        NOW + timedelta(seconds=61),
        1.0,
    )
    assert later.judged
    assert later.judged_total_bytes == 50 * MB
    assert later.judged.now > NOW
    assert later.judged.used_bytes == 90 * MB
    # The days' median is known, and of the 10 MB that remain 5 are used on each.
    assert later.judged.typical_day_bytes == 5 * MB
    assert later.judged.runs_out
    assert later.judged.blame == (("video", 5),)


def test_what_is_judged_anew_at_once_is_what_was_judged() -> None:
    for rollover in (False, True):
        use = planned(Monthly(15), 40 * MB, rollover)
        nothing = views({})
        again = carried_on(
            replace(use, judged=replace(use.judged, now=NOW - timedelta(hours=1)) if use.judged else None),
            nothing,
            NOW,
            0.0,
        )
        assert again.judged == use.judged


def test_a_new_cycle_begins_with_nothing_used() -> None:
    use = planned(Monthly(1), 40 * MB, rollover=True)
    moved = views({"video": (5, 2 * MB)})
    begun = carried_on(use, moved, NOW + timedelta(seconds=4), 1.0)
    told = begun.assessment(moved[0])
    assert told
    assert told.cycle == cycle_at(Monthly(1), NOW + timedelta(days=1), UTC)
    assert told.used_bytes == told.used_today_bytes == 5
    # 42 MB less the last interval's were used of 100.
    assert told.rolled_over_bytes == 58 * MB + 5
    assert begun.cycle
    assert begun.cycle.of_link(moved[0]) == 5


def test_what_a_cycle_that_was_not_counted_in_whole_has_left_is_not_guessed() -> None:
    use = replace(planned(Monthly(1), 40 * MB, rollover=True), known_whole=False)
    told = carried_on(use, views({}), NOW + timedelta(seconds=4), 1.0).judged
    assert told
    assert told.rolled_over_bytes == 0


def test_a_single_cycle_ends() -> None:
    use = planned(Once(7, date(2026, 11, 24)), 40 * MB)
    over = carried_on(use, views({"video": (5, 9)}), NOW + timedelta(seconds=4), 1.0)
    assert over.cycle is None
    assert over.judged
    assert over.judged.cycle is None
    assert carried_on(over, views({}), NOW + timedelta(seconds=5), 1.0) == over


def test_a_travel_plan_begins_with_the_first_use_in_the_run() -> None:
    travel = plan(Once(7))
    use = LinkUse(UTC, used(day_at(NOW, UTC), {}), None, travel, assess(travel, NOW, (), 0))
    assert carried_on(use, views({}), NOW + timedelta(seconds=1), 1.0) is use
    moved = views({"video": (5, 5)})
    begun = carried_on(use, moved, NOW + timedelta(seconds=2), 1.0)
    told = begun.assessment(moved[0])
    assert told
    assert told.cycle == Span(datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 7, tzinfo=UTC))
    assert told.used_bytes == told.used_today_bytes == 5
    assert begun.cycle
    assert begun.cycle.of_link(moved[0]) == 5


def test_of_the_first_use_the_carriers_word_stands_for_what_was_counted_before() -> None:
    travel = replace(plan(Once(7)), since=NOW, used="1kB", counted_bytes=77)
    use = LinkUse(UTC, used(day_at(NOW, UTC), {}, 77), None, travel, assess(travel, NOW, (), 0))
    begun = carried_on(use, views({"video": (5, 5)}), NOW + timedelta(seconds=1), 1.0)
    assert begun.judged
    assert begun.judged.used_bytes == 1005


AMOUNTS = st.integers(0, 10**12)
STEPS = st.lists(
    st.tuples(st.floats(0.1, 40_000), st.dictionaries(st.sampled_from("abcd"), AMOUNTS, max_size=4), AMOUNTS),
    max_size=12,
)


@given(
    st.dictionaries(st.sampled_from("abcdef"), AMOUNTS),
    AMOUNTS,
    STEPS,
    st.sampled_from([None, Monthly(1), Monthly(15)]),
)
def test_the_rows_add_up_to_the_link_and_each_byte_is_of_one_day(
    known: dict[str, int], kernel: int, steps: list[tuple[float, dict[str, int], int]], cycle: Cycle | None
) -> None:
    span = day_at(NOW, UTC)
    use = (
        replace(planned(cycle, 5), today=used(span, known, kernel))
        if cycle
        else LinkUse(UTC, used(span, known, kernel))
    )
    now, totals, of_kernel = NOW, dict.fromkeys("abcd", 0), 0
    by_day = {span.begin: sum(known.values()) + kernel}
    for seconds, moved, kernels in steps:
        now += timedelta(seconds=seconds)
        totals = {name: amount + moved.get(name, 0) for name, amount in totals.items()}
        of_kernel += kernels
        both = views({name: (moved.get(name, 0), totals[name]) for name in totals}, (kernels, of_kernel))
        use = carried_on(use, both, now, seconds)
        begin = day_at(now - timedelta(seconds=seconds / 2), UTC).begin
        by_day[begin] = by_day.get(begin, 0) + sum(moved.values()) + kernels
        assert use.today.span.begin == begin
        for by, link in zip((GroupBy.APP, GroupBy.USER), both, strict=True):
            of_rows = today_by_row(use, link, by)
            assert sum(of_rows.values()) == use.today.of_link(link) == by_day[begin]
            assert min(of_rows.values()) >= 0
        told = use.assessment(both[0])
        assert told is None or told.used_bytes >= 0


def test_nothing_that_has_moved_nothing_is_shown() -> None:
    use = LinkUse(UTC, used(day_at(NOW, UTC), {"video": 0}))
    assert [one.kind for one in with_rows_before(views({})[0], use, GroupBy.APP).rows] == [Kind.KERNEL]
