"""What the ledger says of a link's use: by app, user and what is no process, as of the link, in the plan's days."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from esimbpf.attribution import Namer
from esimbpf.ledger import plans
from esimbpf.ledger.database import connect
from esimbpf.ledger.fold import Folding
from esimbpf.ledger.use import use_of_links
from esimbpf.model import Kind
from esimbpf.plan import Plan
from esimbpf.spans import Cycle, Monthly
from tests.unit.test_fold import BOOTED_S, Kernel

NOW = datetime.fromtimestamp(BOOTED_S + 100 + 3600, UTC)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path)) as opened:
        yield opened


def counted(db: sqlite3.Connection) -> None:
    """Two links; what the first has moved was of an app and of the kernel."""
    kernel = Kernel(links=("wwan0", "wwan1"))
    folding = Folding(db, kernel.attachment, Namer())
    kernel.now_s += 30
    kernel.sends(1, 301)
    kernel.receives(2, 1203)
    kernel.answers(84)
    kernel.sends(1, 7, link=1)
    folding.take(kernel.read())
    folding.commit()


def keep(
    db: sqlite3.Connection, cycle: Cycle, zone: str = "UTC", since: datetime = NOW, used: str | None = None
) -> None:
    plans.keep(db, Plan("link:wwan0", "1MB", cycle, zone, since, used))


def test_the_rows_of_each_grouping_add_up_to_the_link(db: sqlite3.Connection) -> None:
    counted(db)
    uses = use_of_links(db, ("wwan0", "wwan1", "wwan2"), NOW, UTC)
    assert [use.today.link_bytes for use in uses.values()] == [301 + 1203 + 2 * 84, 7, 0]
    rows = uses["wwan0"].today.row_bytes
    others = sum(amount for (kind, _), amount in rows.items() if kind not in (Kind.APP, Kind.USER))
    assert others == 2 * 84
    for by in (Kind.APP, Kind.USER):
        assert others + sum(amount for (kind, _), amount in rows.items() if kind is by) == 301 + 1203 + 2 * 84
    assert not any(use.cycle or use.plan or use.judged for use in uses.values())


def test_days_are_those_of_the_plans_zone(db: sqlite3.Connection) -> None:
    counted(db)
    keep(db, Monthly(1), "Asia/Kolkata", NOW - timedelta(days=90))
    use, other = use_of_links(db, ("wwan0", "wwan1"), NOW, UTC).values()
    assert use.zone == ZoneInfo("Asia/Kolkata")
    assert use.today.span.begin.astimezone(use.zone).hour == 0
    assert other.today.span.begin.hour == 0
    assert use.judged
    assert use.cycle
    assert use.cycle.span == use.judged.cycle
    assert use.cycle.link_bytes == use.judged.used_bytes == 301 + 1203 + 2 * 84
    assert not use.known_whole, "it began before counting did"
    keep(db, Monthly(1), since=NOW, used="0B")
    assert use_of_links(db, ("wwan0",), NOW, UTC)["wwan0"].known_whole, "the carrier has said what was used before"
