"""SIM profiles: which one is meant by what people write, and that no output tells the number of one unasked."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.dispatch import order_of
from esimbpf.errors import UsageError
from esimbpf.events import Event, EventType
from esimbpf.hooks import Hook
from esimbpf.ledger import outbox
from esimbpf.ledger.database import connect
from esimbpf.ledger.profiles import known
from esimbpf.modem.model import Operator
from esimbpf.modem.numbering import Plmn
from esimbpf.profiles import KnownProfile, ProfileNames, chosen, parse_iccid

HOME, TRAVEL = "8949020000001234567", "89430100000076543211"
NOW = datetime.now(UTC)
TELEKOM = Operator(Plmn("262", "01"), "Telekom.de")
KNOWN = (
    KnownProfile(HOME, esim=False, operator=TELEKOM),
    KnownProfile(TRAVEL, esim=True, own_label="Travel", lpac_label="BetterRoaming"),
    KnownProfile("unknown"),
)


# --- which one is meant ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "iccid"),
    [
        (HOME, HOME),
        ("8949 0200 0000 1234 567F", HOME),
        ("8949-0200-0000-1234-567", HOME),
        ("4567", HOME),
        ("01234567", HOME),
        ("8949…4567", HOME),
        ("8949...4567", HOME),
        ("telekom.de", HOME),
        (" Travel", TRAVEL),
        ("TRAVEL", TRAVEL),
        ("8988000000000000001", "8988000000000000001"),  # never seen
    ],
)
def test_a_profile_is_meant_by_its_number_label_or_last_digits(text: str, iccid: str) -> None:
    assert chosen(text, KNOWN) == iccid


@pytest.mark.parametrize(
    "text", ["", " ", "567", "unknown", "Telekom", "9999", "8949…9999", "BetterRoaming", "\x1b[2J"]
)
def test_where_none_is_meant_it_is_said_which_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="is no ICCID, and no SIM profile is labelled so or ends so") as told:
        chosen(text, KNOWN)
    assert "Telekom.de 8949…4567, Travel 8943…3211" in told.value.hint
    assert told.value.message.isprintable()


def test_where_several_fit_they_are_named_and_an_own_label_goes_before_an_operators() -> None:
    other = KnownProfile("8949020000009994567", operator=TELEKOM)
    for text in ("4567", "Telekom.de"):
        with pytest.raises(UsageError, match=r"fits several: Telekom\.de 8949…34567, Telekom\.de 8949…94567$"):
            chosen(text, (*KNOWN, other))
    assert chosen("34567", (*KNOWN, other)) == HOME
    mine = KnownProfile("8949020000005550000", own_label="telekom.DE")
    assert chosen("Telekom.de", (*KNOWN, other, mine)) == mine.iccid


def test_where_only_the_number_will_do_it_is_brought_into_its_one_form() -> None:
    assert parse_iccid("8949 0200 0000 1234 567f") == HOME
    with pytest.raises(UsageError, match="profile 'Travel' is no ICCID"):
        parse_iccid("Travel")


# --- how it is shown ---------------------------------------------------------------------------------------------


def test_a_number_is_masked_unless_it_is_asked_for() -> None:
    masked, full = ProfileNames(KNOWN), ProfileNames(KNOWN, show_ids=True)
    assert [masked.number(one.iccid) for one in KNOWN] == ["8949…4567", "8943…3211", "unknown"]
    assert [masked.named(one.iccid) for one in KNOWN] == ["Telekom.de 8949…4567", "Travel 8943…3211", "unknown"]
    assert [full.named(one.iccid) for one in KNOWN] == [f"Telekom.de {HOME}", f"Travel {TRAVEL}", "unknown"]
    assert [masked.target(one) for one in (f"profile:{HOME}", "link:wwan0")] == ["profile:8949…4567", "link:wwan0"]
    assert ProfileNames().number(HOME) == "8949…4567"


@given(st.lists(st.from_regex(r"\A8949[0-9]{14,16}\Z"), min_size=2, max_size=6, unique=True))
def test_profiles_that_are_known_are_told_apart_and_not_told(iccids: list[str]) -> None:
    names = ProfileNames(map(KnownProfile, iccids))
    shown = {names.number(iccid) for iccid in iccids}
    if not any(one != other and one.endswith(other[4:]) for one in iccids for other in iccids):
        assert len(shown) == len(iccids)
    assert not shown & set(iccids)


# --- in every output ---------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A ledger with use, a plan, a quota and an event of one profile."""
    with closing(connect(tmp_path)) as db:
        fill(db)
    (tmp_path / "config.toml").touch()
    words = ("--all", "--limit", "1GB", "--per", "cycle", "--do", "notify", "--profile", HOME)
    esimbpf(tmp_path, "quota", "add", "before", *words)
    esimbpf(tmp_path, "plan", "set", "--profile", HOME, "--allowance", "10GB", "--cycle", "monthly:1")
    esimbpf(tmp_path, "quota", "add", "mine", *words)
    return tmp_path


