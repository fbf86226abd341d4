"""The ledger's file: its tables, how they came to be, and what is said when it cannot be used.

All counters are billable bytes and packets. Times are seconds since the Unix epoch, in UTC.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from esimbpf.errors import EsimbpfError, LedgerError
from esimbpf.text import printable

__all__ = [
    "DEFAULT_STATE_DIR",
    "FILE_NAME",
    "MIGRATIONS",
    "LedgerError",
    "check_version",
    "connect",
    "empty",
    "transaction",
]

DEFAULT_STATE_DIR: Final = Path("/var/lib/esimbpf")
FILE_NAME: Final = "ledger.db"

_PATIENCE_S: Final = 5.0
_APPLICATION_ID: Final = 0x65734C67  # "esLg", which file(1) can know it by


_BUCKETS: Final = """\
CREATE TABLE {table} (
    begin_s INTEGER NOT NULL,
    link_id INTEGER NOT NULL REFERENCES link (id),
    identity_id INTEGER NOT NULL REFERENCES identity (id),
    kind TEXT NOT NULL,
    app_id INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    rx_bytes INTEGER NOT NULL,
    tx_bytes INTEGER NOT NULL,
    rx_packets INTEGER NOT NULL,
    tx_packets INTEGER NOT NULL,
    PRIMARY KEY (begin_s, link_id, identity_id, kind, app_id, uid)
) STRICT, WITHOUT ROWID
"""
"""Amounts by their time. kind is 'app', or a row of the ledger that is no process; then there is no app (0) and no user
(-1).
"""


def _make_buckets(db: sqlite3.Connection, what: str = "") -> None:
    # Quarters of an hour, because the days of every time zone are made of them; days of UTC, for what is older.
    for table in ("minute", "quarter", "day"):
        db.execute(_BUCKETS.format(table=f"{what}{table}"))


_FIRST_TABLES: Final = """\
CREATE TABLE link (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- A SIM profile; the first is the one that is not known.
CREATE TABLE profile (
    id INTEGER PRIMARY KEY,
    iccid TEXT NOT NULL UNIQUE,
    esim INTEGER
) STRICT;

-- A network by its MCC and MNC, as in 262-01, and how it was called last.
CREATE TABLE network (
    plmn TEXT PRIMARY KEY,
    name TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- On whose account, and where, bytes are moved; the first is the one that is not known. network is its MCC and MNC,
-- roaming 1 abroad, 0 at home, -1 where it is not known, country the network's, by ISO 3166, technology as
-- ModemManager calls it; empty where it is not known.
CREATE TABLE identity (
    id INTEGER PRIMARY KEY,
    profile_id INTEGER NOT NULL REFERENCES profile (id),
    network TEXT NOT NULL,
    roaming INTEGER NOT NULL,
    country TEXT NOT NULL,
    technology TEXT NOT NULL,
    UNIQUE (profile_id, network, roaming, country, technology)
) STRICT;

CREATE TABLE app (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- The programs that have been seen as an app, so that a name which has gone stays known.
CREATE TABLE program (
    app_id INTEGER NOT NULL REFERENCES app (id),
    name TEXT NOT NULL,
    exe TEXT NOT NULL,
    last_seen_s INTEGER NOT NULL,
    PRIMARY KEY (app_id, name, exe)
) STRICT, WITHOUT ROWID;

-- Times in which nothing was counted: 'down', or 'off' where the machine was off for most of the time. And those in
-- which it was counted, while the machine was awake, and nobody looked ('unread'): then what was counted stands in the
-- minute of its end.
CREATE TABLE gap (
    begin_s REAL NOT NULL,
    end_s REAL NOT NULL,
    link_id INTEGER NOT NULL REFERENCES link (id),
    cause TEXT NOT NULL,
    UNIQUE (begin_s, link_id, cause)
) STRICT;

-- Since when each link is known, and until when it was counted, in which boot, and as what it was known then.
CREATE TABLE counted (
    link_id INTEGER PRIMARY KEY REFERENCES link (id),
    since_s REAL NOT NULL,
    until_s REAL NOT NULL,
    boot_id TEXT NOT NULL,
    identity_id INTEGER NOT NULL DEFAULT 1 REFERENCES identity (id)
) STRICT;

-- An attachment in the kernel, and how far it has been folded in: when by the wall, since boot with and without the
-- time in which the machine slept. Of one that was followed by another there is nothing more to come.
CREATE TABLE attachment (
    id INTEGER PRIMARY KEY,
    attach_id TEXT NOT NULL UNIQUE,
    boot_id TEXT NOT NULL,
    folded_s REAL NOT NULL,
    folded_boottime_ns INTEGER NOT NULL,
    folded_awake_ns INTEGER NOT NULL,
    followed INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Of a process's slot, the kernel's counters as they were folded in last.
CREATE TABLE folded_slot (
    attachment_id INTEGER NOT NULL REFERENCES attachment (id) ON DELETE CASCADE,
    link_id INTEGER NOT NULL REFERENCES link (id),
    slot INTEGER NOT NULL,
    rx_bytes INTEGER NOT NULL,
    tx_bytes INTEGER NOT NULL,
    rx_packets INTEGER NOT NULL,
    tx_packets INTEGER NOT NULL,
    PRIMARY KEY (attachment_id, link_id, slot)
) STRICT, WITHOUT ROWID;

-- Of a row that is no process, the same; 'other' is what carries no IP, 'never whole' what fragments have left, and
-- 'debt' what the attachment before has told too much, or, negative, too little.
CREATE TABLE folded_kind (
    attachment_id INTEGER NOT NULL REFERENCES attachment (id) ON DELETE CASCADE,
    link_id INTEGER NOT NULL REFERENCES link (id),
    kind TEXT NOT NULL,
    rx_bytes INTEGER NOT NULL,
    tx_bytes INTEGER NOT NULL,
    rx_packets INTEGER NOT NULL,
    tx_packets INTEGER NOT NULL,
    PRIMARY KEY (attachment_id, link_id, kind)
) STRICT, WITHOUT ROWID;

INSERT INTO profile (id, iccid) VALUES (1, 'unknown');

INSERT INTO identity VALUES (1, 1, '', -1, '', '');
"""


def _first(db: sqlite3.Connection) -> None:
    for statement in _FIRST_TABLES.split(";\n\n"):
        db.execute(statement)
    _make_buckets(db)


def _plans(db: sqlite3.Connection) -> None:
    # target is link:NAME or profile:ICCID; plan is JSON, as esimbpf/plan.py writes it.
    db.execute("CREATE TABLE plan (target TEXT PRIMARY KEY, plan TEXT NOT NULL) STRICT, WITHOUT ROWID")


_QUOTA_TABLES: Final = """\
-- What was agreed with the command line; quota is JSON, as esimbpf/quota.py writes it.
CREATE TABLE quota (
    name TEXT PRIMARY KEY,
    quota TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Of a quota, one of the configuration included: since when it counts; what was used of the period in which that was,
-- as a person has said, which stands for counted_bytes of the ledger (null: nobody has said); whether and until when
-- it is held; and the kernel's own count of it as it was folded in last, of which attachment.
CREATE TABLE quota_state (
    name TEXT PRIMARY KEY,
    added_s REAL NOT NULL,
    said_bytes INTEGER,
    counted_bytes INTEGER NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0,
    snoozed_until_s REAL,
    attach_id TEXT NOT NULL DEFAULT '',
    kernel_bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Of a period of a quota: what the kernel has counted in it, and the levels, in percent and as a JSON list, of which
-- was told, 100 for the limit itself (null: nobody has looked yet whether there is anything to tell), and for which
-- limit that was.
CREATE TABLE quota_period (
    name TEXT NOT NULL REFERENCES quota_state (name) ON DELETE CASCADE,
    begin_s REAL NOT NULL,
    end_s REAL NOT NULL,
    period_bytes INTEGER NOT NULL DEFAULT 0,
    limit_bytes INTEGER NOT NULL,
    fired TEXT,
    PRIMARY KEY (name, begin_s)
) STRICT, WITHOUT ROWID;

-- The number under which an attachment's programs know a quota, or, by its name, the saver mode. It is no other's as
-- long as they know anything of it; its counter, which is never set back, then goes on as the other's.
CREATE TABLE quota_number (
    attach_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    added_s REAL NOT NULL,
    PRIMARY KEY (attach_id, number)
) STRICT, WITHOUT ROWID;

-- The saver mode, if it is on: one row of JSON, as esimbpf/saver.py writes it.
CREATE TABLE saver (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    saver TEXT NOT NULL
) STRICT;
"""


def _quotas(db: sqlite3.Connection) -> None:
    for statement in _QUOTA_TABLES.split(";\n\n"):
        db.execute(statement)


def _blocked(db: sqlite3.Connection) -> None:
    # What quotas have blocked, in buckets of its own: most ledgers have nothing of it. What of it was received stands
    # in minute, quarter and day as well, for it was paid for; what was to be sent does not.
    _make_buckets(db, "blocked_")
    # Of a slot, a process's or another, the kernel's counters of what was blocked as they were folded in last.
    db.execute(
        "CREATE TABLE folded_blocked (attachment_id INTEGER NOT NULL REFERENCES attachment (id) ON DELETE CASCADE, "
        "link_id INTEGER NOT NULL REFERENCES link (id), slot INTEGER NOT NULL, rx_bytes INTEGER NOT NULL, "
        "tx_bytes INTEGER NOT NULL, rx_packets INTEGER NOT NULL, tx_packets INTEGER NOT NULL, "
        "PRIMARY KEY (attachment_id, link_id, slot)) STRICT, WITHOUT ROWID"
    )


def _events(db: sqlite3.Connection) -> None:
    # What has happened, once for each type, subject, beginning of the period and level; line is its JSON. handed_out
    # when it is decided which hooks are run. Until then, and at least until keep_until_s (NULL: for ever), it is kept.
    db.execute(
        "CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, subject TEXT NOT NULL, "
        "begin_ms INTEGER NOT NULL, level INTEGER NOT NULL, line TEXT NOT NULL, keep_until_s REAL, "
        "handed_out INTEGER NOT NULL DEFAULT 0, UNIQUE (type, subject, begin_ms, level)) STRICT"
    )
    db.execute("CREATE INDEX event_to_hand_out ON event (id) WHERE NOT handed_out")
    # A hook that is to be run for an event. state is 'pending', 'running', 'done' or 'given up'; run names the attempt
    # that is under way, attempts counts those that were begun, why says how the last one failed.
    db.execute(
        "CREATE TABLE delivery (event_id INTEGER NOT NULL REFERENCES event (id) ON DELETE CASCADE, hook TEXT NOT NULL, "
        "state TEXT NOT NULL DEFAULT 'pending', attempts INTEGER NOT NULL DEFAULT 0, next_try_s REAL NOT NULL, "
        "run TEXT, why TEXT, PRIMARY KEY (event_id, hook)) STRICT, WITHOUT ROWID"
    )
    db.execute("CREATE INDEX delivery_open ON delivery (event_id, hook) WHERE state IN ('pending', 'running')")


_EVENTS_BY_THEIR_ID: Final = """\
ALTER TABLE event RENAME TO old_event;
ALTER TABLE delivery RENAME TO old_delivery;
DROP INDEX event_to_hand_out;
DROP INDEX delivery_open;
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    same TEXT NOT NULL UNIQUE,
    line TEXT NOT NULL,
    keep_until_s REAL,
    handed_out INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE delivery (
    event_id INTEGER NOT NULL REFERENCES event (id) ON DELETE CASCADE,
    hook TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try_s REAL NOT NULL,
    run TEXT,
    why TEXT,
    PRIMARY KEY (event_id, hook)
) STRICT, WITHOUT ROWID;
INSERT INTO event SELECT id, type, subject, json_extract(line, '$.id'), line, keep_until_s, handed_out FROM old_event;
INSERT INTO delivery SELECT * FROM old_delivery;
-- Numbers that were given are not given again, those of events that are gone neither.
DELETE FROM sqlite_sequence WHERE name = 'event';
INSERT INTO sqlite_sequence SELECT 'event', seq FROM sqlite_sequence WHERE name = 'old_event';
DROP TABLE old_delivery;
DROP TABLE old_event;
CREATE INDEX event_to_hand_out ON event (id) WHERE NOT handed_out;
CREATE INDEX delivery_open ON delivery (event_id, hook) WHERE state IN ('pending', 'running')
"""


def _events_by_their_id(db: sqlite3.Connection) -> None:
    # `same` is Event.id (esimbpf/events.py), which has what makes an event another one, of each type its own.
    for statement in _EVENTS_BY_THEIR_ID.split(";\n"):
        db.execute(statement)


def _origin_of_state(db: sqlite3.Connection) -> None:
    # Two quotas may have one name, and what is known of the one ('config', or 'state') is not known of the other.
    db.execute("ALTER TABLE quota_state ADD COLUMN origin TEXT NOT NULL DEFAULT 'config'")
    db.execute("UPDATE quota_state SET origin = 'state' WHERE name IN (SELECT name FROM quota)")


def _labels(db: sqlite3.Connection) -> None:
    # What people call a profile: the user's own label, and what lpac has told; empty where there is none.
    for label in ("own_label", "lpac_label"):
        db.execute(f"ALTER TABLE profile ADD COLUMN {label} TEXT NOT NULL DEFAULT ''")


MIGRATIONS: Final[tuple[tuple[str, Callable[[sqlite3.Connection], None]], ...]] = (
    ("the first tables", _first),
    ("plans", _plans),
    ("quotas", _quotas),
    ("what was blocked", _blocked),
    ("events", _events),
    ("events by their id", _events_by_their_id),
    ("whose a quota's state is", _origin_of_state),
    ("labels of profiles", _labels),
)
"""By name, in their order; the number of those that were made is the file's user_version."""


def connect(state_dir: Path, read_only: bool = False) -> sqlite3.Connection:
    """Open the ledger of a state folder, made or brought up to date if need be.

    With `read_only` nothing is written, and there must be one. Raises LedgerError.
    """
    path = state_dir / FILE_NAME
    with said(path):
        if read_only:
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError as error:
                raise LedgerError(
                    f"there is no ledger in {printable(str(state_dir))}", "it is kept by: esimbpf daemon"
                ) from error
        else:
            state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            _make(path)
        # Where nothing can be written, SQLite cannot even note that it reads; but then nothing changes either.
        immutable = read_only and os.statvfs(path).f_flag & os.ST_RDONLY
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}{'&immutable=1' if immutable else ''}",
            uri=True,
            timeout=_PATIENCE_S,
            isolation_level=None,
        )
        try:
            _prepare(db, path, read_only)
        except BaseException:
            db.close()
            raise
    return db


def empty() -> sqlite3.Connection:
    """A ledger without anything in it, in memory: what is known where there is none."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    for _, migrate in MIGRATIONS:
        migrate(db)
    return db


def _make(path: Path) -> None:
    """Make the file if it is not there, and see that it can be written; OSError.

    One that is there is not opened for that: closing it would take SQLite's locks from whoever in this process has it
    open (fcntl_locking(2)), and another process would then remove the log that is still in use.
    """
    try:
        # Who used the network when is nobody else's business.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        number = 0
        if path.is_dir():
            number = errno.EISDIR
        elif not os.access(path, os.W_OK):
            number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        if number:
            raise OSError(number, os.strerror(number)) from None


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """The version of the file's tables; LedgerError if it is newer than this program."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"the ledger {printable(str(path))} is of a newer esimbpf (version {version} of its tables, "
            f"{len(MIGRATIONS)} are known here)",
            "use the newer esimbpf, or another --state-dir; the ledger is left as it is",
        )
    return version


def _prepare(db: sqlite3.Connection, path: Path, read_only: bool) -> None:
    version = check_version(db, path)
    db.execute("PRAGMA foreign_keys = ON")
    if read_only:
        if version < len(MIGRATIONS):
            raise LedgerError(
                f"the ledger {printable(str(path))} is of an older esimbpf",
                "start the daemon once: it brings it up to date",
            )
        return
    db.execute("PRAGMA journal_mode = WAL")
    # A power cut may lose the last folds, which the kernel then no longer holds either; never more.
    db.execute("PRAGMA synchronous = NORMAL")
    for number, (_name, migrate) in enumerate(MIGRATIONS[version:], version + 1):
        with transaction(db):
            # Another process may have been faster.
            if db.execute("PRAGMA user_version").fetchone()[0] < number:
                migrate(db)
                db.execute(f"PRAGMA user_version = {number}")
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that is written within happens, or none of it; it may be a part of a larger one."""
    begin, commit, rollback = (
        ("SAVEPOINT part", "RELEASE part", "ROLLBACK TO part; RELEASE part")
        if db.in_transaction
        else ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
    )
    db.execute(begin)
    try:
        yield
        db.execute(commit)
    except BaseException:
        # A full disk may have ended it already.
        with suppress(sqlite3.Error):
            for statement in rollback.split("; "):
                db.execute(statement)
        raise


@contextmanager
def said(path: Path, hint: str = "") -> Iterator[None]:
    """Turn what SQLite and the system complain of into LedgerError, with a way out; `hint` is put before that."""
    try:
        with _told(path):
            yield
    except LedgerError as error:
        if not hint:
            raise
        raise LedgerError(error.message, f"{hint}; {error.hint}", error.passing) from error


@contextmanager
def _told(path: Path) -> Iterator[None]:
    shown = printable(str(path))
    try:
        yield
    except EsimbpfError:
        raise
    except PermissionError as error:
        raise LedgerError(
            f"the ledger {shown} is not for this user", "run as root, whose it is: sudo esimbpf …"
        ) from error
    except OSError as error:
        raise LedgerError(f"cannot open the ledger {shown}: {error.strerror}", "check the state folder") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        message, hint = _WORDS.get(code, (f"cannot be used: {printable(str(error))}", "check the disk"))
        raise LedgerError(f"the ledger {shown} {message}", hint, code in _PASSING) from error


_PASSING: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)

_WORDS: Final = {
    sqlite3.SQLITE_CORRUPT: (
        "is damaged",
        "keep it for inspection under another name: the daemon then begins a new one; the kernel goes on counting",
    ),
    sqlite3.SQLITE_NOTADB: ("is no ledger, or damaged", "move it away: the daemon then begins a new one"),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "make room; what is not written yet is kept until then"),
    sqlite3.SQLITE_BUSY: ("is locked by another process", "end what holds it: fuser shows it"),
    sqlite3.SQLITE_LOCKED: ("is locked by another process", "end what holds it: fuser shows it"),
    sqlite3.SQLITE_READONLY: ("cannot be written", "check its permissions, and that the disk is not read-only"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "check that the state folder is there, and its permissions"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk fails", "check the disk; dmesg may say more"),
    sqlite3.SQLITE_PERM: ("may not be opened", "run as root"),
}
