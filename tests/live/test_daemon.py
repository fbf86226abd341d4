"""Counting that outlives every command, and the ledger: exactly once, whatever is killed, full, locked or damaged."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from esimbpf.ledger.database import FILE_NAME
from esimbpf.model import NOTHING, Counters
from tests.live.attached import ENVIRONMENT, PINS, command, daemon, end, ledger, said, state, total
from tests.live.netlab import Lab, run
from tests.live.traffic import Puppet, Scene, begin_transfer, datagrams, udp
from tests.live.watching import COUNTERS, PATIENCE_S, Watch, esimbpf

pytestmark = pytest.mark.usefixtures("own_pins")

KILLS = 200


# --- attach, detach, status --------------------------------------------------------------------------------------


def test_it_counts_with_no_process_running_and_leaves_nothing_when_detached(lab: Lab) -> None:
    assert state(lab)["attached"] is False
    before = lab.link.crossed()
    command(lab, "attach", "wwan0")
    udp(lab, down=301, up=207)
    truth = lab.link.crossed() - before
    told = state(lab)
    assert [link["counted"] for link in told["links"]] == [True]
    assert total(told["links"][0]) == truth
    assert all(program["attached"] for program in told["programs"])
    assert 0 < told["slots"]["used"] < told["slots"]["size"] == 16384
    programs = {json.loads(run("bpftool", "-j", "prog", "show", "pinned", str(path)))["id"] for path in _programs()}
    assert len(programs) == len(told["programs"])
    command(lab, "detach")
    deadline = time.monotonic() + PATIENCE_S
    while left := programs & {entry["id"] for entry in json.loads(run("bpftool", "-j", "prog", "show"))}:
        assert time.monotonic() < deadline, f"still in the kernel: {left}"
        time.sleep(0.05)
    assert not PINS.exists()
    told = state(lab)
    none = {"enforced": 0, "exceeded": 0, "quotas": [], "saver": None, "trouble": None}
    assert told == {"type": "status", "v": 1, "attached": False, "limits": none, "strangers": [], "time": told["time"]}
    udp(lab, up=3)


def _programs() -> list[Path]:
    return list((PINS / "v1" / "programs").iterdir())


def test_attaching_twice_changes_nothing(lab: Lab) -> None:
    before = lab.link.crossed()
    command(lab, "attach", "wwan0")
    udp(lab, up=11)
    first = state(lab)
    assert "attached already" in command(lab, "attach", "wwan0").stderr
    udp(lab, up=13)
    second = state(lab)
    assert second["attach_id"] == first["attach_id"]
    assert total(second["links"][0]) == lab.link.crossed() - before


def test_what_is_half_gone_is_told_and_mended(lab: Lab) -> None:
    """Some hooks were taken away by hand; and a removal was cut off when it had just begun."""
    command(lab, "attach", "wwan0")
    for name in ("delivered", "process_exited"):
        (PINS / "v1" / "hooks" / name).unlink()
    lost = [program["name"] for program in state(lab)["programs"] if not program["attached"]]
    assert lost == ["delivered", "process_exited"]
    command(lab, "attach", "wwan0")
    assert all(program["attached"] for program in state(lab)["programs"])
    with Watch(lab, environment=ENVIRONMENT) as watch:
        moved = udp(lab, down=31, up=7)
    assert watch.report.process(moved.pids[0]) == moved.exactly
    (PINS / "v1").rename(PINS / "removing")
    assert state(lab)["attached"] is False
    command(lab, "attach", "wwan0")
    assert [path.name for path in PINS.iterdir()] == ["v1"]
    (PINS / "v1" / "about").unlink()
    assert "detach --discard" in command(lab, "attach", "wwan0", status=1).stderr
    command(lab, "detach", "--discard")
    assert not PINS.exists()


def test_the_programs_are_replaced_under_load_without_losing_or_doubling_a_packet(lab: Lab) -> None:
    before = lab.link.crossed()
    command(lab, "attach", "wwan0")
    _, end = begin_transfer(lab, down=40_000_003, up=40_000_007)
    for _ in range(5):
        assert "replaced" in command(lab, "attach", "--replace", "wwan0").stderr
    end()
    assert total(state(lab)["links"][0]) == lab.link.crossed() - before


def test_commands_read_what_is_pinned_and_attach_nothing(lab: Lab, tmp_path: Path) -> None:
    command(lab, "attach", "wwan0")
    udp(lab, up=5)
    programs = _sent_programs()
    with Watch(lab, environment=ENVIRONMENT) as watch:
        moved = udp(lab, down=301, up=207)
        assert _sent_programs() == programs
    assert watch.report.link() == watch.truth()
    assert watch.report.process(moved.pids[0]) == moved.exactly
    assert state(lab)["attached"]
    cost = tmp_path / "cost"
    sender = "import socket,sys;socket.socket(2,2).sendto(bytes(703),(sys.argv[1],9))"
    command(lab, "run", "--json", str(cost), "wwan0", "--", "python3", "-c", sender, lab.link.network_ip)
    assert json.loads(cost.read_text())["tx_bytes"] == 703 + 28


def _sent_programs() -> int:
    return sum(entry.get("name") == "sent" for entry in json.loads(run("bpftool", "-j", "prog", "show")))


# --- the daemon --------------------------------------------------------------------------------------------------


def test_the_ledger_has_what_crossed_by_app(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        moved = udp(lab, down=301, up=207)
        assert state(lab)["daemon"] == {"pid": process.pid}
        end(process)
    assert state(lab)["daemon"] is None
    assert ledger(tmp_path) == ledger(tmp_path, "quarter") == lab.link.crossed() - before
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'puppet.py')"
    assert ledger(tmp_path, where=app) == moved.exactly
    assert state(lab)["attached"], "what counts goes on"


def test_it_goes_on_counting_while_there_is_no_daemon(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        udp(lab, up=3)
        end(process)
    udp(lab, down=17, up=19)
    with daemon(lab, tmp_path) as process:
        end(process)
    assert ledger(tmp_path) == lab.link.crossed() - before


def test_a_daemon_that_is_killed_at_any_moment_neither_loses_nor_doubles_a_byte(lab: Lab, tmp_path: Path) -> None:
    """Some are killed before they count, some in the middle of folding; traffic goes on all the time."""
    before = lab.link.crossed()
    scene = Scene(lab)
    chance = random.Random(7)
    words = esimbpf("--netns", lab.device.name, "--state-dir", str(tmp_path), "daemon", "wwan0", "--fold-every", "1")
    with daemon(lab, tmp_path) as process:
        end(process)
    for number in range(KILLS):
        with subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
            puppet = Puppet.start(lab.device)
            near, far = puppet.udp(), scene.network.udp()
            port = far.do("bind", [scene.network_ip, 0])[1]
            datagrams(near, far, [scene.network_ip, port], 1 + number % 7, 301 + number)
            # Rows that are no process's: the kernel's answers.
            lab.network.run("ping", "-c", "1", "-W", "2", scene.device_ip)
            time.sleep(chance.uniform(0.2, 0.9))
            process.kill()
            puppet.exit()
            far.close()
    with daemon(lab, tmp_path) as process:
        end(process)
    assert ledger(tmp_path) == ledger(tmp_path, "quarter") == lab.link.crossed() - before
    assert ledger(tmp_path, where="kind = 'unattributed'") == NOTHING


def test_the_second_daemon_refuses(lab: Lab, tmp_path: Path) -> None:
    with daemon(lab, tmp_path / "one") as process:
        same = command(lab, "--state-dir", str(tmp_path / "one"), "daemon", "wwan0", status=3)
        assert f"already (pid {process.pid})" in same.stderr
        other = command(lab, "--state-dir", str(tmp_path / "other"), "daemon", "wwan0", status=3)
        assert f"another daemon keeps what is attached (pid {process.pid})" in other.stderr
        udp(lab, up=3)
        end(process)


def test_the_programs_are_replaced_while_everything_is_killed_and_nothing_is_lost_or_doubled(
    lab: Lab, tmp_path: Path
) -> None:
    before = lab.link.crossed()
    chance = random.Random(5)
    with daemon(lab, tmp_path) as process:
        end(process)
    words = ("--netns", lab.device.name, "--state-dir", str(tmp_path))
    _, finish = begin_transfer(lab, down=90_000_003, up=90_000_007)
    for _ in range(20):
        commands = (("daemon", "wwan0", "--fold-every", "1"), ("attach", "--replace", "wwan0"))
        running = [
            subprocess.Popen(esimbpf(*words, *one), env=ENVIRONMENT, stderr=subprocess.DEVNULL) for one in commands
        ]
        time.sleep(chance.uniform(0.3, 1.2))
        for one in running:
            one.kill()
            one.wait()
    finish()
    assert "replaced" in command(lab, "attach", "--replace", "wwan0").stderr
    with daemon(lab, tmp_path) as process:
        end(process)
    assert ledger(tmp_path) == ledger(tmp_path, "quarter") == lab.link.crossed() - before


def test_a_link_that_comes_later_is_counted_when_it_comes(fresh_lab: Lab, tmp_path: Path) -> None:
    fresh_lab.link.down()
    with daemon(fresh_lab, tmp_path, awaits=("there is no link named wwan0; it is counted when it comes", "ready")) as (
        process
    ):
        assert state(fresh_lab)["links"] == []
        fresh_lab.link.up()
        said(process, "wwan0 is counted")
        before = fresh_lab.link.crossed()
        moved = udp(fresh_lab, down=3, up=7)
        assert fresh_lab.link.crossed() - before == moved.exactly
        end(process)
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'puppet.py')"
    assert ledger(tmp_path, where=app) == moved.exactly


def test_the_configuration_is_read_anew_and_a_wrong_one_is_not(lab: Lab, tmp_path: Path) -> None:
    rules = tmp_path / "config.toml"
    rules.write_text("")
    with daemon(lab, tmp_path / "state", "--config", str(rules)) as process:
        udp(lab, up=3)
        rules.write_text('[[app]]\nname = "Puppets"\nargs = "*puppet.py*"\n')
        process.send_signal(signal.SIGHUP)
        said(process, "was read anew")
        udp(lab, up=5)
        rules.write_text("[[app]\n")
        process.send_signal(signal.SIGHUP)
        said(process, "stays as it was")
        udp(lab, up=7)
        end(process)
    named = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'Puppets')"
    assert ledger(tmp_path / "state", where=named).tx_packets >= 12


def test_detaching_writes_down_what_no_daemon_has(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        udp(lab, up=3)
        end(process)
    udp(lab, down=17, up=19)
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused = command(lab, "--state-dir", str(tmp_path), "detach", status=3).stderr
        assert "locked by another process" in refused
        assert "counting goes on" in refused
        other.execute("ROLLBACK")
    udp(lab, up=5)
    command(lab, "--state-dir", str(tmp_path), "detach")
    detached = lab.link.crossed()
    assert ledger(tmp_path) == detached - before
    udp(lab, up=7)
    command(lab, "attach", "wwan0")
    attached = lab.link.crossed()
    udp(lab, up=9)
    command(lab, "--state-dir", str(tmp_path), "detach")
    assert ledger(tmp_path) == detached - before + (lab.link.crossed() - attached)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        [(cause,)] = db.execute("SELECT cause FROM gap").fetchall()
    assert cause == "down", "what crossed while nothing was attached is a gap"


def test_a_modem_that_resets_while_there_is_no_daemon_leaves_a_gap(fresh_lab: Lab, tmp_path: Path) -> None:
    with daemon(fresh_lab, tmp_path) as process:
        udp(fresh_lab, up=5)
        end(process)
    fresh_lab.link.down()
    fresh_lab.link.up()
    with daemon(fresh_lab, tmp_path) as process:
        end(process)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        assert db.execute("SELECT cause FROM gap").fetchall() == [("down",)]


def test_detaching_elsewhere_writes_down_where_the_daemon_did_and_says_what_is_lost(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path / "its") as process:
        udp(lab, up=3)
        end(process)
    udp(lab, down=17, up=19)
    command(lab, "--state-dir", str(tmp_path / "other"), "detach")
    assert ledger(tmp_path / "its") == lab.link.crossed() - before
    command(lab, "attach", "wwan0")
    assert "in no ledger is gone" in command(lab, "--state-dir", str(tmp_path / "other"), "detach").stderr


def test_a_modem_that_resets_is_counted_on_without_a_restart(fresh_lab: Lab, tmp_path: Path) -> None:
    with daemon(fresh_lab, tmp_path) as process:
        udp(fresh_lab, up=5)
        fresh_lab.link.down()
        said(process, "is gone")
        fresh_lab.link.up()
        said(process, "is counted")
        mark = fresh_lab.link.crossed()
        kept = udp(fresh_lab, up=7)
        assert fresh_lab.link.crossed() - mark == kept.exactly
        end(process)
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'puppet.py')"
    assert ledger(tmp_path, where=app).tx_packets == 12


def test_what_somebody_detaches_is_attached_again(lab: Lab, tmp_path: Path) -> None:
    with daemon(lab, tmp_path) as process:
        before = lab.link.crossed()
        first = udp(lab, up=5)
        assert lab.link.crossed() - before == first.exactly
        command(lab, "detach")
        said(process, "attaching again")
        while not PINS.exists() or not state(lab)["attached"] or not state(lab)["links"][0]["counted"]:
            time.sleep(0.05)
        again = udp(lab, up=7)
        end(process)
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'puppet.py')"
    assert first.exactly
    assert again.exactly
    assert ledger(tmp_path, where=app) == first.exactly + again.exactly


# --- trouble with the ledger -------------------------------------------------------------------------------------


def test_a_ledger_that_is_locked_is_written_when_it_is_free(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            udp(lab, up=9)
            assert "locked by another process" in said(process, "counting goes on")
            other.execute("ROLLBACK")
        said(process, "nothing is missing")
        end(process)
    assert ledger(tmp_path) == lab.link.crossed() - before


def test_a_full_disk_loses_nothing(lab: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk))
    try:
        before = lab.link.crossed()
        with daemon(lab, disk) as process:
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)) == 4096:
                        pass
                except OSError:
                    pass
            # New names take new pages.
            for number in range(40):
                _send_as(lab, tmp_path / f"a-program-of-a-rather-long-name-that-takes-room-{number}")
            assert "the disk is full" in said(process, "counting goes on")
            filler.unlink()
            said(process, "nothing is missing")
            end(process)
        assert ledger(disk) == lab.link.crossed() - before
    finally:
        run("umount", str(disk))


def _send_as(lab: Lab, script: Path) -> None:
    script.write_text("import socket,sys;socket.socket(2,2).sendto(bytes(301),(sys.argv[1],9))")
    run(*lab.device.command("python3", str(script), lab.link.network_ip))


def _damage(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)


def _of_a_newer_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_damage, "damaged"),
        (lambda path: path.write_bytes(b"no database at all" * 1000), "is no ledger, or damaged"),
        (_of_a_newer_version, "is of a newer esimbpf"),
        (lambda path: path.mkdir(), "cannot open the ledger"),
    ],
    ids=["damaged", "no-database", "newer", "folder"],
)
def test_a_ledger_that_cannot_be_used_is_told_and_left_alone_and_counting_goes_on(
    lab: Lab, tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    path, aside = tmp_path / FILE_NAME, tmp_path / "aside"
    make(path)
    content = path.read_bytes() if path.is_file() else b""
    before = lab.link.crossed()
    with daemon(lab, tmp_path, awaits=(words, "ready")) as process:
        udp(lab, down=17, up=19)
        refused = command(lab, "--state-dir", str(tmp_path), "report", status=3).stderr
        assert words in refused
        assert len(refused.splitlines()) == 2
        assert not content or path.read_bytes() == content
        path.rename(aside)
        said(process, "a new ledger has begun")
        end(process)
    assert ledger(tmp_path) == lab.link.crossed() - before


def test_a_ledger_that_is_damaged_while_it_is_kept_is_told_and_begun_anew_when_it_is_moved(
    lab: Lab, tmp_path: Path
) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        udp(lab, up=3)
        end(process)
    with daemon(lab, tmp_path) as process:
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            with open(tmp_path / name, "r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                file.write(b"\xaa" * size)
        udp(lab, up=5)
        assert "counting goes on" in said(process, "damaged")
        (tmp_path / FILE_NAME).rename(tmp_path / "aside")
        said(process, "a new ledger has begun")
        end(process)
    assert ledger(tmp_path) == lab.link.crossed() - before


def test_a_ledger_that_is_removed_while_it_is_kept_begins_anew_with_what_the_kernel_holds(
    lab: Lab, tmp_path: Path
) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        udp(lab, up=3)
        for path in tmp_path.iterdir():
            path.unlink()
        said(process, "a new one begins")
        udp(lab, up=5)
        end(process)
    assert ledger(tmp_path) == lab.link.crossed() - before


def test_a_read_only_disk_is_told_and_what_is_counted_is_written_when_it_no_longer_is(lab: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "none", str(disk))
    try:
        before = lab.link.crossed()
        with daemon(lab, disk) as process:
            udp(lab, up=3)
            end(process)
        run("mount", "-o", "remount,ro", str(disk))
        with daemon(lab, disk, awaits=("Read-only file system; counting goes on", "ready")) as process:
            udp(lab, up=5)
            run("mount", "-o", "remount,rw", str(disk))
            said(process, "nothing is missing")
            end(process)
        assert ledger(disk) == lab.link.crossed() - before
    finally:
        run("umount", str(disk))


# --- the report --------------------------------------------------------------------------------------------------


def test_a_report_has_what_no_daemon_has_folded_yet_and_folds_nothing(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        udp(lab, up=3)
        end(process)
    folded = ledger(tmp_path)
    udp(lab, down=17, up=19)
    words = ("--state-dir", str(tmp_path), "report", "--json", "--per", "hour")
    for _ in range(2):
        lines = [json.loads(line) for line in command(lab, *words).stdout.splitlines()]
        told = [Counters(*(line[name] for name in COUNTERS)) for line in lines]
        assert sum(told, NOTHING) == lab.link.crossed() - before
    assert ledger(tmp_path) == folded
    shown = command(lab, "--state-dir", str(tmp_path), "report").stdout
    assert "puppet.py" in shown
