"""What the ledger says of a time: sums by link, profile and whatever else is asked for, and the gaps in it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from esimbpf.ledger.fold import DAY_S, KEEP_MINUTES_S, MINUTE_S, QUARTER_S
from esimbpf.ledger.identities import UNKNOWN
from esimbpf.model import NOTHING, Counters, Kind
from esimbpf.spans import Span

__all__ = ["ReportBy", "Usage", "bounds", "grain_s", "undone", "usage"]


class ReportBy(StrEnum):
    """What a row of a report stands for."""

    APP = "app"
    USER = "user"
    LINK = "link"
    PROFILE = "profile"
    NETWORK = "network"
    COUNTRY = "country"
    TECHNOLOGY = "technology"


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
    """Of the app, user (its uid), link or whatever else; empty for a row that is no process."""
    counters: Counters
    gap_s: float = 0.0
    """Seconds of the span in which the link was not counted: what it moved then is missing."""
    unread_s: float = 0.0
    """Seconds in which it was counted, and nobody looked: what it moved then stands at their end."""
    off_s: float = 0.0
    """Of gap_s, those before the machine was started again: it was off for most of them."""
    blocked: Counters = NOTHING
    """What quotas have blocked: what of it was received is in `counters` as well, what was to be sent is not."""


_PROCESSES: Final = Kind.APP.value

_NO_HEADING: Final = "0, ''"

_HEADINGS: Final = {
    ReportBy.APP: "app_id, kind",
    ReportBy.USER: "uid, kind",
}
"""Of what the rows of processes stand for; all others are sums over these and all other rows."""

# A span has the quarters of an hour that begin in it. Where an edge cuts one, the minutes before the edge are the
# earlier span's and the rest is the later one's, also if the minutes are no longer known: whatever is cut, no byte is
# lost or doubled. What is known by days of UTC is where most of the day is.
_BEGIN: Final = f":begin_s / {QUARTER_S} * {QUARTER_S}"
_END: Final = f":end_s / {QUARTER_S} * {QUARTER_S}"
_PARTS: Final = (
    ("quarter", 1, f"begin_s >= {_BEGIN} AND begin_s < {_END}"),
    ("minute", 1, f"begin_s >= {_END} AND begin_s < :end_s"),
    ("minute", -1, f"begin_s >= {_BEGIN} AND begin_s < :begin_s"),
    ("day", 1, f"begin_s >= :begin_s - {DAY_S // 2} AND begin_s < :end_s - {DAY_S // 2}"),
)


def usage(db: sqlite3.Connection, cut: Sequence[Span], by: ReportBy, links: Sequence[str] = ()) -> Iterator[Usage]:
    """Every heading's sums, span by span, the largest first; of spans without a hole, all together are the ledger's.

    Where nothing but a gap is known of a link in a span, a row without bytes tells it.
    """
    names = _Names(db, by)
    gaps = list(_gaps(db))
    counted_by, blocked_by = _queries(by), _queries(by, "blocked_") if _anything_blocked(db) else []
    for span in cut:
        begin_s, end_s = span.begin.timestamp(), span.end.timestamp()
        bounds_s = {"begin_s": math.ceil(begin_s), "end_s": math.ceil(end_s)}
        sums, blocked = (_sums(db, names, queries, bounds_s) for queries in (counted_by, blocked_by))
        for heading in blocked:
            sums.setdefault(heading, NOTHING)
        missing = {cause: _seconds(gaps, cause, begin_s, end_s) for cause in ("down", "unread", "off")}
        rows = []
        for heading, counters in sums.items():
            name, kind, link_id, profile, roaming = heading
            link, dropped = names.links[link_id], blocked.get(heading, NOTHING)
            if (counters or dropped) and (not links or link in links):
                shown = str(by) if kind == _PROCESSES else kind
                rows.append(
                    Usage(span, link, profile, roaming, shown, name, counters, *_told(missing, link_id), dropped)
                )
        rows.sort(key=lambda row: (-row.counters.total_bytes, -row.blocked.total_bytes, row.name, row.kind, row.link))
        yield from rows
        counted = {row.link for row in rows}
        for link_id in sorted({link_id for of_cause in missing.values() for link_id in of_cause}):
            link = names.links[link_id]
            if link not in counted and (not links or link in links):
                if by in _HEADINGS:
                    kind, name = Kind.UNATTRIBUTED.value, ""
                else:
                    kind, name = by.value, link if by is ReportBy.LINK else UNKNOWN
                yield Usage(span, link, UNKNOWN, None, kind, name, NOTHING, *_told(missing, link_id))


_Heading = tuple[str, str, int, str, bool | None]
"""Name and kind, link, profile, whether roaming."""


def _queries(by: ReportBy, what: str = "") -> list[str]:
    """Those that tell the sums of a span, which are to be added."""
    # Columns that tell most rows apart come first: grouping compares them in this order.
    return [
        f"SELECT {_HEADINGS.get(by, _NO_HEADING)}, identity_id, link_id, {sign} * sum(rx_bytes), "
        f"{sign} * sum(tx_bytes), {sign} * sum(rx_packets), {sign} * sum(tx_packets) FROM {what}{table} WHERE {where} "
        "GROUP BY 1, 2, 3, 4"
        for table, sign, where in _PARTS
    ]


def _sums(
    db: sqlite3.Connection, names: _Names, queries: Sequence[str], bounds_s: Mapping[str, int]
) -> dict[_Heading, Counters]:
    sums: dict[_Heading, Counters] = {}
    for query in queries:
        for number, kind, identity_id, link_id, *amounts in db.execute(query, bounds_s):
            heading, counters = names.heading(number, kind, identity_id, link_id), Counters(*amounts)
            sums[heading] = sums[heading] + counters if heading in sums else counters
    return sums


def _anything_blocked(db: sqlite3.Connection) -> bool:
    """Whether anything was ever blocked; what minutes have, quarters and days have, too."""
    found = db.execute("SELECT EXISTS (SELECT 1 FROM blocked_quarter) OR EXISTS (SELECT 1 FROM blocked_day)").fetchone()
    return bool(found[0])


def _told(missing: Mapping[str, Mapping[int, float]], link_id: int) -> tuple[float, float, float]:
    """A link's gap_s, unread_s and off_s."""
    down, unread, off = (missing[cause].get(link_id, 0.0) for cause in ("down", "unread", "off"))
    return down + off, unread, off


