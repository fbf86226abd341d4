"""`esimbpf profiles`: which there are, what they are called, and what each has used at home and abroad."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

from esimbpf.ledger import plans
from esimbpf.ledger.database import connect
from esimbpf.ledger.profiles import ProfileUse
from esimbpf.modem.model import Operator
from esimbpf.modem.numbering import Plmn
from esimbpf.places import ByPlace
from esimbpf.plan import Plan
from esimbpf.profiles import KnownProfile, ProfileNames
from esimbpf.sinks.jsonlines import schema
from esimbpf.sinks.profiles import Presence, profiles_table
from esimbpf.spans import Monthly, Once, Span

HOME, TRAVEL, SPARE = "8949020000001234567", "89430100000076543211", "8988000000000000001"
NOW = datetime.now(UTC)
VALIDATOR = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Two profiles that have moved something this month and long ago, and one that nobody knew."""
    with closing(connect(tmp_path)) as db:
        db.execute("INSERT INTO link VALUES (1, 'wwan0')")
        db.execute("INSERT INTO profile (id, iccid, esim) VALUES (2, ?, 0), (3, ?, 1)", (HOME, TRAVEL))
        db.execute("INSERT INTO network VALUES ('262-01', 'Telekom.de'), ('232-01', 'A1')")
        identities = [
            (2, 2, "262-01", 0, "DE", "lte"),
            (3, 2, "232-01", 1, "AT", "lte"),
            (4, 2, "", -1, "", ""),
            (5, 3, "232-01", 1, "AT", "lte"),
        ]
        db.executemany("INSERT INTO identity VALUES (?, ?, ?, ?, ?, ?)", identities)
        for identity, amount in ((1, 7), (2, 1_000_001), (3, 20_003), (4, 11), (5, 500)):
            moved(db, NOW, identity, amount)
        moved(db, NOW - timedelta(days=70), 2, 9_000_000)
    return tmp_path


def moved(db: sqlite3.Connection, at: datetime, identity: int, amount: int) -> None:
    for table, step in (("minute", 60), ("quarter", 900)):
        begin_s = int(at.timestamp()) // step * step
        db.execute(f"INSERT INTO {table} VALUES (?, 1, ?, 'kernel', 0, -1, ?, 0, 1, 0)", (begin_s, identity, amount))


def esimbpf(
    state: Path, *words: str, status: int = 0, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "esimbpf", "--state-dir", str(state), "profiles", *words],
        input=given,
        capture_output=True,
        encoding="utf-8",
        env={
            **os.environ,
            "ESIMBPF_PINS": "/nonexistent",
            "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent",
            "COLUMNS": "140",
            "TZ": "UTC",
            **environment,
        },
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert not status or len(done.stderr.splitlines()) == 2
    return done


def told(state: Path, *words: str, **options: Any) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in esimbpf(state, "--json", *words, **options).stdout.splitlines()]
    for line in lines:
        VALIDATOR.validate(line)
        assert {*line} == {"type", "v", "time", *schema()["$defs"]["profile"]["required"]}
    return {line["profile"]: line for line in lines}


def test_each_profile_is_told_with_its_use_at_home_and_abroad_and_the_sum_is_the_ledgers(state: Path) -> None:
    lines = told(state)
    assert list(lines) == ["8949…4567", "8943…3211", "unknown"]
    home, travel, unknown = lines.values()
    amounts = [[line[f"{where}_bytes"] for where in ("home", "roaming", "unknown")] for line in lines.values()]
    assert amounts == [[1_000_001, 20_003, 11], [0, 500, 0], [0, 0, 7]]
    assert (home["label"], home["label_from"], home["esim"]) == ("Telekom.de", "operator", False)
    assert (travel["label"], travel["label_from"], travel["esim"]) == (None, None, True)
    assert (home["operator"], travel["operator"]) == ({"plmn": "262-01", "name": "Telekom.de"}, None)
    assert {line["active"] for line in lines.values()} == {None}
    assert datetime.fromisoformat(home["last_counted"]) == NOW.replace(second=0, microsecond=0)
    month = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert (home["per"], datetime.fromisoformat(home["begin"])) == ("month", month)
    assert unknown["label"] is None
    assert [*told(state, "--show-ids")] == [HOME, TRAVEL, "unknown"]


