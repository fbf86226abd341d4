"""How wrong input is told: with the field, what was given, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, time
from typing import Final

from esimbpf.errors import UsageError
from esimbpf.text import printable

__all__ = ["LONGEST_TEXT", "as_given", "checked_text", "naming"]

LONGEST_TEXT: Final = 64
"""Characters that a name or a label may have."""

_LONGEST: Final = 100
"""Characters of what was given that are told."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Have a UsageError say first of what it is: the field, or the place in a file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{what} {error.message}", error.hint) from error


def as_given(value: object) -> str:
    """A value of a TOML file as a person may have written it, not too long and safe to print."""
    text = _as_toml(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _as_toml(value: object) -> str:
    match value:
        case str():
            return f"'{printable(value)}'"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_as_toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{printable(key)} = {_as_toml(one)}' for key, one in value.items())}}}"
        case date() | time():
            return value.isoformat()
    return str(value)


def checked_text(field: str, text: str, longest: int = LONGEST_TEXT) -> str:
    """A text that can be shown as it is; UsageError if it is none."""
    if not 1 <= len(text) <= longest or text.strip() != text or printable(text) != text:
        raise UsageError(
            f"{field} {printable(text)!r} cannot be used",
            f"give 1 to {longest} characters that can be seen, with no space before or behind them",
        )
    return text
