import pwd
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from esimbpf.dispatch import order_of
from esimbpf.events import EventType, example
from esimbpf.hooks import Hook
from esimbpf.model import NOTHING, Counters, GroupBy, Kind, Link, LinkTick, Process, Row, Start, Tick
from esimbpf.profiles import ProfileNames
from esimbpf.sinks.jsonlines import EndReason, JsonLines, schema
from esimbpf.text import printable
from esimbpf.users import user_name

NOW = datetime(2026, 3, 4, 5, 6, 7, 890999, UTC)
SHOWN_NOW = "2026-03-04T05:06:07.890Z"
NOBODY = 3_999_999_999  # no user of this number on any machine
WWAN = Link("wwan0", 2, "wwan", ("10.64.1.2",))
START = Start(NOW, "pi", "0d2f-boot", 1_700_000_000_123_456_789, "libbpf", 1.0, GroupBy.PROCESS, (WWAN,))
CURL = Process(
    pid=812,
    start_ns=42_000_999_999,
    uid=NOBODY,
    comm="curl",
    exe="/usr/bin/curl",
    args=("curl", "-O", "x"),
    cgroup="/user.slice/user-1000.slice/session-3.scope",
)
GONE = Process(pid=99, start_ns=1, uid=NOBODY, comm="gone", exe="", args=(), cgroup="", exited=True)
COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
BLOCKED = ("blocked_rx_bytes", "blocked_tx_bytes")
ALL_COUNTERS = [name + suffix for names in (COUNTERS, BLOCKED) for suffix in ("", "_total") for name in names]
USAGE = ["type", "v", "time", "link", "kind", "id", "name"]
KEYS = {
    "start": ["type", "v", "time", "host", "boot_id", "engine", "interval_s", "by", "links"],
    "warning": ["type", "v", "time", "message"],
    "process": [*USAGE, "app", "pid", "start_time", "uid", "user", "exe", "cgroup", "alive", *ALL_COUNTERS],
    "app": [*USAGE, "pids", "alive", *ALL_COUNTERS],
    "user": [*USAGE, "uid", "user", "pids", "alive", *ALL_COUNTERS],
    "cgroup": [*USAGE, "cgroup", "pids", "alive", *ALL_COUNTERS],
    "kernel": [*USAGE, *ALL_COUNTERS],
    "forwarded": [*USAGE, *ALL_COUNTERS],
    "unattributed": [*USAGE, *ALL_COUNTERS],
    "overflow": [*USAGE, *ALL_COUNTERS],
    "link": [
        *("type", "v", "time", "link", "interval_s", *ALL_COUNTERS, "present"),
        *(f"other_{counter}_total" for counter in COUNTERS),
    ],
    "end": ["type", "v", "time", "reason"],
}
VALIDATOR = Draft202012Validator(schema())


class Pipe:
    """Keeps what is written and reads it back as lines that fit the schema."""

    def __init__(self, start: Start = START, show_all: bool = False) -> None:
        self.writes: list[bytes] = []
        self.json_lines = JsonLines(start, self.writes.append, show_all)

    def lines(self) -> list[dict[str, Any]]:
        written = b"".join(self.writes)
        assert written.endswith(b"\n")
        lines = [orjson.loads(line) for line in written.split(b"\n")[:-1]]
        for line in lines:
            VALIDATOR.validate(line)
            assert list(line) == KEYS[line.get("kind", line["type"])]
        return lines


def row(kind: Kind, *processes: Process, rx: int = 0, total: int | None = None, name: str = "x", app: str = "") -> Row:
    delta = Counters(rx_bytes=rx, rx_packets=int(rx > 0))
    return Row(kind, f"id-{name}", name, delta, Counters(rx_bytes=rx if total is None else total), app, processes)


def tick(*rows: Row, warnings: Iterable[str] = (), link: Link = WWAN, **more: Any) -> Tick:
    delta, total = sum((r.delta for r in rows), NOTHING), sum((r.total for r in rows), NOTHING)
    return Tick(NOW, 1.0003, (LinkTick(link, True, rows, delta, total, **more),), tuple(warnings))


