"""The SIM profiles that the ledger knows, how they are labelled, and what each has used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from esimbpf.errors import UsageError
from esimbpf.ledger import plans
from esimbpf.ledger.database import transaction
from esimbpf.ledger.query import ReportBy, usage
from esimbpf.modem.model import Operator
from esimbpf.modem.numbering import Plmn
from esimbpf.places import ByPlace
from esimbpf.plan import Plan
from esimbpf.profiles import KnownProfile
from esimbpf.spans import Per, Span, cycle_at, span_at, zone_named

__all__ = ["ProfileUse", "known", "label", "note_lpac", "uses"]

_KNOWN: Final = """
    SELECT iccid, esim, own_label, lpac_label, home, network.name FROM (
        SELECT *, (
            SELECT network FROM identity WHERE profile_id = profile.id AND roaming = 0 AND network != ''
            ORDER BY identity.id DESC LIMIT 1
        ) AS home FROM profile
    ) LEFT JOIN network ON plmn = home ORDER BY id = 1, id
"""
"""The one that is not known comes last. The home network is the one that has served at home, the last one of several
that have (a national one beside the own one is told as roaming)."""


def known(db: sqlite3.Connection) -> list[KnownProfile]:
    """All profiles ever seen, in the order in which they were; the last one is that which is not known."""
    return [
        KnownProfile(
            iccid,
            None if esim is None else bool(esim),
            own_label,
            lpac_label,
            Operator(Plmn.of(home), name or "") if home else None,
        )
        for iccid, esim, own_label, lpac_label, home, name in db.execute(_KNOWN)
    ]


def label(db: sqlite3.Connection, iccid: str, text: str) -> None:
    """Label a profile, which need not have been seen; with an empty text as if nobody had. Raises UsageError if another
    one is labelled so."""
    with transaction(db):
        for other, theirs in db.execute("SELECT iccid, own_label FROM profile WHERE own_label != ''"):
            if other != iccid and theirs.casefold() == text.casefold():
                raise UsageError(
                    f"label {text!r} is taken by another profile", "give another one, or change that first"
                )
        _note(db, "own_label", {iccid: text})


def note_lpac(db: sqlite3.Connection, labels: Mapping[str, str]) -> None:
    """Keep, by ICCID, how lpac names the profiles of an eSIM; they need not have been seen."""
    with transaction(db):
        _note(db, "lpac_label", labels)
        db.executemany("UPDATE profile SET esim = 1 WHERE iccid = ?", [(iccid,) for iccid in labels])


def _note(db: sqlite3.Connection, column: str, labels: Mapping[str, str]) -> None:
    db.executemany("INSERT OR IGNORE INTO profile (iccid) VALUES (?)", [(iccid,) for iccid in labels])
    db.executemany(
        f"UPDATE profile SET {column} = ? WHERE iccid = ?", [(text, iccid) for iccid, text in labels.items()]
    )


@dataclass(frozen=True, slots=True)
class ProfileUse:
    """What a profile has used."""

    profile: KnownProfile
    plan: Plan | None
    """What was agreed for it."""
    span: Span
    """The running cycle of the plan, or this month where there is none."""
    in_cycle: bool
    """Whether it is the plan's cycle."""
    used: ByPlace
    """In that span."""
    last_counted: datetime | None
    """To the minute, or what it was told apart by when it was counted; None if nothing ever was."""


def uses(db: sqlite3.Connection, profiles: Iterable[KnownProfile], now: datetime, zone: tzinfo) -> list[ProfileUse]:
    """What profiles have used, in their order; months are cut in this zone."""
    by_target = {plan.target: plan for plan in plans.kept(db)}
    last = _last_counted(db)
    rows: dict[Span, Sequence[tuple[str, bool | None, int]]] = {}
    found = []
    for one in profiles:
        plan = by_target.get(f"profile:{one.iccid}")
        cycle = cycle_at(plans.cycle_of(db, plan), now, zone_named(plan.zone)) if plan else None
        span = cycle or span_at(Per.MONTH, now, zone)
        if span not in rows:
            rows[span] = [
                (row.profile, row.roaming, row.counters.total_bytes) for row in usage(db, [span], ReportBy.PROFILE)
            ]
        used = ByPlace.of((roaming, amount) for iccid, roaming, amount in rows[span] if iccid == one.iccid)
        found.append(ProfileUse(one, plan, span, cycle is not None, used, last.get(one.iccid)))
    return found


def _last_counted(db: sqlite3.Connection) -> dict[str, datetime]:
    """By ICCID, when anything was counted last."""
    rows = db.execute(
        "SELECT iccid, max(last_s) FROM ("
        + " UNION ALL ".join(
            f"SELECT identity_id, max(begin_s) AS last_s FROM {table} GROUP BY identity_id"
            for table in ("minute", "quarter", "day")
        )
        + ") JOIN identity ON identity.id = identity_id JOIN profile ON profile.id = profile_id GROUP BY iccid"
    )
    return {iccid: datetime.fromtimestamp(last_s, UTC) for iccid, last_s in rows}
