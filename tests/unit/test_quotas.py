"""Quotas in the ledger, and the command line that keeps them: what was counted decides how they stand."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from esimbpf.errors import CannotError, UsageError
from esimbpf.kernel.pins import PINS_VARIABLE
from esimbpf.ledger import plans, quotas
from esimbpf.ledger.database import MIGRATIONS, connect, empty, transaction
from esimbpf.ledger.fold import thin
from esimbpf.ledger.identities import ids_of
from esimbpf.modem.identity import UNKNOWN, Identity
from esimbpf.plan import Plan
from esimbpf.quota import NEVER, EventKind, Everybody, Kept, Quota, Standing, parse_quota, with_changes
from esimbpf.saver import Saver
from esimbpf.sinks.jsonlines import schema
from esimbpf.spans import Monthly, Once, Span
from esimbpf.text import printable

MB = 1_000_000
NOW = datetime(2026, 11, 18, 12, 7, 30, tzinfo=UTC)
DAY = Span(datetime(2026, 11, 18, tzinfo=UTC), datetime(2026, 11, 19, tzinfo=UTC))
FIELDS = {"name": "backup", "app": "restic", "limit": "100MB", "per": "day", "do": "block"}
VALID = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path)) as opened:
        known(opened)
        yield opened


def known(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO link VALUES (1, 'wwan0'), (2, 'wwan1')")
    db.execute("INSERT INTO app VALUES (1, 'restic'), (2, 'ssh')")


def moved(
    db: sqlite3.Connection,
    rx: int,
    tx: int = 0,
    *,
    at: datetime = NOW,
    app: int = 1,
    uid: int = 1000,
    link: int = 1,
    identity: Identity = UNKNOWN,
    kind: str = "app",
) -> None:
    identities = ids_of(db, [identity])
    for table, step in (("minute", 60), ("quarter", 900)):
        db.execute(
            f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 1) ON CONFLICT DO UPDATE "
            "SET rx_bytes = rx_bytes + excluded.rx_bytes, tx_bytes = tx_bytes + excluded.tx_bytes",
            (int(at.timestamp()) // step * step, link, identities[identity], kind, app, uid, rx, tx),
        )


def quota(**changed: Any) -> Quota:
    return parse_quota({**FIELDS, **changed})


def add(db: sqlite3.Connection, said_bytes: int | None = None, now: datetime = NOW, **changed: Any) -> None:
    quotas.keep(db, quotas.added(db, quota(**changed), now, said_bytes, UTC))


def stand(db: sqlite3.Connection, now: datetime = NOW, configured: Sequence[Quota] = ()) -> Standing:
    [told] = quotas.standings(db, configured, now, UTC)
    return told


# -- how far it is used ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "used"),
    [
        ({}, 1000 + 100 + 3 + 5),
        ({"direction": "down"}, 1000 + 3 + 5),
        ({"direction": "up"}, 100),
        ({"link": "wwan1"}, 3),
        ({"link": "wwan7"}, 0),
        ({"profile": "8949020000001234567"}, 5),
        ({"app": None, "user": "1000"}, 1000 + 100 + 5 + 20_000),
        ({"app": None, "user": "1001"}, 3),
        ({"app": None, "all": True}, 1108 + 20_000 + 700),
        ({"app": None, "all": True, "except": ["ssh"]}, 1108 + 700),
        ({"app": None, "all": True, "when": "roaming"}, 5),
        ({"app": None, "all": True, "when": "home"}, 20_000),
        ({"app": "firefox"}, 0),
    ],
)
def test_only_what_a_quota_is_about_counts(db: sqlite3.Connection, changed: dict[str, Any], used: int) -> None:
    moved(db, 1000, 100, at=DAY.begin)
    moved(db, 3, link=2, uid=1001)
    moved(db, 5, identity=Identity(profile="8949020000001234567", roaming=True))
    moved(db, 20_000, app=2, identity=Identity(roaming=False))
    moved(db, 700, kind="kernel", app=0, uid=-1)
    moved(db, 9_000_000, at=DAY.begin - timedelta(minutes=1))
    add(db, **changed)
    assert stand(db).used_bytes == used
    assert stand(db).period == DAY


def test_what_a_person_says_stands_for_what_was_counted_until_then(db: sqlite3.Connection) -> None:
    moved(db, 40 * MB)
    add(db, said_bytes=70 * MB)
    assert stand(db).used_bytes == 70 * MB
    moved(db, 5)
    assert stand(db).used_bytes == 70 * MB + 5
    tomorrow = NOW + timedelta(days=1)
    moved(db, 7, at=tomorrow)
    assert stand(db, tomorrow).used_bytes == 7


def test_once_counts_from_when_it_was_added_also_when_the_minutes_are_forgotten(db: sqlite3.Connection) -> None:
    moved(db, 40 * MB)
    add(db, per="once")
    assert (stand(db).used_bytes, stand(db).resets) == (0, None)
    moved(db, 5)
    later = NOW + timedelta(days=30)
    moved(db, 7, at=later)
    assert stand(db, later).used_bytes == 12
    thin(db, later.timestamp())
    assert stand(db, later).used_bytes == 12


def test_the_day_is_that_of_the_plan(db: sqlite3.Connection) -> None:
    plans.keep(db, Plan("link:wwan0", "10GB", Monthly(15), "Asia/Tokyo", NOW))
    add(db, link="wwan0")
    period = stand(db).period
    assert period
    assert period.begin == datetime(2026, 11, 17, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("targets", "changed", "begin", "reason"),
    [
        ((), {}, None, "no plan is known: esimbpf plan set"),
        ((), {"link": "wwan0"}, None, "no plan is known for wwan0: esimbpf plan set"),
        (("link:wwan0",), {}, 15, ""),
        (("link:wwan1",), {"link": "wwan0"}, None, "no plan is known for wwan0: esimbpf plan set"),
        (("link:wwan0", "link:wwan1"), {}, None, "there are several plans, and it names neither link nor profile"),
        (("link:wwan0", "profile:8949020000001234567"), {"link": "wwan0", "profile": "8949020000001234567"}, 16, ""),
        (("link:wwan0",), {"link": "wwan0", "profile": "8949020000001234567"}, 15, ""),
    ],
)
def test_a_cycle_is_that_of_the_profiles_or_links_plan(
    db: sqlite3.Connection, targets: Sequence[str], changed: dict[str, Any], begin: int | None, reason: str
) -> None:
    for number, target in enumerate(targets):
        plans.keep(db, Plan(target, "10GB", Monthly(15 + number), "UTC", NOW))
    add(db, per="cycle", **changed)
    told = stand(db)
    assert (told.reason, told.period and told.period.begin.day) == (reason, begin)


def test_a_travel_plan_that_was_not_used_yet_has_no_cycle(db: sqlite3.Connection) -> None:
    plans.keep(db, Plan("link:wwan0", "1GB", Once(7), "UTC", NOW))
    add(db, per="cycle")
    assert stand(db).reason == "the plan's only cycle is not under way"
    moved(db, 5)
    assert (stand(db).reason, stand(db).used_bytes) == ("", 5)


def test_what_the_ledger_cannot_tell_the_kernel_counts(db: sqlite3.Connection) -> None:
    add(db, said_bytes=1000, app=None, exe="/usr/bin/restic")
    one = stand(db).kept.quota

    def fold(attach_id: str, counter: int, now: datetime = NOW) -> int:
        period = quotas.period_of(db, stand(db).kept, now, UTC)
        with transaction(db):
            quotas.fold_kernel(db, one, period, attach_id, counter)
        return stand(db, now).used_bytes

    tomorrow = NOW + timedelta(days=1)
    assert fold("a", 50) == 1050
    assert fold("a", 50) == 1050
    assert fold("a", 80) == 1080
    # A new attachment, of which all is new; what is less than before is never taken away.
    assert fold("b", 5) == 1085
    assert fold("b", 3) == 1085
    assert fold("b", 10, tomorrow) == 7
    # The clock is set back: the day is the same one.
    assert fold("b", 11) == 1086
    assert fold("b", 12, tomorrow) == 8
    # What is counted while no period runs is nobody's.
    with transaction(db):
        quotas.fold_kernel(db, one, None, "b", 100)
    assert fold("b", 101, tomorrow) == 9


def test_a_day_that_is_cut_anew_goes_on_where_it_was(db: sqlite3.Connection) -> None:
    add(db, app=None, cgroup="backup.service", link="wwan0")
    one = stand(db).kept
    quotas.fold_kernel(db, one.quota, stand(db).period, "a", 60 * MB)
    plans.keep(db, Plan("link:wwan0", "10GB", Monthly(15), "Asia/Tokyo", NOW))
    assert stand(db).used_bytes == 60 * MB
    quotas.fold_kernel(db, one.quota, stand(db).period, "a", 61 * MB)
    assert stand(db).used_bytes == 61 * MB


# -- changed in one step -----------------------------------------------------------------


def change(
    db: sqlite3.Connection, said_bytes: int | None = None, now: datetime = NOW + timedelta(hours=1), **changes: Any
) -> Standing:
    old = stand(db).kept
    new = quotas.changed(db, old, with_changes(old.quota, changes), now, said_bytes, UTC)
    quotas.put(db, old, new)
    return stand(db, now)


@pytest.mark.parametrize("whom", [{}, {"app": None, "exe": "/usr/bin/restic"}], ids=["app", "exe"])
@pytest.mark.parametrize("changes", [{"limit": "200MB"}, {"do": "throttle:1Mbit"}, {"warn": "none"}], ids=str)
def test_what_was_used_and_told_stays_where_the_same_is_counted(
    db: sqlite3.Connection, whom: dict[str, Any], changes: dict[str, Any]
) -> None:
    moved(db, 5 * MB)
    add(db, said_bytes=10 * MB, **whom)
    moved(db, 85 * MB)
    if whom:
        quotas.fold_kernel(db, stand(db).kept.quota, stand(db).period, "a", 85 * MB)
    quotas.record(db, stand(db))
    quotas.hold(db, stand(db).kept, None)
    before = stand(db).kept
    told = change(db, **changes)
    assert told.kept == replace(before, quota=quota(**whom, **changes))
    assert told.used_bytes == 95 * MB
    quotas.resume(db, told.kept)
    assert quotas.record(db, stand(db)) == ()


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        ({"direction": "up"}, 3 * MB),
        ({"per": "week"}, 42 * MB),
        ({"per": "once"}, 0),
        ({"link": "wwan1"}, 0),
        ({"app": "ssh"}, 7 * MB),
        ({"all": True, "except": ["ssh"]}, 40 * MB),
        ({"exe": "/usr/bin/restic"}, 0),
    ],
)
def test_another_thing_counts_like_one_that_is_added_now(
    db: sqlite3.Connection, changes: dict[str, Any], used: int
) -> None:
    moved(db, 2 * MB, at=NOW - timedelta(days=1))
    moved(db, 37 * MB, 3 * MB)
    moved(db, 7 * MB, app=2)
    add(db, said_bytes=10 * MB)
    quotas.hold(db, stand(db).kept, None)
    told = change(db, **changes)
    assert (told.used_bytes, told.kept.added, told.kept.paused) == (used, told.now, True)
    assert change(db, said_bytes=4711, now=told.now).used_bytes == 4711


def test_what_only_the_kernel_counts_begins_anew_for_another_period(db: sqlite3.Connection) -> None:
    add(db, app=None, exe="/usr/bin/restic")
    quotas.fold_kernel(db, stand(db).kept.quota, stand(db).period, "a", 60 * MB)
    told = change(db, per="week")
    assert told.used_bytes == 0
    quotas.fold_kernel(db, told.kept.quota, told.period, "a", 5)
    assert stand(db, told.now).used_bytes == 5
    assert change(db, said_bytes=1000, now=told.now).used_bytes == 1000


def test_a_change_is_refused_whole(db: sqlite3.Connection) -> None:
    for number in range(8):
        add(db, name=f"q{number}", app="ssh")
    add(db)
    old = next(one for one in quotas.kept(db, [], NOW) if one.quota.name == "backup")
    with pytest.raises(UsageError, match="too many quotas are for the same"):
        quotas.put(db, old, replace(old, quota=quota(app="ssh")))
    quotas.put(db, old, replace(old, quota=quota(limit="1GB")))
    with pytest.raises(CannotError, match="the quota 'backup' has been changed or removed meanwhile"):
        quotas.put(db, old, replace(old, quota=quota(limit="2GB")))
    assert [one.quota.limit for one in quotas.kept(db, [], NOW) if one.quota.name == "backup"] == ["1GB"]


# -- what is due -------------------------------------------------------------------------


def test_what_was_told_is_not_told_again_by_the_next_daemon(db: sqlite3.Connection, tmp_path: Path) -> None:
    add(db)
    moved(db, 85 * MB)
    [event] = quotas.record(db, stand(db))
    assert (event.kind, event.level) == (EventKind.WARNING, 80)
    with closing(connect(tmp_path)) as another:
        assert quotas.record(another, stand(another)) == ()
        tomorrow = NOW + timedelta(days=1)
        assert [event.kind for event in quotas.record(another, stand(another, tomorrow))] == [EventKind.RESET]


def test_a_period_in_which_the_kernel_has_counted_first_begins_like_any_other(db: sqlite3.Connection) -> None:
    add(db, app=None, exe="/usr/bin/restic")
    quotas.record(db, stand(db))
    tomorrow = NOW + timedelta(days=1)
    quotas.fold_kernel(db, stand(db).kept.quota, stand(db, tomorrow).period, "a", 90 * MB)
    told = quotas.record(db, stand(db, tomorrow))
    assert [event.kind for event in told] == [EventKind.RESET, EventKind.WARNING]
    assert stand(db, tomorrow).used_bytes == 90 * MB


def test_once_is_told_once(db: sqlite3.Connection) -> None:
    add(db, per="once")
    moved(db, 100 * MB)
    assert len(quotas.record(db, stand(db))) == 3
    assert quotas.record(db, stand(db, NOW + timedelta(days=4000))) == ()
    [(end_s,)] = db.execute("SELECT end_s FROM quota_period")
    assert end_s == NEVER.timestamp()


def test_only_so_many_periods_stay_known_and_always_the_one_that_runs(db: sqlite3.Connection) -> None:
    add(db, per="hour")
    for hours in range(150):
        quotas.record(db, stand(db, NOW + timedelta(hours=hours)))
    assert db.execute("SELECT count(*) FROM quota_period").fetchone() == (100,)
    # The clock was set back to before all of them.
    earlier = NOW - timedelta(hours=9)
    assert [event.kind for event in quotas.record(db, stand(db, earlier))] == [EventKind.RESET]
    assert quotas.record(db, stand(db, earlier)) == ()


# -- the configuration's -----------------------------------------------------------------


CONFIGURED = parse_quota({**FIELDS, "name": "phone", "per": "once"}, "[[quota]] number 1 of /etc/x.toml")


def test_one_of_the_configuration_counts_from_when_it_was_noted(db: sqlite3.Connection) -> None:
    moved(db, 40)
    assert stand(db, configured=[CONFIGURED]).kept.added == NOW
    quotas.note(db, [CONFIGURED], NOW, UTC)
    moved(db, 2)
    later = NOW + timedelta(days=3)
    quotas.note(db, [CONFIGURED], later, UTC)
    told = stand(db, later, [CONFIGURED])
    assert (told.kept.added, told.used_bytes, told.kept.quota.origin) == (NOW, 2, "config")


def test_one_of_the_configuration_is_held_by_its_name_and_not_removed(db: sqlite3.Connection) -> None:
    [told] = quotas.chosen(db, ["phone"], [CONFIGURED], NOW, UTC)
    quotas.hold(db, told.kept, None)
    assert stand(db, configured=[CONFIGURED]).kept.paused
    quotas.hold(db, told.kept, NOW + timedelta(hours=1))
    assert stand(db, configured=[CONFIGURED]).state == "snoozed"
    quotas.resume(db, told.kept)
    assert not stand(db, configured=[CONFIGURED]).held
    with pytest.raises(UsageError, match=r"stands in the configuration: .* number 1 of /etc/x\.toml"):
        quotas.remove(db, ["phone"], [CONFIGURED])


def test_of_two_of_one_name_that_of_the_configuration_holds_and_the_others_go_on(db: sqlite3.Connection) -> None:
    """And each has what is known of it alone: neither is paused, nor has used anything, because the other one has."""
    by_path: dict[str, Any] = {"app": None, "exe": "/usr/bin/phone", "name": "phone"}
    add(db, **by_path)
    add(db)
    [stated] = quotas.chosen(db, ["phone"], [], NOW, UTC)
    quotas.hold(db, stated.kept, None)
    quotas.fold_kernel(db, stated.kept.quota, stated.period, "a", 60 * MB)
    configured = [replace(quota(**by_path, limit="7MB"), place=CONFIGURED.place)]
    for later in (NOW, NOW + timedelta(seconds=1)):
        told = quotas.standings(db, configured, later, UTC)
        assert [(one.kept.quota.name, one.kept.quota.limit, one.held, one.used_bytes) for one in told] == [
            ("phone", "7MB", False, 0),
            ("backup", "100MB", False, 0),
        ]
        quotas.note(db, configured, NOW, UTC)
    [(name, words)] = quotas.overruled(db, configured).items()
    assert name == "phone"
    assert "number 1 of /etc/x.toml holds, and the one that was added with the command line does not" in words
    [held] = quotas.chosen(db, ["phone"], configured, NOW, UTC)
    quotas.hold(db, held.kept, None)
    # The configuration lets go of the name.
    quotas.note(db, [], NOW, UTC)
    [_, again] = quotas.standings(db, [], NOW, UTC)
    assert (again.kept.quota.limit, again.kept.quota.origin, again.held, again.used_bytes) == (
        "100MB",
        "state",
        False,
        0,
    )


def test_the_way_out_of_two_of_one_name_takes_nothing_from_the_one_that_holds(db: sqlite3.Connection) -> None:
    add(db, name="phone")
    quotas.note(db, [CONFIGURED], NOW - timedelta(days=1), UTC)
    quotas.remove(db, ["phone"], [CONFIGURED])
    assert stand(db, configured=[CONFIGURED]).kept == Kept(CONFIGURED, NOW - timedelta(days=1), 0)
    assert quotas.overruled(db, [CONFIGURED]) == {}


def test_what_an_older_ledger_knew_of_quotas_stays_known() -> None:
    made = [name for name, _ in MIGRATIONS].index("whose a quota's state is")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for _, migrate in MIGRATIONS[:made]:
            migrate(db)
        db.execute("INSERT INTO quota VALUES ('backup', ?)", (json.dumps(quota().to_json()),))
        for name in ("backup", "phone"):
            db.execute("INSERT INTO quota_state (name, added_s, counted_bytes, paused) VALUES (?, 4711, 0, 1)", (name,))
        for _, migrate in MIGRATIONS[made:]:
            migrate(db)
        quotas.note(db, [CONFIGURED], NOW, UTC)
        told = quotas.kept(db, [CONFIGURED], NOW)
        assert [(one.quota.name, one.added.timestamp(), one.paused) for one in told] == [
            ("phone", 4711, True),
            ("backup", 4711, True),
        ]


def test_a_name_can_be_given_once(db: sqlite3.Connection) -> None:
    add(db)
    with pytest.raises(UsageError, match="name 'backup' is taken: among those"):
        add(db, per="week")
    with pytest.raises(UsageError, match=r"name 'phone' is taken: \[\[quota\]\] number 1"):
        quotas.keep(db, quotas.added(db, quota(name="phone"), NOW, None, UTC), [CONFIGURED])


def test_what_is_left_of_one_of_the_configuration_is_not_the_next_ones(db: sqlite3.Connection) -> None:
    [told] = quotas.chosen(db, ["phone"], [CONFIGURED], NOW, UTC)
    quotas.hold(db, told.kept, None)
    add(db, name="phone")
    assert not stand(db).kept.paused


def test_there_are_no_more_than_the_kernel_has_room_for(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One place for all is the saver mode's.
    for number in range(7):
        spared: dict[str, Any] = {"except": [f"app{number}"]}
        add(db, name=f"q{number}", app=None, all=True, **spared)
    with pytest.raises(UsageError, match=r"too many quotas are for the same \(all\): q0, .*q6, another"):
        add(db, name="another", app=None, all=True)
    add(db, name="of an app")
    monkeypatch.setattr("esimbpf.quota.MOST", 8)
    with pytest.raises(UsageError, match="9 quotas are too many"):
        add(db, name="one more", app="ssh")
    assert len(quotas.kept(db, [], NOW)) == 8


def test_the_saver_mode_is_not_on_where_it_would_not_be_enforced(db: sqlite3.Connection) -> None:
    for number in range(7):
        add(db, name=f"q{number}", app=None, all=True)
    quotas.keep_saver(db, Saver(NOW))
    quotas.drop_saver(db)
    configured = [replace(CONFIGURED, name="one more", whom=Everybody())]
    with pytest.raises(UsageError, match=r"too many quotas are for the same \(all\)"):
        quotas.keep_saver(db, Saver(NOW), configured)
    assert quotas.saver(db) is None


def test_all_are_removed_or_none(db: sqlite3.Connection) -> None:
    add(db)
    with pytest.raises(CannotError, match="no quota is named 'x'"):
        quotas.remove(db, ["backup", "x"])
    assert stand(db).kept.quota.name == "backup"
    quotas.record(db, stand(db))
    quotas.remove(db, ["backup", "backup"])
    assert [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES] == [0, 0, 0]


TABLES = ("quota", "quota_state", "quota_period")


def test_an_empty_ledger_knows_nothing() -> None:
    with closing(empty()) as db:
        assert quotas.standings(db, [], NOW, UTC) == []
        assert quotas.saver(db) is None
        assert stand(db, configured=[replace(CONFIGURED, place="x")]).used_bytes == 0


# -- the command line --------------------------------------------------------------------


def esimbpf(state_dir: Path, *words: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    config = state_dir.parent / f"{state_dir.name}.toml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "esimbpf", "--state-dir", str(state_dir)),
            *(("--config", str(config)) if config.exists() else ()),
            *words,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={
            **os.environ,
            PINS_VARIABLE: f"{state_dir}/nothing-attached",
            "TZ": "Europe/Berlin",
            "COLUMNS": "120",
            **environment,
        },
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


ADD = (
    "quota",
    "add",
    "backup",
    "--app",
    "restic",
    "--limit",
    "1GB",
    "--per",
    "day",
    "--link",
    "wwan0",
    "--do",
    "block",
)
NO_DAEMON = (
    "esimbpf: no daemon is at work, and nothing is attached: nothing enforces quotas before `esimbpf daemon` runs\n"
)


def test_a_quota_is_added_listed_held_and_removed(tmp_path: Path) -> None:
    added = esimbpf(tmp_path, *ADD)
    assert added.stdout == (
        "backup (app restic): at most 1 GB a day, down and up, on wwan0; then blocked. "
        "Used today: 0 B, as was counted.\n"
    )
    assert added.stderr == ("esimbpf: no app 'restic' was counted yet; esimbpf report shows the names\n" + NO_DAEMON)
    with closing(connect(tmp_path)) as db:
        known(db)
        moved(db, 400_000_007, at=datetime.now(UTC))
    listed = esimbpf(tmp_path, "quota", "list")
    assert "backup" in listed.stdout
    assert "400 MB" in listed.stdout
    assert listed.stderr == NO_DAEMON
    [told] = map(json.loads, esimbpf(tmp_path, "quota", "list", "--json").stdout.splitlines())
    assert (told["used_bytes"], told["remaining_bytes"], told["state"]) == (400_000_007, 599_999_993, "in force")
    assert list(VALID.iter_errors(told)) == []
    esimbpf(tmp_path, "quota", "pause", "backup")
    assert "paused" in esimbpf(tmp_path, "quota", "show", "backup").stdout
    esimbpf(tmp_path, "quota", "snooze", "backup", "2h")
    [told] = map(json.loads, esimbpf(tmp_path, "quota", "show", "backup", "--json").stdout.splitlines())
    assert (told["state"], told["paused"], told["limit_bytes"]) == ("snoozed", False, 1000 * MB)
    esimbpf(tmp_path, "quota", "snooze", "backup", "until-reset")
    [told] = map(json.loads, esimbpf(tmp_path, "quota", "show", "backup", "--json").stdout.splitlines())
    assert told["snoozed_until"] == told["resets"]
    assert list(VALID.iter_errors(told)) == []
    assert "resumed: backup" in esimbpf(tmp_path, "quota", "resume", "backup").stderr
    assert "removed: backup" in esimbpf(tmp_path, "quota", "remove", "backup").stderr
    assert "there is no quota" in esimbpf(tmp_path, "quota", "list").stderr


def test_what_was_counted_today_counts_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    with closing(connect(tmp_path)) as db:
        known(db)
        moved(db, 400_000_007, at=datetime.now(UTC))
    assert "Used today: 400 MB, as was counted.\n" in esimbpf(tmp_path, *ADD).stdout
    said = ["quota", "add", "said", *ADD[3:], "--used", "900MB"]
    assert "Used today: 900 MB.\n" in esimbpf(tmp_path, *said).stdout
    once = [*["quota", "add", "once", "--app", "restic", "--limit", "1GB", "--per", "once", "--do", "notify"]]
    assert "then told. Used since it was added: 0 B, counted from now on.\n" in esimbpf(tmp_path, *once).stdout
    exe = [
        *[
            "quota",
            "add",
            "exe",
            "--exe",
            "/nowhere/restic",
            "--limit",
            "1GB",
            "--per",
            "week",
            "--do",
            "throttle:1Mbit",
        ]
    ]
    done = esimbpf(tmp_path, *exe)
    assert "then throttled to 1Mbit. Used this week: 0 B, counted from now on.\n" in done.stdout
    assert "there is no file /nowhere/restic" in done.stderr
    cycle = [
        *["quota", "add", "cycle", "--all", "--except", "ssh", "--limit", "1GB", "--per", "cycle", "--do", "notify"]
    ]
    assert "Not in force: no plan is known: esimbpf plan set." in esimbpf(tmp_path, *cycle).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--app", ""), "app '' cannot be used"),
        (("--exe", "curl"), "whom it is for is said 2 times: app, exe"),
        (("--user", "no-such-user"), "whom it is for is said 2 times: app, user"),
        (("--except", "ssh"), "except goes with all"),
        (("--limit", "ten"), "limit 'ten' is no size"),
        (("--limit", "0", "--do", "notify"), "limit '0' leaves nothing"),
        (("--direction", "left"), "direction 'left' is none"),
        (("--per", "year"), "per 'year' is none"),
        (("--link", "a/b"), "link 'a/b' is no interface"),
        (("--profile", ""), "profile '' is no ICCID"),
        (("--when", "abroad"), "when 'abroad' is none"),
        (("--warn", "x"), "warn 'x' is no list of percentages"),
        (("--do", "explode"), "do 'explode' is nothing"),
        (("--do", "throttle:0kbit"), "do 'throttle:0kbit': '0kbit' is no rate"),
        (("--used", "some"), "used 'some' is no size"),
        (("more",), "more"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_kept(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    refused = esimbpf(tmp_path, *ADD, *words, status=2)
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert refused.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("quota", "add", "a\x1b[2J", *ADD[3:]), r"name 'a\\x1b[2J' cannot be used"),
        (("quota", "add"), "NAME"),
        (ADD[:5], "limit is missing"),
        (("quota", "add", "x", *ADD[5:]), "whom it is for is missing"),
        (("quota", "snooze", "x", "soon"), "'soon' is no duration"),
        (("saver", "on", "--when", "now"), "when 'now' is none"),
        (("saver", "on", "--link", ""), "link '' cannot be used"),
        (("saver", "maybe"), "maybe"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    refused = esimbpf(tmp_path, *words, status=2)
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("show", "x"),
        ("set", "x", "--limit", "1"),
        ("remove", "x"),
        ("pause", "x"),
        ("resume", "x\x1b"),
        ("snooze", "x", "1h"),
    ],
)
def test_what_is_not_there_is_told_and_no_ledger_is_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    refused = esimbpf(tmp_path, "quota", *words, status=3).stderr
    assert refused.splitlines() == [
        f"esimbpf: no quota is named {printable(words[1])!r}",
        "  see which there are: esimbpf quota list",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_quota_is_changed_in_one_step(tmp_path: Path) -> None:
    with closing(connect(tmp_path)) as db:
        known(db)
        moved(db, 400_000_007, at=datetime.now(UTC))
    esimbpf(tmp_path, *ADD, "--when", "home", "--used", "900MB")

    def says(*words: str) -> str:
        return esimbpf(tmp_path, "quota", "set", "backup", *words).stdout

    where = "down and up, on wwan0, while not roaming"
    assert says("--limit", "2GB", "--warn", "none", "--do", "notify") == (
        f"backup (app restic): at most 2 GB a day, {where}; then told. Used today: 900 MB, as before.\n"
    )
    assert says("--used", "1GB").endswith("Used today: 1.00 GB.\n")
    esimbpf(tmp_path, "quota", "pause", "backup")
    assert says("--anywhere", "--link", "wwan0") == (
        "backup (app restic): at most 2 GB a day, down and up, on wwan0; then told. "
        "Used today: 400 MB, as was counted. It is paused.\n"
    )
    done = esimbpf(tmp_path, "quota", "set", "backup", "--exe", "/nowhere/restic")
    assert "Used today: 0 B, counted from now on." in done.stdout
    assert done.stderr == f"esimbpf: there is no file /nowhere/restic\n{NO_DAEMON}"
    [told] = map(json.loads, esimbpf(tmp_path, "quota", "list", "--json").stdout.splitlines())
    assert (told["limit_bytes"], told["when"], told["warn"], told["do"]) == (2000 * MB, None, [], "notify")
    assert told["whom"] == {"kind": "exe", "exe": "/nowhere/restic"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing is given that is to change"),
        (("--limit", "ten"), "limit 'ten' is no size"),
        (("--limit", "0", "--do", "notify"), "limit '0' leaves nothing"),
        (("--app", ""), "app '' cannot be used"),
        (("--exe", "/x", "--user", "0"), "whom it is for is said 2 times: exe, user"),
        (("--except", "ssh"), "except goes with all, and app was given"),
        (("--used", "some"), "used 'some' is no size"),
    ],
)
def test_what_is_wrong_with_a_change_is_named_and_nothing_is_changed(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    esimbpf(tmp_path, *ADD)
    before = esimbpf(tmp_path, "quota", "show", "backup").stdout
    refused = esimbpf(tmp_path, "quota", "set", "backup", *words, status=2)
    assert said in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert esimbpf(tmp_path, "quota", "show", "backup").stdout == before


def test_both_origins_are_in_one_list_and_those_of_the_configuration_are_changed_there(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    file = tmp_path / "state.toml"
    file.write_text('[[quota]]\nname = "phone"\nall = true\nlimit = "2GB"\nper = "month"\ndo = "notify"\n')
    esimbpf(state_dir, *ADD)
    told = {
        one["name"]: one
        for one in map(json.loads, esimbpf(state_dir, "quota", "list", "--json").stdout.split("\n")[:-1])
    }
    assert {name: one["origin"] for name, one in told.items()} == {"phone": "config", "backup": "state"}
    place = f"[[quota]] number 1 of {file}"
    assert told["phone"]["place"] == place
    refused = esimbpf(state_dir, "quota", "remove", "phone", status=2).stderr
    assert f"the quota 'phone' stands in the configuration: {place}" in refused
    refused = esimbpf(state_dir, "quota", "set", "phone", "--limit", "1GB", status=2).stderr
    assert f"the quota 'phone' stands in the configuration: {place}\n  change it there\n" in refused
    refused = esimbpf(state_dir, "quota", "add", "phone", *ADD[3:], status=2).stderr
    assert f"name 'phone' is taken: {place}" in refused
    assert "paused: phone, backup\n" in esimbpf(state_dir, "quota", "pause", "phone", "backup", "phone").stderr
    assert esimbpf(state_dir, "quota", "list").stdout.count("paused") == 2
    file.write_text(file.read_text().replace("phone", "backup"))
    for words in (("list",), ("list", "--json"), ("show", "backup")):
        shown = esimbpf(state_dir, "quota", *words)
        assert f"two quotas are named 'backup': {place} holds" in shown.stderr
        assert "1 GB" not in shown.stdout
    esimbpf(state_dir, "quota", "add", "other", *ADD[3:])
    esimbpf(state_dir, "quota", "remove", "backup")
    assert esimbpf(state_dir, "quota", "list").stderr == NO_DAEMON


def test_a_name_may_begin_with_a_hyphen(tmp_path: Path) -> None:
    esimbpf(tmp_path, "quota", "add", *ADD[3:], "--", "-x")
    assert esimbpf(tmp_path, "quota", "show", "--", "-x").stdout.startswith("-x\n")
    assert "removed: -x\n" in esimbpf(tmp_path, "quota", "remove", "--", "-x").stderr
    assert "Missing command" in esimbpf(tmp_path, "--", "quota", status=2).stderr
    assert "only `run` takes a command" in esimbpf(tmp_path, "watch", "--", "quota", status=2).stderr


def test_that_containers_are_mostly_forwarded_is_told(tmp_path: Path) -> None:
    container = [word.replace("restic", "docker:1a2b3c4d5e6f") for word in ADD]
    told = "esimbpf: a container with a network of its own counts as forwarded, which only a quota for --all sees\n"
    assert told in esimbpf(tmp_path, *container).stderr
    with closing(connect(tmp_path)) as db:
        db.execute("INSERT INTO app VALUES (1, 'docker:1a2b3c4d5e6f')")
    assert told not in esimbpf(tmp_path, "quota", "set", "backup", "--limit", "2GB").stderr


def test_one_that_never_resets_is_not_snoozed_until_then(tmp_path: Path) -> None:
    esimbpf(tmp_path, *ADD, "--per", "once")
    assert "does not begin anew" in esimbpf(tmp_path, "quota", "snooze", "backup", "until-reset", status=2).stderr
    assert "in force" in esimbpf(tmp_path, "quota", "show", "backup").stdout


def test_the_saver_mode_is_turned_on_and_off(tmp_path: Path) -> None:
    assert esimbpf(tmp_path, "saver").stdout == "saver mode is off\n"
    assert esimbpf(tmp_path, "saver", "off").stderr == "saver mode was off already\n"
    assert list(tmp_path.iterdir()) == []
    done = esimbpf(
        tmp_path,
        *["saver", "on", "--allow", "mail", "--allow", "ssh", "--allow-dns", "--link", "wwan0", "--when", "roaming"],
    )
    said = "saver mode is on: only mail, ssh, DNS may use wwan0 while roaming\n"
    assert (done.stdout, done.stderr) == (said, NO_DAEMON)
    assert esimbpf(tmp_path, "saver").stdout == said
    assert esimbpf(tmp_path, "quota", "list").stdout == said
    esimbpf(tmp_path, "saver", "on")
    assert esimbpf(tmp_path, "saver").stdout == "saver mode is on: nothing may use any link\n"
    assert esimbpf(tmp_path, "saver", "off").stderr.startswith("saver mode is off\n")
    assert esimbpf(tmp_path, "saver").stdout == "saver mode is off\n"


HOLDER = """\
import fcntl, os, signal, sys
if sys.argv[2] == "listens":
    signal.signal(signal.SIGHUP, lambda *_: os._exit(42))
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("how", "status"), [("listens", 42), ("does not", 0)])
def test_the_daemon_is_told_and_who_would_be_ended_by_that_is_not(tmp_path: Path, how: str, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout
        assert keeper.stdout.readline() == "holds\n"
        assert NO_DAEMON not in esimbpf(tmp_path, *ADD).stderr
        keeper.communicate("", timeout=10)
    assert keeper.returncode == status
