"""What a command cost: all of its descendants and nobody else, and the command none the wiser."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esimbpf.kernel.mounts import cgroup2_root
from esimbpf.model import Counters
from tests.live.netlab import Lab
from tests.live.traffic import Puppet, Scene
from tests.live.watching import PATIENCE_S, esimbpf

HEADERS = 28  # IPv4 and UDP


def run(lab: Lab, *command: str, options: tuple[str, ...] = (), given: str = "") -> subprocess.CompletedProcess[str]:
    """`esimbpf run` of a command on the lab's device."""
    return subprocess.run(
        esimbpf("--netns", lab.device.name, "run", lab.link.name, *options, "--", *command),
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def cost(done: subprocess.CompletedProcess[str], file: Path) -> dict[str, Any]:
    """The JSON object, whose processes add up to it."""
    assert "Traceback" not in done.stderr
    document: dict[str, Any] = json.loads(file.read_text())
    for field in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"):
        assert document[field] == sum(process[field] for process in document["processes"])
    return document


def counters(document: dict[str, Any]) -> Counters:
    return Counters(*(document[field] for field in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")))


def own_cgroups() -> list[Path]:
    return list(Path(cgroup2_root()).rglob("esimbpf-run-*"))


SEND = """
import os, socket, sys
to = (sys.argv[1], int(sys.argv[2]))
def send(size):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(bytes(size), to)
"""


@pytest.fixture
def sink(lab: Lab) -> list[str]:
    """The address and port of somebody in the network who takes datagrams."""
    Scene(lab)
    sock = Puppet.start(lab.network).udp()
    return [lab.link.network_ip, str(sock.do("bind", [lab.link.network_ip, 0])[1])]


def test_a_command_and_all_of_its_descendants_are_counted_and_nobody_else(
    lab: Lab, sink: list[str], tmp_path: Path
) -> None:
    """A child, a grandchild in a session of its own, and one whose parent is gone; another process sends too."""
    program = (
        SEND
        + """
send(1003)
if os.fork() == 0:
    send(503)
    if os.fork() == 0:
        os.setsid()
        send(303)
        os._exit(0)
    os._exit(0)
os.wait()
"""
    )
    before = lab.link.crossed()
    other = Puppet.start(lab.device).udp()
    other.do("send_datagrams", [sink[0], int(sink[1])], [901])
    done = run(lab, sys.executable, "-c", program, *sink, options=("--json", str(tmp_path / "cost")))
    other.do("send_datagrams", [sink[0], int(sink[1])], [701])
    assert done.returncode == 0, done.stderr
    document = cost(done, tmp_path / "cost")
    assert counters(document) == Counters(0, 1003 + 503 + 303 + 3 * HEADERS, 0, 3)
    assert sorted(process["tx_bytes"] - HEADERS for process in document["processes"]) == [303, 503, 1003]
    both = lab.link.crossed() - before
    assert both.tx_bytes - document["tx_bytes"] == 901 + 701 + 2 * HEADERS
    assert own_cgroups() == []


def test_what_outlives_the_command_is_waited_for_and_counted(lab: Lab, sink: list[str], tmp_path: Path) -> None:
    program = (
        SEND
        + """
parent = os.getpid()
if os.fork() == 0:
    os.setsid()
    while os.getppid() == parent:
        os.sched_yield()
    send(503)
    os._exit(0)
sys.exit(5)
"""
    )
    done = run(lab, sys.executable, "-c", program, *sink, options=("--json", str(tmp_path / "cost")))
    document = cost(done, tmp_path / "cost")
    assert (done.returncode, document["status"], document["still_running"]) == (5, 5, 0)
    assert counters(document) == Counters(0, 503 + HEADERS, 0, 1)


def test_what_leaves_the_commands_cgroup_is_counted(lab: Lab, sink: list[str], tmp_path: Path) -> None:
    """As sudo, su, podman and systemd-run do; from the command itself, and from a descendant."""
    program = (
        SEND
        + """
def leave():
    with open(sys.argv[3] + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
leave()
send(1003)
if os.fork() == 0:
    send(503)
    os._exit(0)
os.wait()
"""
    )
    root = cgroup2_root()
    done = run(lab, sys.executable, "-c", program, *sink, root, options=("--json", str(tmp_path / "cost")))
    assert done.returncode == 0, done.stderr
    assert counters(cost(done, tmp_path / "cost")) == Counters(0, 1003 + 503 + 2 * HEADERS, 0, 2)

    shell = 'echo $$ > "$0/cgroup.procs"; shift; exec "$@"'
    send = SEND + "send(703)"
    command = ["sh", "-c", f"(sh -c '{shell}' {root} x \"$@\"; true)", "sh", sys.executable, "-c", send, *sink]
    done = run(lab, *command, options=("--json", str(tmp_path / "cost")))
    assert counters(cost(done, tmp_path / "cost")) == Counters(0, 703 + HEADERS, 0, 1)


def test_the_cgroup_of_a_killed_run_goes_with_the_next(lab: Lab) -> None:
    command = esimbpf("--netns", lab.device.name, "run", lab.link.name, "--", "sh", "-c", "echo $$; exec sleep 1000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        sleeper = int(tracer.stdout.readline())
        tracer.kill()
    assert len(own_cgroups()) == 1
    pidfd = os.pidfd_open(sleeper)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.select([pidfd], [], [], PATIENCE_S)
    os.close(pidfd)
    assert run(lab, "true").returncode == 0
    assert own_cgroups() == []


def test_the_wait_for_what_outlives_the_command_can_be_ended(lab: Lab) -> None:
    command = esimbpf(
        "--netns", lab.device.name, "run", lab.link.name, "--", "sh", "-c", "sleep 1000 & echo $!; exit 4"
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        assert tracer.stderr is not None
        sleeper = int(tracer.stdout.readline())
        assert "1 process runs on" in tracer.stderr.readline()
        tracer.send_signal(signal.SIGINT)
        assert tracer.wait(PATIENCE_S) == 4
        os.kill(sleeper, signal.SIGKILL)
        assert "1 of its processes still run" in tracer.stderr.read()


def test_what_outlives_the_command_is_told_when_it_is_not_waited_for(lab: Lab, sink: list[str], tmp_path: Path) -> None:
    program = (
        SEND
        + """
send(1003)
if os.fork() == 0:
    os.setsid()
    os.close(0), os.close(1), os.close(2)
    import signal
    signal.pause()
"""
    )
    done = run(lab, sys.executable, "-c", program, *sink, options=("--no-wait", "--json", str(tmp_path / "cost")))
    document = cost(done, tmp_path / "cost")
    assert document["still_running"] == 1
    assert counters(document) == Counters(0, 1003 + HEADERS, 0, 1)
    assert own_cgroups() == []
    subprocess.run(["pkill", "-KILL", "-f", "signal.pause"], check=True)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["no-such-command-anywhere"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_exit_status_is_the_commands(lab: Lab, command: list[str], status: int) -> None:
    done = run(lab, *command)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert own_cgroups() == []


def test_stdin_stdout_and_stderr_are_the_commands(lab: Lab, tmp_path: Path) -> None:
    file = str(tmp_path / "cost")
    done = run(lab, "sh", "-c", "cat; echo said >&2", options=("--json", file), given="given\n")
    assert (done.stdout, done.stderr) == ("given\n", "said\n")


def test_the_summary_goes_to_stderr_and_leaves_stdout_alone(lab: Lab) -> None:
    done = run(lab, "echo", "out")
    assert done.stdout == "out\n"
    assert done.stderr.startswith("esimbpf run echo out")


def test_signals_reach_the_command_once(lab: Lab) -> None:
    program = """
import signal, sys
caught = []
signal.signal(signal.SIGTERM, lambda *_: caught.append("term"))
signal.signal(signal.SIGUSR1, lambda *_: caught.append("usr1"))
print("ready", flush=True)
while len(caught) < 2:
    signal.sigtimedwait([], 0.01)
print(*sorted(caught), flush=True)
sys.exit(9)
"""
    command = esimbpf("--netns", lab.device.name, "run", lab.link.name, "--", sys.executable, "-c", program)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "ready\n"
        tracer.send_signal(signal.SIGTERM)
        tracer.send_signal(signal.SIGUSR1)
        assert tracer.stdout.readline() == "term usr1\n"
        assert tracer.wait(PATIENCE_S) == 9
    assert own_cgroups() == []


def test_options_of_the_command_are_its_own(lab: Lab) -> None:
    assert run(lab, "echo", "--json", "--", "-h").stdout == "--json -- -h\n"


def test_without_a_command_or_dashes_it_says_how(lab: Lab) -> None:
    for words in ((), ("echo", "x")):
        done = subprocess.run(
            esimbpf("run", *words), capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=os.environ
        )
        assert done.returncode == 2
        assert "esimbpf run -- " in done.stderr


def test_a_file_that_cannot_be_written_is_told_before_anything_runs(lab: Lab, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    done = run(lab, "touch", str(ran), options=("--json", str(tmp_path / "no" / "file")))
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert not ran.exists()


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&-", ">/dev/full 2>/dev/full"])
def test_the_commands_status_is_kept_though_the_summary_cannot_be_written(lab: Lab, redirected: str) -> None:
    command = esimbpf("--netns", lab.device.name, "run", lab.link.name, "--", "sh", "-c", "exit 7")
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *command], capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 7
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("json_to", ["/dev/full", "-"])
def test_the_commands_status_is_kept_though_its_object_cannot_be_written(lab: Lab, json_to: str) -> None:
    command = esimbpf("--netns", lab.device.name, "run", "--json", json_to, lab.link.name, "--", "sh", "-c", "exit 7")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 7
    assert "cannot write what the command has moved: No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_three_capabilities_suffice(lab: Lab, sink: list[str]) -> None:
    """Without the right to make a cgroup, ancestry tells the descendants."""
    few = "+bpf,+perfmon,+net_admin"
    less = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--inh-caps",
        few,
        "--ambient-caps",
        few,
    ]
    command = esimbpf("run", lab.link.name, "--", "sh", "-c", '"$0" -c "$1" "$2" "$3"; true', sys.executable)
    done = subprocess.run(
        lab.device.command(*less, *command, SEND + "send(703)", *sink),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{703 + HEADERS} B" in done.stderr
