"""Counting where the kernel has no tcx (before 6.6): through tc filters, which outlive a killed run until the next."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from esimbpf.model import Counters
from tests.live.netlab import Lab, run
from tests.live.traffic import Puppet, Scene
from tests.live.watching import PATIENCE_S

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
