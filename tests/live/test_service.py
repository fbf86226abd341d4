"""The service under the real systemd, shut in as the unit says: installed, counting, watched over, removed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.booted import Booted
from tests.live.netlab import Lab
from tests.live.traffic import udp
from tests.live.watching import COUNTERS, PATIENCE_S

TOP = Path(__file__).parents[2]
SETUP = str(TOP / "scripts" / "setup")
ESIMBPF = str(TOP / ".venv" / "bin" / "esimbpf")
SETTINGS = """
[Service]
Environment="LINKS=wwan0 --fold-every 1"
RestartSec=0
WatchdogSec=3
"""


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Booted]:
    """Systemd with the service installed and running."""
    with Booted(lab, tmp_path) as booted:
        settings = booted.outside("/etc/systemd/system/esimbpf.service.d/test.conf")
        settings.parent.mkdir()
        settings.write_text(SETTINGS)
        assert "the service counts" in booted.run(SETUP, "--no-link", "--service")
        yield booted


def await_value(machine: Booted, name: str, wanted: str) -> None:
    """Wait until the service's property has this in it."""
    deadline = time.monotonic() + PATIENCE_S
    while wanted not in (value := machine.property("esimbpf", name)):
        assert time.monotonic() < deadline, f"{name} stays {value!r}: {machine.run('journalctl', '-u', 'esimbpf')}"
        time.sleep(0.05)


def test_it_counts_and_writes_down_and_goes_without_a_trace_of_itself(machine: Booted, lab: Lab) -> None:
    assert machine.run("systemctl", "is-enabled", "esimbpf") == "enabled"
    before = lab.link.crossed()
    moved = udp(lab, down=301, up=207)
    truth = lab.link.crossed() - before
    machine.run("systemctl", "stop", "esimbpf")
    lines = [json.loads(line) for line in machine.run(ESIMBPF, "report", "--json").splitlines()]
    assert [sum(line[name] for line in lines) for name in COUNTERS] == [getattr(truth, name) for name in COUNTERS]
    [app] = [line for line in lines if line["kind"] == "app"]
    assert [app[name] for name in COUNTERS] == [getattr(moved.exactly, name) for name in COUNTERS]
    assert machine.outside("/var/lib/esimbpf/ledger.db").stat().st_mode & 0o777 == 0o600
    machine.run("systemctl", "start", "esimbpf")
    assert "counts on until: esimbpf detach" in machine.run(SETUP, "--no-service")
    assert not machine.outside("/etc/systemd/system/esimbpf.service").exists()
    assert not machine.outside("/etc/systemd/system/multi-user.target.wants").exists()
    assert machine.run(ESIMBPF, "detach") == "detached"
    assert "there is no service" in machine.run(SETUP, "--no-service")


def test_installing_it_again_leaves_it_running(machine: Booted) -> None:
    pid = machine.property("esimbpf", "MainPID")
    machine.run(SETUP, "--no-link", "--service")
    assert machine.property("esimbpf", "MainPID") == pid


def test_systemd_is_told_of_its_state(machine: Booted) -> None:
    await_value(machine, "StatusText", "counting wwan0; folded at ")
    machine.run("systemctl", "reload", "esimbpf")
    await_value(machine, "ActiveState", "active")
    [said] = [
        json.loads(line)
        for line in machine.run("journalctl", "-u", "esimbpf", "-o", "json").splitlines()
        if "read anew" in line
    ]
    assert (said["MESSAGE"], said["PRIORITY"]) == ("the configuration was read anew", "6")


def test_a_daemon_that_hangs_is_started_anew(machine: Booted) -> None:
    await_value(machine, "StatusText", "folded at ")
    machine.run("kill", "-STOP", machine.property("esimbpf", "MainPID"))
    await_value(machine, "NRestarts", "1")
    await_value(machine, "StatusText", "folded at ")
    assert "Watchdog timeout" in machine.run("journalctl", "-u", "esimbpf")


def test_what_somebody_detaches_it_can_attach_again(machine: Booted) -> None:
    machine.run(ESIMBPF, "detach")
    deadline = time.monotonic() + PATIENCE_S
    while "wwan0" not in machine.run(ESIMBPF, "status"):
        assert time.monotonic() < deadline, machine.run("journalctl", "-u", "esimbpf")
        time.sleep(0.05)
    assert machine.property("esimbpf", "NRestarts") == "0"


def test_it_has_three_capabilities_and_writes_nowhere_but_where_it_must(machine: Booted) -> None:
    pid = machine.property("esimbpf", "MainPID")
    status = machine.run("cat", f"/proc/{pid}/status")
    assert "CapBnd:\t000000c000001000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    places = ("/", "/etc", "/run", "/run/systemd", "/sys", "/sys/fs/cgroup", "/proc/sys/kernel/core_pattern", "/usr")
    script = 'for place; do test ! -w "$place" || echo "$place"; done'
    inside = ("nsenter", f"--target={pid}", "--mount", "sh", "-c", script, "sh")
    assert machine.run(*inside, *places) == ""
    assert machine.run(*inside, "/sys/fs/bpf", "/run/esimbpf.lock", "/var/lib/esimbpf").count("\n") == 2


def test_another_users_program_has_the_name_of_its_script(machine: Booted, lab: Lab) -> None:
    script = machine.outside("/run/sync-of-mine.py")
    script.write_text("import socket,sys; socket.socket(2,2).sendto(bytes(301),(sys.argv[1],9)); sys.stdin.read()")
    script.chmod(0o644)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    words = machine.command(*nobody, "/usr/bin/python3", "/run/sync-of-mine.py", lab.link.network_ip)
    with subprocess.Popen(words, stdin=subprocess.PIPE):
        deadline = time.monotonic() + PATIENCE_S
        while "sync-of-mine.py" not in (told := machine.run(ESIMBPF, "report", "--json", status=None)):
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