def lines_of(*ticks: Tick, show_all: bool = False, final: bool = False) -> list[dict[str, Any]]:
    pipe = Pipe(show_all=show_all)
    for each in ticks:
        pipe.json_lines.tick(each, final)
    return pipe.lines()


# --- every line, to the letter --------------------------------------------------------------------------


def test_lines_read_as_designed() -> None:
    pipe = Pipe()
    pipe.json_lines.start()
    rows = (
        Row(Kind.PROCESS, "812-42", "curl", Counters(1, 2, 3, 4), Counters(5, 6, 7, 2**63), "curl", (CURL,)),
        Row(
            Kind.APP, "a", "a", NOTHING, NOTHING, blocked=Counters(0, 60, 0, 1), total_blocked=Counters(1500, 120, 1, 2)
        ),
        Row(Kind.KERNEL, "kernel", "kernel", Counters(1, 1, 1, 1), Counters(1, 1, 1, 1)),
    )
    link_tick = LinkTick(
        *(WWAN, False, rows, Counters(2, 3, 4, 5), Counters(6, 7, 8, 2**63 + 1), Counters(9, 8, 7, 6)),
        *(Counters(0, 60, 0, 1), Counters(1500, 120, 1, 2)),
    )
    pipe.json_lines.tick(Tick(NOW, 1.00030004, (link_tick,), ("the map is full",)))
    pipe.json_lines.end(NOW, "count")
    assert b"".join(pipe.writes).decode() == (
        '{"type":"start","v":1,"time":"2026-03-04T05:06:07.890Z","host":"pi","boot_id":"0d2f-boot","engine":"libbpf",'
        '"interval_s":1.0,"by":"process","links":[{"link":"wwan0","ifindex":2,"kind":"wwan"}]}\n'
        '{"type":"warning","v":1,"time":"2026-03-04T05:06:07.890Z","message":"the map is full"}\n'
        '{"type":"usage","v":1,"time":"2026-03-04T05:06:07.890Z","link":"wwan0","kind":"process","id":"812-42",'
        '"name":"curl","app":"curl","pid":812,"start_time":"2023-11-14T22:14:02.124Z","uid":3999999999,'
        '"user":"3999999999","exe":"/usr/bin/curl","cgroup":"/user.slice/user-1000.slice/session-3.scope","alive":true,'
        '"rx_bytes":1,"tx_bytes":2,"rx_packets":3,"tx_packets":4,"rx_bytes_total":5,"tx_bytes_total":6,'
        '"rx_packets_total":7,"tx_packets_total":9223372036854775808,"blocked_rx_bytes":0,"blocked_tx_bytes":0,'
        '"blocked_rx_bytes_total":0,"blocked_tx_bytes_total":0}\n'
        '{"type":"usage","v":1,"time":"2026-03-04T05:06:07.890Z","link":"wwan0","kind":"app","id":"a",'
        '"name":"a","pids":[],"alive":false,"rx_bytes":0,"tx_bytes":0,"rx_packets":0,"tx_packets":0,"rx_bytes_total":0,'
        '"tx_bytes_total":0,"rx_packets_total":0,"tx_packets_total":0,"blocked_rx_bytes":0,"blocked_tx_bytes":60,'
        '"blocked_rx_bytes_total":1500,"blocked_tx_bytes_total":120}\n'
        '{"type":"usage","v":1,"time":"2026-03-04T05:06:07.890Z","link":"wwan0","kind":"kernel","id":"kernel",'
        '"name":"kernel","rx_bytes":1,"tx_bytes":1,"rx_packets":1,"tx_packets":1,"rx_bytes_total":1,'
        '"tx_bytes_total":1,"rx_packets_total":1,"tx_packets_total":1,"blocked_rx_bytes":0,"blocked_tx_bytes":0,'
        '"blocked_rx_bytes_total":0,"blocked_tx_bytes_total":0}\n'
        '{"type":"link","v":1,"time":"2026-03-04T05:06:07.890Z","link":"wwan0","interval_s":1.0003,"rx_bytes":2,'
        '"tx_bytes":3,"rx_packets":4,"tx_packets":5,"rx_bytes_total":6,"tx_bytes_total":7,"rx_packets_total":8,'
        '"tx_packets_total":9223372036854775809,"blocked_rx_bytes":0,"blocked_tx_bytes":60,'
        '"blocked_rx_bytes_total":1500,"blocked_tx_bytes_total":120,"present":false,"other_rx_bytes_total":9,"other_tx_bytes_total":8,'
        '"other_rx_packets_total":7,"other_tx_packets_total":6}\n'
        '{"type":"end","v":1,"time":"2026-03-04T05:06:07.890Z","reason":"count"}\n'
    )
    pipe.lines()


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_of_row_has_its_own_fields_in_order(kind: Kind) -> None:
    usage, link = lines_of(tick(row(kind, GONE, CURL, rx=1, app="a")))
    assert usage["kind"] == kind
    assert list(usage) == KEYS[kind]
    assert list(link) == KEYS["link"]


def test_a_group_lists_its_processes_once_each_and_lives_while_one_of_them_does() -> None:
    again = Process(pid=99, start_ns=2, uid=NOBODY, comm="gone", exe="", args=(), cgroup="", exited=True)
    alive, dead, _ = lines_of(
        tick(
            row(Kind.APP, CURL, GONE, again, rx=1, name="a"),
            row(Kind.APP, GONE, again, rx=1, name="b"),
        )
    )
    assert (alive["pids"], alive["alive"]) == ([99, 812], True)
    assert (dead["pids"], dead["alive"]) == ([99], False)


def test_rows_of_users_and_cgroups_say_which() -> None:
    user, cgroup, _ = lines_of(
        tick(row(Kind.USER, CURL, rx=1, name="ann"), row(Kind.CGROUP, CURL, rx=1, name="session-3.scope"))
    )
    assert (user["uid"], user["user"]) == (NOBODY, str(NOBODY))
    assert cgroup["cgroup"] == CURL.cgroup


def test_rows_whose_processes_have_all_ended_still_say_which() -> None:
    rows = (
        Row(Kind.USER, str(NOBODY), "ann", NOTHING, Counters(1, 1, 1, 1)),
        Row(Kind.CGROUP, "/user.slice", "/user.slice", NOTHING, Counters(1, 1, 1, 1)),
        Row(Kind.CGROUP, "", "", NOTHING, Counters(1, 1, 1, 1)),
    )
    user, cgroup, unknown, _ = lines_of(tick(*rows), final=True)
    assert (user["uid"], user["user"], user["pids"], user["alive"]) == (NOBODY, str(NOBODY), [], False)
    assert (cgroup["cgroup"], unknown["cgroup"]) == ("/user.slice", None)


def test_what_is_unknown_is_null() -> None:
    process, cgroup, user, _ = lines_of(
        tick(
            row(Kind.PROCESS, GONE, rx=1, name="a", app="gone"),
            row(Kind.CGROUP, GONE, rx=1, name="b"),
            row(Kind.USER, rx=1, name="c"),
        )
    )
    assert (process["exe"], process["cgroup"], process["alive"]) == (None, None, False)
    assert cgroup["cgroup"] is None
    assert (user["uid"], user["user"], user["pids"], user["alive"]) == (None, None, [], False)


def test_times_are_utc_whatever_the_zone_and_always_have_milliseconds() -> None:
    pipe = Pipe()
    east = timezone(timedelta(hours=5, minutes=30))
    pipe.json_lines.end(datetime(2026, 1, 1, 1, 0, 0, 0, east), "signal")
    assert pipe.lines()[0]["time"] == "2025-12-31T19:30:00.000Z"


@pytest.mark.parametrize("reason", ["count", "signal", "link-gone"])
def test_the_end_says_why(reason: EndReason) -> None:
    pipe = Pipe()
    pipe.json_lines.end(NOW, reason)
    assert pipe.lines() == [{"type": "end", "v": 1, "time": SHOWN_NOW, "reason": reason}]


# --- which rows -----------------------------------------------------------------------------------------

MOVING = row(Kind.PROCESS, CURL, rx=7, name="moving", app="a")
IDLE = row(Kind.PROCESS, GONE, total=3, name="idle", app="b")


def names(lines: list[dict[str, Any]]) -> list[str]:
    return [line["name"] for line in lines if line["type"] == "usage"]


def test_rows_in_which_nothing_moved_are_left_out() -> None:
    lines = lines_of(tick(IDLE, MOVING))
    assert names(lines) == ["moving"]
    assert lines[-1]["rx_bytes_total"] == 10


def test_every_row_is_there_when_all_are_asked_for() -> None:
    assert names(lines_of(tick(IDLE, MOVING), show_all=True)) == ["idle", "moving"]


def test_the_final_interval_has_every_row() -> None:
    assert names(lines_of(tick(IDLE, MOVING), final=True)) == ["idle", "moving"]


@pytest.mark.parametrize("counter", COUNTERS)
def test_any_counter_that_moved_keeps_the_row(counter: str) -> None:
    delta = Counters(**{counter: 1})
    assert names(lines_of(tick(Row(Kind.KERNEL, "kernel", "kernel", delta, delta)))) == ["kernel"]


def test_what_was_blocked_keeps_the_row_though_nothing_moved() -> None:
    stopped = replace(IDLE, blocked=Counters(tx_bytes=60, tx_packets=1))
    [line, _link] = lines_of(tick(stopped))
    assert (line["blocked_tx_bytes"], line["tx_bytes"]) == (60, 0)


def test_the_link_line_closes_each_link() -> None:
    other = Link("wwan1", 3, "wwan")
    both = Tick(NOW, 1.0, (*tick(MOVING).links, *tick(IDLE, link=other).links, *tick(MOVING, link=other).links))
    assert [(line["type"], line["link"]) for line in lines_of(both)] == [
        ("usage", "wwan0"),
        ("link", "wwan0"),
        ("link", "wwan1"),
        ("usage", "wwan1"),
        ("link", "wwan1"),
    ]


def test_an_interval_is_written_in_one_piece() -> None:
    pipe = Pipe()
    pipe.json_lines.tick(tick(MOVING, row(Kind.KERNEL, rx=1), warnings=["w"]))
    assert len(pipe.writes) == 1
    assert len(pipe.lines()) == 4


def test_an_interval_without_links_or_warnings_writes_nothing() -> None:
    pipe = Pipe()
    pipe.json_lines.tick(Tick(NOW, 1.0, ()))
    assert pipe.writes == []


def test_a_row_that_changes_between_intervals_is_described_anew() -> None:
    exited = replace(CURL, exited=True)
    lines = lines_of(
        tick(row(Kind.PROCESS, CURL, rx=1, name="curl", app="curl")),
        tick(row(Kind.PROCESS, exited, rx=2, name="curl", app="curl")),
        tick(row(Kind.PROCESS, exited, rx=3, name="curl", app="Updater")),
        tick(row(Kind.PROCESS, exited, rx=4, name="curl", app="Updater")),
    )
    assert [(line["app"], line["alive"], line["rx_bytes"]) for line in lines if line["type"] == "usage"] == [
        ("curl", True, 1),
        ("curl", False, 2),
        ("Updater", False, 3),
        ("Updater", False, 4),
    ]


def test_a_row_is_described_once_while_it_moves_in_each_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[int] = []

    def name(uid: int) -> str:
        described.append(uid)
        return "ann"

    monkeypatch.setattr("esimbpf.sinks.jsonlines.user_name", name)
    moving = tick(row(Kind.PROCESS, CURL, rx=1, app="curl"))
    lines_of(moving, moving, moving)
    assert described == [NOBODY]


def test_rows_of_the_same_id_on_two_links_or_of_two_kinds_are_kept_apart() -> None:
    other = Link("wwan1", 3, "wwan")
    here, there = tick(row(Kind.APP, CURL, rx=1)), tick(row(Kind.APP, GONE, rx=1), link=other)
    both = Tick(NOW, 1.0, (*here.links, *there.links))
    lines = lines_of(both, both, tick(row(Kind.KERNEL, rx=1)))
    assert [(line["kind"], line["link"], line.get("pids")) for line in lines if line["type"] == "usage"] == [
        ("app", "wwan0", [812]),
        ("app", "wwan1", [99]),
        ("app", "wwan0", [812]),
        ("app", "wwan1", [99]),
        ("kernel", "wwan0", None),
    ]


# --- events ----------------------------------------------------------------------------------------------


def test_events_are_lines_as_hooks_get_them() -> None:
    events = [example(kind, NOW) for kind in EventType]
    pipe = Pipe()
    pipe.json_lines.events(events)
    written = [orjson.loads(line) for line in b"".join(pipe.writes).splitlines()]
    assert written == [orjson.loads(order_of(Hook("tell", ("/bin/true",)), event).line) for event in events]
    assert any(line["profile"] == "8949…0001" for line in written)
    full: list[bytes] = []
    JsonLines(START, full.append, names=ProfileNames(show_ids=True)).events(events)
    assert [orjson.loads(line) for line in full] == [event.to_json() for event in events]


# --- warnings -------------------------------------------------------------------------------------------


def test_a_warning_is_written_once_until_it_goes_away() -> None:
    given_warnings = [("full",), ("gone", "full", "gone"), ("gone",), (), ("full",)]
    lines = lines_of(*(tick(warnings=warnings) for warnings in given_warnings))
    seen = [line.get("message", "|") for line in lines]
    assert seen == ["full", "|", "gone", "|", "|", "|", "full", "|"]


def test_warnings_come_before_the_usage_of_their_interval() -> None:
    assert [line["type"] for line in lines_of(tick(MOVING, warnings=["w"]))] == ["warning", "usage", "link"]


# --- hostile names --------------------------------------------------------------------------------------

HOSTILE = [
    b"\x1b]0;owned\x07\x1b[2J",
    b"two\nlines\r\n",
    b'"},{"type":"end","v":1',
    b"[bold red]name[/]",
    b"\xff\xfe\x80",
    "\u202egpj.exe".encode(),
    b"\\u0000\\x1b\\",
    b"\x00\x01\x7f",
]


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_hostile_name_stays_one_harmless_string(raw: bytes) -> None:
    name = printable(raw)
    hostile = Process(pid=1, start_ns=0, uid=NOBODY, comm=name, exe=name, args=(name,), cgroup=name)
    usage, link = lines_of(
        tick(row(Kind.PROCESS, hostile, rx=1, name=name, app=name), link=Link(name, 1, "tun")),
    )
    assert [usage[key] for key in ("name", "app", "exe", "cgroup", "link")] == [name] * 5
    assert link["link"] == name


# --- any tick -------------------------------------------------------------------------------------------

TEXT = st.binary(min_size=1, max_size=20).map(printable)
COUNT = st.one_of(st.integers(0, 3), st.integers(0, 2**63))
SOME_COUNTERS = st.one_of(st.just(NOTHING), st.builds(Counters, COUNT, COUNT, COUNT, COUNT))
SOME_PROCESS = st.builds(
    Process,
    pid=st.integers(1, 2**22),
    start_ns=st.integers(0, 2**63),
    uid=st.integers(NOBODY, 2**32 - 1),
    comm=TEXT,
    exe=st.one_of(st.just(""), TEXT),
    args=st.just(()),
    cgroup=st.one_of(st.just(""), TEXT),
    exited=st.booleans(),
)


@st.composite
def ticks(draw: st.DrawFn) -> Tick:
    """A tick whose ledger is closed, as the model promises: no more than 64 bits in a sum, and unique ids."""
    link_ticks = []
    for name in draw(st.lists(TEXT, max_size=2, unique=True)):
        rows: list[Row] = []
        delta = total = blocked = total_blocked = NOTHING
        for number, kind in enumerate(draw(st.lists(st.sampled_from(Kind), max_size=5))):
            add, more, stopped, before = (draw(SOME_COUNTERS) for _ in range(4))
            sums = total + add + more, total_blocked + stopped + before
            if any(getattr(one, counter) >= 2**64 for one in sums for counter in COUNTERS):
                break
            processes = tuple(draw(st.lists(SOME_PROCESS, min_size=1, max_size=3)))
            counters = (add, add + more, draw(TEXT), processes, stopped, stopped + before)
            rows.append(Row(kind, f"{number}", draw(TEXT), *counters))
            delta, total = delta + add, total + add + more
            blocked, total_blocked = blocked + stopped, total_blocked + stopped + before
        link = Link(name, draw(st.integers(1, 2**31 - 1)), "wwan")
        counted = (delta, total, draw(SOME_COUNTERS), blocked, total_blocked)
        link_ticks.append(LinkTick(link, draw(st.booleans()), tuple(rows), *counted))
    seconds = draw(st.floats(0, 1e6))
    return Tick(NOW, seconds, tuple(link_ticks), tuple(draw(st.lists(TEXT, max_size=3))))


def sums(lines: list[dict[str, Any]], suffix: str) -> list[int]:
    return [sum(line[counter + suffix] for line in lines) for counter in (*COUNTERS, *BLOCKED)]


@given(st.lists(ticks(), min_size=1, max_size=3), st.booleans())
def test_usage_lines_add_up_to_the_link_line_in_every_interval(all_ticks: list[Tick], show_all: bool) -> None:
    pipe = Pipe(show_all=show_all)
    for number, each in enumerate(all_ticks, start=1):
        final = number == len(all_ticks)
        pipe.writes.clear()
        pipe.json_lines.tick(each, final)
        usage: list[dict[str, Any]] = []
        links = 0
        for line in pipe.lines() if pipe.writes else []:
            if line["type"] == "usage":
                usage.append(line)
            elif line["type"] == "link":
                assert sums(usage, "") == sums([line], "")
                if final or show_all:
                    assert sums(usage, "_total") == sums([line], "_total")
                usage.clear()
                links += 1
        assert links == len(each.links)


# --- the schema -----------------------------------------------------------------------------------------

GOOD = [
    {"type": "start", "v": 1, "time": SHOWN_NOW, "host": "pi", "boot_id": "b", "engine": "bcc", "interval_s": 0.5}
    | {"by": "app", "links": [{"link": "wwan0", "ifindex": 2, "kind": "wwan"}]},
    {"type": "warning", "v": 1, "time": SHOWN_NOW, "message": "m"},
    *lines_of(
        Tick(NOW, 1.0, tick(*(row(kind, CURL, rx=1, app="a", name=str(kind)) for kind in Kind)).links), show_all=True
    ),
    {"type": "end", "v": 1, "time": SHOWN_NOW, "reason": "count"},
]


def label(line: dict[str, Any]) -> str:
    return str(line.get("kind", line["type"]))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("line", GOOD, ids=label)
