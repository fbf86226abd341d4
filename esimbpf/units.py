"""Bytes and rates as people read them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["Units", "bytes_text", "rate_text"]


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
