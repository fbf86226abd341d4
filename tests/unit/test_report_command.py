"""`report` as a command: of a ledger with a history, by the plan's cycle and zone, and where nothing is to be said."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from jsonschema import Draft202012Validator

from esimbpf.errors import LedgerError
from esimbpf.kernel.pins import PINS_VARIABLE
from esimbpf.ledger import plans
from esimbpf.ledger.database import FILE_NAME, connect
from esimbpf.ledger.fold import note_downtime
from esimbpf.plan import Plan
from esimbpf.sinks.jsonlines import schema
from esimbpf.spans import Cycle, EveryDays, Monthly, Once

HISTORY = Path(__file__).parents[2] / "scripts" / "bench.d" / "history.py"
HOSTILE = "\\x1b[2J[bold]<&>[/]"
SVG = "{http://www.w3.org/2000/svg}"


def report(folder: Path, *words: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "esimbpf", "--state-dir", str(folder), "report", *words],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
        env={**os.environ, "TZ": "UTC", PINS_VARIABLE: str(folder / "no-pins"), **environment},
    )
    assert done.returncode == status, done.stderr
    if status:
        assert len(done.stderr.splitlines()) == 2, done.stderr
    return done


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    validator = Draft202012Validator(schema())
    read = [json.loads(line) for line in done.stdout.splitlines()]
    for line in read:
        validator.validate(line)
    return read


def fill(db: sqlite3.Connection, days: int, apps: int) -> None:
    spec = spec_from_file_location("history", HISTORY)
    assert spec
    assert spec.loader
    history = module_from_spec(spec)
    spec.loader.exec_module(history)
    history.fill(db, days, apps, time.time(), False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of twelve days and twenty apps, of which one has a hostile name."""
    made = tmp_path_factory.mktemp("state")
    with closing(connect(made)) as db:
        fill(db, 12, 20)
        db.execute("UPDATE app SET name = ? WHERE id = 1", (HOSTILE,))
        gap_s = time.time() - 5 * 86400
        db.execute("INSERT INTO gap VALUES (?, ?, 1, 'down')", (gap_s, gap_s + 1800))
    return made


def counted(folder: Path) -> int:
    with closing(connect(folder, read_only=True)) as db:
        return int(db.execute("SELECT sum(rx_bytes) + sum(tx_bytes) FROM quarter").fetchone()[0])


@pytest.mark.parametrize(
    "words", [(), *(("--per", per) for per in ("hour", "day", "week", "month")), ("--by", "user"), ("--by", "profile")]
)
def test_what_is_told_is_what_the_ledger_has(folder: Path, words: tuple[str, ...]) -> None:
    told = lines(report(folder, "--json", *words))
    assert sum(line["rx_bytes"] + line["tx_bytes"] for line in told) == counted(folder)
    gaps = {(line["from"], line["link"]): line["gap_s"] for line in told}
    assert sum(gaps.values()) == pytest.approx(1800, abs=0.01)
    read = list(csv.DictReader(io.StringIO(report(folder, "--csv", *words).stdout)))
    assert sum(int(row["rx_bytes"]) + int(row["tx_bytes"]) for row in read) == counted(folder)


def test_the_largest_only_and_how_many_were_left_out(folder: Path) -> None:
    done = report(folder, "--json", "--per", "day", "--top", "3")
    days: dict[str, int] = {}
    for line in lines(done):
        days[line["from"]] = days.get(line["from"], 0) + 1
    assert len(days) in (12, 13)
    assert set(days.values()) == {3}
    assert "--top 3 has left out " in done.stderr
    assert "and 17 more with " in report(folder, "--top", "3").stdout
    assert "and 17 more" in report(folder, "--per", "day", "--top", "3", COLUMNS="200").stdout


@pytest.mark.parametrize("words", [(), ("--per", "day")])
@pytest.mark.parametrize("columns", ["80", "120", "40"])
def test_a_table_has_room_and_names_are_text(folder: Path, words: tuple[str, ...], columns: str) -> None:
    shown = report(folder, "--top", "2", *words, COLUMNS=columns).stdout
    assert max(map(len, shown.splitlines())) <= int(columns)
    assert HOSTILE in "".join(shown.split()) or columns == "40" or words
    assert "\x1b" not in shown
    plain = report(folder, *words, COLUMNS=columns, PYTHONIOENCODING="ascii").stdout
    assert plain.isascii()
    assert "?" not in plain


def test_a_picture_is_written_whole_and_only_where_it_can_be(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.svg"
    target.write_text("as it was")
    for words in ((), ("--per", "day"), ("--json",)):
        report(folder, "--svg", str(target), *words)
        assert HOSTILE in "".join(ET.fromstring(target.read_bytes()).itertext())
    assert list(tmp_path.iterdir()) == [target]
    assert "cannot write" in report(folder, "--svg", str(tmp_path / "none" / "x.svg"), status=1).stderr
    assert (
        ET.fromstring(
            report(folder, "--json", "--until", "2001-01-01", "--since", "2000-01-01", "--svg", "/dev/stdout").stdout
        ).tag
        == f"{SVG}svg"
    )


# --- plans -------------------------------------------------------------------------------------------------------


@contextmanager
def agreed(folder: Path, *cycles: tuple[str, Cycle, str]) -> Iterator[None]:
    """Plans for as long as the `with`."""
    with closing(connect(folder)) as db:
        for target, cycle, zone in cycles:
            plans.keep(db, Plan(target, "10GB", cycle, zone, datetime.now(UTC) - timedelta(days=8)))
        try:
            yield
        finally:
            for target, _, _ in cycles:
                plans.remove(db, target)


def begins(folder: Path, *words: str) -> list[datetime]:
    told = lines(report(folder, "--json", *words))
    assert sum(line["rx_bytes"] + line["tx_bytes"] for line in told) == counted(folder)
    return sorted({datetime.fromisoformat(line["from"]) for line in told})


def test_cycles_begin_on_the_plans_days_in_its_zone(folder: Path) -> None:
    zone = ZoneInfo("Asia/Kathmandu")
    first = datetime.now(zone).date() - timedelta(days=10)
    with agreed(folder, ("link:wwan0", EveryDays(4, first), zone.key)):
        found = begins(folder, "--per", "cycle")
        assert [moment.astimezone(zone).date() for moment in found[-3:]] == [
            first + timedelta(days=days) for days in (0, 4, 8)
        ]
        assert all(moment.astimezone(zone).hour == 0 for moment in found[1:])
        shown = report(folder, "--per", "cycle").stdout
        assert f"{first + timedelta(days=4):%a %Y-%m-%d}" in shown
        assert "times are of Asia/Kathmandu, the plan's zone" in shown
        assert "Asia/Kathmandu" not in report(folder, TZ="Asia/Kathmandu").stdout


def test_the_first_row_says_that_it_is_cut_off_if_the_report_begins_in_a_cycle(folder: Path, tmp_path: Path) -> None:
    first, picture = datetime.now(UTC).date() - timedelta(days=6), tmp_path / "report.svg"
    since = datetime.combine(first, datetime.min.time()) + timedelta(days=1, hours=5)
    with agreed(folder, ("link:wwan0", EveryDays(4, first), "UTC")):
        words = ("--per", "cycle", "--svg", str(picture), "--since")
        cut, whole = (report(folder, *words, str(begin), COLUMNS="160").stdout for begin in (since, first))
        report(folder, *words, str(since))
        drawn = "".join(ET.fromstring(picture.read_bytes()).itertext())
    said = f"cut: from {since:%m-%d %H:%M}"
    [row] = [line for line in cut.splitlines() if said in line]
    assert row.startswith(f"{first:%a %Y-%m-%d} ")
    assert f"the first cycle is {said}" in drawn
    assert cut.count("cut:") == 1
    assert "cut:" not in whole


def test_what_stands_in_the_future_is_told_in_a_line(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    later = now.replace(minute=0, second=0, microsecond=0) + timedelta(days=400)
    with closing(connect(tmp_path)) as db:
        db.executemany("INSERT INTO link VALUES (?, ?)", [(1, "wwan0"), (2, "wwan1")])
        for at, amount, link in ((now, 1_000, 1), (later, 700_000, 1), (later - timedelta(days=1), 30_000, 2)):
            for table, step in (("minute", 60), ("quarter", 900)):
                keys = (int(at.timestamp()) // step * step, link, amount)
                db.execute(f"INSERT INTO {table} VALUES (?, ?, 1, 'kernel', 0, -1, ?, 0, 1, 0)", keys)
    until = f"{later + timedelta(minutes=15):%Y-%m-%dT%H:%M}"
    told = f" stand after now, since the clock was ahead when they were counted: --until {until} shows them, too"
    for words in ((), ("--per", "day"), ("--until", str(now + timedelta(days=1)))):
        assert report(tmp_path, *words, COLUMNS="160").stdout.splitlines()[-1] == f"730 kB{told}"
    assert f"700 kB{told}" in report(tmp_path, "wwan0", COLUMNS="160").stdout
    assert report(tmp_path, "--json").stderr == f"730 kB{told}\n"
    assert report(tmp_path, "--until", "2020-01-01", "--since", "2019-01-01", COLUMNS="160").stdout.splitlines() == [
        "nothing was counted in this time; esimbpf status says what is counted now",
        "what is older than 400 days is told by days of UTC",
        f"730 kB{told}",
    ]
    assert "after now" not in report(tmp_path, "--until", until).stdout
    picture = tmp_path / "report.svg"
    report(tmp_path, "--svg", str(picture))
    assert f"730 kB{told}" in "".join(ET.fromstring(picture.read_bytes()).itertext())


def test_days_are_cut_in_the_zone_of_the_plans_if_they_have_one(folder: Path) -> None:
    offset = timedelta(hours=5, minutes=45)
    with agreed(folder, ("link:wwan0", Monthly(1), "Asia/Kathmandu")):
        assert all((moment + offset).time().isoformat() == "00:00:00" for moment in begins(folder, "--per", "day")[1:])
        with agreed(folder, ("profile:8901", Monthly(1), "Europe/Berlin")):
            assert all(moment.time().isoformat() == "00:00:00" for moment in begins(folder, "--per", "day")[1:])
            # Of this link there is one plan only.
            assert all(moment.minute == 15 for moment in begins(folder, "wwan0", "--per", "day")[1:])


def test_a_travel_plan_is_cut_at_its_first_use_and_its_end(folder: Path) -> None:
    with agreed(folder, ("link:wwan0", Once(3), "UTC")):
        first = (datetime.now(UTC) - timedelta(days=8)).date()
        assert [moment.date() for moment in begins(folder, "--per", "cycle")[1:]] == [first, first + timedelta(days=3)]


def test_without_a_plan_that_is_meant_it_is_said_what_to_do(folder: Path) -> None:
    assert "needs a plan, and none is known" in report(folder, "--per", "cycle", status=2).stderr
    with agreed(folder, ("link:wwan9", Monthly(1), "UTC")):
        told = report(folder, "wwan0", "--per", "cycle", status=2).stderr
        assert "no plan is known for wwan0" in told
        assert "there are plans for: link:wwan9" in told
        with agreed(folder, ("link:wwan8", Monthly(1), "UTC")):
            told = report(folder, "--per", "cycle", status=2).stderr
            assert "there are several plans: link:wwan8, link:wwan9" in told
    with agreed(folder, ("link:wwan0", Once(3, (datetime.now(UTC) + timedelta(days=400)).date()), "UTC")):
        assert len(begins(folder, "--per", "cycle")) == 1
    with closing(connect(folder)) as db:
        plans.keep(db, Plan("link:wwan0", "1GB", Once(3), "UTC", datetime.now(UTC) + timedelta(days=1)))
        try:
            told = report(folder, "--per", "cycle", status=2).stderr
            assert "the plan of link:wwan0 is not in use yet" in told
        finally:
            plans.remove(db, "link:wwan0")


# --- where there is nothing to say -------------------------------------------------------------------------------


def test_a_ledger_of_nothing_is_told_in_a_line(tmp_path: Path) -> None:
    connect(tmp_path).close()
    for words in ((), ("--per", "day"), ("--by", "user", "--top", "3")):
        assert report(tmp_path, *words).stdout.startswith("nothing was counted in this time")
    assert (report(tmp_path, "--json").stdout, len(report(tmp_path, "--csv").stdout.splitlines())) == ("", 1)
    assert "nothing was counted" in report(tmp_path, "--json").stderr


def test_a_link_that_the_ledger_does_not_know_is_told(folder: Path) -> None:
    told = report(folder, "wwan7", status=3).stderr
    assert "nothing was ever counted of a link named wwan7" in told
    assert "wwan0" in told


def test_a_ledger_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "there is no ledger" in report(tmp_path, status=3).stderr


@pytest.mark.parametrize("read_only", [True, False])
def test_who_may_not_read_the_ledger_is_told_to_be_root(tmp_path: Path, read_only: bool) -> None:
    connect(tmp_path).close()
    (tmp_path / FILE_NAME).chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(LedgerError, match="is not for this user") as told:
            connect(tmp_path, read_only)
    finally:
        if root:
            os.seteuid(0)
    assert "root" in told.value.hint


def test_since_the_last_folding_nothing_is_counted_if_nothing_is_attached(tmp_path: Path) -> None:
    with closing(connect(tmp_path)) as db:
        db.execute("INSERT INTO link VALUES (1, 'wwan0')")
        db.execute(
            "INSERT INTO attachment (id, attach_id, boot_id, folded_s, folded_boottime_ns, folded_awake_ns) "
            "VALUES (1, 'gone', 'boot', 1000.0, 0, 0)"
        )
        db.execute("INSERT INTO folded_kind VALUES (1, 1, 'kernel', 0, 0, 0, 0)")
        note_downtime(db, 1600.0)
        assert db.execute("SELECT * FROM gap").fetchall() == [(1000.0, 1600.0, 1, "down")]
