"""What has happened by what is folded in: each event once, wherever a folding ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esimbpf.event_gatherer import EventGatherer
from esimbpf.events import link_up
from esimbpf.ledger import outbox, quotas
from esimbpf.ledger.database import connect, transaction
from esimbpf.membership import Members
from esimbpf.quota import App, Whom
from tests.unit.test_quotas import MB, NOW, add, known, moved, quota, stand


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path)) as opened:
        yield opened


def told(db: sqlite3.Connection) -> list[tuple[str, str]]:
    return [(posted.event.type.value, posted.event.subject) for posted in outbox.recent(db)]


def members(whom: Whom) -> Members:
    return Members(("/system.slice/backup.service",), (7, 8)) if whom == App("restic") else Members()


def gather(db: sqlite3.Connection, gatherer: EventGatherer, now: datetime = NOW) -> None:
    with transaction(db):
        gatherer.write_down(now)
    gatherer.committed()


def test_what_was_noted_and_new_apps_are_told_with_the_commit_that_holds(db: sqlite3.Connection) -> None:
    gatherer = EventGatherer(db)
    gatherer.note(link_up("wwan0", NOW))
    db.execute("BEGIN")
    known(db)
    gatherer.write_down(NOW)
    assert told(db)
    db.execute("ROLLBACK")
    assert told(db) == []
    known(db)
    gather(db, gatherer)
    assert told(db) == [("link.up", "link:wwan0"), ("app.first-seen", "app:restic"), ("app.first-seen", "app:ssh")]
    # Neither it nor the next daemon's gathers them again.
    db.execute("DELETE FROM event")
    for one in (gatherer, EventGatherer(db)):
        gather(db, one)
        assert told(db) == []


def test_rapid_use_is_told_once_an_hour_and_looked_for_once_a_minute(db: sqlite3.Connection) -> None:
    known(db)
    gatherer = EventGatherer(db)
    moved(db, 60 * MB, 39 * MB)
    moved(db, 2 * MB, at=NOW - timedelta(minutes=6))
    gather(db, gatherer)
    moved(db, 1 * MB)
    gather(db, gatherer, NOW + timedelta(seconds=59))
    assert told(db) == []
    for later in (60, 120):
        gather(db, gatherer, NOW + timedelta(seconds=later))
        assert told(db) == [("app.rapid-use", "app:restic")]
    an_hour_later = NOW + timedelta(hours=1)
    moved(db, 100 * MB, at=an_hour_later)
    gather(db, gatherer, an_hour_later)
    assert told(db) == [("app.rapid-use", "app:restic")] * 2


def test_what_could_not_be_written_down_is_not_logged(
    db: sqlite3.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk ends each folding; it is done again, with all that it has to tell."""
    known(db)
    add(db)
    moved(db, 100 * MB)
    gatherer = EventGatherer(db)
    for end in ("ROLLBACK", "ROLLBACK", "COMMIT"):
        assert capsys.readouterr().err == ""
        db.execute("BEGIN")
        gatherer.write_down(NOW)
        gatherer.write_down_of([stand(db)], members)
        db.execute(end)
    gatherer.committed()
    gatherer.committed()
    words = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert words == [
        "quota backup: 80 % is reached, 100 MB of 100MB",
        "quota backup: 95 % is reached, 100 MB of 100MB",
        "quota backup: the limit is reached, 100 MB of 100MB: block",
    ]


def test_another_limit_and_a_quota_added_anew_tell_their_levels_in_the_same_period(db: sqlite3.Connection) -> None:
    known(db)
    moved(db, 30 * MB)

    def told_of(limit: str) -> list[tuple[int | None, int | None]]:
        for _ in range(2):
            configured = [quota(limit=limit, warn=[50], name="phone")]
            [standing] = quotas.standings(db, configured, NOW, UTC)
            EventGatherer(db).write_down_of([standing], members)
        return [(one.event.level_percent, one.event.limit_bytes) for one in outbox.recent(db)]

    quotas.note(db, [quota(name="phone")], NOW, UTC)
    first = [(50, 30 * MB), (100, 30 * MB)]
    assert told_of("30MB") == first
    assert told_of("80MB") == first
    moved(db, 10 * MB)
    assert told_of("80MB") == [*first, (50, 80 * MB)]
    # That it is the first one again tells nothing again.
    assert told_of("30MB") == [*first, (50, 80 * MB)]
    for later in range(1, 4):
        add(db, now=NOW + timedelta(milliseconds=later), warn=[99], limit="30MB")
        told = len(outbox.recent(db))
        for _ in range(2):
            EventGatherer(db).write_down_of([stand(db)], members)
            assert [one.event.level_percent for one in outbox.recent(db)[told:]] == [99, 100]
        quotas.remove(db, ["backup"])


def test_levels_of_quotas_are_told_once(db: sqlite3.Connection) -> None:
    known(db)
    add(db)
    moved(db, 96 * MB)
    for _ in range(2):
        EventGatherer(db).write_down_of([stand(db)], members)
    assert told(db) == [("quota.warning", "quota:backup")] * 2
    assert [posted.event.level_percent for posted in outbox.recent(db)] == [80, 95]
    whose = {(posted.event.cgroups, posted.event.pids) for posted in outbox.recent(db)}
    assert whose == {(("/system.slice/backup.service",), (7, 8))}
