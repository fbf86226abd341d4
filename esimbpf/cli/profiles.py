"""`esimbpf profiles`: the SIM profiles that were ever seen."""

from __future__ import annotations

from esimbpf.cli.options import Common
from esimbpf.cli.report import ledger_if_any
from esimbpf.ledger import profiles
from esimbpf.modem.numbering import normal_iccid
from esimbpf.profiles import chosen

__all__ = ["chosen_profile"]


def chosen_profile(common: Common, text: str) -> str:
    """The ICCID of the profile that is meant; UsageError if none is, or several."""
    found = normal_iccid(text)
    if found:
        return found
    with ledger_if_any(common) as db:
        return chosen(text, profiles.known(db))
