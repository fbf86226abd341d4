"""Events: what hooks and readers of `watch` are given, to the letter and by the schema."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from esimbpf.events import NEEDED, Event, EventType, example, link_down, link_up, tracer_gap
from esimbpf.sinks.jsonlines import schema
from esimbpf.text import printable

NOW = datetime(2026, 11, 24, 17, 16, 10, 794_999, UTC)
VALIDATOR = Draft202012Validator(schema())


def test_an_event_reads_as_designed() -> None:
    line = example(EventType.QUOTA_WARNING, NOW).to_json()
    assert line == {
        "type": "event",
        "v": 1,
        "time": "2026-11-24T17:16:10.794Z",
        "event": "quota.warning",
        "id": "quota.warning/quota:example/1793491200000/80/1000000000/1793491200000",
        "subject": "quota:example",
        "message": "quota example: 800 MB of 1.00 GB used, 80 % reached",
        "quota": "example",
        "plan": None,
        "app": "example-app",
        "user": "nobody",
        "link": "wwan0",
        "profile": "8949000000000000001",
        "network": None,
        "country": None,
        "level_percent": 80,
        "used_bytes": 800_004_711,
        "limit_bytes": 1_000_000_000,
        "period_begin": "2026-11-01T00:00:00.000Z",
        "period_end": "2026-12-01T00:00:00.000Z",
        "added": "2026-11-01T00:00:00.000Z",
        "action": "warn",
        "cause": None,
        "cgroups": ["/example.slice/example-app.service"],
        "pids": [4194304],
    }
    assert list(line)[:4] == ["type", "v", "time", "event"]


@pytest.mark.parametrize("kind", EventType)
def test_each_example_fits_the_schema_and_comes_back_whole(kind: EventType) -> None:
    for time in (NOW, datetime(2026, 12, 31, 23, 59, 59, 999_999, UTC)):
        line = example(kind, time).to_json()
        VALIDATOR.validate(line)
        assert Event.from_json(line).to_json() == line
        assert line["message"]
        assert "?" not in line["message"]


@pytest.mark.parametrize("kind", EventType)
def test_what_an_event_needs_is_the_same_here_and_in_the_schema(kind: EventType) -> None:
    whole = example(kind, NOW)
    line = whole.to_json()
    nullable = {one.name for one in fields(Event)} - {"type", "time", "cgroups", "pids"}
    refused = {name for name in nullable if not VALIDATOR.is_valid(line | {name: None})}
    assert refused == set(NEEDED[kind])
    for name in NEEDED[kind]:
        missing: Any = {name: None}
        with pytest.raises(ValueError, match=name):
            replace(whole, **missing)


@pytest.mark.parametrize("kind", EventType)
def test_a_line_without_a_field_or_with_a_wrong_one_is_invalid(kind: EventType) -> None:
    line = example(kind, NOW).to_json()
    for field in line:
        assert not VALIDATOR.is_valid({key: value for key, value in line.items() if key != field}), field
        assert not VALIDATOR.is_valid(line | {field: {"wrong": 1}}), field
    assert VALIDATOR.is_valid(line | {"later": 1})


def test_the_schema_knows_all_types_and_no_others() -> None:
    assert schema()["$defs"]["event"]["properties"]["event"]["enum"] == list(EventType)


def test_a_threshold_is_the_same_event_for_its_period_and_level_whatever_was_used() -> None:
    one = example(EventType.QUOTA_WARNING, NOW)
    assert replace(one, time=NOW + timedelta(days=1), used_bytes=5).id == one.id
    others = [
        replace(one, quota="other"),
        replace(one, level_percent=95),
        replace(one, period_begin=NOW),
        replace(one, type=EventType.QUOTA_EXCEEDED),
        replace(one, limit_bytes=5),
        replace(one, added=NOW),
    ]
    assert len({one.id, *(other.id for other in others)}) == 1 + len(others)


def test_a_line_of_before_there_was_a_field_is_the_event_that_it_was() -> None:
    """Hooks may have been run for it by its id."""
    line = example(EventType.QUOTA_WARNING, NOW).to_json()
    del line["added"]
    assert Event.from_json(line).id == "quota.warning/quota:example/1793491200000/80"


def test_an_app_is_seen_first_once_and_a_link_comes_each_time() -> None:
    seen = example(EventType.APP_FIRST_SEEN, NOW)
    assert replace(seen, time=NOW + timedelta(days=900), link="wwan1").id == seen.id
    assert link_up("wwan0", NOW).id != link_up("wwan0", NOW + timedelta(milliseconds=1)).id
    assert link_up("wwan0", NOW).id != link_down("wwan0", NOW).id


def test_subjects_name_what_is_kept_in_order() -> None:
    assert [example(kind, NOW).subject for kind in EventType] == [
        *["quota:example"] * 3,
        *["plan:link:wwan0"] * 2,
        *["app:example-app"] * 2,
        *["link:wwan0"] * 2,
        *["roaming:wwan0"] * 2,
        "tracer:wwan0",
    ]
    assert tracer_gap(None, NOW, NOW, "down").subject == "tracer"


def test_the_variables_say_what_the_line_says() -> None:
    variables = example(EventType.QUOTA_EXCEEDED, NOW).variables()
    assert variables["ESIMBPF_EVENT"] == "quota.exceeded"
    assert variables["ESIMBPF_EVENT_V"] == "1"
    assert variables["ESIMBPF_USED_BYTES"] == "1000004711"
    assert variables["ESIMBPF_PERIOD_END"] == "2026-12-01T00:00:00.000Z"
    assert variables["ESIMBPF_PLAN"] == ""
    assert example(EventType.LINK_UP, NOW).variables().keys() == variables.keys()


TEXT = st.binary(min_size=1, max_size=20).map(printable)
MOMENT = st.integers(0, 7 * 10**15).map(lambda us: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us))


@given(
    st.sampled_from(EventType),
    MOMENT,
    st.fixed_dictionaries(
        dict.fromkeys(("quota", "plan", "app", "cause", "link"), TEXT)
        | dict.fromkeys(("used_bytes", "limit_bytes", "level_percent"), st.integers(0, 2**63))
        | dict.fromkeys(("period_begin", "period_end", "added"), MOMENT),
        optional=dict.fromkeys(("user", "profile", "action"), TEXT)
        | {"pids": st.lists(st.integers(1, 2**22)).map(tuple), "cgroups": st.lists(TEXT).map(tuple)},
    ),
)
def test_any_event_fits_the_schema_and_comes_back_whole(kind: EventType, time: datetime, given: Any) -> None:
    event = Event(type=kind, time=time, **given)
    line = event.to_json()
    VALIDATOR.validate(line)
    again = Event.from_json(line)
    assert (again.to_json(), again.id) == (line, event.id)
    assert "\0" not in "".join(event.variables().values())


def test_times_are_utc_whatever_zone_they_come_in() -> None:
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    assert link_up("wwan0", east).to_json() == link_up("wwan0", NOW).to_json()
