"""What must not go wrong when something else does: kills, closed pipes, full maps, wrong usage, lacking rights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from esimbpf.model import NOTHING, Counters
from tests.live.netlab import Lab, Wire, run
from tests.live.traffic import IP, UDP, Scene, begin_transfer, datagrams, udp
from tests.live.watching import PATIENCE_S, Watch, esimbpf, within


def refused(status: int, command: list[str], **environment: str) -> str:
    """Run a command that must be refused with this status, and return the two lines that it says."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert all(line.isprintable() for line in done.stderr.splitlines())
    return done.stderr


# --- ends --------------------------------------------------------------------------------------------------------


def bpf_objects(pid: int) -> dict[str, set[int]]:
    """Ids of the eBPF links, programs and maps that a process holds (fdinfo, kernel/bpf/syscall.c)."""
    held: dict[str, set[int]] = {"link": set(), "prog": set(), "map": set()}
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("link_id", "prog_id", "map_id"):
                held[name.removesuffix("_id")].add(int(value))
    return held


def await_absence(held: dict[str, set[int]]) -> None:
    """Return when bpftool shows none of them; the kernel takes them away some time after their last user."""
    deadline = time.monotonic() + PATIENCE_S
    while left := {kind: ids & known(kind) for kind, ids in held.items() if ids & known(kind)}:
        assert time.monotonic() < deadline, f"still in the kernel: {left}"
        time.sleep(0.05)


def known(kind: str) -> set[int]:
    """Ids that bpftool shows."""
    return {entry["id"] for entry in json.loads(run("bpftool", "-j", kind, "show"))}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_attached_however_the_run_ends_and_the_next_one_works(lab: Lab, how: signal.Signals) -> None:
    watch = Watch(lab)
    try:
        watch.await_start()
        transfers = [begin_transfer(lab, down=20_971_529), begin_transfer(lab, up=20_971_529)]
        watch.next_interval()
        held = bpf_objects(watch.process.pid)
        assert all(held.values()), f"nothing to lose: {held}"
        assert all(ids <= known(kind) for kind, ids in held.items())
        watch.process.send_signal(how)
        watch.process.wait(PATIENCE_S)
    finally:
        watch.close()
    await_absence(held)
    for _, end in transfers:
        end()

    with Watch(lab) as again:
        moved = udp(lab, down=7, up=9)
    assert again.report.link() == again.truth() == moved.exactly
    assert again.report.process(moved.pids[0]) == moved.exactly


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_a_last_interval_and_the_end_line(lab: Lab, number: signal.Signals) -> None:
    with Watch(lab, interval="60") as watch:
        moved = udp(lab, down=7, up=9)
        lab.link.crossed()
        watch.end(number)
    report = watch.report
    assert report.end["reason"] == "signal"
    assert report.process(moved.pids[0]) == watch.truth() == moved.exactly


def test_a_count_ends_after_that_many_intervals(lab: Lab) -> None:
    with Watch(lab, "--count", "3", interval="0.2") as watch:
        watch.process.wait(PATIENCE_S)
    assert watch.report.end["reason"] == "count"
    assert [line["type"] for line in watch.report.lines].count("link") == 3


