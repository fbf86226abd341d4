"""What a quota is, which period runs, how it stands, and what is due: each thing once, however the clock is set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.errors import UsageError
from esimbpf.quota import (
    LIMIT,
    NEVER,
    Action,
    App,
    Cgroup,
    Direction,
    Event,
    EventKind,
    Everybody,
    Exe,
    Kept,
    Quota,
    QuotaPer,
    Record,
    Standing,
    State,
    Then,
    User,
    When,
    advance,
    parse_duration,
    parse_quota,
    period_at,
)
from esimbpf.saver import PORTS, Port, Saver, Service, parse_saver
from esimbpf.spans import EveryDays, Monthly, Once, Span
from esimbpf.text import printable

NOW = datetime(2026, 11, 18, 12, 7, tzinfo=UTC)  # a Wednesday
BERLIN = ZoneInfo("Europe/Berlin")
MB = 1_000_000
FIELDS = {"name": "backup", "app": "restic", "limit": "100MB", "per": "day", "do": "block"}


def quota(**changed: Any) -> Quota:
    return parse_quota({**FIELDS, **changed})


def standing(used: int, moment: datetime = NOW, kept: Kept | None = None, **changed: Any) -> Standing:
    kept = kept or Kept(quota(**changed), NOW)
    return Standing(kept, moment, UTC, period_at(kept, moment, UTC), used)


# -- what people write -------------------------------------------------------------------


def test_what_is_not_said_is_as_people_expect() -> None:
    assert quota() == Quota("backup", App("restic"), "100MB", QuotaPer.DAY, Action(Then.BLOCK))
    assert (quota().direction, quota().warn, quota().limit_bytes) == (Direction.BOTH, (80, 95), 100 * MB)


@pytest.mark.parametrize(
    ("fields", "whom"),
    [
        ({"app": "Web Content"}, App("Web Content")),
        ({"exe": "/usr/bin/restic"}, Exe("/usr/bin/restic")),
        ({"cgroup": "/sys/fs/cgroup/system.slice/"}, Cgroup("/system.slice")),
        ({"cgroup": "/sys/fs/cgroup/unified/a"}, Cgroup("/a")),
        ({"cgroup": "/user.slice/a b"}, Cgroup("/user.slice/a b")),
        ({"cgroup": "backup@1.service"}, Cgroup("backup@1.service")),
        ({"user": "root"}, User(0)),
        ({"user": "4711"}, User(4711)),
        ({"user": 4711}, User(4711)),
        ({"all": True}, Everybody()),
        ({"all": True, "except": ["ssh", "mail", "ssh"]}, Everybody(("ssh", "mail"))),
        ({"all": True, "except": "ssh"}, Everybody(("ssh",))),
        ({"app": "x", "all": False}, App("x")),
    ],
)
def test_whom_it_is_for(fields: dict[str, Any], whom: object) -> None:
    assert quota(**{"app": None} | fields).whom == whom


def test_a_rate_has_a_burst_of_a_second_and_of_some_packets() -> None:
    assert quota(do="throttle:128kbit").action == Action(Then.THROTTLE, "128kbit")
    assert (quota(do="throttle:128kbit").action.bytes_per_second, quota(do="notify").action.burst_bytes) == (16_000, 0)
    assert quota(do="throttle:8kbit").action.burst_bytes == 4096
    assert quota(do="throttle:8Mbit").action.burst_bytes == 1_000_000


@pytest.mark.parametrize(
    ("changed", "said", "allowed"),
    [
        ({"name": None}, "name is missing", "1 to 64 characters"),
        ({"name": ""}, "name '' cannot be used", "1 to 64 characters"),
        ({"name": "x" * 65}, f"name '{'x' * 65}' cannot be used", "1 to 64 characters"),
        ({"name": "a\x1b[2J"}, r"name 'a\\x1b[2J' cannot be used", "that can be seen"),
        ({"name": " a"}, "name ' a' cannot be used", "no space before or behind"),
        ({"name": "saver"}, "name 'saver' is taken by the saver mode", "another name"),
        ({"app": None}, "whom it is for is missing", "app, exe, cgroup, user, all"),
        ({"user": "root"}, "whom it is for is said 2 times: app, user", "app, exe, cgroup, user, all"),
        ({"app": ""}, "app '' cannot be used", "1 to 255 characters"),
        ({"app": "a\u202eb"}, r"app 'a\\u202eb' cannot be used", "that can be seen"),
        ({"app": None, "exe": "curl"}, "exe 'curl' is no path", "/usr/bin/restic"),
        ({"app": None, "cgroup": "/"}, "cgroup '/' is neither a path", "/system.slice/backup.service"),
        ({"app": None, "cgroup": "/sys/fs/cgroup/"}, "cgroup '/sys/fs/cgroup/' is neither a path", "backup.service"),
        ({"app": None, "cgroup": "/sys/fs/cgroup/unified"}, "is neither a path", "for all there is: all"),
        ({"app": None, "cgroup": "/a/../b"}, "cgroup '/a/../b' is neither", "backup.service"),
        ({"app": None, "cgroup": "backup"}, "cgroup 'backup' is neither", "backup.service"),
        ({"app": None, "user": "no-such-user"}, "user 'no-such-user' is nobody's", "an id from 0 to 4294967294"),
        ({"app": None, "user": "4294967295"}, "user '4294967295' is nobody's", "an id from 0 to 4294967294"),
        ({"app": None, "user": -1}, "user '-1' is nobody's", "an id from 0 to 4294967294"),
        ({"except": ["x"]}, "except goes with all, and app was given", "leave except out"),
        ({"app": None, "all": True, "except": [""]}, "except '' cannot be used", "1 to 255 characters"),
        ({"app": None, "all": True, "except": 3}, "except 3 is no list of apps", "except = "),
        ({"app": None, "all": "yes"}, "all 'yes' is neither true nor false", "all = true"),
        ({"limit": None}, "limit is missing", "500MB"),
        ({"limit": "much"}, "limit 'much' is no size", "500MB"),
        ({"limit": "-1"}, "limit '-1' is no size", "500MB"),
        ({"limit": True}, "limit true is no text", "quotation marks"),
        ({"limit": "0", "do": "notify"}, "limit '0' leaves nothing to notify", "do block"),
        ({"direction": "sideways"}, "direction 'sideways' is none", "both, down, up"),
        ({"per": None}, "per is missing", "hour, day, week, month, cycle, once"),
        ({"per": "year"}, "per 'year' is none", "hour, day, week, month, cycle, once"),
        ({"link": "a/b"}, "link 'a/b' is no interface's name", "esimbpf links"),
        ({"link": ""}, "link '' cannot be used", "1 to 127 characters"),
        ({"profile": "\x07"}, r"profile '\\x07' is no ICCID", "its 18 to 20 digits"),
        ({"profile": "4567"}, "profile '4567' is no ICCID", "on the command line also its label or last digits"),
        ({"when": "abroad"}, "when 'abroad' is none", "roaming, home"),
        ({"warn": "80;95"}, "warn '80;95' is no list of percentages", "1 to 99"),
        ({"warn": [0]}, "warn [0] is no list of percentages", "1 to 99"),
        ({"warn": [True]}, "warn [true] is no list of percentages", "1 to 99"),
        ({"warn": "100"}, "warn '100' is no list of percentages", "1 to 99"),
        ({"warn": 80}, "warn 80 is no list of percentages", "1 to 99"),
        ({"do": None}, "do is missing", "notify, block, or throttle:RATE"),
        ({"do": "nothing"}, "do 'nothing' is nothing that can be done", "notify, block, or throttle:RATE"),
        ({"do": "block:1"}, "do 'block:1' is nothing that can be done", "notify, block, or throttle:RATE"),
        ({"do": "throttle"}, "do 'throttle' is nothing that can be done", "throttle:128kbit"),
        ({"do": "throttle:fast"}, "do 'throttle:fast': 'fast' is no rate", "128kbit"),
        ({"do": "throttle:1kbit"}, "do 'throttle:1kbit' is too slow or too fast", "8kbit to 100Gbit"),
        ({"do": "throttle:1Tbit"}, "do 'throttle:1Tbit' is too slow or too fast", "8kbit to 100Gbit"),
    ],
)
def test_what_is_wrong_names_the_field_what_was_given_and_what_is_allowed(
    changed: dict[str, Any], said: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as refused:
        quota(**changed)
    assert said in refused.value.message
    assert allowed in refused.value.hint
    assert "\n" not in refused.value.message + refused.value.hint


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(
    lambda text: text.strip() == text and printable(text) == text and text != "saver"
)
WHOM = st.one_of(
    st.builds(lambda name: {"app": name}, NAMES),
    st.builds(lambda name: {"exe": f"/x{name}x"}, NAMES),
    st.builds(lambda name: {"cgroup": f"/x{name}x"}, NAMES),
    st.builds(lambda uid: {"user": str(uid)}, st.integers(0, 2**32 - 2)),
    st.builds(lambda apps: {"all": True, "except": apps}, st.lists(NAMES, max_size=3)),
)
QUOTAS = st.builds(
    lambda whom, **fields: parse_quota({**whom, **fields}),
    WHOM,
    name=NAMES,
    limit=st.builds(lambda amount, unit: f"{amount}{unit}", st.integers(1, 999), st.sampled_from(["", "kB", "GiB"])),
    direction=st.sampled_from(Direction),
    per=st.sampled_from(QuotaPer),
    link=st.sampled_from([None, "wwan0"]),
    profile=st.sampled_from([None, "8949020000001234567"]),
    when=st.sampled_from([None, *When]),
    warn=st.lists(st.integers(1, 99), max_size=4),
    do=st.sampled_from(["block", "notify", "throttle:1.5Mbit", "throttle:20kB/s"]),
)


@given(QUOTAS)
def test_a_quota_is_read_back_as_it_was_written(made: Quota) -> None:
    assert Quota.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    ("text", "minutes"), [("1m", 1), ("30m", 30), ("2h", 120), ("1d", 1440), ("2w", 20160), ("366d", 527_040)]
)
def test_durations(text: str, minutes: int) -> None:
    assert parse_duration(text) == timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "0m", "h", "2", "-2h", "1.5h", "367d", "999999w", "٣h", "2 h", "forever"])
def test_what_is_no_duration_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="no duration"):
        parse_duration(text)


# -- periods -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per", "begin", "end"),
    [
        ("hour", "2026-11-18T12Z", "2026-11-18T13Z"),
        ("day", "2026-11-17T23Z", "2026-11-18T23Z"),
        ("week", "2026-11-15T23Z", "2026-11-22T23Z"),
        ("month", "2026-10-31T23Z", "2026-11-30T23Z"),
        ("cycle", "2026-11-14T23Z", "2026-12-14T23Z"),
    ],
)
def test_periods_begin_in_the_zone(per: str, begin: str, end: str) -> None:
    kept = Kept(quota(per=per), NOW)
    assert period_at(kept, NOW, BERLIN, Monthly(15)) == Span(datetime.fromisoformat(begin), datetime.fromisoformat(end))


def test_once_is_from_when_it_was_added_and_never_ends() -> None:
    kept = Kept(quota(per="once"), NOW)
    for moment in (NOW, NOW + timedelta(days=3000), NOW - timedelta(days=1)):
        assert period_at(kept, moment, BERLIN) == Span(NOW, NEVER)
    assert standing(5, kept=kept).resets is None


def test_without_a_cycle_there_is_no_period() -> None:
    kept = Kept(quota(per="cycle"), NOW)
    assert period_at(kept, NOW, BERLIN) is None
    assert period_at(kept, NOW, BERLIN, Once(7)) is None
    assert period_at(kept, NOW, BERLIN, Once(7, date(2026, 1, 1))) is None


@given(
    st.sampled_from([per for per in QuotaPer if per is not QuotaPer.ONCE]),
    st.integers(0, 20 * 366 * 86400).map(lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)),
    st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia", "Australia/Lord_Howe", "America/St_Johns"]),
    st.one_of(st.builds(Monthly, st.integers(1, 31)), st.builds(EveryDays, st.integers(1, 60), st.dates())),
)
def test_periods_hold_their_moment_and_follow_each_other_without_a_hole(
    per: QuotaPer, moment: datetime, zone: str, cycle: Monthly | EveryDays
) -> None:
    kept = Kept(quota(per=str(per)), NOW)
    period = period_at(kept, moment, ZoneInfo(zone), cycle)
    assert period
    assert period.begin <= moment < period.end
    following = period_at(kept, period.end, ZoneInfo(zone), cycle)
    assert following
    assert following.begin == period.end


# -- how it stands -----------------------------------------------------------------------


def test_the_limit_is_reached_with_its_last_byte() -> None:
    told = standing(100 * MB - 1)
    assert (told.remaining_bytes, told.exceeded, told.levels) == (1, False, (80, 95))
    told = standing(100 * MB)
    assert (told.remaining_bytes, told.exceeded, told.levels, told.state) == (0, True, (80, 95, LIMIT), State.EXCEEDED)
    assert standing(80 * MB - 1).levels == ()
    assert standing(80 * MB).levels == (80,)


def test_a_limit_of_nothing_is_used_up_and_warns_of_nothing() -> None:
    told = standing(0, limit="0B")
    assert (told.used_part, told.levels, told.remaining_bytes, told.exceeded) == (1.0, (LIMIT,), 0, True)


def test_a_hold_ends_by_itself_only_if_it_is_a_snooze() -> None:
    snoozed = Kept(quota(), NOW, snoozed_until=NOW + timedelta(hours=2))
    assert standing(0, NOW + timedelta(hours=2), snoozed).state is State.IN_FORCE
    assert standing(0, NOW + timedelta(hours=2, seconds=-1), snoozed).state is State.SNOOZED
    assert standing(0, NOW + timedelta(days=99), Kept(quota(), NOW, paused=True)).state is State.PAUSED
    assert standing(0, kept=Kept(quota(per="cycle"), NOW)).state is State.NOT_IN_FORCE


# -- what is due -------------------------------------------------------------------------


def told_of(events: Sequence[Event]) -> list[str]:
    return [f"{event.kind}{f' {event.level}' if event.level else ''}" for event in events]


class History:
    """What becomes of a quota's records."""

    def __init__(self) -> None:
        self.records: dict[datetime, Record] = {}

    def look(self, now: Standing) -> list[str]:
        record, events = advance(now, list(self.records.values()))
        if record:
            self.records[record.period.begin] = record
        return told_of(events)


