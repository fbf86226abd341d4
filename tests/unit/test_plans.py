"""Plans in the ledger, and the command line that keeps them: what was counted decides how they stand."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from esimbpf.ledger import plans
from esimbpf.ledger.database import MIGRATIONS, connect
from esimbpf.plan import Plan
from esimbpf.sinks.jsonlines import schema
from esimbpf.spans import EveryDays, Monthly, Once, cycle_at, zone_named

GB = 1_000_000_000
NOW = datetime(2026, 11, 16, 12, 7, tzinfo=UTC)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path)) as opened:
        for number, name in enumerate(("wwan0", "wwan1"), 1):
            opened.execute("INSERT INTO link VALUES (?, ?)", (number, name))
        opened.execute("INSERT INTO app VALUES (1, 'firefox'), (2, 'backup')")
        yield opened


def moved(db: sqlite3.Connection, at: datetime, amount: int, link: int = 1, app: int = 1) -> None:
    """So many bytes were received."""
    for table, step in (("minute", 60), ("quarter", 900)):
        db.execute(
            f"INSERT INTO {table} VALUES (?, ?, 1, 'app', ?, 1000, ?, 0, 1, 0) ON CONFLICT DO UPDATE "
            "SET rx_bytes = rx_bytes + excluded.rx_bytes",
            (int(at.timestamp()) // step * step, link, app, amount),
        )


def plan(**changed: Any) -> Plan:
    settings: dict[str, Any] = {
        "target": "link:wwan0",
        "allowance": "10GB",
        "cycle": Monthly(1),
        "zone": "UTC",
        "since": datetime(2026, 10, 1, tzinfo=UTC),
    }
    return Plan(**(settings | changed))


def test_only_the_plans_own_link_and_cycle_count(db: sqlite3.Connection) -> None:
    moved(db, NOW - timedelta(days=1), 3 * GB)
    moved(db, NOW - timedelta(days=2), GB, app=2)
    moved(db, NOW - timedelta(days=1), 7 * GB, link=2)
    moved(db, NOW - timedelta(days=20), 5 * GB)
    told = plans.judged(db, plan(), NOW)
    assert told.used_bytes == 4 * GB
    assert told.blame == (("firefox", 3 * GB), ("backup", GB))


def test_what_the_carrier_has_said_stands_for_what_was_counted_until_then(db: sqlite3.Connection) -> None:
    since = NOW - timedelta(minutes=3)
    # In the same quarter of an hour, and in the same minute, as the plan is made known.
    moved(db, since, 400_000_007)
    made = plan(since=since, used="2GB")
    made = plan(since=since, used="2GB", counted_bytes=plans.counted(db, made))
    assert made.counted_bytes == 400_000_007
    moved(db, since, 5)
    moved(db, NOW, 7)
    assert plans.judged(db, made, NOW).used_bytes == 2 * GB + 12
    # The next cycle is counted from its beginning.
    later = datetime(2026, 12, 3, tzinfo=UTC)
    moved(db, later, 11)
    assert plans.judged(db, made, later).used_bytes == 11


def test_what_is_left_rolls_over_from_a_cycle_that_was_known_from_its_beginning(db: sqlite3.Connection) -> None:
    moved(db, datetime(2026, 10, 5, tzinfo=UTC), 4 * GB)
    assert plans.judged(db, plan(rollover=True, used="0B"), NOW).rolled_over_bytes == 6 * GB
    # Counting began in the middle of it, and nobody has said what had been used.
    unknown = plan(rollover=True, since=datetime(2026, 11, 2, tzinfo=UTC))
    assert plans.judged(db, unknown, NOW).rolled_over_bytes == 0
    moved(db, datetime(2026, 9, 5, tzinfo=UTC), 1)
    assert plans.judged(db, unknown, NOW).rolled_over_bytes == 6 * GB
    said = plan(rollover=True, since=datetime(2026, 10, 20, tzinfo=UTC), used="7GB", counted_bytes=4 * GB)
    moved(db, datetime(2026, 10, 21, tzinfo=UTC), GB)
    assert plans.judged(db, said, NOW).rolled_over_bytes == 2 * GB


def test_of_a_link_that_was_not_counted_nothing_is_made_up(db: sqlite3.Connection) -> None:
    """Neither what is left over of a cycle, nor typical days, from what is known of another link."""
    for ago in range(60):
        moved(db, NOW - timedelta(days=ago), GB, link=2)
    told = plans.judged(db, plan(rollover=True), NOW)
    assert (told.rolled_over_bytes, told.typical_day_bytes, told.days_known) == (0, None, 0)


def test_what_was_not_counted_of_a_cycle_is_said_unless_the_carrier_has_told(db: sqlite3.Connection) -> None:
    begun = datetime(2026, 11, 14, 6, tzinfo=UTC)
    moved(db, begun, GB)
    moved(db, NOW, GB)
    gap = ((NOW - timedelta(hours=30)).timestamp(), (NOW - timedelta(hours=27)).timestamp())
    db.execute("INSERT INTO gap VALUES (?, ?, 1, 'down')", gap)
    before_s = (begun - datetime(2026, 11, 1, tzinfo=UTC)).total_seconds()
    assert plans.judged(db, plan(), NOW).gap_s == pytest.approx(before_s + 10800)
    said = plan(since=NOW - timedelta(minutes=1), used="3GB")
    assert plans.judged(db, said, NOW).gap_s == 0.0


def test_a_travel_plan_begins_with_what_is_counted_first_and_is_over_after_its_days(db: sqlite3.Connection) -> None:
    travel = plan(cycle=Once(3), zone="Asia/Tokyo", since=datetime(2026, 11, 10, tzinfo=UTC))
    told = plans.judged(db, travel, NOW)
    assert (told.cycle, told.ended) == (None, None)
    first = datetime(2026, 11, 14, 16, 0, tzinfo=UTC)  # the 15th in Tokyo
    moved(db, first, GB)
    told = plans.judged(db, travel, NOW)
    assert told.cycle
    assert told.cycle.begin == datetime(2026, 11, 14, 15, 0, tzinfo=UTC)
    assert told.cycle.end == datetime(2026, 11, 17, 15, 0, tzinfo=UTC)
    assert told.used_bytes == GB
    told = plans.judged(db, travel, NOW + timedelta(days=2))
    assert (told.cycle, told.ended) == (None, datetime(2026, 11, 17, 15, 0, tzinfo=UTC))


def test_a_clock_that_was_set_back_takes_nothing_back(db: sqlite3.Connection) -> None:
    moved(db, NOW, GB)
    before = plans.judged(db, plan(), NOW).used_bytes
    an_hour_ago = NOW - timedelta(hours=1)
    moved(db, an_hour_ago, 3)
    assert plans.judged(db, plan(), an_hour_ago).used_bytes == before + 3


@given(
    st.sampled_from(
        ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "Australia/Lord_Howe"]
    ),
    st.one_of(
        st.builds(Monthly, st.integers(1, 31)),
        st.builds(EveryDays, st.integers(1, 60), st.dates(date(2024, 1, 1), date(2026, 1, 1))),
    ),
    st.lists(st.tuples(st.integers(0, 2 * 366 * 96), st.integers(1, 10**9)), min_size=1, max_size=12),
    st.integers(0, 10**6),
)
def test_each_byte_is_in_the_cycle_in_which_it_was_moved_whatever_clocks_zones_and_months_do(
    zone: str, cycle: Monthly | EveryDays, moves: list[tuple[int, int]], seed: int
) -> None:
    """Leap years, short months and days on which clocks change: two years are looked at, at each move."""
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for _, migrate in MIGRATIONS:
            migrate(db)
        db.execute("INSERT INTO link VALUES (1, 'wwan0')")
        db.execute("INSERT INTO app VALUES (1, 'firefox')")
        made = plan(cycle=cycle, zone=zone, since=begin - timedelta(days=400))
        times = [begin + timedelta(minutes=15 * (quarters + seed % 7)) for quarters, _ in moves]
        for at, (_, amount) in zip(times, moves, strict=True):
            moved(db, at, amount)
        for now in times:
            span = cycle_at(cycle, now, zone_named(zone))
            assert span
            expected = sum(amount for at, (_, amount) in zip(times, moves, strict=True) if span.begin <= at < span.end)
            told = plans.judged(db, made, now)
            assert told.cycle == span
            assert told.used_bytes == expected


# --- the command line --------------------------------------------------------------------------------------------


def esimbpf(state_dir: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "esimbpf", "--state-dir", str(state_dir), "plan", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "TZ": "Europe/Berlin", "COLUMNS": "100", "ESIMBPF_PINS": "/nonexistent"},
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_plan_is_set_shown_changed_and_removed(tmp_path: Path) -> None:
    esimbpf(tmp_path, "set", "wwan0", "--allowance", "10GB", "--cycle", "monthly:15")
    with closing(connect(tmp_path)) as db:
        db.execute("INSERT INTO link VALUES (1, 'wwan0')")
        db.execute("INSERT INTO app VALUES (1, 'firefox')")
        moved(db, datetime.now(UTC), 400_000_007)
    [told] = map(json.loads, esimbpf(tmp_path, "show", "--json").stdout.splitlines())
    Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(told)
    assert {*told} == {"type", "v", "time", *schema()["$defs"]["plan"]["required"]}
    assert (told["target"], told["used_bytes"], told["plan"]["zone"]) == ("link:wwan0", 400_000_007, "Europe/Berlin")
    assert "firefox" in esimbpf(tmp_path, "show").stdout
    esimbpf(tmp_path, "set", "wwan0", "--allowance", "5GiB", "--cycle", "monthly:15", "--used", "1.5GB")
    esimbpf(tmp_path, "set", "--profile", "8949020000001234567", "--allowance", "1GB", "--cycle", "once:7d")
    [told] = map(json.loads, esimbpf(tmp_path, "show", "wwan0", "--json").stdout.splitlines())
    assert (told["used_bytes"], told["allowance_bytes"]) == (1_500_000_000, 5 * 2**30)
    assert "no plan is known for link:wwan9" in esimbpf(tmp_path, "show", "wwan9", status=3).stderr
    esimbpf(tmp_path, "remove", "wwan0")
    esimbpf(tmp_path, "remove", "--profile", "8949020000001234567")
    assert "no plan is known" in esimbpf(tmp_path, "show", status=3).stderr
    assert "no plan is known for link:wwan0" in esimbpf(tmp_path, "remove", "wwan0", status=3).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--allowance", "ten", "--cycle", "monthly:1"), "'ten' is no size"),
        (("--allowance", "0", "--cycle", "monthly:1"), "nothing to be counted against"),
        (("--allowance", "1GB", "--cycle", "monthly:32"), "day 32"),
        (("--allowance", "1GB", "--cycle", "weekly"), "'weekly' is no cycle"),
        (("--allowance", "1GB", "--cycle", "monthly:1", "--used", "-1"), "is no size"),
        (("--allowance", "1GB", "--cycle", "monthly:1", "--zone", "Mars/Base"), "no time zone named 'Mars/Base'"),
        (("--allowance", "1GB", "--cycle", "monthly:1", "--then", "free"), "'free' does not say"),
        (("--allowance", "1GB", "--cycle", "monthly:1", "--warn", "x"), "no list of percentages"),
        (
            ("--allowance", "1GB", "--cycle", "monthly:1", "--profile", "8949020000001234567"),
            "for a link or for a profile",
        ),
        (("--allowance", "1GB"), "--cycle"),
    ],
)
def test_what_makes_no_sense_is_named_and_nothing_is_kept(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    refused = esimbpf(tmp_path, "set", "wwan0", *words, status=2).stderr
    assert said in refused
    assert len(refused.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []
