"""What `status` tells of limits: what the kernel enforces, beside what was agreed and the daemon has yet to set."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from esimbpf.health import Health, LinkHealth, ProgramHealth, QuotaHealth
from esimbpf.ledger.database import FILE_NAME
from esimbpf.limits import Agreed, Limit, Limits, Pending, limits
from esimbpf.model import Counters
from esimbpf.quota import Kept, Standing, State, Then, parse_quota
from esimbpf.saver import Saver, Service
from esimbpf.sinks.jsonlines import schema
from esimbpf.sinks.status import status_json, status_text
from esimbpf.spans import Span
from tests.unit.test_quotas import ADD, esimbpf

VALID = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
NOW = datetime(2026, 11, 24, 12, 7, 30, tzinfo=UTC)
ADDED = NOW - timedelta(days=3)
TODAY = Span(datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC))
YESTERDAY = Span(TODAY.begin - timedelta(days=1), TODAY.begin)
USED_UP = QuotaHealth(1, Then.BLOCK, 0, 0, reaches=True)
HELD = replace(USED_UP, remaining_bytes=None)
SAVER = Saver(ADDED, services=(Service.DNS,))


def stands(name: str = "backup", period: Span | None = TODAY, **changed: Any) -> Standing:
    fields = {"name": name, "app": "restic", "limit": "1GB", "per": "day", "do": "block"}
    quota = parse_quota(fields | {one: changed.pop(one) for one in ("do", "when") if one in changed})
    return Standing(Kept(quota, ADDED, **changed), NOW, UTC, period)


def agreed(*standings: Standing, period: Span | None = TODAY, **changed: Any) -> Agreed:
    """What the daemon has seen, by numbers from 1 on, when `period` ran."""
    names = [one.kept.quota.name for one in standings]
    known = {number: (name, ADDED) for number, name in enumerate(names, 1)}
    return Agreed(known, standings, dict.fromkeys(names, period), **changed)


def health(*quotas: QuotaHealth, **changed: Any) -> Health:
    return Health(attached=True, quotas=quotas, **changed)


@pytest.mark.parametrize(
    ("quota", "known", "state", "pending"),
    [
        (USED_UP, agreed(stands()), State.EXCEEDED, None),
        (replace(USED_UP, remaining_bytes=7), agreed(stands()), State.IN_FORCE, None),
        (USED_UP, agreed(stands(), period=YESTERDAY), State.EXCEEDED, Pending.RESET),
        (USED_UP, agreed(stands(paused=True)), State.EXCEEDED, Pending.HELD),
        (USED_UP, agreed(stands(period=None)), State.EXCEEDED, Pending.HELD),
        (replace(USED_UP, elsewhere=True), agreed(stands(when="roaming")), State.NOT_IN_FORCE, None),
        (USED_UP, agreed(stands(snoozed_until=NOW)), State.EXCEEDED, None),
        (replace(USED_UP, remaining_bytes=None), agreed(stands(paused=True)), State.NOT_IN_FORCE, None),
        (
            replace(USED_UP, remaining_bytes=None),
            agreed(stands(snoozed_until=NOW)),
            State.NOT_IN_FORCE,
            Pending.RESUMED,
        ),
        (USED_UP, replace(agreed(stands()), standings=()), State.EXCEEDED, Pending.REMOVED),
    ],
)
def test_what_the_kernel_has_and_what_the_daemon_will_change(
    quota: QuotaHealth, known: Agreed, state: State, pending: Pending | None
) -> None:
    [told] = limits(health(quota), known).quotas
    assert (told.name, told.state, told.pending) == ("backup", state, pending)


def test_what_was_agreed_and_the_kernel_does_not_know_is_added() -> None:
    """One that was removed and added again is another one: the kernel has the one before."""
    again = stands()
    again = replace(again, kept=replace(again.kept, added=NOW))
    known = replace(agreed(stands()), standings=(again, stands("new", do="throttle:1Mbit")))
    told = limits(health(USED_UP), known)
    assert [(one.name, one.number, one.pending) for one in told.quotas] == [
        ("backup", 1, Pending.REMOVED),
        ("backup", None, Pending.ADDED),
        ("new", None, Pending.ADDED),
    ]
    assert (len(told.enforced), len(told.exceeded)) == (1, 1)


def test_where_the_ledger_cannot_be_read_names_are_unknown_and_nothing_is_said_to_change() -> None:
    told = limits(health(USED_UP, saver=USED_UP), None, "the ledger is damaged")
    assert [(one.name, one.pending) for one in told.quotas] == [(None, None)]
    assert told.saver
    assert told.saver.pending is None
    assert told.trouble == "the ledger is damaged"


@pytest.mark.parametrize(
    ("kernel", "wanted", "state", "pending"),
    [
        (USED_UP, SAVER, State.EXCEEDED, None),
        (USED_UP, None, State.EXCEEDED, Pending.REMOVED),
        (None, SAVER, State.NOT_IN_FORCE, Pending.ADDED),
    ],
)
def test_the_saver_mode(
    kernel: QuotaHealth | None, wanted: Saver | None, state: State, pending: Pending | None
) -> None:
    told = limits(health(saver=kernel), Agreed(saver=wanted.standing(NOW, UTC) if wanted else None))
    assert told.saver
    assert (told.saver.state, told.saver.pending) == (state, pending)
    assert told.quotas == ()
    assert limits(health(), Agreed()).saver is None


WHOLE = Health(
    attached=True,
    attach_id="a",
    version="0.1.0",
    engine="libbpf",
    since_s=NOW.timestamp() - 7260,
    uptime_s=7260.0,
    programs=(ProgramHealth("sent", True), ProgramHealth("refused", False, "refused")),
    links=(LinkHealth("wwan0", 2, True, Counters(1000, 500, 2, 1)), LinkHealth("wwan1", 0, False)),
    slots=100,
    slots_used=7,
)
LIMITS = Limits(
    (
        Limit("backup", 1, State.EXCEEDED, Then.BLOCK, 0, "", 0, True, TODAY.end),
        Limit("video", 2, State.EXCEEDED, Then.THROTTLE, 125_000, "1Mbit", 0, True, YESTERDAY.end, Pending.RESET),
        Limit("plenty", 3, State.IN_FORCE, Then.NOTIFY, 0, "", 10**9, True),
        Limit("unit", 4, State.IN_FORCE, Then.BLOCK, 0, "", 10**9, False),
        Limit(None, 5, State.NOT_IN_FORCE, Then.BLOCK, 0, "", None, True, None, Pending.REMOVED),
        Limit("new", None, State.NOT_IN_FORCE, Then.BLOCK, pending=Pending.ADDED),
    ),
    Limit("saver", 4095, State.EXCEEDED, Then.BLOCK, 0, "", 0, True, None, Pending.REMOVED),
    (Service.DNS, Service.NTP),
)


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_how_it_reads_without_a_daemon() -> None:
    assert status_text(WHOLE, LIMITS).plain.splitlines() == [
        "counting since 2026-11-24 10:06:30 UTC (2 h 1 min), by esimbpf 0.1.0, libbpf",
        "  wwan0       counted, interface 2; ↓ 1.00 kB ↑ 500 B since then",
        "  wwan1       not counted and not limited: its interface is gone, or another; ↓ 0 B ↑ 0 B since then",
        "  daemon      not at work: what is counted is kept in the kernel, until it is shut down",
        "              limits hold as they were set last, for new processes too; but no period begins, no snooze ends,",
        "              nothing is told, no hook runs, and new processes are of the app that their names say",
        "              begin one: systemctl start esimbpf, or esimbpf daemon",
        "  limits      4 enforced by the kernel, 2 used up",
        "              backup: used up, blocked; its period ends 25 Nov 00:00",
        "              video: used up, throttled to 1Mbit; its period ended 24 Nov 00:00, and the next has not begun",
        "              unit: 1.00 GB left; nobody whom it is for is known to the kernel",
        "              number 5: removed, which the kernel does not know yet",
        "              new: added, which the kernel does not know yet",
        "  saver mode  on, but for DNS, NTP; removed, which the kernel does not know yet",
        "  processes   7 of 100 places used, 0 by ended ones",
        "  without refused: refused",
    ]


@pytest.mark.usefixtures("utc")
def test_how_it_reads_with_a_daemon_and_nothing_to_tell() -> None:
    shown = status_text(replace(WHOLE, daemon=True, daemon_pid=7), Limits(LIMITS.quotas[2:4])).plain
    assert shown[shown.index("  daemon") : shown.index("  processes")].splitlines() == [
        "  daemon      at work (pid 7)",
        "  limits      2 enforced by the kernel, 0 used up",
        "  saver mode  off",
    ]
    none = status_text(replace(WHOLE, links=()), Limits()).plain
    assert none[none.index("  daemon") : none.index("  processes")].splitlines() == [
        "  daemon      not at work: what is counted is kept in the kernel, until it is shut down",
        "  limits      none is enforced",
        "  saver mode  off",
    ]


def test_more_limits_than_are_read_are_counted_and_names_and_troubles_are_told() -> None:
    many = Limits(tuple(replace(LIMITS.quotas[0], name=f"[b]{number}") for number in range(20)), trouble="no [b]ledger")
    shown = status_text(WHOLE, many).plain.splitlines()
    assert "              which limits were agreed is not known: no [b]ledger" in shown
    assert sum("[b]" in line and "blocked" in line for line in shown) == 12
    assert "              and 8 more: esimbpf status --json" in shown


def test_where_nothing_is_attached_no_limit_holds() -> None:
    shown = status_text(Health(attached=False), limits(Health(attached=False), agreed(stands()))).plain.splitlines()
    assert shown[1:] == ["no limit holds: nothing enforces quotas before esimbpf daemon"]
    assert len(status_text(Health(attached=False), Limits()).plain.splitlines()) == 1
    shown = status_text(Health(attached=False), Limits(trouble="no ledger")).plain.splitlines()
    assert shown[1:] == ["which limits were agreed is not known: no ledger"]


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (WHOLE, LIMITS),
        (replace(WHOLE, daemon=True), Limits(trouble="no ledger")),
        (replace(WHOLE, daemon=True, daemon_pid=7), Limits()),
        (Health(attached=False, strangers=("/sys/fs/bpf/esimbpf/v2",)), LIMITS),
    ],
)
def test_programs_get_what_the_schema_promises(of: Health, told: Limits) -> None:
    line = json.loads(status_json(of, told, NOW))
    VALID.validate(line)
    assert line["time"] == "2026-11-24T12:07:30.000Z"
    promised = schema()["$defs"]
    assert set(line) - {"type", "v", "time"} == {*promised["status"]["required"]} | (
        {*promised["attachment"]["required"]} if of.attached else set()
    )
    for one in line["limits"]["quotas"]:
        assert set(one) == {"name", *promised["limit"]["required"]}
        for field in one:
            wrong = line | {"limits": line["limits"] | {"quotas": [one | {field: {"wrong": 1}}]}}
            assert not VALID.is_valid(wrong), field
    for field in line:
        assert not VALID.is_valid(line | {field: {"wrong": 1}}), field


def test_the_command_says_why_what_was_agreed_is_not_known(tmp_path: Path) -> None:
    esimbpf(tmp_path, *ADD)
    told = json.loads(esimbpf(tmp_path, "status", "--json", ESIMBPF_PINS="/nonexistent").stdout)
    assert [(one["name"], one["pending"]) for one in told["limits"]["quotas"]] == [("backup", "added")]
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 1000)
    told = json.loads(esimbpf(tmp_path, "status", "--json", ESIMBPF_PINS="/nonexistent").stdout)
    VALID.validate(told)
    assert "is no ledger, or damaged" in told["limits"]["trouble"]
    assert told["limits"]["quotas"] == []