def test_levels_fire_in_order_and_once_a_period() -> None:
    history = History()
    assert history.look(standing(0)) == []
    assert history.look(standing(81 * MB)) == ["quota.warning 80"]
    assert history.look(standing(81 * MB)) == []
    assert history.look(standing(200 * MB)) == ["quota.warning 95", "quota.exceeded"]
    assert history.look(standing(201 * MB)) == []
    tomorrow = NOW + timedelta(days=1)
    assert history.look(standing(300 * MB, tomorrow)) == [
        *("quota.reset", "quota.warning 80", "quota.warning 95", "quota.exceeded")
    ]
    assert history.look(standing(300 * MB, tomorrow)) == []


def test_a_clock_that_was_wrong_for_a_while_tells_nothing_twice() -> None:
    history = History()
    history.look(standing(100 * MB))
    years_later = NOW + timedelta(days=4000)
    assert history.look(standing(0, years_later)) == ["quota.reset"]
    assert history.look(standing(100 * MB)) == []
    assert history.look(standing(0, NOW + timedelta(days=1))) == ["quota.reset"]
    assert history.look(standing(0, years_later)) == []
    assert history.look(standing(85 * MB, years_later)) == ["quota.warning 80"]


def test_what_is_held_tells_nothing_until_it_is_not_held() -> None:
    history = History()
    history.look(standing(0))
    paused = Kept(quota(), NOW, paused=True)
    assert history.look(standing(90 * MB, kept=paused)) == []
    assert history.look(standing(96 * MB)) == ["quota.warning 80", "quota.warning 95"]
    snoozed = Kept(quota(), NOW, snoozed_until=NOW + timedelta(days=1, hours=1))
    assert history.look(standing(99 * MB, NOW + timedelta(days=1), snoozed)) == []
    assert history.look(standing(100 * MB, NOW + timedelta(days=1, hours=1), snoozed)) == [
        *("quota.warning 80", "quota.warning 95", "quota.exceeded")
    ]


def test_with_another_limit_what_is_reached_again_is_told_again() -> None:
    history = History()
    history.look(standing(100 * MB))
    assert history.look(standing(100 * MB, limit="120MB")) == []
    assert history.look(standing(120 * MB, limit="120MB")) == ["quota.warning 95", "quota.exceeded"]
    assert history.look(standing(120 * MB, limit="100MB")) == []


def test_in_another_zone_the_day_is_the_same_one_cut_anew() -> None:
    history = History()
    kept = Kept(quota(), NOW)
    for zone, used, told in (
        ("Europe/Berlin", 96, ["quota.warning 80", "quota.warning 95"]),
        ("America/New_York", 85, []),
        ("America/New_York", 100, ["quota.warning 95", "quota.exceeded"]),
    ):
        period = period_at(kept, NOW, ZoneInfo(zone))
        assert history.look(Standing(kept, NOW, ZoneInfo(zone), period, used * MB)) == told


def test_without_a_period_nothing_is_due() -> None:
    assert advance(standing(100 * MB, kept=Kept(quota(per="cycle"), NOW)), []) == (None, ())


@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.lists(st.tuples(st.integers(-90, 90), st.integers(0, 60), st.booleans()), min_size=1, max_size=30),
)
def test_each_thing_is_told_once_for_each_period_whatever_the_clock_does(
    per: str, steps: list[tuple[int, int, bool]]
) -> None:
    """A model: hours by which the clock moves, either way, MB that are used then, and whether the quota is paused."""
    history, now = History(), NOW
    used: dict[datetime, int] = {}
    told: dict[datetime, list[str]] = {}
    looked: dict[datetime, int] = {}
    entered: list[datetime] = []
    for hours, amount, paused in steps:
        now += timedelta(hours=hours)
        kept = Kept(quota(per=per), NOW, paused=paused)
        period = period_at(kept, now, UTC)
        assert period
        used[period.begin] = used.get(period.begin, 0) + amount * MB
        events = history.look(Standing(kept, now, UTC, period, used[period.begin]))
        told.setdefault(period.begin, []).extend(events)
        if paused:
            assert events == []
        else:
            looked[period.begin] = used[period.begin]
        if period.begin not in entered:
            entered.append(period.begin)
            assert (events[:1] == ["quota.reset"]) == (len(entered) > 1 and not paused)
    for begin, events in told.items():
        levels = [event for event in events if event != "quota.reset"]
        assert events.count("quota.reset") <= (begin != entered[0])
        due = looked.get(begin, 0)
        expected = [("quota.warning 80", 80), ("quota.warning 95", 95), ("quota.exceeded", 100)]
        assert levels == [name for name, level in expected if due >= level * MB]