def test_with_a_plan_it_is_the_plans_cycle_as_long_as_there_is_one(state: Path) -> None:
    long_ago = NOW - timedelta(days=90)
    with closing(connect(state)) as db:
        plans.keep(db, Plan(f"profile:{HOME}", "10GB", Once(100, long_ago.date()), "Asia/Tokyo", long_ago))
        plans.keep(db, Plan(f"profile:{TRAVEL}", "1GB", Once(7, long_ago.date()), "Asia/Tokyo", long_ago))
    home, travel, _ = told(state).values()
    assert (home["per"], home["home_bytes"], home["plan"]["allowance"]) == ("cycle", 10_000_001, "10GB")
    assert (travel["per"], travel["roaming_bytes"], travel["plan"]["allowance"]) == ("month", 500, "1GB")
    shown = esimbpf(state).stdout
    assert "10GB once for 100 days from" in " ".join(shown.split())
    assert "not in use" in shown


def test_a_label_is_kept_and_names_the_profile_from_then_on(state: Path) -> None:
    done = esimbpf(state, "label", "3211", "Travel [b]")
    assert done.stderr == "labelled: Travel [b] 8943…3211\n"
    assert (told(state)["8943…3211"]["label"], told(state)["8943…3211"]["label_from"]) == ("Travel [b]", "user")
    esimbpf(state, "label", "travel [B]", "Roamer")
    esimbpf(state, "label", "Telekom.de", "Home")
    assert [line["label"] for line in told(state).values()] == ["Home", "Roamer", None]
    assert "taken by another profile" in esimbpf(state, "label", "Roamer", "home", status=2).stderr
    assert esimbpf(state, "label", "Home", "--remove").stderr == (
        "the label is forgotten; it is now Telekom.de 8949…4567\n"
    )
    esimbpf(state, "label", SPARE + "f", "Spare")
    spare = told(state, "--show-ids")[SPARE]
    assert (spare["label"], spare["last_counted"], spare["home_bytes"]) == ("Spare", None, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("3211",), "a NAME or --remove is to be given, and neither was"),
        (("3211", "x", "--remove"), "a NAME or --remove is to be given, and both were"),
        (("9999", "x"), "profile '9999' is no ICCID"),
        (("3211", ""), "label '' cannot be used"),
        (("3211", "\x1b[2J"), r"label '\\x1b[2J' cannot be used"),
        (("3211", "x" * 65), "cannot be used"),
        (("3211", "4567"), "label '4567' could be mistaken for a number"),
        (("3211", HOME), "could be mistaken"),
        (("3211", "8949…4567"), "could be mistaken"),
        (("3211", "Unknown"), "could be mistaken"),
    ],
)
def test_a_label_that_cannot_be_one_is_refused(state: Path, words: Sequence[str], said: str) -> None:
    before = told(state)
    assert said in esimbpf(state, "label", *words, status=2).stderr
    assert [line["label"] for line in told(state).values()] == [line["label"] for line in before.values()]


def lpac_list(**nicknames: str) -> str:
    entries = [
        {"iccid": iccid, "profileState": "enabled" if iccid == TRAVEL else "disabled", "profileNickname": nickname}
        for iccid, nickname in nicknames.items()
    ]
    return json.dumps({"type": "lpa", "payload": {"code": 0, "message": "success", "data": entries}})


def test_lpac_labels_what_the_user_has_not_and_says_what_is_active_where_nobody_else_does(
    state: Path, tmp_path: Path
) -> None:
    file = tmp_path / "profiles.json"
    file.write_text(lpac_list(**{HOME: "Nick of home", TRAVEL: "Nick", SPARE: "\x1b[2J"}))
    esimbpf(state, "label", HOME, "Mine")
    lines = told(state, "--lpac", str(file))
    assert [line["label"] for line in lines.values()] == ["Mine", "Nick", "\\x1b[2J", None]
    assert [line["label_from"] for line in lines.values()] == ["user", "lpac", "lpac", None]
    assert [line["active"] for line in lines.values()] == [False, True, False, None]
    assert [line["label"] for line in told(state).values()] == ["Mine", "Nick", "\\x1b[2J", None]
    assert [line["label"] for line in told(state, "--lpac", "-", given=lpac_list(**{TRAVEL: "New"})).values()] == [
        "Mine",
        "New",
        "\\x1b[2J",
        None,
    ]
    shown = esimbpf(state, COLUMNS="60").stdout
    assert "\x1b" not in shown
    assert "\\x1b[2J" in shown


