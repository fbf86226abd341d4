"""Counting where the kernel has no tcx (before 6.6): through tc filters, which outlive a killed run until the next."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from esimbpf.kernel.mounts import cgroup2_root
from esimbpf.ledger.database import connect
from esimbpf.model import Counters
from tests.live.attached import ENVIRONMENT, ledger
from tests.live.netlab import Lab, run
from tests.live.other_version import theirs
from tests.live.traffic import Puppet, Scene, begin_transfer
from tests.live.watching import PATIENCE_S

pytestmark = pytest.mark.usefixtures("own_pins")

WITHOUT_TCX = """
import errno, sys
from esimbpf.kernel import libbpf
def refuse(*_):
    raise OSError(errno.EINVAL, "Invalid argument")
libbpf.tcx_create = refuse
from esimbpf.cli import main
main()
"""


def filters(lab: Lab) -> list[str]:
    """Who has tc filters on the link."""
    shown = [
        json.loads(run("ip", "netns", "exec", lab.device.name, "tc", "-j", "filter", "show", "dev", "wwan0", side))
        for side in ("egress", "ingress")
    ]
    return [entry["options"]["bpf_name"] for side in shown for entry in side if "bpf_name" in entry.get("options", {})]


@contextmanager
def watching(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """`watch` on a kernel that refuses tcx, since its start line."""
    words = ["--netns", lab.device.name, "watch", "wwan0", "--interval", "0.2"]
    with subprocess.Popen([sys.executable, "-c", WITHOUT_TCX, *words], stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            assert json.loads(watch.stdout.readline())["type"] == "start"
            yield watch
        finally:
            watch.kill()


def ended(watch: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """End it in order; its lines."""
    watch.send_signal(signal.SIGINT)
    output, _ = watch.communicate(timeout=PATIENCE_S)
    assert watch.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


def test_it_counts_exactly_and_takes_its_filters_off(lab: Lab) -> None:
    scene = Scene(lab)
    sink = Puppet.start(lab.network).udp()
    port = sink.do("bind", [lab.link.network_ip, 0])[1]
    with watching(lab) as watch:
        before = lab.link.crossed()
        assert filters(lab)
        scene.device.udp().do("send_datagrams", [lab.link.network_ip, port], [1003] * 21)
        crossed = lab.link.crossed() - before
        lines = ended(watch)
    assert crossed == Counters(0, 21 * 1031, 0, 21)
    link = [line for line in lines if line["type"] == "link"][-1]
    assert (link["tx_bytes_total"], link["tx_packets_total"]) == (crossed.tx_bytes, crossed.tx_packets)
    process = next(line for line in lines[::-1] if line["type"] == "usage" and line.get("pid") == scene.device.pid)
    assert process["tx_bytes_total"] == crossed.tx_bytes
    assert filters(lab) == []


def test_what_a_killed_run_left_is_replaced_by_the_next(lab: Lab) -> None:
    with watching(lab) as watch:
        watch.kill()
        watch.wait(PATIENCE_S)
    left = filters(lab)
    assert left
    with watching(lab) as watch:
        assert filters(lab) == left, "replaced, not added to"
        ended(watch)
    assert filters(lab) == []


# --- counting that outlives the command --------------------------------------------------------------------------


def without_tcx(
    lab: Lab, *words: str, status: int = 0, environment: Mapping[str, str] = ENVIRONMENT, cwd: Path | None = None
) -> str:
    """Run a command on a kernel that refuses tcx; what it says."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TCX, "--netns", lab.device.name, *words],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stderr


def test_what_outlives_the_command_is_replaced_under_load_and_taken_off(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    state_dir = ("--state-dir", str(tmp_path))
    connect(tmp_path).close()
    without_tcx(lab, "attach", "wwan0")
    assert len(filters(lab)) == 2
    assert "attached already" in without_tcx(lab, "attach", "wwan0")
    _, finish = begin_transfer(lab, down=30_000_003, up=30_000_007)
    for _ in range(3):
        without_tcx(lab, "attach", "--replace", "wwan0")
    finish()
    assert len(filters(lab)) == 2
    refused = without_tcx(lab, "--cgroup", cgroup2_root(), "watch", "wwan0", "--count", "1", status=3)
    assert "this kernel has room for one to count" in refused
    without_tcx(lab, *state_dir, "detach")
    assert ledger(tmp_path) == lab.link.crossed() - before
    assert filters(lab) == []


def test_another_version_is_taken_over_from_under_load(other: Path, lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    state_dir = ("--state-dir", str(tmp_path))
    without_tcx(lab, "attach", "wwan0", environment=theirs(other), cwd=other)
    _, finish = begin_transfer(lab, down=30_000_003, up=30_000_007)
    without_tcx(lab, *state_dir, "attach", "--replace", "wwan0")
    assert len(filters(lab)) == 2
    finish()
    without_tcx(lab, *state_dir, "detach")
    assert ledger(tmp_path) == lab.link.crossed() - before
    assert filters(lab) == []
