"""On whose account, and where, bytes were moved: the identities that the ledger's buckets name by their numbers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from esimbpf.modem.identity import Identity
from esimbpf.modem.model import Operator
from esimbpf.modem.numbering import Plmn

__all__ = ["UNKNOWN", "Key", "identity_of", "ids_of", "key_of", "key_when_counted_last"]

UNKNOWN: Final = "unknown"
"""Stands for a SIM profile, or whatever else, that is not known."""

Key = tuple[str, str, int, str, str]
"""What tells identities apart: ICCID, network, roaming, country and technology, as the tables have them."""


def key_of(identity: Identity) -> Key:
    """An identity's."""
    operator = identity.operator
    return (
        identity.profile or UNKNOWN,
        str(operator.plmn) if operator and operator.plmn else "",
        -1 if identity.roaming is None else int(identity.roaming),
        identity.country or "",
        identity.technology or "",
    )


def identity_of(key: Key) -> Identity:
    """The identity of a key, without what does not tell identities apart: whether it is an eSIM, the network's name."""
    iccid, network, roaming, country, technology = key
    plmn = Plmn.of(network)
    return Identity(
        profile=None if iccid == UNKNOWN else iccid,
        operator=Operator(plmn) if plmn else None,
        roaming=None if roaming < 0 else bool(roaming),
        country=country or None,
        technology=technology or None,
    )


def key_when_counted_last(db: sqlite3.Connection, link: int) -> Key:
    """That of a link when it was counted last."""
    found: Key = db.execute(
        "SELECT iccid, network, roaming, country, technology FROM counted JOIN identity ON identity.id = identity_id "
        "JOIN profile ON profile.id = profile_id WHERE link_id = ?",
        (link,),
    ).fetchone()
    return found


def ids_of(db: sqlite3.Connection, identities: Iterable[Identity]) -> Mapping[Identity, int]:
    """The numbers of identities, which are noted if they are new, with what is known of their profiles and networks."""
    return {one: _id_of(db, one) for one in identities}


def _id_of(db: sqlite3.Connection, identity: Identity) -> int:
    iccid, network, *rest = key_of(identity)
    db.execute("INSERT OR IGNORE INTO profile (iccid) VALUES (?)", (iccid,))
    if identity.esim is not None:
        db.execute("UPDATE profile SET esim = :esim WHERE iccid = :iccid", {"esim": identity.esim, "iccid": iccid})
    if identity.operator and network and identity.operator.name:
        db.execute("INSERT OR REPLACE INTO network VALUES (?, ?)", (network, identity.operator.name))
    (profile_id,) = db.execute("SELECT id FROM profile WHERE iccid = ?", (iccid,)).fetchone()
    row = (profile_id, network, *rest)
    db.execute(
        "INSERT OR IGNORE INTO identity (profile_id, network, roaming, country, technology) VALUES (?, ?, ?, ?, ?)", row
    )
    found: int = db.execute(
        "SELECT id FROM identity WHERE (profile_id, network, roaming, country, technology) = (?, ?, ?, ?, ?)", row
    ).fetchone()[0]
    return found
