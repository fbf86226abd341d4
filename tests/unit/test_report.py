"""What is read from the ledger, and how it is shown: the sums are the ledger's, and gaps are gaps."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console, RenderableType

from esimbpf.ledger.database import connect
from esimbpf.ledger.query import ReportBy, Usage, bounds, undone, usage
from esimbpf.model import NOTHING, Counters
from esimbpf.sinks.jsonlines import schema
from esimbpf.sinks.report import by_heading, by_span, report_csv, report_json
from esimbpf.spans import Per, Span, spans

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
            keys = (begin_s, int(link[-1]) + 1, 1, -1, kind, {"": 0, "firefox": 1, "backup": 2}[app], uid)
            for table in ("minute", "quarter"):
                opened.execute(
                    f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*keys, rx, tx, rx and 1, tx and 1)
                )
        gap_s = (BEGIN + timedelta(hours=30)).timestamp()
        opened.execute("INSERT INTO gap VALUES (?, ?, 1, 'down')", (gap_s, gap_s + 7200))
        opened.execute("INSERT INTO gap VALUES (?, ?, 1, 'unread')", (gap_s + 3600, gap_s + 10800))
        yield opened


def days() -> list[Span]:
    return list(spans(Per.DAY, BEGIN, BEGIN + timedelta(days=4), UTC))


def total(rows: list[Usage]) -> Counters:
    return sum((row.counters for row in rows), NOTHING)


TOTAL = sum((Counters(rx, tx, bool(rx), bool(tx)) for *_, rx, tx in ROWS), NOTHING)


@pytest.mark.parametrize("by", ReportBy)
@pytest.mark.parametrize("per", Per)
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


def test_gaps_that_overlap_count_once_and_a_day_of_nothing_but_a_gap_is_told(db: sqlite3.Connection) -> None:
    gap_s = (BEGIN + timedelta(hours=80)).timestamp()
    db.execute("INSERT INTO gap VALUES (?, ?, 1, 'down')", (gap_s, gap_s + 60))
    rows = [list(usage(db, [day], ReportBy.LINK)) for day in days()]
    assert {row.gap_s for row in rows[1]} == {10800.0}
    assert [(row.link, row.gap_s, bool(row.counters)) for row in rows[3]] == [("wwan0", 60.0, False)]


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


def test_the_table_by_app(db: sqlite3.Connection) -> None:
    whole = Span(BEGIN, BEGIN + timedelta(days=4))
    rows = list(usage(db, [whole], ReportBy.APP))
    daily = [list(usage(db, [day], ReportBy.APP)) for day in days()]
    assert shown(by_heading(rows, daily, whole, ReportBy.APP, UTC, top=2)) == [
        "2026-11-20 00:00 to 2026-11-24 00:00: 16.4 MB (↓ 12.0 MB ↑ 4.40 MB)",
        "app             ↓        ↑    total  share           by day",
        "───────────────────────────────────────────────────────────",
        "firefox   12.0 MB   400 kB  12.4 MB   76% █████████  ▆█▁",
        "backup    20.0 kB  4.00 MB  4.02 MB   24% ███        █",
        "and 2 more; --top 4 shows them",
        "wwan0: nobody counted or looked for 3 h 0 min of it",
    ]


def test_the_table_by_day(db: sqlite3.Connection) -> None:
    cut = [(day, list(usage(db, [day], ReportBy.APP))) for day in days()]
    assert shown(by_span(cut, "day", UTC)) == [
        "day                   ↓        ↑    total                            most",
        "───────────────────────────────────────────────────────────────────────────────────────────",
        "Fri 2026-11-20  5.02 MB  4.30 MB  9.32 MB  ████████████████████████  firefox",
        "Sat 2026-11-21  7.00 MB   100 kB  7.10 MB  ██████████████████▎       firefox  gap 3 h 0 min",
        "Sun 2026-11-22    817 B     55 B    872 B                            firefox",
        "Mon 2026-11-23      0 B      0 B      0 B",
        "together 16.4 MB",
    ]
