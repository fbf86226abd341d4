"""The demonstration: all kinds of rows in its table, and nothing left when it is over, however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "esimbpf", "demo"]


def left_behind(pid: int) -> list[str]:
    """Namespaces and programs of the demo that ran as this process."""
    names = [path.name for path in Path("/run/netns").glob(f"esimbpf-demo-{pid}-*")]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"/esimbpf/demo/" in command:
                names.append(command.decode(errors="replace"))
    return names


def test_one_table_shows_every_kind_of_row_and_leaves_nothing() -> None:
    with subprocess.Popen([*DEMO, "--once"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        output, errors = demo.communicate(timeout=60)
    assert demo.returncode == 0, errors
    rows = {line.split()[0]: line for line in output.splitlines() if line.endswith("%") or "%  " in line}
    apps = ["video-stream.py", "photo-backup.py", "voice-call.py", "mail-check.py"]
    for name in [*apps, "kernel", "forwarded", "unattributed"]:
        assert name in rows, output
    for name in [*apps, "kernel", "forwarded"]:
        # Totals down and up; one of nothing would be a bare 0.
        assert len(re.findall(r"[1-9][\d.]* [kM]?B(?!/)", rows[name])) == 2, rows[name]
    assert rows["unattributed"].split()[1:5] == ["0", "0", "0", "0"]
    assert "\x1b" not in output
    assert left_behind(demo.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_in_the_middle_leaves_nothing(number: signal.Signals) -> None:
    with subprocess.Popen([*DEMO, "--once"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        assert "emulated" in demo.stderr.readline()
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=60)
    assert "Traceback" not in errors
    assert left_behind(demo.pid) == []


def test_what_a_killed_demo_left_goes_with_the_next() -> None:
    with subprocess.Popen([*DEMO, "--once"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stderr is not None
        assert "emulated" in demo.stderr.readline()
        demo.kill()
    # Its programs end with it; the kernel tells them at once.
    end = time.monotonic() + 10
    while any("/esimbpf/demo/" in name for name in left_behind(demo.pid)) and time.monotonic() < end:
        os.sched_yield()
    assert all("/esimbpf/demo/" not in name for name in left_behind(demo.pid))
    assert left_behind(demo.pid), "the namespaces of a killed demo stay until the next"
    subprocess.run([*DEMO, "--once"], check=True, capture_output=True, timeout=60)
    assert left_behind(demo.pid) == []
