"""The SIM profiles that the ledger knows, and how they are labelled."""

from __future__ import annotations

import sqlite3
from typing import Final

from esimbpf.profiles import KnownProfile

__all__ = ["known"]

_KNOWN: Final = """
    SELECT iccid, esim, own_label, lpac_label, coalesce((
        SELECT trim(identity.network || ' ' || coalesce(network.name, ''))
        FROM identity LEFT JOIN network ON plmn = identity.network
        WHERE profile_id = profile.id AND roaming = 0 AND identity.network != '' ORDER BY identity.id DESC LIMIT 1
    ), '') FROM profile ORDER BY profile.id = 1, profile.id
"""
"""The one that is not known comes last. The home network is the one that has served at home, the last one of several
that have (a national one beside the own one is told as roaming)."""


def known(db: sqlite3.Connection) -> list[KnownProfile]:
    """All profiles ever seen, in the order in which they were; the last one is that which is not known."""
    return [
        KnownProfile(iccid, None if esim is None else bool(esim), own_label, lpac_label, operator)
        for iccid, esim, own_label, lpac_label, operator in db.execute(_KNOWN)
    ]
