"""What the ledger says of a time: sums by link, profile and whatever else is asked for, and the gaps in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from esimbpf.ledger.fold import DAY_S, KEEP_MINUTES_S, MINUTE_S, QUARTER_S
from esimbpf.model import NOTHING, Counters, Kind
from esimbpf.spans import Span

__all__ = ["ReportBy", "Usage", "bounds", "grain_s", "undone", "usage"]


class ReportBy(StrEnum):
    """What a row of a report stands for."""

    APP = "app"
    USER = "user"
    LINK = "link"
    PROFILE = "profile"


@dataclass(frozen=True, slots=True)
class Usage:
    """What was counted in a span under one heading."""

    span: Span
    link: str
    profile: str
    roaming: bool | None
    """None where it is not known."""
    kind: str
    """`app` and the like, or a row that is no process: `kernel`, `forwarded`, `unattributed`, `overflow`."""
    name: str
    """Of the app, user (its uid), link or profile; empty for a row that is no process."""
    counters: Counters
    gap_s: float = 0.0
    """Seconds of the span in which the link was not counted, or not looked at."""


_PROCESSES: Final = Kind.APP.value


def usage(
    db: sqlite3.Connection, cut: Sequence[Span], by: ReportBy, links: Sequence[str] = (), now_s: float | None = None
) -> Iterator[Usage]:
    """Every heading's sums, span by span; the sum of all of them is the ledger's.

    Spans shall begin and end on a minute, or on a quarter of an hour where minutes are no longer told apart.
    """
    named = {
        ReportBy.APP: "coalesce(app.name, '')",
        ReportBy.USER: "CASE kind WHEN 'app' THEN CAST(uid AS TEXT) ELSE '' END",
        ReportBy.LINK: "link.name",
        ReportBy.PROFILE: "profile.iccid",
    }[by]
    whole = by in (ReportBy.LINK, ReportBy.PROFILE)
    for span in cut:
        begin_s, end_s = span.begin.timestamp(), span.end.timestamp()
        rows = " UNION ALL ".join(
            f"SELECT * FROM {table} WHERE begin_s >= :begin_s AND begin_s < :end_s"
            for table in _tables(begin_s, end_s, now_s)
        )
        query = f"""
            SELECT link.name, profile.iccid, roaming, {f"'{by}'" if whole else "kind"}, {named},
                sum(rx_bytes), sum(tx_bytes), sum(rx_packets), sum(tx_packets)
            FROM ({rows}) AS counted
            JOIN link ON link.id = counted.link_id
            JOIN profile ON profile.id = counted.profile_id
            LEFT JOIN app ON app.id = counted.app_id
            GROUP BY 1, 2, 3, 4, 5
            ORDER BY sum(rx_bytes) + sum(tx_bytes) DESC, 5
        """
        gaps = _gaps(db, begin_s, end_s)
        for link, profile, roaming, kind, name, *counters in db.execute(query, {"begin_s": begin_s, "end_s": end_s}):
            if links and link not in links:
                continue
            yield Usage(
                span,
                link,
                profile,
                None if roaming < 0 else bool(roaming),
                str(by) if kind == _PROCESSES else kind,
                name,
                Counters(*counters),
                gaps.get(link, 0.0),
            )
        # A span in which nothing was counted, but a gap is, is told too.
        for link, seconds in gaps.items():
            if (not links or link in links) and not _anything(db, rows, link, begin_s, end_s):
                yield Usage(span, link, "unknown", None, Kind.UNATTRIBUTED, "", NOTHING, seconds)


def _anything(db: sqlite3.Connection, rows: str, link: str, begin_s: float, end_s: float) -> bool:
    query = f"SELECT 1 FROM ({rows}) WHERE link_id = (SELECT id FROM link WHERE name = :link) LIMIT 1"
    return db.execute(query, {"begin_s": begin_s, "end_s": end_s, "link": link}).fetchone() is not None


def _tables(begin_s: float, end_s: float, now_s: float | None) -> tuple[str, ...]:
    """The tables that have a span: minutes if it is not cut on quarters and they are still there."""
    quarters = begin_s % QUARTER_S == 0 and end_s % QUARTER_S == 0
    if not quarters and now_s is not None and begin_s >= now_s - KEEP_MINUTES_S:
        return ("minute",)
    return ("quarter", "day")


def grain_s(begin_s: float, now_s: float) -> int:
    """The seconds on which a report that begins then can be cut."""
    return MINUTE_S if begin_s >= now_s - KEEP_MINUTES_S else QUARTER_S


def _gaps(db: sqlite3.Connection, begin_s: float, end_s: float) -> dict[str, float]:
    """By link, the seconds of a span that are gaps; those of several causes that overlap count once."""
    found: dict[str, float] = {}
    last: dict[str, float] = {}
    for link, first, end in db.execute(
        "SELECT link.name, max(begin_s, :begin_s), min(end_s, :end_s) FROM gap JOIN link ON link.id = link_id "
        "WHERE begin_s < :end_s AND end_s > :begin_s ORDER BY 1, 2",
        {"begin_s": begin_s, "end_s": end_s},
    ):
        begin = max(first, last.get(link, first))
        if end > begin:
            found[link] = found.get(link, 0.0) + end - begin
            last[link] = end
    return found


def bounds(db: sqlite3.Connection) -> Span | None:
    """The time of which the ledger knows; None if it knows of none."""
    first, last = None, None
    for table, step in (("quarter", QUARTER_S), ("day", DAY_S)):
        begin_s, end_s = db.execute(f"SELECT min(begin_s), max(begin_s) FROM {table}").fetchone()
        if begin_s is not None:
            first = begin_s if first is None else min(first, begin_s)
            last = end_s + step if last is None else max(last, end_s + step)
    if first is None or last is None:
        return None
    return Span(datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC))


@contextmanager
def undone(db: sqlite3.Connection) -> Iterator[None]:
    """What is written within can be read within, and is then as if it had never been."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