def fill(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO link VALUES (1, 'wwan0')")
    db.execute("INSERT INTO profile (id, iccid, esim) VALUES (2, ?, 0)", (HOME,))
    db.execute("INSERT INTO network VALUES ('262-01', 'Telekom.de')")
    db.execute("INSERT INTO identity VALUES (2, 2, '262-01', 0, 'DE', 'lte')")
    for table, step in (("minute", 60), ("quarter", 900)):
        keys = (int(NOW.timestamp()) // step * step,)
        db.execute(f"INSERT INTO {table} VALUES (?, 1, 2, 'kernel', 0, -1, 4711, 0, 1, 0)", keys)
    outbox.post(db, warning())


def warning() -> Event:
    return Event(
        type=EventType.PLAN_WARNING,
        time=NOW,
        plan=f"profile:{HOME}",
        profile=HOME,
        level_percent=80,
        used_bytes=8,
        limit_bytes=10,
        period_begin=NOW,
    )


def esimbpf(state: Path, *words: str, status: int = 0) -> str:
    """All that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "esimbpf", "--config", str(state / "config.toml"), "--state-dir", str(state), *words],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "ESIMBPF_PINS": "/nonexistent", "COLUMNS": "200", "TZ": "UTC"},
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


SHOWING = [
    "report --by profile",
    "report --by profile --per day",
    "report --by profile --csv",
    "report --json",
    "report --by profile --svg /dev/stdout",
    "plan show",
    "plan show --json",
    f"plan show --profile {HOME}",
    "quota list",
    "quota list --json",
    "quota show mine",
    "quota show mine --json",
    "hook log",
    "hook log --json",
]


@pytest.mark.parametrize("words", SHOWING)
def test_what_shows_profiles_masks_them_unless_it_is_asked_for_their_numbers(state: Path, words: str) -> None:
    shown = esimbpf(state, *words.split())
    assert "8949…4567" in shown
    assert HOME not in shown
    assert re.search(rf"{HOME}(?!\d)", esimbpf(state, *words.split(), "--show-ids"))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (f"quota set mine --profile {HOME} --limit 2GB", 0),
        (f"plan set --profile {HOME} --allowance 10GB --cycle monthly:1", 0),
        (f"plan remove --profile {HOME}", 0),
        (f"plan show --profile {TRAVEL}", 3),
        (f"plan remove --profile {TRAVEL}", 3),
        (f"plan show wwan0 --profile {TRAVEL}", 2),
        (f"quota add x --all --limit 1B --per cycle --do notify --profile {TRAVEL}", 0),
    ],
)
def test_what_names_a_profile_masks_it(state: Path, words: str, status: int) -> None:
    shown = esimbpf(state, *words.split(), status=status)
    assert re.search("89(49|43)…", shown), shown
    assert not re.search(f"{HOME}|{TRAVEL}", shown)


def test_a_hook_is_not_told_the_number(state: Path) -> None:
    order = order_of(Hook("tell", ("/bin/true",)), warning())
    assert HOME not in order.line + str(order.variables)
    assert json.loads(order.line)["profile"] == order.variables["ESIMBPF_PROFILE"] == "8949…4567"
    assert order.variables["ESIMBPF_PLAN"] == "profile:8949…4567"


@pytest.mark.parametrize("text", ["4567", "telekom.de", "8949…4567", HOME + "F"])
def test_options_take_labels_and_last_digits_and_keep_the_number(state: Path, text: str) -> None:
    words = ("--all", "--limit", "1GB", "--per", "day", "--do", "notify", "--profile", text)
    esimbpf(state, "quota", "add", "another", *words)
    esimbpf(state, "plan", "set", "--profile", text, "--allowance", "1GB", "--cycle", "monthly:1")
    assert "8949…4567" in esimbpf(state, "plan", "show", "--profile", text)
    with closing(connect(state)) as db:
        [row] = db.execute("SELECT json_extract(quota, '$.profile') FROM quota WHERE name = 'another'")
        assert (row, db.execute("SELECT target FROM plan").fetchall()) == ((HOME,), [(f"profile:{HOME}",)])
    assert "is no ICCID" in esimbpf(state, "plan", "show", "--profile", "Nobody", status=2)


def test_what_the_ledger_knows_of_profiles(state: Path) -> None:
    with closing(connect(state)) as db:
        assert known(db) == [KNOWN[0], KnownProfile("unknown")]


def test_a_quota_of_the_configuration_takes_the_number_in_any_form(state: Path) -> None:
    fields: dict[str, Any] = {"name": "fixed", "all": True, "limit": "1GB", "per": "day", "do": "notify"}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    (state / "config.toml").write_text(f'[[quota]]\n{lines}\nprofile = "8949 0200 0000 1234 567F"\n')
    told = json.loads(esimbpf(state, "quota", "show", "fixed", "--json", "--show-ids").splitlines()[0])
    assert (told["profile"], told["used_bytes"]) == (HOME, 4711)
