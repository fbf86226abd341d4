"""A made-up past in a ledger's real tables, for measuring and testing what is read from it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from esimbpf.ledger.database import transaction
from esimbpf.ledger.fold import DAY_S, KEEP_MINUTES_S, MINUTE_S, QUARTER_S

__all__ = ["LINK", "fill"]

LINK: Final = "wwan0"
_Row = tuple[int, int, int, int, int, int]


def fill(db: sqlite3.Connection, days: int, apps: int, end_s: float, crowded: bool, seed: int = 1) -> None:
    """Days of one-minute buckets up to `end_s`, as they are after thinning: minutes only where they are still kept.

    `crowded` is the worst case: every app moves something in every minute. Otherwise few apps are active often and many
    seldom: of 200, about 15 at once by day and five by night. The order of writing is the daemon's: minute by minute,
    within a minute any.
    """
    chance = random.Random(seed)
    with transaction(db):
        db.execute("INSERT OR IGNORE INTO link (name) VALUES (?)", (LINK,))
        db.executemany("INSERT OR IGNORE INTO app (name) VALUES (?)", [(f"app-{number:03}",) for number in range(apps)])
        (link,) = db.execute("SELECT id FROM link WHERE name = ?", (LINK,)).fetchone()
        ids = [row[0] for row in db.execute("SELECT id FROM app ORDER BY id")]
        end = int(end_s) // QUARTER_S * QUARTER_S
        first_minute_s = end_s - KEEP_MINUTES_S
        minutes = _minutes(chance, ids, range(end - days * DAY_S, end, MINUTE_S), crowded)
        for begin_s, of_quarter in groupby(minutes, lambda row: row[0] // QUARTER_S * QUARTER_S):
            rows = list(of_quarter)
            sums: dict[int, list[int]] = {}
            for _, app, *counters in rows:
                sums[app] = [one + more for one, more in zip(sums.get(app, (0, 0, 0, 0)), counters, strict=True)]
            _write(db, "quarter", link, [(begin_s, app, *counters) for app, counters in sums.items()])
            if begin_s >= first_minute_s:
                _write(db, "minute", link, rows)


def _minutes(chance: random.Random, ids: list[int], begins: range, crowded: bool) -> Iterator[_Row]:
    often = [4 / (4 + place) for place in range(len(ids))]
    for begin_s in begins:
        share = 1.0 if begin_s % DAY_S > DAY_S / 4 else 0.3
        active = [app for app, part in zip(ids, often, strict=True) if crowded or chance.random() < part * share]
        chance.shuffle(active)
        for app in active:
            packets = chance.randrange(1, 2000)
            yield begin_s, app, packets * 1200, packets * 90, packets, packets


def _write(db: sqlite3.Connection, table: str, link: int, rows: list[_Row] | list[tuple[int, ...]]) -> None:
    db.executemany(
        f"INSERT INTO {table} VALUES (?, {link}, 1, 'app', ?, 1000, ?, ?, ?, ?)",
        rows,
    )
