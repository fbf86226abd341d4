"""What lpac, a local profile assistant, tells of the profiles on an eSIM: how each is named, and which is enabled.

It prints JSON (its docs/USAGE.md): a line `{"type": "lpa", "payload": {"code": 0, "message": "success", "data": …}}`,
before which there may be lines of type `progress`. Of `lpac profile list`, data is a list of objects with texts, or
null, by name: `iccid`, `profileState` (enabled or disabled), `profileNickname` (the user's), `serviceProviderName`,
`profileName` (the provider's), and others that are not read here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson

from esimbpf.errors import CannotError, EsimbpfError, UsageError
from esimbpf.fields import LONGEST_TEXT, as_given
from esimbpf.modem.numbering import normal_iccid
from esimbpf.text import printable

__all__ = ["LARGEST_BYTES", "Installed", "ask", "parse"]

LARGEST_BYTES: Final = 4 << 20
"""Of its output: profiles may have icons."""

_LIMIT_S: Final = 60.0
"""An eUICC answers within seconds; through a modem that is busy, it takes longer."""
_COMMAND: Final = ("lpac", "profile", "list")
_LABELS: Final = ("profileNickname", "serviceProviderName", "profileName")
"""The first that is not empty is what the profile is called."""
_HINT: Final = "give what `lpac profile list` prints"


@dataclass(frozen=True, slots=True)
class Installed:
    """A profile on an eSIM. Texts are safe to print."""

    iccid: str
    """In its normal form."""
    label: str
    """Its nickname, else its provider, else its name; empty if it has none."""
    enabled: bool | None
    """Whether it is the eSIM's active one; None if lpac does not say."""


def ask() -> tuple[Installed, ...]:
    """Run lpac, which talks to the eSIM: to be done only where somebody has asked for it.

    Which way it talks is said by its own environment variables (LPAC_APDU and others). Raises CannotError, and what
    `parse` raises.
    """
    path = shutil.which(_COMMAND[0])
    if path is None:
        raise CannotError("lpac is not installed", "install it, or give its output as a file: --lpac FILE")
    try:
        done = subprocess.run(
            [path, *_COMMAND[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CannotError(
            f"lpac has not answered within {_LIMIT_S:.0f} s", "see whether it does by itself: lpac profile list"
        ) from error
    except OSError as error:
        raise CannotError(f"lpac cannot be run: {error.strerror}", f"check {printable(path)}") from error
    try:
        return parse(done.stdout)
    except EsimbpfError as error:
        said = printable(done.stderr.strip()[-200:])
        more = f" ({said})" if said else ""
        raise CannotError(f"{error.message}{more}", "see what it says by itself: lpac profile list") from error


def parse(output: bytes) -> tuple[Installed, ...]:
    """The profiles in what `lpac profile list` has printed. Raises UsageError, or CannotError if lpac has failed."""
    if len(output) > LARGEST_BYTES:
        raise UsageError(f"lpac's output is larger than {LARGEST_BYTES >> 20} MiB", _HINT)
    payload = _payload(output)
    if payload.get("code") != 0:
        raise CannotError(
            f"lpac has failed: {as_given(payload.get('message'))}, {as_given(payload.get('data'))}",
            "see what it says by itself: lpac profile list",
        )
    entries = payload.get("data")
    if not isinstance(entries, list):
        raise UsageError(f"data of lpac's output is {_shown(entries)}, and no list of profiles", _HINT)
    found = {one.iccid: one for one in (_installed(entry, number) for number, entry in enumerate(entries, 1))}
    return tuple(found.values())


def _payload(output: bytes) -> Mapping[str, Any]:
    """Of the object that has the result."""
    for document in _documents(output):
        if isinstance(document, dict) and document.get("type") == "lpa" and isinstance(document.get("payload"), dict):
            payload: Mapping[str, Any] = document["payload"]
            return payload
    raise UsageError("lpac's output has no object of type lpa with a payload", _HINT)


def _documents(output: bytes) -> Iterable[Any]:
    """As one document, which may be spread over lines, or as one in each line, the last one first."""
    try:
        return [orjson.loads(output)]
    except orjson.JSONDecodeError as error:
        why = error
    lines = [line for line in output.splitlines() if line.strip()]
    with suppress(orjson.JSONDecodeError):
        if lines:
            return [orjson.loads(line) for line in reversed(lines)]
    raise UsageError(f"lpac's output is no JSON: {printable(str(why))}", _HINT) from why


def _installed(entry: object, number: int) -> Installed:
    where = f"profile number {number} of lpac's output"
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is {_shown(entry)}, and no object", _HINT)
    texts = {name: _text(entry, name, where) for name in ("iccid", "profileState", *_LABELS)}
    iccid = normal_iccid(texts["iccid"])
    if iccid is None:
        raise UsageError(f"{where} has iccid {printable(texts['iccid'])!r}, which is none", _HINT)
    label = next((text for name in _LABELS if (text := _label(texts[name]))), "")
    return Installed(iccid, label, {"enabled": True, "disabled": False}.get(texts["profileState"].lower()))


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    """A text; empty if it is null or left out."""
    value = entry.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{where} has {name} {_shown(value)}, and no text", _HINT)
    return value


def _label(text: str) -> str:
    """As it can be shown: in one line, and not too long."""
    shown = printable(text.strip())
    return shown if len(shown) <= LONGEST_TEXT else shown[: LONGEST_TEXT - 1] + "…"


def _shown(value: object) -> str:
    return "null" if value is None else as_given(value)