def test_events_say_how_the_quota_stood() -> None:
    _, [event] = advance(standing(85 * MB), [])
    assert (event.kind, event.level, event.standing.used_bytes) == (EventKind.WARNING, 80, 85 * MB)


# -- the saver mode ----------------------------------------------------------------------


def test_the_saver_mode_is_a_quota_of_nothing_and_some_ports() -> None:
    made = parse_saver(NOW, ["mail", "ssh", "mail"], [Service.NTP, Service.DHCP], "wwan0", "roaming")
    assert made.quota.whom == Everybody(("mail", "ssh"))
    assert (made.quota.limit_bytes, made.quota.action.then, made.quota.when) == (0, Then.BLOCK, When.ROAMING)
    assert made.ports == (*PORTS[Service.NTP], *PORTS[Service.DHCP])
    assert Port("udp", "remote", 123) in made.ports
    assert Saver.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert parse_saver(NOW, [], [], None, None) == Saver(NOW)


@pytest.mark.parametrize(
    ("allow", "link", "when", "said"),
    [
        (["\x1b"], None, None, r"allow '\\x1b' cannot be used"),
        ([], "a b", None, "link 'a b' is no interface's name"),
        ([], None, "abroad", "when 'abroad' is none"),
    ],
)
def test_a_saver_mode_that_makes_no_sense_is_wrong_usage(
    allow: list[str], link: str | None, when: str | None, said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parse_saver(NOW, allow, [], link, when)
    assert said in refused.value.message
