"""The live table in a terminal of its own: keys, signals, and the terminal as it was afterwards."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from esimbpf.sinks.terminal import decode

PROGRAM = """
import os, sys
from datetime import UTC, datetime
from esimbpf.model import Counters, GroupBy, Kind, Link, LinkTick, Process, Row, Start, Tick
from esimbpf.sinks.live import top

LINK = Link("wwan0", 2, "wwan", ("10.0.0.2",))

class Session:
    def __init__(self):
        self.count = 0
        self.read, _ = os.pipe()
        self.start = Start(datetime.now(UTC), "h", "b", 0, "libbpf", 0.05, GroupBy.APP, (LINK,))
    def tick(self):
        self.count += 1
        if self.count == int(os.environ.get("FAIL_AT", "-1")):
            raise RuntimeError("broken")
        return self.view(GroupBy.APP)
    def view(self, by):
        one = Counters(1000, 10, 1, 1)
        names = ["curl", "[bold red]markup", "firefox"]
        own = Process(1, 2, 0, "curl", "/usr/bin/curl", (), "/")
        rows = [Row(Kind(by.value), n, f"{n}-{by.value}", one, one, processes=(own,)) for n in names]
        rows += [Row(k, k.value, k.value, Counters(), Counters())
                 for k in (Kind.KERNEL, Kind.FORWARDED, Kind.UNATTRIBUTED)]
        return Tick(datetime.now(UTC), 1.0, (LinkTick(LINK, True, tuple(rows), one, one),))
    def fileno(self):
        return self.read
    def follow_links(self):
        pass

top(Session(), 0.05, GroupBy.APP)
"""


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, env: dict[str, str]) -> None:
        self.main, self.terminal = pty.openpty()
        termios.tcsetwinsize(self.terminal, (24, 80))
        self.before = self.settings()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=self.terminal,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env},
        )
        self.seen = b""

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.terminal)

    def expect(self, wanted: bytes) -> None:
        """Read until this has come."""
        end = time.monotonic() + 10
        while wanted not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{wanted!r} did not come: {self.seen[-2000:]!r}"
            if select.select([self.main], [], [], left)[0]:
                self.seen += os.read(self.main, 65536)

    def press(self, keys: str) -> None:
        self.seen = b""
        os.write(self.main, keys.encode())

    def end(self) -> int:
        status = self.process.wait(10)
        while select.select([self.main], [], [], 0)[0]:
            self.seen += os.read(self.main, 65536)
        return status


@contextmanager
def terminal(**env: str) -> Iterator[Terminal]:
    shown = Terminal(env)
    try:
        shown.expect(b"curl-app")
        yield shown
    finally:
        shown.process.kill()
        shown.process.wait()
        os.close(shown.main)
        os.close(shown.terminal)


def assert_restored(shown: Terminal) -> None:
    assert shown.settings() == shown.before
    assert shown.seen.rindex(b"\x1b[?1049l") > shown.seen.rfind(b"\x1b[?1049h"), "left the alternate screen"
    assert shown.seen.rindex(b"\x1b[?25h") > shown.seen.rfind(b"\x1b[?25l"), "shows the cursor"


def test_q_quits_and_gives_the_terminal_back() -> None:
    with terminal() as shown:
        assert shown.settings() != shown.before
        shown.press("q")
        assert shown.end() == 0
        assert_restored(shown)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_gives_the_terminal_back(number: signal.Signals) -> None:
    with terminal() as shown:
        shown.process.send_signal(number)
        assert shown.end() == 0
        assert_restored(shown)


def test_a_failure_gives_the_terminal_back() -> None:
    with terminal(FAIL_AT="3") as shown:
        assert shown.end() == 1
        assert_restored(shown)


def test_keys_group_filter_pause_and_help() -> None:
    with terminal() as shown:
        shown.press("b")
        shown.expect(b"curl-process")
        shown.press("bbb")
        shown.expect(b"curl-app")
        shown.press("p")
        shown.expect(b"PAUSED")
        shown.press("p?")
        shown.expect(b"unattributed  what is left")
        shown.press("x/fire")
        shown.expect(b"filter: fire")
        shown.press("\r")
        shown.expect(b"firefox-app")
        assert b"curl-app" not in shown.seen.split(b"filter: fire")[-1]


def test_markup_in_a_name_stays_text() -> None:
    with terminal() as shown:
        shown.press("")
        shown.expect(b"[bold red]mar")


def test_a_resize_is_followed_at_once() -> None:
    with terminal() as shown:
        termios.tcsetwinsize(shown.terminal, (24, 40))
        shown.seen = b""
        shown.process.send_signal(signal.SIGWINCH)
        shown.expect("─".encode() * 40)
        assert "─".encode() * 41 not in shown.seen


def test_without_colour_when_asked_for() -> None:
    with terminal(NO_COLOR="1") as shown:
        assert b"\x1b[32m" not in shown.seen
        assert b"\x1b[1;36m" not in shown.seen


def test_escape_sequences_become_keys_also_when_cut_in_two() -> None:
    assert decode("a\x1b[A\x1bOB\r\x7f") == (["a", "up", "down", "enter", "backspace"], "")
    assert decode("x\x1b[") == (["x"], "\x1b[")
    assert decode("\x1b[C") == (["right"], "")
    assert decode("\x1b") == ([], "\x1b")
    assert decode("\x1b[15~q") == (["q"], "")
    assert decode("\x1bq") == (["escape", "q"], "")


def test_without_a_terminal_it_is_one_plain_table() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=20, text=True)
    assert "\x1b" not in done.stdout
    for name in ("curl-app", "[bold red]mar", "kernel", "forwarded", "unattributed"):
        assert name in done.stdout


def test_on_a_terminal_that_only_prints_it_is_a_plain_table_each_interval() -> None:
    with terminal(TERM="dumb") as shown:
        shown.seen = b""
        shown.expect(b"curl-app")
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == 0
        assert b"\x1b" not in shown.seen
        assert shown.settings() == shown.before
