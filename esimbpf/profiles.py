"""SIM profiles as people know them: by a label, and by a number (ICCID) that is shown in full only on demand.

An ICCID is as good as a name: whoever has it can tell whose the card is. So every output, for people and for programs,
has it masked, and goes through `ProfileNames` for that, or through `numbering.masked`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from esimbpf.errors import UsageError
from esimbpf.fields import checked_text
from esimbpf.modem.model import Operator
from esimbpf.modem.numbering import masked, normal_iccid
from esimbpf.text import printable

__all__ = ["KnownProfile", "LabelFrom", "ProfileNames", "checked_label", "chosen", "parse_iccid"]

_PROFILE: Final = "profile:"
_ENOUGH: Final = 4
"""Last digits of an ICCID by which it may be named; as many as are shown of a masked one."""
_LAST_DIGITS: Final = re.compile(r"[0-9A-E]{4,17}")
_MASKED: Final = re.compile(r"([0-9A-F]{4})(?:…|\.{2,3})([0-9A-E]{4,15})")

LabelFrom = Literal["user", "lpac", "operator"]
"""Who has labelled a profile: `user`, `lpac`, or `operator` where only that is known."""


@dataclass(frozen=True, slots=True)
class KnownProfile:
    """A SIM profile and what it is called. Texts are safe to print."""

    iccid: str
    """In its normal form; or `unknown`, of what was moved while nobody knew the profile."""
    esim: bool | None = None
    own_label: str = ""
    """The user's."""
    lpac_label: str = ""
    """What lpac has told of the eSIM: its nickname, provider or name."""
    operator: Operator | None = None
    """Whose network is its home."""

    @property
    def label(self) -> str:
        """What to call it; empty if nothing but its number is known."""
        return self.own_label or self.lpac_label or (self.operator.name if self.operator else "")

    @property
    def known(self) -> bool:
        """False for that which stands for one that is not known."""
        return normal_iccid(self.iccid) is not None

    @property
    def label_from(self) -> LabelFrom | None:
        """Where that comes from; None if there is none."""
        if self.own_label or self.lpac_label:
            return "user" if self.own_label else "lpac"
        return "operator" if self.label else None


class ProfileNames:
    """How an output names profiles: masked, or with `show_ids` in full.

    The masked form, as in `8949…4567`, is always the same for a profile; only where two known ones would have the same,
    both show more of their last digits.
    """

    def __init__(self, known: Iterable[KnownProfile] = (), show_ids: bool = False) -> None:
        self._show_ids = show_ids
        by_iccid = {one.iccid: one for one in known}
        self._labels = {iccid: one.label for iccid, one in by_iccid.items()}
        alike = Counter(map(masked, by_iccid))
        self._longer = {iccid: _told_apart(iccid, by_iccid) for iccid in by_iccid if alike[masked(iccid)] > 1}

    def number(self, iccid: str) -> str:
        """An ICCID as it is shown; what is none, as `unknown`, is shown as it is."""
        if self._show_ids or normal_iccid(iccid) is None:
            return iccid
        return self._longer.get(iccid) or masked(iccid)

    def named(self, iccid: str) -> str:
        """Label and number, for people."""
        return f"{self._labels.get(iccid, '')} {self.number(iccid)}".strip()

    def target(self, target: str) -> str:
        """A plan's target: `link:NAME`, or `profile:` and the number."""
        if not target.startswith(_PROFILE):
            return target
        return _PROFILE + self.number(target.removeprefix(_PROFILE))


def _told_apart(iccid: str, known: Iterable[str]) -> str:
    """Masked, with as many last digits as no other known one has that looks alike."""
    others = [other for other in known if other != iccid and masked(other) == masked(iccid)]
    digits = _ENOUGH
    while digits < len(iccid) - _ENOUGH and any(other.endswith(iccid[-digits:]) for other in others):
        digits += 1
    return masked(iccid, digits)


# -- what people write -------------------------------------------------------------------

_ALLOWED: Final = "its 18 to 20 digits"


def parse_iccid(text: str) -> str:
    """An ICCID in its normal form. Raises UsageError."""
    found = normal_iccid(text)
    if found is None:
        raise UsageError(
            f"profile {printable(text)!r} is no ICCID",
            f"give {_ALLOWED}; on the command line also its label or last digits, as esimbpf profiles shows them",
        )
    return found


def chosen(text: str, known: Sequence[KnownProfile]) -> str:
    """The ICCID of the profile that is meant by its number, its label, or its last digits, also as they are masked.

    Of the number the profile need not be known. Raises UsageError if none is meant, or several.
    """
    found = normal_iccid(text)
    if found:
        return found
    wanted = text.strip().casefold()
    profiles = [one for one in known if one.known]
    own = [one for one in profiles if wanted and one.own_label.casefold() == wanted]
    labelled = own or [one for one in profiles if wanted and one.label.casefold() == wanted]
    fitting = labelled or _ending(re.sub(r"[ -]", "", text).upper(), profiles)
    names = ProfileNames(profiles)
    if len(fitting) > 1:
        raise UsageError(
            f"profile {printable(text)!r} fits several: {', '.join(names.named(one.iccid) for one in fitting)}",
            f"give {_ALLOWED}, or more of the last ones",
        )
    if not fitting:
        there = ", ".join(names.named(one.iccid) for one in profiles)
        raise UsageError(
            f"profile {printable(text)!r} is no ICCID, and no SIM profile is labelled so or ends so",
            f"give {_ALLOWED}" + (f", or the label or last digits of one that is known: {there}" if there else ""),
        )
    return fitting[0].iccid


def _ending(digits: str, profiles: Iterable[KnownProfile]) -> list[KnownProfile]:
    shown = _MASKED.fullmatch(digits)
    if shown:
        return [one for one in profiles if one.iccid.startswith(shown[1]) and one.iccid.endswith(shown[2])]
    if _LAST_DIGITS.fullmatch(digits):
        return [one for one in profiles if one.iccid.endswith(digits)]
    return []


def checked_label(text: str) -> str:
    """A label that can be told from a number, and be shown as it is. Raises UsageError."""
    plain = re.sub(r"[ -]", "", text).upper()
    checked_text("label", text)
    if plain == "UNKNOWN" or normal_iccid(text) or _LAST_DIGITS.fullmatch(plain) or _MASKED.fullmatch(plain):
        raise UsageError(
            f"label {text!r} could be mistaken for a number, or for a profile that is not known", "give another one"
        )
    return text
