"""The outbox: each event once, each of its hooks until it has succeeded or is given up, whatever happens between."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.events import Event, EventType, example, link_up
from esimbpf.ledger import outbox
from esimbpf.ledger.database import MIGRATIONS, connect, transaction
from esimbpf.ledger.outbox import RETRY_AFTER_S, Delivery, Follower

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()
DAY_S = 86400.0
ATTEMPTS = len(RETRY_AFTER_S) + 1


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path)) as opened:
        yield opened


def warning(quota: str = "video", level: int = 80) -> Event:
    return replace(example(EventType.QUOTA_WARNING, NOW), quota=quota, level_percent=level)


def to(*hooks: str) -> Callable[[EventType], list[str]]:
    return lambda _: list(hooks)


def begun(db: sqlite3.Connection, now_s: float) -> list[Delivery]:
    return [outbox.begin(db, one, secrets.token_hex(4)) for one in outbox.due(db, now_s, 99)]


def test_an_event_is_posted_once_for_ever(db: sqlite3.Connection) -> None:
    assert outbox.post(db, warning())
    assert not outbox.post(db, replace(warning(), used_bytes=999_999_999))
    outbox.hand_out(db, to("a"), NOW_S)
    [one] = begun(db, NOW_S)
    outbox.done(db, one)
    assert not outbox.post(db, warning())
    assert [posted.hooks for posted in outbox.recent(db)] == [(("a", "done", 1, None),)]


def test_events_of_an_older_ledger_are_the_same_ones_with_their_hooks_and_numbers() -> None:
    by_id = next(at for at, (name, _) in enumerate(MIGRATIONS) if name == "events by their id")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        for _, migrate in MIGRATIONS[:by_id]:
            migrate(db)
        line = json.dumps(link_up("wwan0", NOW).to_json())
        for number in (3, 7):
            db.execute("INSERT INTO event VALUES (?, 'link.up', 'link:wwan0', ?, 0, ?, 0, 1)", (number, number, line))
        db.execute("INSERT INTO delivery (event_id, hook, next_try_s) VALUES (3, 'a', 0)")
        db.execute("DELETE FROM event WHERE id = 7")
        with transaction(db):
            MIGRATIONS[by_id][1](db)
        assert outbox.post(db, warning())
        assert [posted.number for posted in outbox.recent(db)] == [3, 8]
        assert not outbox.post(db, link_up("wwan0", NOW))
        [waiting] = outbox.due(db, NOW_S, 99)
        assert (waiting.event_id, waiting.hook, waiting.event) == (3, "a", link_up("wwan0", NOW))
        db.execute("DELETE FROM event")
        assert db.execute("SELECT count(*) FROM delivery").fetchone() == (0,)


def test_what_is_rolled_back_was_not_posted(db: sqlite3.Connection) -> None:
    with suppress(RuntimeError), transaction(db):
        outbox.post(db, warning())
        raise RuntimeError
    assert outbox.post(db, warning())


def test_a_hook_that_fails_is_run_again_as_stated_and_given_up_and_the_others_are_not(db: sqlite3.Connection) -> None:
    outbox.post(db, warning())
    outbox.hand_out(db, to("bad", "good"), NOW_S)
    now_s, waits = NOW_S, []
    for _ in range(ATTEMPTS):
        [bad] = begun(db, now_s)
        assert bad.hook == "bad"
        again_s = outbox.failed(db, bad, "status 1", now_s)
        waits.append(again_s)
        if again_s is not None:
            assert "bad" not in [one.hook for one in outbox.due(db, now_s + again_s - 0.1, 99)]
            now_s += again_s
        for good in begun(db, now_s - 0.1):
            assert good.hook == "good"
            outbox.done(db, good)
    assert waits == [*RETRY_AFTER_S, None]
    assert outbox.due(db, now_s + DAY_S, 99) == []
    [posted] = outbox.recent(db)
    assert posted.hooks == (("bad", "given up", ATTEMPTS, "status 1"), ("good", "done", 1, None))


def test_of_a_subject_one_hook_runs_at_a_time_and_in_order(db: sqlite3.Connection) -> None:
    for level in (80, 95):
        outbox.post(db, warning(level=level))
    outbox.post(db, warning("music"))
    outbox.hand_out(db, to("a", "b"), NOW_S)
    order = []
    while running := begun(db, NOW_S):
        assert len({one.event.subject for one in running}) == len(running)
        assert begun(db, NOW_S) == []
        for one in running:
            order.append((one.event.quota, one.event.level_percent, one.hook))
            outbox.done(db, one)
    assert [one for one in order if one[0] == "video"] == [
        ("video", 80, "a"),
        ("video", 80, "b"),
        ("video", 95, "a"),
        ("video", 95, "b"),
    ]
    assert len(order) == 6


def test_a_later_event_waits_for_the_earlier_one_of_the_same_hook_only(db: sqlite3.Connection) -> None:
    for level in (80, 95):
        outbox.post(db, warning(level=level))
    outbox.hand_out(db, to("bad", "good"), NOW_S)
    outbox.failed(db, begun(db, NOW_S)[0], "no", NOW_S)
    for level in (80, 95):
        [good] = begun(db, NOW_S)
        assert (good.hook, good.event.level_percent) == ("good", level)
        outbox.done(db, good)
    assert begun(db, NOW_S) == []
    [bad] = begun(db, NOW_S + RETRY_AFTER_S[0])
    assert (bad.hook, bad.event.level_percent) == ("bad", 80)


def test_no_more_are_due_than_there_is_room_for(db: sqlite3.Connection) -> None:
    for quota in "abc":
        outbox.post(db, warning(quota))
    outbox.hand_out(db, to("x", "y", "z"), NOW_S)
    assert [len(outbox.due(db, NOW_S, room)) for room in range(-1, 5)] == [0, 0, 1, 2, 3, 3]


def test_a_hook_has_places_of_its_own_whatever_waits_of_others(db: sqlite3.Connection) -> None:
    half = outbox.MOST_AT_ONCE // 2
    running: list[str] = []

    def begin() -> list[str]:
        now = outbox.due(db, NOW_S, outbox.MOST_AT_ONCE - len(running))
        for one in now:
            outbox.begin(db, one, secrets.token_hex(4))
        running.extend(one.hook for one in now)
        return [one.hook for one in now]

    for number in range(20):
        outbox.post(db, link_up(f"wwan{number}", NOW))
    outbox.hand_out(db, to("hangs"), NOW_S)
    assert begin() == ["hangs"] * outbox.MOST_OF_ONE_HOOK
    assert begin() == []
    for number in range(20):
        outbox.post(db, link_up(f"wwan{20 + number}", NOW))
    others = [f"hangs too {number}" for number in range(half - 1)]
    outbox.hand_out(db, to(*others), NOW_S)
    # None a second time beyond half of all places.
    assert begin() == others
    assert begin() == []
    outbox.post(db, warning())
    outbox.hand_out(db, to("quick"), NOW_S)
    assert begin() == ["quick"]


def test_what_was_not_tried_yet_comes_before_what_has_failed(db: sqlite3.Connection) -> None:
    for quota in ("old", "older"):
        outbox.post(db, warning(quota))
    outbox.hand_out(db, to("hook"), NOW_S)
    for one in begun(db, NOW_S):
        outbox.failed(db, one, "no", NOW_S)
    for quota in ("new", "newer", "newest"):
        outbox.post(db, warning(quota))
    outbox.hand_out(db, to("hook"), NOW_S)
    order = []
    while running := begun(db, NOW_S + RETRY_AFTER_S[0]):
        for one in running:
            order.append(one.event.quota)
            outbox.done(db, one)
    assert order == ["new", "newer", "newest", "old", "older"]


def test_a_clock_that_is_set_back_by_years_holds_nothing_up(db: sqlite3.Connection) -> None:
    outbox.post(db, warning())
    outbox.hand_out(db, to("a"), NOW_S)
    outbox.failed(db, begun(db, NOW_S)[0], "no", NOW_S)
    assert len(outbox.due(db, NOW_S - 3 * 365 * DAY_S, 99)) == 1


def test_an_outcome_of_another_ledger_changes_nothing(db: sqlite3.Connection) -> None:
    outbox.post(db, warning())
    outbox.hand_out(db, to("a"), NOW_S)
    [mine] = begun(db, NOW_S)
    outbox.done(db, replace(mine, run="of another"))
    outbox.never_begun(db, replace(mine, run="of another"))
    assert outbox.running(db) == [mine]


def test_an_event_is_kept_while_it_could_happen_again_and_until_its_hooks_are_done(db: sqlite3.Connection) -> None:
    endless = replace(warning("endless"), period_end=None)
    first = example(EventType.APP_FIRST_SEEN, NOW)
    waiting = warning("waiting")
    for event in (warning(), endless, first, link_up("wwan0", NOW)):
        outbox.post(db, event)
    outbox.hand_out(db, to(), NOW_S)
    outbox.post(db, waiting)
    outbox.hand_out(db, to("a"), NOW_S)

    def kept(now_s: float) -> set[str]:
        outbox.thin(db, now_s)
        return {posted.event.id for posted in outbox.recent(db)}

    period_end_s = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    everything = {event.id for event in (warning(), endless, first, waiting, link_up("wwan0", NOW))}
    assert kept(NOW_S + 400 * DAY_S) == everything
    assert kept(NOW_S + 400 * DAY_S + 1) == everything - {link_up("wwan0", NOW).id}
    assert warning().id in kept(period_end_s + 400 * DAY_S)
    assert kept(period_end_s + 400 * DAY_S + 1) == {endless.id, first.id, waiting.id}
    outbox.done(db, begun(db, NOW_S)[0])
    assert kept(period_end_s + 4000 * DAY_S) == {endless.id, first.id}


def test_who_follows_sees_each_event_once_and_in_order_whatever_is_let_go(db: sqlite3.Connection) -> None:
    old = [link_up("wwan0", NOW - timedelta(days=500) + timedelta(seconds=number)) for number in range(3)]
    for event in old:
        outbox.post(db, event)
    outbox.hand_out(db, to(), NOW_S)
    followed = outbox.recent(db, after=0)
    assert [posted.event.id for posted in followed] == [event.id for event in old]
    outbox.thin(db, NOW_S)
    outbox.post(db, warning())
    assert [posted.event.id for posted in outbox.recent(db, after=followed[-1].number)] == [warning().id]
    assert [posted.event.id for posted in outbox.recent(db, most=1)] == [warning().id]


def test_a_follower_is_told_what_is_posted_from_then_on(db: sqlite3.Connection, tmp_path: Path) -> None:
    outbox.post(db, warning("before"))
    follower = Follower(tmp_path)
    assert follower.new() == []
    many = [warning(f"{number:03}") for number in range(130)]
    for event in many:
        outbox.post(db, event)
    told = [*follower.new(), *follower.new()]
    assert [event.id for event in told] == [event.id for event in many]
    assert follower.new() == []


def test_a_follower_waits_for_a_ledger_and_takes_a_new_one_for_new(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    for quotas in (["a", "b", "c"], ["d"]):
        assert follower.new() == []
        with closing(connect(tmp_path)) as db:
            for quota in quotas:
                outbox.post(db, warning(quota))
        assert [event.quota for event in follower.new()] == quotas
        for file in tmp_path.iterdir():
            file.unlink()


def test_a_follower_that_cannot_read_the_ledger_yet_is_told_nothing_old(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no ledger" * 1000)
    follower = Follower(tmp_path)
    assert follower.new() == []
    (tmp_path / "ledger.db").unlink()
    with closing(connect(tmp_path)) as db:
        outbox.post(db, warning("old"))
        assert follower.new() == []
        outbox.post(db, warning("new"))
    assert [event.quota for event in follower.new()] == ["new"]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.integers(0, 3), st.booleans()),
        st.tuples(
            st.just("run"), st.sampled_from(["ok", "fails", "not begun", "ok, told by the next daemon", "cut off"])
        ),
        st.tuples(st.just("wait"), st.sampled_from([1.0, *RETRY_AFTER_S])),
    ),
    max_size=40,
)
EVENTS = [warning("a", 80), warning("a", 95), warning("b", 80), link_up("wwan0", NOW)]


@given(STEPS)
def test_each_posted_event_reaches_each_hook_once_whatever_fails_and_is_killed(steps: list[tuple[str, ...]]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for _, migrate in MIGRATIONS:
            migrate(db)
        now_s = NOW_S
        posted: dict[str, int] = {}
        succeeded: list[tuple[str, str]] = []
        tried: dict[tuple[str, str], int] = {}

        def step(how: str) -> None:
            outbox.hand_out(db, to("x", "y"), now_s)
            for one in begun(db, now_s)[:2]:
                key = (one.event.id, one.hook)
                if how == "not begun":
                    outbox.never_begun(db, one)
                    continue
                tried[key] = tried.get(key, 0) + 1
                if how.startswith("ok"):
                    succeeded.append(key)
                    [noted] = [other for other in outbox.running(db) if other == one]
                    outbox.done(db, noted)
                else:
                    outbox.failed(db, one, how, now_s)
            for one in outbox.running(db):
                outbox.never_begun(db, one)

        for what, *arguments in steps:
            if what == "post":
                number, committed = arguments
                event = EVENTS[int(number)]
                with suppress(RuntimeError), transaction(db):
                    assert outbox.post(db, event) == (event.id not in posted)
                    if not committed:
                        raise RuntimeError
                    posted.setdefault(event.id, len(posted))
            elif what == "run":
                step(str(arguments[0]))
            else:
                now_s += float(arguments[0])
        for _ in range(4 * len(EVENTS)):
            now_s += RETRY_AFTER_S[-1]
            step("ok")
        assert len(set(succeeded)) == len(succeeded)
        for event_id in posted:
            for hook in ("x", "y"):
                key = (event_id, hook)
                assert key in succeeded or tried[key] == ATTEMPTS
                assert tried[key] <= ATTEMPTS
        assert {event_id for event_id, _ in tried} == set(posted)
        for hook in ("x", "y"):
            of_a = [posted[one] for one, other in succeeded if other == hook and "quota:a" in one]
            assert of_a == sorted(of_a)
