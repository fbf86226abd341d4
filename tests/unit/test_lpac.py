"""What lpac prints, from an eSIM that anybody may have made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf import lpac
from esimbpf.errors import CannotError, EsimbpfError, UsageError
from esimbpf.lpac import Installed

ICCID, OTHER = "8949020000001234567", "89430100000076543211"


def output(*profiles: object, **payload: Any) -> bytes:
    return json.dumps(
        {"type": "lpa", "payload": {"code": 0, "message": "success", "data": list(profiles), **payload}}
    ).encode()


def profile(**changed: Any) -> dict[str, Any]:
    """As lpac 2 prints it."""
    return {
        "iccid": ICCID,
        "isdpAid": "A0000005591010FFFFFFFF8900001100",
        "profileState": "enabled",
        "profileNickname": None,
        "serviceProviderName": "Provider",
        "profileName": "Provider eSIM",
        "iconType": "none",
        "icon": None,
        "profileClass": "operational",
    } | changed


def test_the_profiles_of_an_esim() -> None:
    other = profile(iccid=OTHER + "F", profileState="disabled", profileNickname=" Travel ")
    bare = {"iccid": "8988000000000000001"}
    assert lpac.parse(output(profile(), other, bare)) == (
        Installed(ICCID, "Provider", enabled=True),
        Installed(OTHER, "Travel", enabled=False),
        Installed("8988000000000000001", "", enabled=None),
    )
    assert lpac.parse(output()) == ()
    assert lpac.parse(output(profile(serviceProviderName="")))[0].label == "Provider eSIM"


def test_it_may_be_spread_over_lines_or_come_after_others() -> None:
    progress = b'{"type":"progress","payload":{"code":0,"message":"es10c_get_profiles_info","data":null}}\n'
    expected = (Installed(ICCID, "Provider", enabled=True),)
    assert lpac.parse(progress * 2 + output(profile()) + b"\n\n") == expected
    assert lpac.parse(json.dumps(json.loads(output(profile())), indent=2).encode()) == expected


def test_names_that_a_provider_chose_are_text_and_short() -> None:
    assert lpac.parse(output(profile(profileNickname="\x1b[2J[b]")))[0].label == "\\x1b[2J[b]"
    assert lpac.parse(output(profile(profileNickname="x" * 65)))[0].label == "x" * 63 + "…"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"lpac: not found", "is no JSON"),
        (b"[]", "no object of type lpa"),
        (b'{"type": "lpa"}', "no object of type lpa with a payload"),
        (b'{"type": "progress", "payload": {}}', "no object of type lpa"),
        (output(data=None), "data of lpac's output is null"),
        (output(data={"iccid": ICCID}), "and no list of profiles"),
        (output(7), "profile number 1 of lpac's output is 7, and no object"),
        (output(profile(), profile(iccid="\x1b[2J")), r"profile number 2 of lpac's output has iccid '\\x1b[2J'"),
        (output(profile(iccid=None)), "has iccid '', which is none"),
        (output(profile(iccid=8949020000001234567)), "has iccid 8949020000001234567, and no text"),
        (output(profile(profileName=["x"])), "has profileName ['x'], and no text"),
        (b" " * (lpac.LARGEST_BYTES + 1), "larger than 4 MiB"),
    ],
)
def test_what_is_broken_is_said(content: bytes, said: str) -> None:
    with pytest.raises(UsageError) as told:
        lpac.parse(content)
    assert said in told.value.message
    assert "lpac profile list" in told.value.hint
    assert len(told.value.message) < 300
    assert told.value.message.isprintable()


def test_that_lpac_has_failed_is_said_in_its_words() -> None:
    with pytest.raises(CannotError, match="lpac has failed: 'es10c_get_profiles_info', 'SCardListReaders'"):
        lpac.parse(output(code=-1, message="es10c_get_profiles_info", data="SCardListReaders"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["iccid", "profileState", "profileName"]), inner),
    max_leaves=8,
)


@given(JSON, st.sampled_from([0, 0, 0, -1, None]))
def test_whatever_it_says_is_understood_or_said_to_be_wrong(data: object, code: object) -> None:
    words: list[str] = []
    try:
        words = [one.label for one in lpac.parse(output(data=data, code=code))]
    except EsimbpfError as error:
        words = [error.message, error.hint]
    assert all(word.isprintable() for word in words)


# --- asked by esimbpf itself -------------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for lpac: it prints the file `said`."""
    program = tmp_path / "lpac"
    program.write_text(f'#!/bin/sh\n[ "$*" = "profile list" ] && cat {tmp_path}/said\necho no reader >&2\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "said"


def test_lpac_is_asked_for_its_list(fake: Path) -> None:
    fake.write_bytes(output(profile()))
    assert [one.iccid for one in lpac.ask()] == [ICCID]


def test_what_it_complains_of_is_passed_on(fake: Path) -> None:
    fake.write_bytes(output(code=-1, message="es10c", data=""))
    with pytest.raises(CannotError, match=r"lpac has failed: 'es10c', '' \(no reader\)"):
        lpac.ask()
    fake.write_text("")
    with pytest.raises(CannotError, match=r"lpac's output is no JSON.* \(no reader\)"):
        lpac.ask()


def test_that_it_is_not_there_or_hangs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotError, match="lpac is not installed"):
        lpac.ask()
    (tmp_path / "lpac").write_text("#!/bin/sh\nread line < /dev/tty; while :; do :; done\n")
    (tmp_path / "lpac").chmod(0o755)
    monkeypatch.setattr(lpac, "_LIMIT_S", 0.2)
    with pytest.raises(CannotError, match="has not answered within"):
        lpac.ask()
