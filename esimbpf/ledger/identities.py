"""On whose account, and where, bytes were moved: the identities that the ledger's buckets name by their numbers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from esimbpf.modem.identity import Identity

__all__ = ["UNKNOWN", "ids_of"]

UNKNOWN: Final = "unknown"
"""Stands for a SIM profile, or whatever else, that is not known."""


def ids_of(db: sqlite3.Connection, identities: Iterable[Identity]) -> Mapping[Identity, int]:
    """The numbers of identities, which are noted if they are new, with what is known of their profiles and networks."""
    return {one: _id_of(db, one) for one in identities}


def _id_of(db: sqlite3.Connection, identity: Identity) -> int:
    operator = identity.operator
    network = str(operator.plmn) if operator and operator.plmn else ""
    iccid = identity.profile or UNKNOWN
    db.execute("INSERT OR IGNORE INTO profile (iccid) VALUES (?)", (iccid,))
    if identity.esim is not None:
        db.execute("UPDATE profile SET esim = :esim WHERE iccid = :iccid", {"esim": identity.esim, "iccid": iccid})
    if operator and network and operator.name:
        db.execute(
            "INSERT INTO network VALUES (?, ?) ON CONFLICT DO UPDATE SET name = excluded.name", (network, operator.name)
        )
    (profile_id,) = db.execute("SELECT id FROM profile WHERE iccid = ?", (iccid,)).fetchone()
    row = (
        profile_id,
        network,
        -1 if identity.roaming is None else int(identity.roaming),
        identity.country or "",
        identity.technology or "",
    )
    db.execute(
        "INSERT OR IGNORE INTO identity (profile_id, network, roaming, country, technology) VALUES (?, ?, ?, ?, ?)", row
    )
    found: int = db.execute(
        "SELECT id FROM identity WHERE (profile_id, network, roaming, country, technology) = (?, ?, ?, ?, ?)",
        row,
    ).fetchone()[0]
    return found
