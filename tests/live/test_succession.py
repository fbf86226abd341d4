"""Another version of the programs, with other structures, is taken over from: nothing lost, nothing doubled.

The other version is made of this checkout: its copy is patched, compiled, and run for real.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from esimbpf.kernel import abi, libbpf
from esimbpf.ledger.database import connect
from esimbpf.model import NOTHING, Counters
from esimbpf.snapshot import ReservedSlot
from tests.live.attached import ENVIRONMENT, PINS, command, daemon, end, ledger, state
from tests.live.netlab import Lab
from tests.live.other_version import theirs
from tests.live.traffic import begin_transfer, udp
from tests.live.watching import PATIENCE_S, esimbpf

pytestmark = pytest.mark.usefixtures("own_pins")


def their_command(other: Path, lab: Lab, *words: str) -> str:
    """Run a command of the other version."""
    done = subprocess.run(
        esimbpf("--netns", lab.device.name, *words),
        env=theirs(other),
        cwd=other,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def counted(lab: Lab) -> Counters:
    """What the ledger's bytes have to add up to."""
    return lab.link.crossed()


def test_the_other_version_is_really_another(other: Path, lab: Lab) -> None:
    before = counted(lab)
    their_command(other, lab, "attach", "wwan0")
    assert [path.name for path in PINS.iterdir()] == ["v7"]
    udp(lab, down=3, up=5)
    shown = subprocess.run(
        esimbpf("--netns", lab.device.name, "status"),
        env=theirs(other),
        cwd=other,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    moved = counted(lab) - before
    assert f"↓ {moved.rx_bytes / 1000:.2f} kB ↑ {moved.tx_bytes / 1000:.2f} kB" in shown


def test_nothing_is_replaced_unless_it_is_asked_for(other: Path, lab: Lab, tmp_path: Path) -> None:
    their_command(other, lab, "attach", "wwan0")
    assert state(lab)["strangers"] == [str(PINS / "v7")]
    for words in (("attach", "wwan0"), ("--state-dir", str(tmp_path), "daemon", "wwan0")):
        refused = command(lab, *words, status=3).stderr
        assert "another version" in refused
        assert "esimbpf attach --replace" in refused
    assert "another version" in command(lab, "detach", status=3).stderr
    assert [path.name for path in PINS.iterdir()] == ["v7"]
    command(lab, "detach", "--discard")
    assert not PINS.exists()


def test_what_the_other_version_has_counted_is_in_the_ledger_by_app(other: Path, lab: Lab, tmp_path: Path) -> None:
    """A part of it was folded by the other version's daemon, the rest was not."""
    before = counted(lab)
    with daemon(lab, tmp_path, environment=theirs(other), cwd=other) as process:
        folded = udp(lab, down=301, up=207)
        end(process)
    rest = udp(lab, down=17, up=19)
    command(lab, "--state-dir", str(tmp_path), "attach", "--replace", "wwan0")
    assert [path.name for path in PINS.iterdir()] == ["v1"]
    assert ledger(tmp_path) == ledger(tmp_path, "quarter") == counted(lab) - before
    own = udp(lab, down=5, up=7)
    with daemon(lab, tmp_path) as process:
        end(process)
    assert ledger(tmp_path) == counted(lab) - before
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'puppet.py')"
    moved = [one.exactly for one in (folded, rest, own) if one.exactly]
    assert len(moved) == 3
    assert ledger(tmp_path, where=app) == sum(moved, NOTHING)
    with closing(connect(tmp_path)) as db:
        assert db.execute("SELECT * FROM gap").fetchall() == [], "it was counted all the time"


