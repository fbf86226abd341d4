"""Bytes apart by where they were moved: at home, and abroad, which is while roaming."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from esimbpf.units import Units, bytes_text

__all__ = ["ByPlace"]


@dataclass(frozen=True, slots=True)
class ByPlace:
    """Billable bytes of both directions."""

    home_bytes: int = 0
    abroad_bytes: int = 0
    unknown_bytes: int = 0
    """Moved while nobody knew where."""

    @classmethod
    def of(cls, amounts: Iterable[tuple[bool | None, int]]) -> Self:
        """The sums of amounts, each with whether it was moved while roaming; None where that is not known."""
        sums: dict[bool | None, int] = {}
        for roaming, amount in amounts:
            sums[roaming] = sums.get(roaming, 0) + amount
        return cls(sums.get(False, 0), sums.get(True, 0), sums.get(None, 0))

    @property
    def total_bytes(self) -> int:
        """Of all places."""
        return self.home_bytes + self.abroad_bytes + self.unknown_bytes

    @property
    def apart(self) -> bool:
        """Whether something was moved abroad, and something not."""
        return 0 < self.abroad_bytes < self.total_bytes

    def text(self, units: Units = Units.SI) -> str:
        """As in `1.20 GB at home, 300 MB abroad`; places in which nothing was moved are left out."""
        amounts = (
            (self.home_bytes, "at home"),
            (self.abroad_bytes, "abroad"),
            (self.unknown_bytes, "not known where"),
        )
        return ", ".join(f"{bytes_text(amount, units)} {where}" for amount, where in amounts if amount)
