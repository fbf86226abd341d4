"""What `top` says of today and of the cycle: what has crossed, exactly, whoever has counted and folded it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esimbpf.ledger import plans
from esimbpf.ledger.database import FILE_NAME, connect
from esimbpf.model import NOTHING
from esimbpf.plan import Plan
from esimbpf.spans import Monthly
from tests.live.attached import ENVIRONMENT, command, daemon, end
from tests.live.netlab import Lab
from tests.live.traffic import udp
from tests.live.watching import PATIENCE_S, esimbpf

pytestmark = pytest.mark.usefixtures("own_pins")


@pytest.fixture(autouse=True)
def one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone in which it is noon, so that no test runs over midnight."""
    offset = time.gmtime().tm_hour - 12
    monkeypatch.setitem(ENVIRONMENT, "TZ", f"Etc/GMT{offset:+d}" if offset else "Etc/GMT")


def top(lab: Lab, state_dir: Path, *options: str, meanwhile: Callable[[], object] = lambda: None) -> str:
    """One plain table, wide; something happens while its interval runs."""
    words = ("--netns", lab.device.name, "--state-dir", str(state_dir), "top", "wwan0", "--once", *options)
    with subprocess.Popen(
        esimbpf(*words), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        await_maps(process)
        meanwhile()
        shown, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, complaints
    assert complaints == ""
    return shown


def await_maps(process: subprocess.Popen[str]) -> None:
    """Return when it has opened the maps."""
    deadline = time.monotonic() + PATIENCE_S
    fds = ["ls", "-l", f"/proc/{process.pid}/fd"]
    # What is closed while it is listed is complained of.
    while "bpf-map" not in subprocess.run(fds, capture_output=True, text=True, check=False).stdout:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def used(shown: str, name: str) -> list[str]:
    """What stands in the columns of use in a row, or in the link's own line."""
    lines = [line for line in shown.splitlines() if line.split()[:1] == [name]]
    assert len(lines) == 1, shown
    if name == "wwan0":
        return re.findall(r"(?:today|cycle) (\S+ B|\S+ \S?B)", lines[0])
    (titles,) = (line for line in shown.splitlines() if line.startswith(("app ", "user ")))
    # The columns are flush right with their titles.
    ends = [titles.index(title) + len(title) for title in ("today", "cycle") if title in titles]
    return [lines[0][end - 8 : end].strip() for end in ends]


def test_today_and_the_cycle_are_what_has_crossed(lab: Lab, tmp_path: Path) -> None:
    """Before the daemon's foldings, between and after them, and while top runs."""
    moved = NOTHING

    def move(down: int, up: int, size: int) -> None:
        nonlocal moved
        exactly = udp(lab, down=down, up=up, size=size).exactly
        assert exactly
        moved += exactly

    def holds(*options: str, row: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        shown = top(lab, tmp_path, *options, meanwhile=meanwhile)
        truth = (lab.link.crossed() - before).total_bytes
        # All figures are small enough to show to the byte.
        assert used(shown, "wwan0") == [f"{truth} B"] * 2
        assert used(shown, row) == [f"{moved.total_bytes} B"] * 2
        names = [row, *(name for name in ("kernel", "forwarded", "unattributed") if name in shown)]
        for column in (0, 1):
            amounts = (used(shown, name)[column].removesuffix(" B") for name in names)
            assert sum(map(int, amounts)) == truth
        told = json.loads(command(lab, "--state-dir", str(tmp_path), "plan", "show", "--json").stdout)
        assert told["used_bytes"] == truth
        assert f"plan {truth} B of 1.00 MB" in shown
        assert "too early to say" in shown

    before = lab.link.crossed()
    long_ago = datetime.now(UTC) - timedelta(days=90)
    with closing(connect(tmp_path)) as db:
        plans.keep(db, Plan("link:wwan0", "1MB", Monthly(1), ENVIRONMENT["TZ"], long_ago))
    with daemon(lab, tmp_path) as process:
        move(0, 1, 201)
        holds("--interval", "2", row="puppet.py", meanwhile=lambda: move(1, 1, 61))
        end(process)
    move(1, 0, 103)
    holds("--interval", "1", row="puppet.py")
    holds("--interval", "2", "--by", "user", row="root", meanwhile=lambda: move(1, 0, 31))


def _damage(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)


def _of_a_newer_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("attached", "make", "words"),
    [
        (False, None, None),
        (False, Path.touch, "the daemon does not count here"),
        (True, None, "there is no ledger in"),
        (True, _damage, "damaged"),
        (True, _of_a_newer_version, "is of a newer esimbpf"),
        (True, Path.mkdir, "cannot open the ledger"),
    ],
    ids=["nothing", "not-attached", "no-ledger", "damaged", "newer", "folder"],
)
def test_without_the_ledger_it_is_as_before_and_says_why(
    lab: Lab, tmp_path: Path, attached: bool, make: Callable[[Path], object] | None, words: str | None
) -> None:
    if attached:
        command(lab, "attach", "wwan0")
    if make:
        make(tmp_path / FILE_NAME)
    there = set(tmp_path.iterdir())
    shown = top(lab, tmp_path, "--interval", "0.5")
    assert "kernel" in shown
    titles = next(line for line in shown.splitlines() if line.startswith("app"))
    assert "today" not in titles
    warning = " ".join(shown.splitlines()).partition("without today's use and the plan: ")[2]
    assert words in warning if words else not warning
    assert set(tmp_path.iterdir()) == there


def test_while_the_ledger_is_locked_it_is_as_before_and_says_why(lab: Lab, tmp_path: Path) -> None:
    with daemon(lab, tmp_path) as process:
        udp(lab, up=1)
        end(process)
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        shown = top(lab, tmp_path, "--interval", "0.5", meanwhile=lambda: None)
    assert "locked by another process" in shown
    assert "today " not in shown.splitlines()[0]