def test_what_the_other_version_has_blocked_is_in_the_ledger_by_app(other: Path, lab: Lab, tmp_path: Path) -> None:
    with daemon(lab, tmp_path, environment=theirs(other), cwd=other) as process:
        udp(lab, up=5)
        end(process)
    with closing(connect(tmp_path)) as db:
        [slot] = db.execute("SELECT slot FROM folded_slot").fetchone()
    blocked = libbpf.opened("blocked", libbpf.pinned(PINS / "v7" / "maps" / "blocked"))
    blocked.put(abi.BLOCKED_KEY.pack(0, slot), struct.pack("=8x4Q", 1500, 1229, 1, 2))
    blocked.put(abi.BLOCKED_KEY.pack(0, ReservedSlot.KERNEL), struct.pack("=8x4Q", 0, 60, 0, 1))
    os.close(blocked.fd)
    command(lab, "--state-dir", str(tmp_path), "attach", "--replace", "wwan0")
    assert ledger(tmp_path, "blocked_minute", "kind = 'app'") == Counters(1500, 1229, 1, 2)
    assert ledger(tmp_path, "blocked_quarter", "kind = 'kernel'") == Counters(0, 60, 0, 1)
    with daemon(lab, tmp_path) as process:
        end(process)
    assert ledger(tmp_path, "blocked_minute") == Counters(1500, 1289, 1, 3)


def test_versions_follow_each_other_under_load_and_no_packet_is_lost_or_doubled(
    other: Path, lab: Lab, tmp_path: Path
) -> None:
    before = counted(lab)
    words = ("--state-dir", str(tmp_path), "attach", "--replace", "wwan0")
    command(lab, "attach", "wwan0")
    _, finish = begin_transfer(lab, down=60_000_003, up=60_000_007)
    for _ in range(3):
        their_command(other, lab, *words)
        command(lab, *words)
    finish()
    with daemon(lab, tmp_path) as process:
        end(process)
    assert ledger(tmp_path) == counted(lab) - before
    assert ledger(tmp_path, where="kind = 'unattributed'") == NOTHING
    assert ledger(tmp_path, where="kind = 'app'").rx_bytes > 60_000_003


def test_a_succession_that_is_cut_off_at_any_moment_is_completed_by_the_next(
    other: Path, lab: Lab, tmp_path: Path
) -> None:
    before = counted(lab)
    chance = random.Random(11)
    words = ("--state-dir", str(tmp_path), "attach", "--replace", "wwan0")
    killed = 0
    for number in range(12):
        their_command(other, lab, *words)
        udp(lab, down=3 + number, up=5)
        with subprocess.Popen(
            esimbpf("--netns", lab.device.name, *words), env=ENVIRONMENT, stderr=subprocess.DEVNULL
        ) as process:
            _send_until(lab, time.monotonic() + chance.uniform(0.3, 0.7))
            killed += process.poll() is None
            process.kill()
        udp(lab, up=7)
        command(lab, *words)
        udp(lab, up=1)
    assert killed, "none was cut off"
    with daemon(lab, tmp_path) as process:
        end(process)
    assert ledger(tmp_path) == ledger(tmp_path, "quarter") == counted(lab) - before


def _send_until(lab: Lab, deadline_s: float) -> None:
    while time.monotonic() < deadline_s:
        udp(lab, up=1)


def test_a_daemon_at_work_is_not_taken_over_from_behind_its_back(other: Path, lab: Lab, tmp_path: Path) -> None:
    with daemon(lab, tmp_path, environment=theirs(other), cwd=other) as process:
        refused = command(lab, "--state-dir", str(tmp_path), "attach", "--replace", "wwan0", status=3)
        assert f"a daemon keeps the ledger in {tmp_path} already (pid {process.pid})" in refused.stderr
        end(process)
    assert [path.name for path in PINS.iterdir()] == ["v7"]


def test_what_cannot_be_written_is_not_taken_over(other: Path, lab: Lab, tmp_path: Path) -> None:
    their_command(other, lab, "attach", "wwan0")
    with closing(connect(tmp_path)) as db:
        db.execute("PRAGMA user_version = 99")
    refused = command(lab, "--state-dir", str(tmp_path), "attach", "--replace", "wwan0", status=3)
    assert "is of a newer esimbpf" in refused.stderr
    assert [path.name for path in PINS.iterdir()] == ["v7"]
