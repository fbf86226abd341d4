"""What is read from the ledger, and how it is shown: the sums are the ledger's, and gaps are gaps."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rich.console import Console, RenderableType

from esimbpf.ledger.database import connect
from esimbpf.ledger.fold import thin
from esimbpf.ledger.query import ReportBy, Usage, bounds, undone, usage
from esimbpf.model import NOTHING, Counters
from esimbpf.sinks.jsonlines import schema
from esimbpf.sinks.picture import picture
from esimbpf.sinks.report import by_heading, by_span, largest, report_csv, report_json
from esimbpf.spans import Per, Span, first_instant, spans

ZONES = [ZoneInfo(name) for name in ("Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe")]
CALENDAR = [per for per in Per if per is not Per.CYCLE]
BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
ROWS = (
    # hours after BEGIN, link, kind, app, uid, rx, tx
    (1, "wwan0", "app", "firefox", 1000, 5_000_000, 300_000),
    (2, "wwan0", "app", "backup", 0, 20_000, 4_000_000),
    (26, "wwan0", "app", "firefox", 1001, 7_000_000, 100_000),
    (27, "wwan0", "kernel", "", -1, 60, 60),
    (50, "wwan1", "app", "firefox", 1000, 777, 55),
    (51, "wwan1", "unattributed", "", -1, 40, 0),
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path)) as opened:
        for number, name in enumerate(("wwan0", "wwan1"), 1):
            opened.execute("INSERT INTO link VALUES (?, ?)", (number, name))
        for number, name in enumerate(("firefox", "backup"), 1):
            opened.execute("INSERT INTO app VALUES (?, ?)", (number, name))
        for hours, link, kind, app, uid, rx, tx in ROWS:
            begin_s = int((BEGIN + timedelta(hours=hours)).timestamp())
            keys = (begin_s, int(link[-1]) + 1, 1, kind, {"": 0, "firefox": 1, "backup": 2}[app], uid)
            for table in ("minute", "quarter"):
                opened.execute(
                    f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*keys, rx, tx, rx and 1, tx and 1)
                )
        gap_s = (BEGIN + timedelta(hours=30)).timestamp()
        opened.execute("INSERT INTO gap VALUES (?, ?, 1, 'down')", (gap_s, gap_s + 7200))
        opened.execute("INSERT INTO gap VALUES (?, ?, 1, 'unread')", (gap_s + 3600, gap_s + 10800))
        yield opened


def days() -> list[Span]:
    return list(spans(Per.DAY, BEGIN, BEGIN + timedelta(days=4), UTC))


def total(rows: list[Usage]) -> Counters:
    return sum((row.counters for row in rows), NOTHING)


BLOCKED = (
    (2, "wwan0", "app", "backup", 0, 1_500, 700_000),
    (28, "wwan0", "app", "updates", 0, 0, 1_229),
    (51, "wwan1", "kernel", "", -1, 0, 60),
)


def block(db: sqlite3.Connection) -> None:
    """Of `updates` nothing was let pass."""
    db.execute("INSERT INTO app VALUES (3, 'updates')")
    for hours, link, kind, app, uid, rx, tx in BLOCKED:
        begin_s = int((BEGIN + timedelta(hours=hours)).timestamp())
        keys = (begin_s, int(link[-1]) + 1, 1, kind, {"": 0, "backup": 2, "updates": 3}[app], uid)
        for table in ("blocked_minute", "blocked_quarter"):
            db.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*keys, rx, tx, rx and 1, 1))


TOTAL = sum((Counters(rx, tx, bool(rx), bool(tx)) for *_, rx, tx in ROWS), NOTHING)


@pytest.mark.parametrize("by", ReportBy)
@pytest.mark.parametrize("per", CALENDAR)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_the_sums_are_the_ledgers_however_it_is_cut(db: sqlite3.Connection, by: ReportBy, per: Per, zone: str) -> None:
    cut = list(spans(per, BEGIN, BEGIN + timedelta(days=4), ZoneInfo(zone)))
    assert total(list(usage(db, cut, by))) == TOTAL


def test_rows_are_by_what_was_asked_for(db: sqlite3.Connection) -> None:
    whole = [Span(BEGIN, BEGIN + timedelta(days=4))]
    apps = {(row.link, row.kind, row.name): row.counters.total_bytes for row in usage(db, whole, ReportBy.APP)}
    assert apps == {
        ("wwan0", "app", "firefox"): 12_400_000,
        ("wwan0", "app", "backup"): 4_020_000,
        ("wwan0", "kernel", ""): 120,
        ("wwan1", "app", "firefox"): 832,
        ("wwan1", "unattributed", ""): 40,
    }
    users = {(row.kind, row.name) for row in usage(db, whole, ReportBy.USER, ["wwan0"])}
    assert users == {("user", "0"), ("user", "1000"), ("user", "1001"), ("kernel", "")}
    assert {(row.kind, row.name) for row in usage(db, whole, ReportBy.LINK)} == {("link", "wwan0"), ("link", "wwan1")}


def test_gaps_are_told_by_cause_and_a_day_of_nothing_but_a_gap_is_told(db: sqlite3.Connection) -> None:
    gap_s = (BEGIN + timedelta(hours=80)).timestamp()
    db.executemany(
        "INSERT INTO gap VALUES (?, ?, 1, 'down')",
        [(gap_s, gap_s + 60), (gap_s + 30, gap_s + 90), (gap_s + 100, gap_s + 101)],
    )
    rows = list(usage(db, days(), ReportBy.LINK))
    assert {(row.gap_s, row.unread_s) for row in rows if row.span == days()[1]} == {(7200.0, 7200.0)}
    last = [row for row in rows if row.span == days()[3]]
    assert [(row.link, row.kind, row.gap_s, bool(row.counters)) for row in last] == [("wwan0", "link", 91.0, False)]


@pytest.mark.parametrize("by", ReportBy)
def test_the_gap_of_a_link_of_which_nothing_was_ever_counted_is_told(db: sqlite3.Connection, by: ReportBy) -> None:
    db.execute("INSERT INTO link VALUES (3, 'wwan2')")
    db.execute("INSERT INTO gap VALUES (?, ?, 3, 'down')", (BEGIN.timestamp(), BEGIN.timestamp() + 3600))
    [row] = list(usage(db, days(), by, ["wwan2"]))
    assert (row.link, row.gap_s, row.counters) == ("wwan2", 3600.0, NOTHING)
    Draft202012Validator(schema()).validate(json.loads(report_json([row])))
    assert "wwan2: 1 h 0 min were not counted" in "\n".join(shown(by_heading([(row.span, [row])], by, UTC)))


def test_what_is_undone_was_there_and_is_no_more(db: sqlite3.Connection) -> None:
    with undone(db):
        db.execute("DELETE FROM quarter")
        assert bounds(db) is None
    assert bounds(db) == Span(BEGIN + timedelta(hours=1), BEGIN + timedelta(hours=51, minutes=15))


def test_json_lines_are_valid_and_have_the_groupings_own_field(db: sqlite3.Connection) -> None:
    validator = Draft202012Validator(schema())
    for by in ReportBy:
        lines = [json.loads(line) for line in report_json(list(usage(db, days(), by))).splitlines()]
        for line in lines:
            validator.validate(line)
        assert sum(line["rx_bytes"] for line in lines) == TOTAL.rx_bytes
    [first, *_] = [json.loads(line) for line in report_json(list(usage(db, days(), ReportBy.USER))).splitlines()]
    assert (first["from"], first["kind"], first["uid"]) == ("2026-11-20T00:00:00.000Z", "user", 1000)


@pytest.mark.parametrize("by", ReportBy)
def test_what_was_blocked_is_told_beside_what_was_counted(db: sqlite3.Connection, by: ReportBy) -> None:
    block(db)
    rows = list(usage(db, days(), by))
    assert total(rows) == TOTAL
    lines = [json.loads(line) for line in report_json(rows).splitlines()]
    for line in lines:
        Draft202012Validator(schema()).validate(line)
    table = list(csv.DictReader(io.StringIO(report_csv(rows))))
    for read in (lines, table):
        assert sum(int(line["blocked_rx_bytes"]) for line in read) == 1_500
        assert sum(int(line["blocked_tx_bytes"]) for line in read) == 700_000 + 1_229 + 60
    if by is ReportBy.APP:
        [line] = [line for line in lines if line.get("app") == "updates"]
        assert (line["rx_bytes"], line["tx_bytes"], line["blocked_tx_bytes"]) == (0, 0, 1_229)
        assert largest(rows, 10)[:10] == rows


def test_csv_has_all_columns_and_no_formulas(db: sqlite3.Connection) -> None:
    db.execute("UPDATE app SET name = '=cmd()' WHERE id = 2")
    read = list(csv.DictReader(io.StringIO(report_csv(list(usage(db, days(), ReportBy.APP))))))
    assert sum(int(row["tx_bytes"]) for row in read) == TOTAL.tx_bytes
    assert {row["name"] for row in read} == {"firefox", "'=cmd()", ""}


def shown(what: RenderableType, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(what)
    return [line.rstrip() for line in captured.get().splitlines()]


def told(db: sqlite3.Connection, by: ReportBy = ReportBy.APP) -> list[tuple[Span, list[Usage]]]:
    return [(day, list(usage(db, [day], by))) for day in days()]


def down_all_day(db: sqlite3.Connection) -> None:
    """The last day, whole, on every link."""
    begin_s = days()[3].begin.timestamp()
    db.executemany("INSERT INTO gap VALUES (?, ?, ?, 'down')", [(begin_s, begin_s + 86400, link) for link in (1, 2)])


def test_the_table_by_app(db: sqlite3.Connection) -> None:
    down_all_day(db)
    assert shown(by_heading(told(db), ReportBy.APP, UTC, top=2)) == [
        "2026-11-20 00:00 to 2026-11-24 00:00: 16.4 MB (↓ 12.0 MB ↑ 4.40 MB)",
        "app             ↓        ↑    total  share           by day",
        "───────────────────────────────────────────────────────────",
        "firefox   12.0 MB   400 kB  12.4 MB   76% █████████  ▆█▁x",
        "backup    20.0 kB  4.00 MB  4.02 MB   24% ███        █  x",
        "and 2 more with 160 B; --top 4 shows them",
        "x: a day that was not counted",
        "wwan0: 1 d 2 h were not counted: what it moved then is missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at their end",
        "wwan1: 1 d 0 h were not counted: what it moved then is missing",
    ]


def test_the_table_by_app_has_a_column_for_what_was_blocked_if_anything_was(db: sqlite3.Connection) -> None:
    block(db)
    assert shown(by_heading(told(db), ReportBy.APP, UTC)) == [
        "2026-11-20 00:00 to 2026-11-24 00:00: 16.4 MB (↓ 12.0 MB ↑ 4.40 MB), blocked 703 kB",
        "app                 ↓        ↑    total  blocked  share           by day",
        "────────────────────────────────────────────────────────────────────────",
        "firefox       12.0 MB   400 kB  12.4 MB      0 B   76% █████████  ▆█▁",
        "backup        20.0 kB  4.00 MB  4.02 MB   702 kB   24% ███        █",
        "kernel           60 B     60 B    120 B     60 B    0%             █",
        "unattributed     40 B      0 B     40 B      0 B    0%              █",
        "updates           0 B      0 B      0 B  1.23 kB    0%",
        "wwan0: 2 h 0 min were not counted: what it moved then is missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at their end",
    ]
    assert shown(by_heading(told(db), ReportBy.APP, UTC, ascii_only=True, width=60, top=3), 60) == [
        "2026-11-20 00:00 to 2026-11-24 00:00: 16.4 MB (down 12.0 MB",
        "up 4.40 MB), blocked 703 kB",
        "app          down       up    total  blocked  share",
        "--------------------------------------------------------",
        "firefox   12.0 MB   400 kB  12.4 MB      0 B   76% #####",
        "backup    20.0 kB  4.00 MB  4.02 MB   702 kB   24% #",
        "kernel       60 B     60 B    120 B     60 B    0%",
        "and 2 more with 40 B; --top 5 shows them",
        "wwan0: 2 h 0 min were not counted: what it moved then is",
        "missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at",
        "their end",
    ]


def test_the_table_by_day_has_a_column_for_what_was_blocked_if_anything_was(db: sqlite3.Connection) -> None:
    block(db)
    down_all_day(db)
    assert shown(by_span(told(db), Per.DAY, UTC, width=110), 110)[:8] == [
        "day                   ↓        ↑    total  blocked                            most",
        "─" * 110,
        "Fri 2026-11-20  5.02 MB  4.30 MB  9.32 MB   702 kB  ████████████████████████  firefox 57%",
        "Sat 2026-11-21  7.00 MB   100 kB  7.10 MB  1.23 kB  ██████████████████▎       firefox 100%  gap 2 h 0 min",
        "                                                                              noted late 2 h 0 min",
        "Sun 2026-11-22    817 B     55 B    872 B     60 B                            firefox 95%",
        "Mon 2026-11-23        -        -        -        -  ░░░░░░░░░░░░░░░░░░░░░░░░  gap 1 d 0 h",
        "together 16.4 MB, blocked 703 kB",
    ]
    assert shown(by_span(told(db), Per.DAY, UTC, ascii_only=True, width=50), 50)[:8] == [
        "day               total      most",
        "-------------------------------------------------",
        "Fri 2026-11-20  9.32 MB  ##  firefox 57%",
        "                             blocked 702 kB",
        "Sat 2026-11-21  7.10 MB  ##  firefox 100%",
        "                             blocked 1.23 kB",
        "                             gap 2 h 0 min",
        "                             noted late 2 h 0 min",
    ]


def test_the_table_by_day(db: sqlite3.Connection) -> None:
    down_all_day(db)
    assert shown(by_span(told(db), Per.DAY, UTC)) == [
        "day                   ↓        ↑    total                            most",
        "────────────────────────────────────────────────────────────────────────────────────────────────────",
        "Fri 2026-11-20  5.02 MB  4.30 MB  9.32 MB  ████████████████████████  firefox 57%",
        "Sat 2026-11-21  7.00 MB   100 kB  7.10 MB  ██████████████████▎       firefox 100%  gap 2 h 0 min",
        "                                                                     noted late 2 h 0 min",
        "Sun 2026-11-22    817 B     55 B    872 B                            firefox 95%",
        "Mon 2026-11-23        -        -        -  ░░░░░░░░░░░░░░░░░░░░░░░░  gap 1 d 0 h",
        "together 16.4 MB",
        "wwan0: 1 d 2 h were not counted: what it moved then is missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at their end",
        "wwan1: 1 d 0 h were not counted: what it moved then is missing",
    ]


def roam(db: sqlite3.Connection) -> None:
    """What the first two rows have moved was moved abroad, and what came after that at home, but for one."""
    db.execute("INSERT INTO profile (id, iccid) VALUES (2, '8949020000001234567')")
    db.execute("INSERT INTO identity VALUES (2, 2, '232-01', 1, 'AT', 'lte'), (3, 2, '262-01', 0, 'DE', 'lte')")
    for table in ("minute", "quarter"):
        hours = "(begin_s - ?) / 3600"
        since_s = int(BEGIN.timestamp())
        db.execute(f"UPDATE {table} SET identity_id = CASE WHEN {hours} < 3 THEN 2 ELSE 3 END", (since_s,))
        db.execute(f"UPDATE {table} SET identity_id = 1 WHERE {hours} >= 50", (since_s,))


def test_the_table_by_app_tells_home_and_abroad_apart_where_there_was_both(db: sqlite3.Connection) -> None:
    roam(db)
    assert shown(by_heading(told(db), ReportBy.APP, UTC)) == [
        "2026-11-20 00:00 to 2026-11-24 00:00: 16.4 MB (↓ 12.0 MB ↑ 4.40 MB)",
        "7.10 MB at home, 9.32 MB abroad, 872 B not known where",
        "app                 ↓        ↑    total   abroad  share           by day",
        "────────────────────────────────────────────────────────────────────────",
        "firefox       12.0 MB   400 kB  12.4 MB  5.30 MB   76% █████████  ▆█▁",
        "backup        20.0 kB  4.00 MB  4.02 MB  4.02 MB   24% ███        █",
        "kernel           60 B     60 B    120 B      0 B    0%             █",
        "unattributed     40 B      0 B     40 B      0 B    0%              █",
        "wwan0: 2 h 0 min were not counted: what it moved then is missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at their end",
    ]


def test_the_table_by_day_tells_home_and_abroad_apart_where_there_was_both(db: sqlite3.Connection) -> None:
    roam(db)
    assert shown(by_span(told(db), Per.DAY, UTC)) == [
        "day                   ↓        ↑    total   abroad                            most",
        "────────────────────────────────────────────────────────────────────────────────────────────────────",
        "Fri 2026-11-20  5.02 MB  4.30 MB  9.32 MB  9.32 MB  ████████████████████████  firefox 57%",
        "Sat 2026-11-21  7.00 MB   100 kB  7.10 MB      0 B  ██████████████████▎       firefox 100%  gap 2 h",
        "                                                                              0 min  noted late 2 h",
        "                                                                              0 min",
        "Sun 2026-11-22    817 B     55 B    872 B      0 B                            firefox 95%",
        "Mon 2026-11-23      0 B      0 B      0 B      0 B",
        "together 16.4 MB: 7.10 MB at home, 9.32 MB abroad, 872 B not known where",
        "wwan0: 2 h 0 min were not counted: what it moved then is missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at their end",
    ]
    narrow = shown(by_span(told(db), Per.DAY, UTC, width=40), 40)
    assert "abroad 9.32" in "".join(narrow)
    assert all(len(line) <= 40 for line in narrow)


@pytest.mark.parametrize("per", [None, Per.DAY])
def test_a_picture_tells_home_and_abroad_apart_where_there_was_both(db: sqlite3.Connection, per: Per | None) -> None:
    words = "7.10 MB at home, 9.32 MB abroad, 872 B not known where"
    drawn = picture(told(db), per, ReportBy.APP, UTC).decode()
    assert "abroad" not in drawn
    roam(db)
    assert words in picture(told(db), per, ReportBy.APP, UTC).decode()


def test_nothing_is_told_of_home_and_abroad_where_all_was_in_one_place(db: sqlite3.Connection) -> None:
    roam(db)
    for identity in (2, 3):
        for table in ("minute", "quarter"):
            db.execute(f"UPDATE {table} SET identity_id = ?", (identity,))
        for drawn in (by_heading(told(db), ReportBy.APP, UTC), by_span(told(db), Per.DAY, UTC)):
            assert "abroad" not in "".join(shown(drawn))


def test_tables_on_a_narrow_terminal_of_ascii(db: sqlite3.Connection) -> None:
    down_all_day(db)
    assert shown(by_span(told(db, ReportBy.PROFILE), Per.DAY, UTC, top=1, ascii_only=True, width=80), 80) == [
        "day                down       up    total            most",
        "-------------------------------------------------------------------------",
        "Fri 2026-11-20  5.02 MB  4.30 MB  9.32 MB  ########  unknown 100%",
        "Sat 2026-11-21  7.00 MB   100 kB  7.10 MB  ######    unknown 100%",
        "                                                     gap 2 h 0 min",
        "                                                     noted late 2 h 0 min",
        "Sun 2026-11-22    817 B     55 B    872 B            unknown 100%",
        "Mon 2026-11-23        -        -        -  xxxxxxxx  gap 1 d 0 h",
        "together 16.4 MB",
        "wwan0: 1 d 2 h were not counted: what it moved then is missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at their end",
        "wwan1: 1 d 0 h were not counted: what it moved then is missing",
    ]
    assert shown(by_heading(told(db, ReportBy.LINK), ReportBy.LINK, UTC, ascii_only=True, width=60), 60) == [
        "2026-11-20 00:00 to 2026-11-24 00:00: 16.4 MB (down 12.0 MB",
        "up 4.40 MB)",
        "link         down       up    total  share        by day",
        "--------------------------------------------------------",
        "wwan0     12.0 MB  4.40 MB  16.4 MB  100% ######  @# x",
        "wwan1       817 B     55 B    872 B    0%           @x",
        "x: a day that was not counted",
        "wwan0: 1 d 2 h were not counted: what it moved then is",
        "missing",
        "wwan0: 2 h 0 min were noted late: complete, but told at",
        "their end",
        "wwan1: 1 d 0 h were not counted: what it moved then is",
        "missing",
    ]


def test_names_are_text_and_nothing_else(db: sqlite3.Connection) -> None:
    db.execute("UPDATE app SET name = '[red]<&>\"[/]' WHERE id = 1")
    lines = "\n".join(shown(by_heading(told(db), ReportBy.APP, UTC)) + shown(by_span(told(db), Per.DAY, UTC, top=3)))
    assert lines.count('[red]<&>"[/]') == 4
    for per in (None, Per.DAY):
        drawn = ET.fromstring(picture(told(db), per, ReportBy.APP, UTC))
        assert any('[red]<&>"[/]' in text for text in drawn.itertext())


@pytest.mark.parametrize("per", [None, *Per])
@pytest.mark.parametrize("by", ReportBy)
def test_a_picture_is_whole_and_refers_to_nothing(db: sqlite3.Connection, per: Per | None, by: ReportBy) -> None:
    down_all_day(db)
    db.execute("UPDATE app SET name = char(27) || '[2J' WHERE id = 1")
    drawn = picture(told(db), per, by, UTC)
    assert b"http" not in drawn.replace(b"http://www.w3.org/2000/svg", b"")
    root = ET.fromstring(drawn)
    words = list(root.itertext())
    assert f"16.4 MB by {by}" in words
    assert "hatched: wwan0 was not counted for 1 d 2 h" in words
    assert sum(rect.get("fill") == "url(#gap)" for rect in root.iter("{http://www.w3.org/2000/svg}rect")) == 2


def test_the_columns_of_a_picture_are_as_high_as_what_was_counted(db: sqlite3.Connection) -> None:
    root = ET.fromstring(picture(told(db), Per.DAY, ReportBy.APP, UTC))
    heights: dict[str, float] = {}
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        title = rect.find("{http://www.w3.org/2000/svg}title")
        if title is not None and rect.get("fill") != "url(#gap)":
            day = str(title.text).partition("  ")[0]
            heights[day] = heights.get(day, 0.0) + float(str(rect.get("height")))
    assert heights["Sat 2026-11-21"] / heights["Fri 2026-11-20"] == pytest.approx(7_100_120 / 9_320_000, rel=0.001)


@pytest.mark.parametrize("per", [None, Per.DAY])
def test_a_picture_has_what_was_blocked_if_anything_was(db: sqlite3.Connection, per: Per | None) -> None:
    plain = ET.fromstring(picture(told(db), per, ReportBy.APP, UTC)).itertext()
    assert not any("blocked" in text for text in plain if "{" not in text)
    block(db)
    root = ET.fromstring(picture(told(db), per, ReportBy.APP, UTC))
    words = list(root.itertext())
    assert "blocked by quotas" in words
    assert any(text.endswith(", blocked 703 kB") for text in words)
    assert ("updates" in words) == (per is None)
    heights = {}
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        if rect.get("fill") == "#cf222e":
            heights[rect.findtext("{http://www.w3.org/2000/svg}title")] = float(str(rect.get("height")))
    assert heights == {
        "Fri 2026-11-20  blocked: 702 kB": pytest.approx(80 * 0.7015, abs=0.01),
        "Sat 2026-11-21  blocked: 1.23 kB": pytest.approx(80 * 0.001229, abs=0.01),
        "Sun 2026-11-22  blocked: 60 B": pytest.approx(0, abs=0.01),
    }


@pytest.mark.parametrize("per", [None, Per.DAY])
def test_a_time_of_nothing_is_told_and_drawn(per: Per | None) -> None:
    empty: list[tuple[Span, list[Usage]]] = [(day, []) for day in days()]
    assert ET.fromstring(picture(empty, per, ReportBy.APP, UTC)) is not None
    assert "together 0 B" in shown(by_span(empty, Per.DAY, UTC))
    assert "nothing was counted in this time" in shown(by_heading(empty, ReportBy.APP, UTC))


# --- however it is cut -------------------------------------------------------------------------------------------

NOW_S = int(BEGIN.timestamp()) + 30 * 86400 + 437
MOMENTS = st.integers(0, 450 * 1440).map(lambda minutes: NOW_S // 60 * 60 - minutes * 60)
COUNTED = st.lists(st.tuples(MOMENTS, st.integers(0, 2), st.integers(1, 10**6)), min_size=1, max_size=30)


@given(COUNTED, st.lists(MOMENTS, max_size=12), st.booleans(), st.sampled_from(ReportBy))
def test_spans_without_a_hole_have_together_what_the_ledger_has(
    counted: list[tuple[int, int, int]], edges: list[int], thinned: bool, by: ReportBy
) -> None:
    """At any minute, of any age, before and after minutes and quarters were let go."""
    with tempfile.TemporaryDirectory() as folder, closing(connect(Path(folder))) as db:
        db.execute("INSERT INTO link VALUES (1, 'wwan0')")
        db.executemany("INSERT INTO app VALUES (?, ?)", [(1, "one"), (2, "two"), (3, "three")])
        for begin_s, app, size in counted:
            for table, step in (("minute", 60), ("quarter", 900), ("blocked_minute", 60), ("blocked_quarter", 900)):
                db.execute(
                    f"INSERT INTO {table} VALUES (?, 1, 1, 'app', ?, 0, ?, 0, 1, 0) ON CONFLICT DO UPDATE SET "
                    "rx_bytes = rx_bytes + excluded.rx_bytes, rx_packets = rx_packets + 1",
                    (begin_s // step * step, app + 1, size),
                )
        if thinned:
            thin(db, NOW_S)
        outer = (NOW_S - 500 * 86400, NOW_S + 86400)
        instants = [datetime.fromtimestamp(at, UTC) for at in sorted({*edges, *outer})]
        cut = [Span(begin, end) for begin, end in pairwise(instants)]
        rows = list(usage(db, cut, by))
        assert total(rows) == Counters(sum(size for *_, size in counted), 0, len(counted), 0)
        assert sum((row.blocked for row in rows), NOTHING) == total(rows)
        assert all(min(row.counters.rx_bytes, row.counters.rx_packets) >= 0 for row in rows)
        if not thinned:
            for span in cut:
                first, last = span.begin.timestamp(), span.end.timestamp()
                exact = sum(size for at, _, size in counted if first <= at < last)
                assert total([row for row in rows if row.span == span]).rx_bytes == exact


@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), st.integers(0, 3 * 365), st.integers(0, 9000))
def test_each_day_has_what_its_clock_says(per: Per, zone: ZoneInfo, day: int, minute: int) -> None:
    """Where clocks change, where zones are half an hour off, in leap years: what moves is in the span of its time."""
    begin = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(days=day)
    moved = begin + timedelta(minutes=minute // 15 * 15)
    with tempfile.TemporaryDirectory() as folder, closing(connect(Path(folder))) as db:
        db.execute("INSERT INTO link VALUES (1, 'wwan0')")
        db.execute("INSERT INTO quarter VALUES (?, 1, 1, 'kernel', 0, -1, 7, 0, 1, 0)", (int(moved.timestamp()),))
        [row] = usage(db, list(spans(per, begin, begin + timedelta(days=8), zone)), ReportBy.APP)
    local = moved.astimezone(zone)
    if per is Per.DAY:
        assert max(first_instant(local.date(), zone), begin) == row.span.begin
    assert row.span.begin <= moved < row.span.end
