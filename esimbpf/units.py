"""Bytes and rates as people read and write them."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from typing import Final

from esimbpf.errors import UsageError
from esimbpf.text import printable

__all__ = ["Units", "bytes_text", "parse_rate", "parse_size", "rate_text"]


class Units(StrEnum):
    """Prefixes of bytes."""

    SI = "si"
    """Decimal: 1 kB is 1000 bytes, as carriers count."""
    IEC = "iec"
    """Binary: 1 KiB is 1024 bytes (IEC 80000-13)."""


_PREFIXES: Final = {Units.SI: ("B", "kB", "MB", "GB", "TB", "PB"), Units.IEC: ("B", "KiB", "MiB", "GiB", "TiB", "PiB")}


def bytes_text(count: float, units: Units = Units.SI) -> str:
    """A number of bytes with three digits, as in `0 B`, `999 B`, `1.00 kB`, `12.3 MB`, `456 GiB`."""
    step = 1000 if units is Units.SI else 1024
    prefixes = _PREFIXES[units]
    value = float(count)
    for prefix in prefixes:
        # What would round up to the next prefix is shown with it.
        if value < (999.5 if prefix != "B" else step) or prefix == prefixes[-1]:
            break
        value /= step
    if prefix == "B":
        return f"{value:.0f} B"
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f} {prefix}"


def rate_text(bytes_per_second: float, units: Units = Units.SI) -> str:
    """A rate, as in `12.3 kB/s`; less than one byte per second is `0`."""
    return f"{bytes_text(bytes_per_second, units)}/s" if bytes_per_second >= 0.5 else "0"


# SI's prefixes by thousands, IEC's (IEC 80000-13) by 1024; people write K for SI's k.
_FACTORS: Final = {
    prefix + ending: (1000 if not ending else 1024) ** power
    for power, prefix in enumerate(("", "k", "m", "g", "t", "p"))
    for ending in ("", "i")
    if prefix or not ending
}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgtp]i?)?b)?", re.IGNORECASE)
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]i?)?(b/s|bit(?:/s)?)", re.IGNORECASE)
_MOST: Final = 2**63 - 1


def parse_size(text: str) -> int:
    """Bytes of a size: `500MB`, `1.5GiB`, `1200B`; a bare number is bytes. Parts of a byte are cut off.

    Raises UsageError.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{printable(text)!r} is no size", "write it as 500MB, 1.5GiB or 1200B")
    amount = int(Decimal(found[1]) * _FACTORS[(found[2] or "").lower()])
    if amount > _MOST:
        raise UsageError(f"{printable(text)!r} is no size that can be counted", f"give at most {_MOST} bytes")
    return amount


def parse_rate(text: str) -> float:
    """Bytes per second of a rate: `128kbit`, `1Mbit/s`, `200kB/s`. Raises UsageError."""
    found = _RATE.fullmatch(text.strip())
    if not found or not Decimal(found[1]):
        raise UsageError(f"{printable(text)!r} is no rate", "write it as 128kbit, 1Mbit or 200kB/s")
    amount = Decimal(found[1]) * _FACTORS[(found[2] or "").lower()]
    return float(amount if found[3].lower() == "b/s" else amount / 8)