def test_a_line_with_a_field_of_a_later_release_is_still_valid(line: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(line | {"later": {"any": "thing"}})


@pytest.mark.parametrize("line", GOOD, ids=label)
def test_a_line_without_any_one_of_its_fields_is_invalid(line: dict[str, Any]) -> None:
    for field in line:
        # What later releases have added can be missing.
        if field != "kind" and not field.startswith(BLOCKED):
            assert not VALIDATOR.is_valid({key: value for key, value in line.items() if key != field}), field


@pytest.mark.parametrize("line", GOOD, ids=label)
def test_a_line_with_any_field_of_the_wrong_type_is_invalid(line: dict[str, Any]) -> None:
    for field in line:
        assert not VALIDATOR.is_valid(line | {field: {"wrong": 1}}), field


def test_a_usage_line_without_a_kind_is_invalid() -> None:
    line = next(line for line in GOOD if line.get("kind") == "process")
    assert not VALIDATOR.is_valid({key: value for key, value in line.items() if key != "kind"})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("process", "rx_bytes", -1),
        ("process", "rx_bytes", 2**64),
        ("process", "rx_bytes", 1.5),
        ("process", "kind", "thread"),
        ("process", "v", 2),
        ("process", "pid", 0),
        ("process", "name", "a\x1b[0m"),
        ("process", "name", "a\u202eb"),
        ("process", "time", "2026-03-04T05:06:07Z"),
        ("process", "time", "2026-03-04 05:06:07.890Z"),
        ("process", "start_time", "2026-03-04T05:06:07.890+01:00"),
        ("process", "uid", None),
        ("process", "exe", ""),
        ("app", "pids", [1, 1]),
        ("link", "interval_s", -0.1),
        ("link", "other_rx_bytes_total", -1),
        ("link", "type", "links"),
        ("start", "by", "thread"),
        ("start", "links", [{"link": "wwan0", "ifindex": 0, "kind": "wwan"}]),
        ("end", "reason", "tired"),
    ],
)
def test_wrong_values_are_invalid(kind: str, field: str, value: object) -> None:
    line = next(line for line in GOOD if label(line) == kind)
    assert VALIDATOR.is_valid(line)
    assert not VALIDATOR.is_valid(line | {field: value})


def described_fields(name: str) -> set[str]:
    definition = schema()["$defs"][name]
    inherited = definition.get("$ref", "").rpartition("/")[2]
    return set(definition.get("properties", ())) | (described_fields(inherited) if inherited else set())


@pytest.mark.parametrize(
    ("kind", "definitions"),
    [
        ("start", ["start"]),
        ("warning", ["warning"]),
        ("process", ["usage", "process"]),
        ("app", ["usage", "group"]),
        ("user", ["usage", "user"]),
        ("cgroup", ["usage", "cgroup"]),
        ("kernel", ["usage"]),
        ("link", ["link"]),
        ("end", ["end"]),
    ],
)
def test_the_schema_describes_the_fields_that_are_written_and_no_others(kind: str, definitions: list[str]) -> None:
    assert {"type", "v", "time"}.union(*map(described_fields, definitions)) == set(KEYS[kind])


# --- cost -----------------------------------------------------------------------------------------------


def test_ten_thousand_rows_take_well_below_a_tenth_of_a_second() -> None:
    rows = tuple(
        row(Kind.PROCESS, Process(pid, pid, NOBODY, "curl", "/usr/bin/curl", (), "/"), rx=1, name=f"{pid}", app="curl")
        for pid in range(1, 10_001)
    )
    each = tick(*rows)
    pipe = Pipe()
    spent = []
    for _ in range(5):
        before = time.process_time()
        pipe.json_lines.tick(each)
        spent.append(time.process_time() - before)
        pipe.writes.clear()
    assert min(spent) < 0.1


# --- users ----------------------------------------------------------------------------------------------


def test_a_user_is_known_by_name() -> None:
    assert user_name(0) == pwd.getpwuid(0).pw_name


def test_a_user_whom_nobody_knows_is_the_number() -> None:
    assert user_name(NOBODY) == str(NOBODY)
    assert user_name(2**32 - 1) == "4294967295"


def test_the_user_database_is_asked_once_for_each_user(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def getpwuid(uid: int) -> pwd.struct_passwd:
        asked.append(uid)
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    assert [user_name(NOBODY - 1), user_name(NOBODY - 1)] == [str(NOBODY - 1)] * 2
    assert asked == [NOBODY - 1]


def test_a_hostile_user_name_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = pwd.struct_passwd(("a\x1b[0m\n", "x", 1, 1, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: hostile)
    assert re.fullmatch(r"[ -~]+", user_name(NOBODY - 2))
