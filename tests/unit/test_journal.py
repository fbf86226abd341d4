"""What a service says to its manager and its journal."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from esimbpf.journal import log, notify, notify_reloading


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which a service manager listens, by a path or by an abstract name."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        if request.param == "path":
            listening.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        else:
            listening.bind("")  # the kernel chooses a free abstract name
            monkeypatch.setenv("NOTIFY_SOCKET", "@" + listening.getsockname()[1:].decode())
        listening.settimeout(5)
        yield listening


def test_the_manager_is_told_all_states_at_once(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=counting wwan0 ≥ 1 día")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=counting wwan0 ≥ 1 día"


def test_a_reload_says_when_it_has_begun(manager: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify_reloading()
    told = dict(line.split("=") for line in manager.recv(4096).decode().splitlines())
    assert told.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(
    "address", [None, "", "no/path", "vsock:2:1234", "/nonexistent/notify", "@nobody-listens-here"]
)
def test_where_nobody_listens_nothing_is_said(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_a_manager_that_has_gone_is_no_trouble(manager: socket.socket) -> None:
    manager.close()
    notify("WATCHDOG=1")


def test_the_journal_is_given_priorities_and_others_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    log("one")
    log("two", "warning")
    log("three", "error")
    assert capsys.readouterr().err == "<6>one\n<4>two\n<3>three\n"
    monkeypatch.delenv("JOURNAL_STREAM")
    log("four", "error")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} error: four\n", capsys.readouterr().err)