def test_lpac_is_run_only_where_it_is_asked_for(state: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "said").write_text(lpac_list(**{TRAVEL: "Asked"}))
    (folder / "lpac").write_text(f"#!/bin/sh\ntouch {folder}/was-run\ncat {folder}/said\n")
    (folder / "lpac").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    told(state, PATH=path)
    assert not (folder / "was-run").exists()
    assert told(state, "--run-lpac", PATH=path)["8943…3211"]["label"] == "Asked"
    assert (folder / "was-run").exists()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--lpac", "/nonexistent/list"), 3, "cannot read /nonexistent/list: No such file"),
        (("--lpac", "/"), 3, "cannot read /: Is a directory"),
        (("--lpac", "-", "--run-lpac"), 2, "exclude each other"),
        (("--lpac", "-"), 2, "is no JSON"),
        (("--run-lpac",), 3, "lpac is not installed"),
    ],
)
def test_what_of_lpac_cannot_be_used_is_said_and_changes_nothing(
    tmp_path: Path, words: Sequence[str], status: int, said: str
) -> None:
    assert said in esimbpf(tmp_path, *words, status=status, PATH="/nonexistent").stderr
    assert list(tmp_path.iterdir()) == []


def test_where_none_was_ever_seen_it_is_said(tmp_path: Path) -> None:
    assert "no SIM profile was ever seen" in esimbpf(tmp_path).stderr
    assert told(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


# --- as people see it --------------------------------------------------------------------------------------------


AT = datetime(2026, 11, 24, 17, 15, tzinfo=UTC)
MONTH = Span(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
TELEKOM = Operator(Plmn("262", "01"), "Telekom.de")
PLAN = Plan(f"profile:{HOME}", "10GB", Monthly(15), "UTC", AT)
CYCLE = Span(datetime(2026, 11, 15, tzinfo=UTC), datetime(2026, 12, 15, tzinfo=UTC))
ROWS = (
    (
        ProfileUse(KnownProfile(HOME, False, operator=TELEKOM), PLAN, CYCLE, True, ByPlace(1_200_000_000, 300), AT),
        Presence(True, ("wwan0",)),
    ),
    (ProfileUse(KnownProfile(TRAVEL, True, "[b]Travel"), None, MONTH, False, ByPlace(), None), Presence(False)),
    (ProfileUse(KnownProfile("unknown"), None, MONTH, False, ByPlace(0, 0, 7), AT), Presence(None)),
)


def shown(width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(profiles_table(ROWS, ProfileNames(), UTC, width=width))
    return [line.rstrip() for line in captured.get().splitlines()]


TABLE = f"""\
profile     number          home network  now    last counted      since       at home  abroad  unknown  plan
{"─" * 118}
Telekom.de  SIM 8949…4567   262-01        wwan0  2026-11-24 17:15  2026-11-15  1.20 GB   300 B      0 B  10GB a month,
                            Telekom.de                                                                   from day 15
[b]Travel   eSIM 8943…3211                       never             2026-11-01      0 B     0 B      0 B
unknown                                          2026-11-24 17:15  2026-11-01      0 B     0 B      7 B
"""


def test_a_table_where_there_is_room() -> None:
    assert shown(118) == TABLE.splitlines()


def test_a_paragraph_each_where_there_is_little() -> None:
    assert shown(60) == [
        "Telekom.de",
        "  SIM 8949…4567, active on wwan0",
        "  home network: 262-01 Telekom.de",
        "  last counted: 2026-11-24 17:15",
        "  since 2026-11-15: 1.20 GB at home, 300 B abroad",
        "  plan: 10GB a month, from day 15",
        "",
        "[b]Travel",
        "  eSIM 8943…3211",
        "  last counted: never",
        "  since 2026-11-01: nothing",
        "",
        "unknown",
        "  last counted: 2026-11-24 17:15",
        "  since 2026-11-01: 7 B not known where",
        "",
    ]
