"""The ledger has each byte exactly once, wherever a folding ends."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.attribution import Namer
from esimbpf.errors import LedgerError
from esimbpf.ledger.database import FILE_NAME, MIGRATIONS, connect, said
from esimbpf.ledger.fold import KEEP_MINUTES_S, KEEP_QUARTERS_S, Attachment, Folding, thin
from esimbpf.ledger.query import ReportBy, usage
from esimbpf.model import NOTHING, Counters, Process
from esimbpf.modem.identity import Identity
from esimbpf.snapshot import FIRST_PROCESS_SLOT, LinkReading, ReservedSlot, Snapshot
from esimbpf.spans import Span

BOOTED_S = 1_795_000_000


class Kernel:
    """Counters that only grow, and what a reader makes of them."""

    def __init__(self, name: str = "first", started_s: int = 100, links: tuple[str, ...] = ("wwan0",)) -> None:
        self.now_s = float(started_s)
        self.attachment = Attachment(
            name, "boot", BOOTED_S + started_s, started_s * 10**9, started_s * 10**9, links, True
        )
        self.slept_s = 0.0
        self.clock_error_s = 0.0
        self.slots: dict[tuple[int, int], Counters] = {}
        self.reserved = [dict.fromkeys(ReservedSlot, NOTHING) for _ in links]
        self.told: dict[tuple[int, int], Counters] = {}
        self.blocked: dict[tuple[int, int], Counters] = {}
        self.blocked_told: dict[tuple[int, int], Counters] = {}

    def follower(self, name: str, boot_id: str) -> Kernel:
        """What counts after this one, from a minute later on; on another boot the clock is right again."""
        follower = Kernel(name, int(self.now_s) + 60, self.attachment.links)
        if boot_id == self.attachment.boot_id:
            follower.clock_error_s, follower.slept_s = self.clock_error_s, self.slept_s
        started_ns = int((follower.now_s - follower.slept_s) * 1e9)
        follower.attachment = replace(
            follower.attachment,
            boot_id=boot_id,
            started_awake_ns=started_ns,
            started_wall_s=BOOTED_S + follower.now_s + follower.clock_error_s,
        )
        return follower

    def sends(self, slot: int, size: int, link: int = 0) -> None:
        key = link, FIRST_PROCESS_SLOT + slot
        self.slots[key] = self.slots.get(key, NOTHING) + Counters(tx_bytes=size, tx_packets=1)

    def receives(self, slot: int, size: int, link: int = 0) -> None:
        key = link, FIRST_PROCESS_SLOT + slot
        packet = Counters(rx_bytes=size, rx_packets=1)
        self.slots[key] = self.slots.get(key, NOTHING) + packet
        for reserved in (ReservedSlot.LINK, ReservedSlot.TAKEN):
            self.reserved[link][reserved] += packet

    def is_kept_from_sending(self, slot: int, size: int, link: int = 0) -> None:
        """A process, or, below zero, a row that is none: the kernel itself is -16."""
        self._block(link, FIRST_PROCESS_SLOT + slot, Counters(tx_bytes=size, tx_packets=1))

    def receives_in_vain(self, slot: int, size: int, link: int = 0) -> None:
        self.receives(slot, size, link)
        self._block(link, FIRST_PROCESS_SLOT + slot, Counters(rx_bytes=size, rx_packets=1))

    def _block(self, link: int, slot: int, packet: Counters) -> None:
        self.blocked[link, slot] = self.blocked.get((link, slot), NOTHING) + packet

    def answers(self, size: int, link: int = 0) -> None:
        """The kernel itself, to a ping."""
        self.reserved[link][ReservedSlot.LINK] += Counters(rx_bytes=size, rx_packets=1)
        self.reserved[link][ReservedSlot.KERNEL] += Counters(tx_bytes=size, tx_packets=1)

    def reader_begins(self) -> None:
        self.told, self.blocked_told = {}, {}

    def read(self) -> Snapshot:
        added: list[dict[int, Counters]] = [{} for _ in self.reserved]
        for (link, slot), counters in self.slots.items():
            new = counters - self.told.get((link, slot), NOTHING)
            if new:
                added[link][slot] = new
        self.told = dict(self.slots)
        blocked = [{slot: c for (of, slot), c in self.blocked.items() if of == link} for link in range(len(added))]
        links = tuple(LinkReading(dict(r), a, b) for r, a, b in zip(self.reserved, added, blocked, strict=True))
        active = {slot for one in added for slot in one}
        active |= {key[1] for key, counters in self.blocked.items() if counters != self.blocked_told.get(key)}
        self.blocked_told = dict(self.blocked)
        processes = {slot: _process(slot) for slot in active if slot >= FIRST_PROCESS_SLOT}
        return Snapshot(
            boottime_ns=int(self.now_s * 1e9),
            awake_ns=int((self.now_s - self.slept_s) * 1e9),
            wall_ns=int((BOOTED_S + self.now_s + self.clock_error_s) * 1e9),
            links=links,
            processes=processes,
            exited=(),
        )

    @property
    def total(self) -> Counters:
        others = [
            Counters(arrived.rx_bytes, own.tx_bytes, arrived.rx_packets, own.tx_packets)
            for arrived, own in ((r[ReservedSlot.LINK], r[ReservedSlot.KERNEL]) for r in self.reserved)
        ]
        sent = [Counters(0, c.tx_bytes, 0, c.tx_packets) for c in self.slots.values()]
        return sum(others + sent, NOTHING)

    @property
    def total_blocked(self) -> Counters:
        return sum(self.blocked.values(), NOTHING)


def _process(slot: int) -> Process:
    return Process(slot, slot, 1000 + slot % 2, f"app{slot}", f"/usr/bin/app{slot}", (), "/")


def total(db: sqlite3.Connection, table: str = "minute", where: str = "1") -> Counters:
    sums = db.execute(
        f"SELECT total(rx_bytes), total(tx_bytes), total(rx_packets), total(tx_packets) FROM {table} WHERE {where}"
    ).fetchone()
    return Counters(*map(int, sums))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path)) as opened:
        yield opened


MOVES = st.one_of(
    st.tuples(st.sampled_from(["sends", "receives"]), st.integers(0, 5), st.integers(20, 65535)),
    st.tuples(st.just("answers"), st.integers(20, 1500)),
    st.tuples(st.just("is_kept_from_sending"), st.sampled_from([-16, -14, 0, 1]), st.integers(20, 65535)),
    st.tuples(st.just("receives_in_vain"), st.integers(0, 5), st.integers(20, 65535)),
    st.tuples(st.just("waits"), st.sampled_from([0.3, 1.0, 59.0, 61.0, 1000.0])),
    st.tuples(st.just("sleeps"), st.sampled_from([5.0, 30_000.0])),
    # An hour back, a month ahead, a battery that was empty: 1970.
    st.tuples(st.just("sets the clock"), st.sampled_from([-3600.0, 0.7, 31 * 86400.0, -float(BOOTED_S)])),
    st.just(("folds",)),
    st.just(("cannot write",)),
    st.just(("is killed",)),
    st.just(("is killed before the commit",)),
    st.just(("is taken over from",)),
    st.just(("reboots",)),
)


@given(st.lists(MOVES, max_size=40))
def test_whatever_happens_when_it_neither_loses_nor_doubles_a_byte(moves: list[tuple[object, ...]]) -> None:
    kernel, names = Kernel(), iter(range(100))
    gone = gone_blocked = NOTHING
    """What kernels before this one have counted, as far as it was folded."""
    with tempfile.TemporaryDirectory() as folder, closing(connect(Path(folder))) as db:
        folding = Folding(db, kernel.attachment, Namer())
        for what, *arguments in moves:
            match what:
                case "waits":
                    kernel.now_s += float(str(arguments[0]))
                case "sleeps":
                    kernel.now_s += float(str(arguments[0]))
                    kernel.slept_s += float(str(arguments[0]))
                case "sets the clock":
                    kernel.clock_error_s += float(str(arguments[0]))
                case "folds":
                    folding.take(kernel.read())
                    folding.commit()
                    assert total(db) == gone + kernel.total
                    assert total(db, "blocked_minute") == gone_blocked + kernel.total_blocked
                case "cannot write":
                    folding.take(kernel.read())
                    db.execute("PRAGMA query_only = 1")
                    with pytest.raises(sqlite3.Error):
                        folding.commit()
                    db.execute("PRAGMA query_only = 0")
                case "is killed" | "is killed before the commit":
                    if what == "is killed before the commit":
                        folding.take(kernel.read())
                    kernel.reader_begins()
                    folding = Folding(db, kernel.attachment, Namer())
                case "is taken over from":
                    last = kernel.read()
                    folding.take(last)
                    folding.commit()
                    gone, gone_blocked = total(db), total(db, "blocked_minute")
                    debts = folding.debts(last)
                    assert set(debts.values()) == {NOTHING}
                    kernel = kernel.follower(f"taken over {next(names)}", kernel.attachment.boot_id)
                    folding = Folding(db, kernel.attachment, Namer(), debts)
                case "reboots":
                    gone, gone_blocked = total(db), total(db, "blocked_minute")
                    kernel = kernel.follower(f"rebooted {next(names)}", f"boot {next(names)}")
                    folding = Folding(db, kernel.attachment, Namer())
                case _:
                    getattr(kernel, str(what))(*arguments)
        folding.take(kernel.read())
        folding.commit()
        assert total(db) == total(db, "quarter") == gone + kernel.total
        blocked = gone_blocked + kernel.total_blocked
        assert total(db, "blocked_minute") == total(db, "blocked_quarter") == blocked
        assert db.execute("SELECT count(*) FROM gap WHERE end_s <= begin_s").fetchone() == (0,)


def test_what_was_blocked_stands_under_whose_it_was_and_has_not_moved(db: sqlite3.Connection) -> None:
    kernel = Kernel()
    folding = Folding(db, kernel.attachment, Namer())
    kernel.is_kept_from_sending(0, 1229)
    kernel.is_kept_from_sending(-16, 60)
    kernel.receives_in_vain(1, 1500)
    folding.take(kernel.read())
    folding.commit()
    rows = db.execute(
        "SELECT kind, name, uid, rx_bytes, tx_bytes FROM blocked_minute LEFT JOIN app ON id = app_id ORDER BY 1, 2"
    )
    assert rows.fetchall() == [
        ("app", "app16", 1000, 0, 1229),
        ("app", "app17", 1001, 1500, 0),
        ("kernel", None, -1, 0, 60),
    ]
    assert total(db) == Counters(rx_bytes=1500, rx_packets=1)
    assert db.execute("SELECT name FROM program ORDER BY 1").fetchall() == [("app16",), ("app17",)]


def test_packets_that_come_in_under_the_new_version_and_arrive_under_the_old_count_once(db: sqlite3.Connection) -> None:
    old = Kernel("old")
    old.answers(60)
    packet = Counters(rx_bytes=1000, rx_packets=1)
    old.slots[0, FIRST_PROCESS_SLOT] = packet + packet
    old.reserved[0][ReservedSlot.TAKEN] += packet + packet
    folding = Folding(db, old.attachment, Namer())
    last = old.read()
    folding.take(last)
    folding.commit()
    debts = folding.debts(last)
    assert debts == {"wwan0": Counters(rx_bytes=1940, rx_packets=1)}
    new = old.follower("new", "boot")
    Folding(db, new.attachment, Namer(), debts)
    # A restart in between does not forget it.
    folding = Folding(db, new.attachment, Namer())
    new.reserved[0][ReservedSlot.LINK] += packet + packet + packet
    folding.take(new.read())
    folding.commit()
    assert total(db, where="kind = 'kernel'").rx_bytes == 60 + 1000
    assert total(db).rx_bytes == 60 + 3000
    assert total(db).rx_packets == 4


def test_what_was_taken_over_from_is_never_folded_again(db: sqlite3.Connection) -> None:
    old = Kernel("old")
    old.sends(0, 100)
    folding = Folding(db, old.attachment, Namer())
    folding.take(old.read())
    folding.commit()
    Folding(db, old.follower("new", "boot").attachment, Namer())
    assert Folding(db, old.attachment, Namer()).followed


def test_sleep_is_no_gap_and_a_reboot_is_one(db: sqlite3.Connection) -> None:
    kernel = Kernel(started_s=100)
    folding = Folding(db, kernel.attachment, Namer())
    kernel.now_s += 8 * 3600
    kernel.slept_s += 8 * 3600 - 20
    kernel.sends(0, 7)
    folding.take(kernel.read())
    folding.commit()
    assert db.execute("SELECT * FROM gap").fetchall() == []
    last_s = BOOTED_S + kernel.now_s
    # Attached again a minute later, 20 s after the machine was started.
    kernel = kernel.follower("after", "another boot")
    kernel.attachment = replace(kernel.attachment, started_boottime_ns=20 * 10**9)
    Folding(db, kernel.attachment, Namer())
    assert db.execute("SELECT begin_s, end_s, cause FROM gap ORDER BY 1").fetchall() == [
        (last_s, last_s + 40, "off"),
        (last_s + 40, last_s + 60, "down"),
    ]
    [row] = usage(db, [Span(_moment(last_s), _moment(last_s + 60))], ReportBy.LINK)
    assert (row.gap_s, row.off_s) == (60.0, 40.0)


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)


def test_apps_and_users_have_rows_of_their_own(db: sqlite3.Connection) -> None:
    kernel = Kernel()
    kernel.sends(0, 100)
    kernel.receives(1, 1000)
    kernel.answers(60)
    folding = Folding(db, kernel.attachment, Namer())
    folding.take(kernel.read())
    folding.commit()
    rows = db.execute(
        "SELECT kind, coalesce(name, ''), uid, rx_bytes, tx_bytes FROM minute LEFT JOIN app ON app.id = app_id "
        "ORDER BY 1, 2"
    ).fetchall()
    assert rows == [("app", "app16", 1000, 0, 100), ("app", "app17", 1001, 1000, 0), ("kernel", "", -1, 60, 60)]
    assert db.execute("SELECT name, exe FROM program ORDER BY name").fetchall() == [
        ("app16", "/usr/bin/app16"),
        ("app17", "/usr/bin/app17"),
    ]


def test_what_nobody_looked_at_is_a_gap_and_stands_in_the_minute_of_its_end(db: sqlite3.Connection) -> None:
    kernel = Kernel(started_s=100)
    folding = Folding(db, kernel.attachment, Namer())
    kernel.now_s = 110
    folding.take(kernel.read())
    folding.commit()
    kernel.sends(0, 100)
    kernel.now_s = 4000
    folding.take(kernel.read())
    folding.commit()
    assert db.execute("SELECT begin_s, end_s, cause FROM gap").fetchall() == [
        (BOOTED_S + 110.0, BOOTED_S + 4000.0, "unread")
    ]
    assert db.execute("SELECT begin_s FROM minute").fetchall() == [((BOOTED_S + 4000) // 60 * 60,)]


def test_between_two_attachments_nothing_was_counted_and_that_is_a_gap(db: sqlite3.Connection) -> None:
    first = Kernel("first", 100)
    first.sends(0, 100)
    first.now_s = 130
    folding = Folding(db, first.attachment, Namer())
    folding.take(first.read())
    folding.commit()
    second = Kernel("second", 700)
    second.sends(0, 50)
    folding = Folding(db, second.attachment, Namer())
    folding.take(second.read())
    folding.commit()
    assert total(db) == Counters(tx_bytes=150, tx_packets=2)
    assert db.execute("SELECT begin_s, end_s, cause FROM gap").fetchall() == [
        (BOOTED_S + 130.0, BOOTED_S + 700.0, "down")
    ]
    assert db.execute("SELECT count(*) FROM folded_slot").fetchall() == [(1,)], "of what is gone nothing is kept"


def test_while_another_link_was_counted_this_one_was_not(db: sqlite3.Connection) -> None:
    """The gap is from when this link was counted last; and one that is counted for the first time has none."""
    kernel = Kernel("first", 100)
    kernel.now_s = 130
    folding = Folding(db, kernel.attachment, Namer())
    folding.take(kernel.read())
    folding.commit()
    other = Kernel("other link", 200, ("wwan1",))
    other.now_s = 260
    folding = Folding(db, other.attachment, Namer())
    folding.take(other.read())
    folding.commit()
    again = Kernel("again", 400, ("wwan1", "wwan0"))
    Folding(db, again.attachment, Namer())
    gaps = db.execute(
        "SELECT name, begin_s, end_s, cause FROM gap JOIN link ON link.id = link_id ORDER BY begin_s"
    ).fetchall()
    assert gaps == [
        ("wwan0", BOOTED_S + 130.0, BOOTED_S + 400.0, "down"),
        ("wwan1", BOOTED_S + 260.0, BOOTED_S + 400.0, "down"),
    ]


def test_a_link_whose_interface_came_back_unseen_was_not_counted(db: sqlite3.Connection) -> None:
    kernel = Kernel(started_s=100)
    folding = Folding(db, kernel.attachment, Namer())
    kernel.now_s = 110
    folding.take(kernel.read())
    folding.commit()
    folding.note_missed("wwan0", BOOTED_S + 150.0)
    kernel.now_s = 151
    folding.take(kernel.read())
    folding.commit()
    assert db.execute("SELECT begin_s, end_s, cause FROM gap").fetchall() == [
        (BOOTED_S + 110.0, BOOTED_S + 150.0, "down")
    ]


def test_a_link_that_is_added_is_folded_too(db: sqlite3.Connection) -> None:
    kernel = Kernel()
    kernel.sends(0, 100)
    folding = Folding(db, kernel.attachment, Namer())
    folding.take(kernel.read())
    folding.commit()
    more = Kernel(links=("wwan0", "wwan1"))
    more.slots = dict(kernel.slots)
    more.sends(0, 7, link=1)
    folding = Folding(db, more.attachment, Namer())
    folding.take(more.read())
    folding.commit()
    assert total(db) == more.total
    assert total(db, where="link_id = 2") == Counters(tx_bytes=7, tx_packets=1)


def test_thinning_keeps_every_total(db: sqlite3.Connection) -> None:
    kernel = Kernel(started_s=0)
    folding = Folding(db, kernel.attachment, Namer())
    for day in (0, 1, 200, 390, 401):
        kernel.now_s = day * 86400 + 30
        kernel.sends(day % 3, 1000 + day)
        folding.take(kernel.read())
        folding.commit()
    now_s = BOOTED_S + 402 * 86400
    # On the very edge: the first quarter of an hour that stays.
    edge_s = int(now_s - KEEP_QUARTERS_S) // 86400 * 86400
    db.execute("INSERT INTO quarter VALUES (?, 1, 1, 'app', 1, 1000, 7, 0, 1, 0)", (edge_s,))
    everything = kernel.total + Counters(rx_bytes=7, rx_packets=1)
    thin(db, now_s)
    thin(db, now_s)
    assert total(db, "minute").tx_packets == 1
    # That on the edge was received, and the three others were sent.
    assert total(db, "quarter").tx_packets == 3
    assert db.execute("SELECT count(*) FROM quarter WHERE begin_s = ?", (edge_s,)).fetchone() == (1,)
    assert total(db, "quarter") + total(db, "day") == everything
    (oldest,) = db.execute("SELECT min(begin_s) FROM quarter").fetchone()
    assert oldest >= now_s - KEEP_QUARTERS_S - 86400
    (oldest,) = db.execute("SELECT min(begin_s) FROM minute").fetchone()
    assert oldest >= now_s - KEEP_MINUTES_S


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_file_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    connect(folder).close()
    assert (folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
    with closing(connect(folder)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        tables = db.execute(
            "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'"
        )
        assert all(strict for _, strict in tables)


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (x INTEGER) STRICT")
        db.execute("CREATE nonsense")

    monkeypatch.setattr("esimbpf.ledger.database.MIGRATIONS", (*MIGRATIONS, ("broken", broken)))
    with pytest.raises(LedgerError):
        connect(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)


def test_reading_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger") as told:
        connect(tmp_path, read_only=True)
    assert told.value.hint == "it is kept by: esimbpf daemon"
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_another_holds_is_said_to_be_locked(tmp_path: Path) -> None:
    with closing(connect(tmp_path)) as one, closing(sqlite3.connect(tmp_path / FILE_NAME, timeout=0)) as other:
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerError, match="is locked by another process"), said(tmp_path / FILE_NAME):
            other.execute("BEGIN IMMEDIATE")
        with suppress(sqlite3.Error):
            one.execute("ROLLBACK")


def test_opening_it_again_takes_no_locks_from_who_has_it_open(tmp_path: Path) -> None:
    """Else another process that closes it would take itself for the last one, and remove the log in use."""
    write = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute(\"INSERT INTO app (name) VALUES ('x')\")"
    )
    with closing(connect(tmp_path)) as db:
        db.execute("INSERT INTO app (name) VALUES ('before')")
        connect(tmp_path).close()
        subprocess.run(
            [sys.executable, "-c", f"{write}; db.commit(); db.close()", str(tmp_path / FILE_NAME)], check=True
        )
        assert (tmp_path / f"{FILE_NAME}-wal").exists()
        assert db.execute("SELECT name FROM app ORDER BY id").fetchall() == [("before",), ("x",)]


@pytest.mark.parametrize(
    ("unread_s", "after", "whose"),
    [
        (5, "another", "another"),
        (600, "one", "one"),
        (600, "another", "unknown"),
    ],
)
def test_what_was_moved_while_nobody_looked_is_nobodys_where_the_sim_has_become_another(
    tmp_path: Path, unread_s: int, after: str, whose: str
) -> None:
    kernel = Kernel()
    with closing(connect(tmp_path)) as db:
        folding = Folding(db, kernel.attachment, Namer())
        folding.identities = {"wwan0": Identity(profile="one", roaming=False)}
        kernel.now_s += 5
        kernel.sends(0, 101)
        folding.take(kernel.read())
        folding.commit()
    kernel.sends(0, 1_003)
    kernel.now_s += unread_s
    with closing(connect(tmp_path)) as db:
        folding = Folding(db, kernel.attachment, Namer())
        folding.identities = {"wwan0": Identity(profile=after, roaming=False)}
        kernel.reader_begins()
        folding.take(kernel.read())
        folding.commit()
        kernel.now_s += 5
        kernel.sends(0, 10_007)
        folding.take(kernel.read())
        folding.commit()
        everything = Span(datetime.fromtimestamp(BOOTED_S, UTC), datetime.fromtimestamp(BOOTED_S + 86400, UTC))
        sums: dict[str, int] = {"one": 101}
        for name, amount in ((whose, 1_003), (after, 10_007)):
            sums[name] = sums.get(name, 0) + amount
        assert {row.name: row.counters.tx_bytes for row in usage(db, [everything], ReportBy.PROFILE)} == sums
