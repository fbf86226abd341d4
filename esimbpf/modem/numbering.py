"""The numbers by which SIMs and networks are known: ICCID, EID, MCC and MNC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from esimbpf.modem.countries import country_of

__all__ = ["Plmn", "masked", "normal_eid", "normal_iccid"]

# Of EF_ICCID's 20 half bytes, E.118 uses 18 to 20; some of China's cards have hexadecimal ones behind the issuer's.
_ICCID: Final = re.compile(r"[0-9]{6}[0-9A-E]{12,14}")
_EID: Final = re.compile(r"[0-9]{32}")
_PLMN: Final = re.compile(r"([0-9]{3})-?([0-9]{2,3})")
_SHOWN: Final = 4


def normal_iccid(text: str) -> str | None:
    """An ICCID in its one form; None if it is none.

    Fillers at its end (F), spaces and dashes are left out. Source: ITU-T E.118; 3GPP TS 31.102, 4.2.2 (EF_ICCID).
    """
    plain = re.sub(r"[ -]", "", text).upper().rstrip("F")
    return plain if _ICCID.fullmatch(plain) else None


def normal_eid(text: str) -> str | None:
    """The number of an eUICC, of 32 digits (GSMA SGP.02, section 2.2.2); None if it is none."""
    return text if _EID.fullmatch(text) else None


def masked(number: str, last: int = _SHOWN) -> str:
    """An ICCID or EID as it is shown where people look on: issuer and last digits, as in `8949…1234`."""
    return f"{number[:_SHOWN]}…{number[-last:]}" if len(number) > _SHOWN + last else "…"


@dataclass(frozen=True, slots=True)
class Plmn:
    """A mobile network's number, in ITU-T E.212's form."""

    mcc: str
    """Three digits."""
    mnc: str
    """Two or three digits: 01 and 001 are two networks."""

    @classmethod
    def of(cls, text: str) -> Plmn | None:
        """Of `26201` or `262-01`; None if it is none, and for 00000, which stands for no network."""
        match = _PLMN.fullmatch(text)
        return cls(match[1], match[2]) if match and int(match[1]) else None

    def __str__(self) -> str:
        return f"{self.mcc}-{self.mnc}"

    @property
    def country(self) -> str | None:
        """In which the network is, as ISO 3166-1 alpha-2; None if that is not known for sure."""
        return country_of(self.mcc, self.mnc)