def test_a_reader_that_leaves_ends_the_run_quietly(lab: Lab) -> None:
    """As `| head -1` does."""
    watching = subprocess.Popen(
        esimbpf("--netns", lab.device.name, "watch", "wwan0", "--interval", "0.2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stdout
    assert json.loads(watching.stdout.readline())["type"] == "start"
    watching.stdout.close()
    assert watching.stderr
    assert watching.stderr.read() == b""
    assert watching.wait(PATIENCE_S) == 0


def test_a_full_disk_is_said_in_plain_words(lab: Lab) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            esimbpf("--netns", lab.device.name, "watch", "wwan0", "--count", "1", "--interval", "0.2"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr


# --- circumstances -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lab", [Wire.OFFLOAD, Wire.RAW_IP], indirect=True, ids=str)
def test_a_start_amid_traffic_counts_from_the_start_line_on(lab: Lab) -> None:
    _, end = begin_transfer(lab, down=41_943_049, up=20_971_529)
    before = lab.link.crossed_so_far()
    watch = Watch(lab)
    try:
        watch.await_start()
        started = lab.link.crossed_so_far()
        end()
        after = lab.link.crossed()
        watch.end()
    finally:
        watch.close()
    assert started.total_bytes < after.total_bytes, "the traffic was over too soon"
    assert within(after - started, watch.report.link())
    assert within(watch.report.link(), after - before)
    assert watch.report.total("unattributed") == NOTHING


def test_two_runs_at_once_do_not_disturb_each_other(lab: Lab) -> None:
    with Watch(lab) as first:
        with Watch(lab) as second:
            moved = udp(lab, down=7, up=9)
        more = udp(lab, down=11, up=3)
    assert second.report.link() == second.truth() == moved.exactly
    assert first.report.link() == first.truth()
    assert first.report.process(more.pids[0]) == more.exactly
    for report in (first.report, second.report):
        assert report.process(moved.pids[0]) == moved.exactly


def test_other_peoples_filters_stay(fresh_lab: Lab) -> None:
    def filters() -> str:
        return "".join(
            fresh_lab.device.run("tc", "filter", "show", "dev", "wwan0", direction)
            for direction in ("ingress", "egress")
        )

    fresh_lab.device.run("tc", "qdisc", "add", "dev", "wwan0", "clsact")
    for direction in ("ingress", "egress"):
        words = f"filter add dev wwan0 {direction} pref 1 handle 1 bpf bytecode"
        fresh_lab.device.run("tc", *words.split(), "1,6 0 0 0")
    before = filters()
    assert before.count("bytecode") == 2
    with Watch(fresh_lab) as watch:
        moved = udp(fresh_lab, down=7, up=9)
        assert before in filters() or before == filters()
    assert watch.report.link() == watch.truth() == moved.exactly
    assert filters() == before


def test_a_full_map_loses_no_byte_and_says_so(lab: Lab) -> None:
    scene = Scene(lab)
    far = scene.network.udp()
    port = far.do("bind", [scene.network_ip, 0])[1]
    with Watch(lab, "--max-processes", "8") as watch:
        workers = [scene.device.fork() for _ in range(40)]
        sizes = {worker.pid: 501 + 2 * number for number, worker in enumerate(workers)}
        for worker in workers:
            datagrams(worker.udp(), far, [scene.network_ip, port], 3, sizes[worker.pid])
    report = watch.report
    assert report.link() == watch.truth()
    assert report.total("unattributed") == report.total("kernel") == NOTHING
    named = report.rows("process")
    assert len(named) <= 8
    for row in named:
        size = sizes[row.line["pid"]]
        assert row.total == Counters(tx_bytes=3 * (size + IP + UDP), tx_packets=3)
    assert report.total("overflow").tx_packets == 3 * (40 - len(named))
    assert any("--max-processes" in warning for warning in report.warnings)


def test_slots_of_ended_processes_serve_new_ones(lab: Lab, sender: Path) -> None:
    """Ten times 20 processes have room where 128 have, since each 20 are gone when the next come.

    Other processes of the machine take places too.
    """
    scene = Scene(lab)
    far = scene.network.udp()
    port = far.do("bind", [scene.network_ip, 0])[1]
    moved = {}
    with Watch(lab, "--max-processes", "128", interval="0.1") as watch:
        for wave in range(10):
            spawned = scene.device.do("spawn", [str(sender)] * 20, scene.network_ip, port, 301 + wave * 40, 2, 1)
            for pid, amount in spawned:
                moved[pid] = Counters(tx_bytes=amount + IP + UDP, tx_packets=1)
            watch.next_interval()
            watch.next_interval()
    report = watch.report
    assert report.link() == watch.truth()
    assert {row.line["pid"]: row.total for row in report.rows("process")} == moved
    assert report.total("overflow") == NOTHING


def test_a_link_that_is_down_is_counted_once_it_is_up(fresh_lab: Lab) -> None:
    fresh_lab.device.ip("link set wwan0 down")
    with Watch(fresh_lab) as watch:
        fresh_lab.link.flap()
        moved = udp(fresh_lab, up=9)
    assert watch.report.process(moved.pids[0]) == watch.truth() == moved.exactly


def test_a_run_can_end_with_its_link(fresh_lab: Lab) -> None:
    with Watch(fresh_lab, "--end-when-gone") as watch:
        moved = udp(fresh_lab, up=9)
        fresh_lab.link.down()
        watch.process.wait(PATIENCE_S)
    assert watch.report.end["reason"] == "link-gone"
    assert watch.report.link() == watch.truth() == moved.exactly


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_link_that_is_not_there_is_named(lab: Lab) -> None:
    said = refused(3, esimbpf("--netns", lab.device.name, "watch", "nosuch0"))
    assert "nosuch0" in said.splitlines()[0]


def test_without_a_cellular_link_the_candidates_are_named(lab: Lab) -> None:
    said = refused(3, esimbpf("--netns", lab.network.name, "watch"))
    assert lab.link.tower in said


def test_a_namespace_that_is_not_there_is_named() -> None:
    assert "nosuchns" in refused(3, esimbpf("--netns", "nosuchns", "watch", "wwan0"))


@pytest.mark.parametrize(
    "options",
    [
        ["--interval", "0"],
        ["--interval", "-1"],
        ["--interval", "1e9"],
        ["--interval", "nan"],
        ["--interval", "inf"],
        ["--interval", "abc"],
        ["--interval", ""],
        ["--by", "nonsense"],
        ["--count", "0"],
        ["--count", "-3"],
        ["--count", "1.5"],
        ["--max-processes", "0"],
        ["--max-processes", "-1"],
        ["--max-processes", "99999999999"],
        ["--nonsense"],
    ],
    ids=" ".join,
)
def test_option_values_without_sense_are_wrong_usage(lab: Lab, options: list[str]) -> None:
    refused(2, esimbpf("--netns", lab.device.name, "watch", "wwan0", *options))


@pytest.mark.parametrize("words", [["--engine", "nonsense", "watch", "lo"], ["nonsense"], ["--nonsense", "watch"]])
def test_words_that_are_none_of_the_commands_are_wrong_usage(words: list[str]) -> None:
    refused(2, esimbpf(*words))


def as_nobody(command: list[str]) -> list[str]:
    """The command without root's identity."""
    return ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *command]


def without_capabilities(command: list[str]) -> list[str]:
    """The command as root in name alone, as in a container."""
    return ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *command]


def without_perfmon(command: list[str]) -> list[str]:
    """The command with all rights but the one without which the verifier lets no pointers be compared."""
    return ["setpriv", "--bounding-set", "-perfmon,-sys_admin", *command]


def test_without_one_capability_its_name_is_said(lab: Lab) -> None:
    assert "CAP_PERFMON" in refused(3, lab.device.command(*without_perfmon(esimbpf("watch", "wwan0"))))


@pytest.mark.parametrize("less", [as_nobody, without_capabilities])
def test_without_the_rights_it_says_which_are_missing(lab: Lab, less: Callable[[list[str]], list[str]]) -> None:
    refused(3, lab.device.command(*less(esimbpf("watch", "wwan0"))))
    refused(3, less(esimbpf("--netns", lab.device.name, "watch", "wwan0")))


def test_without_btf_the_libbpf_engine_says_so(lab: Lab) -> None:
    command = esimbpf("--netns", lab.device.name, "--engine", "libbpf", "watch", "wwan0")
    assert "BTF" in refused(3, command, ESIMBPF_BTF="/nonexistent")
