"""While no daemon is at work: what holds, what does not, and that `status` says so; and when the next one comes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from esimbpf.ledger import outbox
from esimbpf.ledger.database import connect
from tests.live.attached import ENVIRONMENT, command, daemon, end, ledger, said
from tests.live.attached import state as status
from tests.live.limited import PUPPET
from tests.live.netlab import Lab
from tests.live.test_quotas import HEADER, SIZE, send_until_refused
from tests.live.traffic import Puppet

pytestmark = pytest.mark.usefixtures("own_pins")

PACKET = SIZE + HEADER
LIMIT = 300_007
PASSING = -(-LIMIT // PACKET)


def start(lab: Lab, program: Path, script: str = PUPPET) -> Puppet:
    return Puppet.start(lab.device, str(program), "-IS", script)


def send(puppet: Puppet, lab: Lab, count: int) -> None:
    puppet.udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * count)


def limits(lab: Lab, state: Path, environment: Mapping[str, str] = ENVIRONMENT) -> dict[str, Any]:
    """What `status` tells of limits; quotas by their names."""
    told: dict[str, Any] = status(lab, "--state-dir", str(state), environment=environment)["limits"]
    assert told["trouble"] is None
    return told | {"quotas": {one.pop("name"): one for one in told["quotas"]}}


def has_looked(process: subprocess.Popen[str]) -> None:
    """The daemon has folded, and the kernel goes by that."""
    process.send_signal(signal.SIGHUP)
    said(process, "was read anew")


def test_limits_hold_to_the_packet_when_the_daemon_is_killed_and_status_says_what_does_not(
    lab: Lab, tmp_path: Path, unique: Path
) -> None:
    state, script = tmp_path / "state", tmp_path / "sync-of-mine.py"
    script.write_text(Path(PUPPET).read_text())

    def quota(*words: str) -> None:
        command(lab, "--state-dir", str(state), "quota", *words)

    def add(name: str, *words: str) -> None:
        quota("add", name, "--per", "once", *words)

    block = ("--limit", f"{LIMIT}B", "--do", "block")
    with daemon(lab, state) as process:
        add("small", "--app", "limited", *block)
        add("script", "--app", script.name, *block)
        add("slow", "--user", "4711", "--limit", "1B", "--do", "throttle:1Mbit")
        add("absent", "--cgroup", "esimbpf-absent.service", "--limit", "1GB", "--do", "notify")
        for _ in range(4):
            said(process, "was read anew")
        scripted = start(lab, Path(sys.executable), str(script))
        send(scripted, lab, 5)
        send(start(lab, unique), lab, 100)
        slow = Puppet.start(lab.device)
        slow.do("become", 4711)
        send(slow, lab, 1)
        has_looked(process)
        process.kill()
    # What is limited is so on, a process that is new included.
    assert send_until_refused(start(lab, unique), lab) == PASSING - 100
    assert send_until_refused(start(lab, unique), lab) == 0
    assert send_until_refused(scripted, lab) == PASSING - 5
    assert send_until_refused(start(lab, Path(sys.executable), str(script)), lab) == 0
    told = limits(lab, state)
    assert (told["enforced"], told["exceeded"], told["saver"]) == (4, 3, None)
    block_done = {"state": "exceeded", "do": "block", "remaining_bytes": 0, "reaches": True, "pending": None}
    for name, expected in {
        "small": block_done,
        "script": block_done,
        "slow": block_done | {"do": "throttle", "rate_bytes_per_s": 125_000},
        "absent": {"state": "in force", "do": "notify", "remaining_bytes": 10**9, "reaches": True, "pending": None},
    }.items():
        assert expected.items() <= told["quotas"][name].items()
    quota("pause", "small")
    quota("remove", "script")
    add("late", "--app", "limited", "--limit", "1GB", "--do", "notify")
    command(lab, "--state-dir", str(state), "saver", "on", "--allow", "limited", "--allow-dns")
    assert send_until_refused(start(lab, unique), lab) == 0
    shown = command(lab, "--state-dir", str(state), "status").stdout
    assert [line.strip() for line in shown[shown.index("  daemon") : shown.index("  processes")].splitlines()] == [
        "daemon      not at work: what is counted is kept in the kernel, until it is shut down",
        "limits hold as they were set last, for new processes too; but no period begins, no snooze ends,",
        "nothing is told, no hook runs, and new processes are of the app that their names say",
        "begin one: systemctl start esimbpf, or esimbpf daemon",
        "limits      4 enforced by the kernel, 3 used up",
        "small: used up, blocked; no longer in force, which the kernel does not know yet",
        "script: used up, blocked; removed, which the kernel does not know yet",
        "slow: used up, throttled to 1Mbit",
        "late: added, which the kernel does not know yet",
        "saver mode  off; added, which the kernel does not know yet",
    ]
    with daemon(lab, state) as process:
        told = limits(lab, state)
        assert {name: one["pending"] for name, one in told["quotas"].items()} == dict.fromkeys(
            ("small", "slow", "absent", "late")
        )
        assert (told["enforced"], told["exceeded"]) == (3, 1)
        assert {"state": "exceeded", "services": ["dns"], "pending": None}.items() <= told["saver"].items()
        send(start(lab, unique), lab, 7)
        end(process)


# --- the end of a period -----------------------------------------------------------------------------------------


@pytest.fixture
def minutes_past(ahead: Callable[[int], dict[str, str]]) -> Callable[[int], dict[str, str]]:
    """The environment of programs for which it is so many minutes past a full hour that is to come, or before it."""
    to_the_hour_s = 3600 - int(time.time()) % 3600
    # In another zone hours may begin at the half.
    return lambda minutes: ENVIRONMENT | {"TZ": "UTC"} | ahead(to_the_hour_s + 3600 + 60 * minutes)


def resets(state: Path) -> list[datetime | None]:
    """The periods of which it was told that they begin."""
    with closing(connect(state)) as db:
        events = [posted.event for posted in outbox.recent(db)]
    return [event.period_begin for event in events if event.type.value == "quota.reset"]


def used(lab: Lab, state: Path, environment: Mapping[str, str]) -> int:
    """Of the period that runs by that clock."""
    shown = command(lab, "--state-dir", str(state), "quota", "show", "hourly", "--json", environment=environment)
    told: int = json.loads(shown.stdout)["used_bytes"]
    return told


@pytest.mark.parametrize("whom", ["app", "exe"])
@pytest.mark.parametrize("used_up", [False, True], ids=["something left", "used up"])
def test_a_period_that_ends_while_the_daemon_is_dead_begins_anew_with_the_next_one(
    lab: Lab, tmp_path: Path, unique: Path, minutes_past: Callable[[int], dict[str, str]], whom: str, used_up: bool
) -> None:
    """What moves while nobody looks is used of the period in which the next daemon does: nothing tells when it was."""
    state, before, after = tmp_path / "state", minutes_past(-30), minutes_past(10)
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'limited')"
    told = PASSING if used_up else 100
    with daemon(lab, state, environment=before) as process:
        crossed = lab.link.crossed()
        words = ("add", "hourly", f"--{whom}", "limited" if whom == "app" else str(unique), "--per", "hour")
        limit = ("--limit", f"{LIMIT}B", "--do", "block")
        command(lab, "--state-dir", str(state), "quota", *words, *limit, environment=before)
        said(process, "was read anew")
        if used_up:
            assert send_until_refused(start(lab, unique), lab) == PASSING
        else:
            send(start(lab, unique), lab, 100)
        has_looked(process)
        assert used(lab, state, before) == told * PACKET
        process.kill()
    if not used_up:
        send(start(lab, unique), lab, 40)
    # Now the next hour begins, and nobody has told the kernel.
    assert send_until_refused(start(lab, unique), lab) == PASSING - (PASSING if used_up else 140)
    [hourly] = limits(lab, state, after)["quotas"].values()
    assert (hourly["state"], hourly["remaining_bytes"], hourly["pending"]) == ("exceeded", 0, "reset")
    shown = command(lab, "--state-dir", str(state), "status", environment=after).stdout
    assert re.search(r"hourly: used up, blocked; its period ended .*:00, and the next has not begun", shown)
    unseen = PASSING - told
    for number in range(2):
        with daemon(lab, state, environment=after) as process:
            has_looked(process)
            if not number:
                assert send_until_refused(start(lab, unique), lab) == PASSING - unseen
                has_looked(process)
            assert send_until_refused(start(lab, unique), lab) == 0
            end(process)
        assert used(lab, state, before) == told * PACKET
        assert used(lab, state, after) == PASSING * PACKET
        assert resets(state) == [datetime.fromisoformat(hourly["period_end"])]
    crossed = lab.link.crossed() - crossed
    assert crossed.tx_bytes == (told + PASSING) * PACKET == ledger(state, where=app).tx_bytes