class _Names:
    """What the numbers in the tables stand for."""

    def __init__(self, db: sqlite3.Connection, by: ReportBy) -> None:
        self._by = by
        self.links: dict[int, str] = dict(db.execute("SELECT id, name FROM link"))
        self._apps: dict[int, str] = dict(db.execute("SELECT id, name FROM app")) if by is ReportBy.APP else {}
        networks: dict[str, str] = dict(db.execute("SELECT plmn, name FROM network"))
        self._identities = {
            number: _Whose(
                iccid,
                None if roaming < 0 else bool(roaming),
                f"{network} {networks.get(network, '')}".strip(),
                country,
                technology,
            )
            for number, iccid, network, roaming, country, technology in db.execute(
                "SELECT identity.id, iccid, network, roaming, country, technology FROM identity "
                "JOIN profile ON profile.id = profile_id"
            )
        }

    def heading(self, number: int, kind: str, identity_id: int, link_id: int) -> _Heading:
        """Of a row of the tables."""
        whose = self._identities[identity_id]
        name = self._name(number, kind, whose, link_id)
        return name, self._by.value if self._by not in _HEADINGS else kind, link_id, whose.profile, whose.roaming

    def _name(self, number: int, kind: str, whose: _Whose, link_id: int) -> str:
        match self._by:
            case ReportBy.APP:
                return self._apps.get(number, "") if kind == _PROCESSES else ""
            case ReportBy.USER:
                return str(number) if kind == _PROCESSES else ""
            case ReportBy.LINK:
                return self.links[link_id]
            case ReportBy.PROFILE:
                return whose.profile
            case ReportBy.NETWORK:
                return whose.network or UNKNOWN
            case ReportBy.COUNTRY:
                return whose.country or UNKNOWN
            case ReportBy.TECHNOLOGY:
                return whose.technology or UNKNOWN


@dataclass(frozen=True, slots=True)
class _Whose:
    """An identity, in words; empty where it is not known."""

    profile: str
    roaming: bool | None
    network: str
    country: str
    technology: str


def grain_s(moment_s: float, now_s: float) -> int:
    """The seconds on which a report can be cut at a moment."""
    return MINUTE_S if moment_s >= now_s - KEEP_MINUTES_S else QUARTER_S


_Gap = tuple[int, str, float, float]


def _gaps(db: sqlite3.Connection) -> Iterator[_Gap]:
    """Link, cause, begin and end of all gaps; those of one link and cause that overlap are one."""
    last: _Gap | None = None
    for link, cause, begin_s, end_s in db.execute("SELECT link_id, cause, begin_s, end_s FROM gap ORDER BY 1, 2, 3"):
        if last and last[:2] == (link, cause) and begin_s <= last[3]:
            last = (link, cause, last[2], max(last[3], end_s))
            continue
        if last:
            yield last
        last = (link, cause, begin_s, end_s)
    if last:
        yield last


def _seconds(gaps: Sequence[_Gap], cause: str, begin_s: float, end_s: float) -> dict[int, float]:
    """By link, how much of a span is gaps of a cause."""
    found: dict[int, float] = {}
    for link, why, first, last in gaps:
        seconds = min(last, end_s) - max(first, begin_s)
        if why == cause and seconds > 0:
            found[link] = found.get(link, 0.0) + seconds
    return found


def bounds(db: sqlite3.Connection) -> Span | None:
    """The time of which the ledger knows; None if it knows of none."""
    first, last = None, None
    for table, step in (
        ("quarter", QUARTER_S),
        ("day", DAY_S),
        ("blocked_quarter", QUARTER_S),
        ("blocked_day", DAY_S),
    ):
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
