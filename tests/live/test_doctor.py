"""What doctor finds on a real kernel: sound, and with things really taken away or put in its way."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from esimbpf import __version__
from esimbpf.kernel import engine, libbpf
from esimbpf.kernel.mounts import cgroup2_root
from esimbpf.kernel.netns import enter
from esimbpf.kernel.pins import PINS_VARIABLE
from esimbpf.kernel.programs import PROGRAMS
from esimbpf.kernel.tryout import examine_object, try_programs
from esimbpf.machine import ProgramFact
from esimbpf.model import NOTHING
from esimbpf.selftest import self_test
from tests.live.netlab import Lab, run
from tests.live.watching import PATIENCE_S, esimbpf

Findings = dict[str, dict[str, Any]]

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
NO_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
THREE = "-all,+bpf,+perfmon,+net_admin"

# include/uapi/linux/bpf.h
SCHED_CLS, XDP, CGROUP_SKB = 3, 6, 8
XDP_HOOK = 37
PASS = {SCHED_CLS: 0, XDP: 2, CGROUP_SKB: 1}


def doctor(*words: str, status: int, before: tuple[str, ...] = (), **environment: str) -> Findings:
    """Run `doctor --json` and return its findings by id; its status must be this."""
    done = subprocess.run(
        [*before, *esimbpf(*words, "--json")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert done.returncode == status, document
    assert document["counting"] is (status == 0)
    for finding in document["findings"]:
        assert (finding["lost"] is None) is (finding["state"] in ("works", "unknown")), finding
    return {finding["id"]: finding for finding in document["findings"]}


def disturbed(findings: Findings) -> dict[str, str]:
    """The states of all that does not work."""
    return {name: one["state"] for name, one in findings.items() if one["state"] != "works"}


def load(kind: int) -> int:
    """A stranger's program of this type, which lets every packet pass: `r0 = …; exit`."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, PASS[kind]) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    prog_load = libbpf.library().bpf_prog_load
    prog_load.argtypes = (
        *(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p),
        *(ctypes.c_size_t, ctypes.c_void_p),
    )
    return libbpf.check(prog_load(kind, b"stranger", b"GPL", code, 2, None), "load")


@contextmanager
def stranger_on_wwan0(lab: Lab, kind: int, hook: int) -> Iterator[None]:
    """A stranger's program on the link while the `with` lasts."""

    def attach() -> int:
        enter(lab.device.name)
        create = libbpf.link_create if hook == XDP_HOOK else libbpf.tcx_create
        return create(program, lab.link.ifindex, hook, "stranger")

    program = load(kind)
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            link = thread.submit(attach).result()
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(program)


def test_all_works_here_and_nothing_is_left_behind(lab: Lab) -> None:
    def there() -> tuple[list[str], str]:
        return sorted(os.listdir(cgroup2_root())), run("ip", "netns", "list")

    before = there()
    findings = doctor("--netns", lab.device.name, "doctor", status=0)
    # What the machine's owner decides: what is attached for good, the capabilities of its root, packages, modems.
    assert not set(disturbed(findings)) - {"pins", "ledger", "capability.sys_ptrace", "bcc", "modem-manager"}
    assert "link.wwan0.tcx" in findings
    assert there() == before


CROWD = 100
CROWDED = f"""
import os, socket, sys
ready, end = os.pipe(), os.pipe()
for _ in range({CROWD}):
    if not os.fork():
        os.close(end[1])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
            os.write(ready[1], b"x")
            os.read(end[0], 1)
        os._exit(0)
for _ in range({CROWD}):
    os.read(ready[0], 1)
print(flush=True)
sys.stdin.read()
"""


def test_the_self_test_is_exact_however_many_processes_have_sockets() -> None:
    with subprocess.Popen([sys.executable, "-c", CROWDED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
        assert crowd.stdout
        crowd.stdout.readline()
        told = self_test()
        crowd.communicate()
    assert told.words == ""
    assert told.counted == told.sent


def test_the_table_is_for_people(lab: Lab) -> None:
    done = subprocess.run(
        lab.device.command(*esimbpf("doctor", "wwan0")),
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "exact to the byte" in done.stdout
    assert "Counting works here" in done.stdout


@pytest.mark.parametrize("less", [NOBODY, NO_CAPABILITIES], ids=["nobody", "root-in-name"])
def test_without_rights_it_shows_what_can_be_seen(lab: Lab, less: tuple[str, ...]) -> None:
    before = (*lab.device.command(), *less)
    findings = doctor("doctor", "wwan0", status=3, before=before)
    found = disturbed(findings)
    assert {found[f"capability.{name}"] for name in ("bpf", "perfmon", "net_admin")} == {"missing"}
    assert {found[f"program.{program.name}"] for program in PROGRAMS} == {"unknown"}
    assert {findings[one]["state"] for one in ("btf", "libbpf", "object", "cgroup2", "link.wwan0")} == {"works"}


def test_three_capabilities_suffice_for_counting(lab: Lab) -> None:
    before = (*lab.device.command(), *NOBODY, f"--inh-caps={THREE}", f"--ambient-caps={THREE}")
    found = disturbed(doctor("doctor", "wwan0", status=0, before=before))
    assert found["capability.sys_admin"] == "lost"
    assert not [name for name in found if name.startswith("program.") and found[name] != "unknown"]


def test_without_btf_nothing_is_tried(lab: Lab) -> None:
    findings = doctor("--netns", lab.device.name, "doctor", status=3, ESIMBPF_BTF="/nonexistent")
    assert findings["btf"]["state"] == "missing"
    assert findings["program.sent"]["detail"] == "not tried: it takes BTF"


def test_a_link_that_is_not_there_is_missing(lab: Lab) -> None:
    findings = doctor("--netns", lab.device.name, "doctor", "nosuch0", status=3)
    assert findings["links"]["state"] == "missing"
    assert "nosuch0" in findings["links"]["detail"]
    assert "wwan0" in findings["links"]["remedy"]


def test_a_user_namespaces_capabilities_count_for_nothing() -> None:
    before = ("unshare", "--map-root-user", "--user", "--pid", "--fork", "--mount-proc")
    found = disturbed(doctor("doctor", "lo", status=3, before=before))
    assert found["user-namespace"] == "missing"
    assert found["pid-namespace"] == "lost"


def test_a_containers_part_of_the_cgroups_is_told_from_the_whole() -> None:
    root = cgroup2_root()
    inside = Path(root) / f"esimbpf-test-{os.getpid()}"
    script = (
        f"echo 0 > {inside}/cgroup.procs && exec unshare --cgroup --mount "
        f'sh -c \'umount {root} && mount -t cgroup2 none {root} && exec "$@"\' sh "$@"'
    )
    inside.mkdir()
    try:
        findings = doctor("doctor", "lo", status=0, before=("sh", "-c", script, "sh"))
        left = os.listdir(inside)
    finally:
        inside.rmdir()
    assert findings["cgroup2.scope"]["state"] == "lost"
    assert findings["self-test"]["state"] == "works"
    assert not [name for name in left if name.startswith("esimbpf-")]
    assert doctor("doctor", "lo", status=0)["cgroup2.scope"]["state"] == "works"


def test_cgroups_that_cannot_be_written_do_as_well() -> None:
    root = cgroup2_root()
    # A bind mount that is read-only, as in containers: the hierarchy itself stays writable.
    script = (
        f'mount --bind {root} {root} && mount -o remount,bind,ro {root} && ! mkdir {root}/x 2>/dev/null && exec "$@"'
    )
    findings = doctor("doctor", "lo", status=0, before=("unshare", "--mount", "sh", "-c", script, "sh"))
    assert findings["program.delivered"]["state"] == findings["program.socket_created"]["state"] == "works"


@pytest.mark.parametrize(
    ("kind", "hook", "identity", "state"),
    [
        (SCHED_CLS, libbpf.TCX_EGRESS, "link.wwan0.tcx", "lost"),
        (SCHED_CLS, libbpf.TCX_INGRESS, "link.wwan0.tcx", "works"),
        (XDP, XDP_HOOK, "link.wwan0.xdp", "lost"),
    ],
    ids=["tcx-egress", "tcx-ingress", "xdp"],
)
def test_a_strangers_program_on_the_link_is_told(lab: Lab, kind: int, hook: int, identity: str, state: str) -> None:
    with stranger_on_wwan0(lab, kind, hook):
        finding = doctor("--netns", lab.device.name, "doctor", status=0)[identity]
    assert finding["state"] == state
    assert ("stranger" in finding["detail"]) or (kind == XDP and finding["detail"].startswith("program "))


def test_a_strangers_filter_on_sent_packets_is_told(fresh_lab: Lab) -> None:
    fresh_lab.device.run("tc", "qdisc", "add", "dev", "wwan0", "clsact")
    words = "filter add dev wwan0 egress pref 1 handle 1 bpf bytecode"
    fresh_lab.device.run("tc", *words.split(), "1,6 0 0 0")
    finding = doctor("--netns", fresh_lab.device.name, "doctor", status=0)["link.wwan0.filters"]
    assert (finding["state"], finding["detail"]) == ("lost", "on sent packets, behind ours: bpf")


def test_a_cgroup_that_a_stranger_holds_alone_is_told() -> None:
    held = Path(cgroup2_root()) / f"esimbpf-test-{os.getpid()}"
    held.mkdir()
    program, directory = load(CGROUP_SKB), os.open(held, os.O_RDONLY)
    lib = libbpf.library()
    try:
        libbpf.check(lib.bpf_prog_attach(program, directory, libbpf.CGROUP_INET_INGRESS, 0), "attach")
        findings = doctor("--cgroup", str(held), "doctor", "lo", status=3)
        libbpf.check(lib.bpf_prog_detach2(program, directory, libbpf.CGROUP_INET_INGRESS), "detach")
        freed = doctor("--cgroup", str(held), "doctor", "lo", status=0)
    finally:
        os.close(program)
        os.close(directory)
        held.rmdir()
    assert findings["cgroup2.programs"]["state"] == findings["program.delivered"]["state"] == "missing"
    assert "ingress" in findings["cgroup2.programs"]["detail"]
    assert freed["cgroup2.programs"]["state"] == "works"


# --- counting that outlives a command ------------------------------------------------------------------------------

# Mounts a bpffs of the command's own, or what else is said, before it runs.
OTHER_BPFFS = ("unshare", "--mount", "sh", "-c", 'umount /sys/fs/bpf 2>/dev/null; $1 || exit; shift; exec "$@"', "sh")
OWN_BPFFS = (*OTHER_BPFFS, "mount -t bpf bpf /sys/fs/bpf")


def lasting(findings: Findings) -> dict[str, str]:
    """What is said of counting that outlives a command, as `state: detail`."""
    return {
        name: f"{findings[name]['state']}: {findings[name]['detail']}" for name in ("bpffs", "pins", "daemon", "ledger")
    }


def test_what_is_attached_for_good_its_daemon_and_its_ledger_are_told(lab: Lab, tmp_path: Path) -> None:
    words = ("--netns", lab.device.name, "--state-dir", str(tmp_path))
    pins = Path(f"/sys/fs/bpf/esimbpf-test-{os.getpid()}")
    if not os.path.ismount("/sys/fs/bpf"):
        run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    nothing = doctor(*words, "doctor", status=0, ESIMBPF_PINS=str(pins))
    with subprocess.Popen(
        esimbpf(*words, "daemon", "wwan0"),
        env={**os.environ, PINS_VARIABLE: str(pins)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr
            assert "ready\n" in iter(process.stderr.readline, "")
            running = doctor(*words, "doctor", status=0, ESIMBPF_PINS=str(pins))
            elsewhere = doctor("doctor", "lo", status=0, ESIMBPF_PINS=str(pins))
        finally:
            process.kill()
    try:
        (pins / "v1").rename(pins / "v9")
        (tmp_path / "ledger.db").write_bytes(b"no database at all" * 1000)
        (tmp_path / "ledger.db-wal").unlink(missing_ok=True)
        troubled = doctor(*words, "doctor", status=0, ESIMBPF_PINS=str(pins))
    finally:
        shutil.rmtree(pins)
    assert lasting(nothing) == {
        "bpffs": "works: /sys/fs/bpf",
        "pins": "works: nothing; esimbpf attach does it",
        "daemon": "works: none runs: what is counted is not written down",
        "ledger": f"works: none yet in {tmp_path}",
    }
    told = lasting(running)
    assert told["pins"] == f"works: wwan0, by esimbpf {__version__}"
    assert told["daemon"] == f"works: pid {process.pid}"
    assert told["ledger"].startswith("works: 0.")
    assert lasting(elsewhere)["pins"].startswith("lost: in another network namespace: wwan0")
    told = lasting(troubled)
    assert told["pins"] == f"lost: by another version of esimbpf: {pins}/v9"
    assert told["daemon"].startswith("works: none runs")
    assert "is no ledger, or damaged" in told["ledger"]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (OWN_BPFFS, "works: /sys/fs/bpf"),
        ((*OTHER_BPFFS, "mount -t bpf -o ro bpf /sys/fs/bpf"), "lost: /sys/fs/bpf is read-only"),
        ((*OTHER_BPFFS, "true"), "works: not mounted; attach and daemon mount it"),
        ((*OTHER_BPFFS, "true", *NOBODY, f"--inh-caps={THREE}", f"--ambient-caps={THREE}"), "lost: not mounted"),
    ],
    ids=["mounted", "read-only", "can-be-mounted", "cannot-be-mounted"],
)
def test_bpffs_is_looked_at_where_it_belongs(before: tuple[str, ...], said: str) -> None:
    assert lasting(doctor("doctor", "lo", status=0, before=before))["bpffs"] == said


# --- programs that a kernel refuses --------------------------------------------------------------------------------


def tried_with(monkeypatch: pytest.MonkeyPatch, folder: Path, old: bytes, new: bytes) -> dict[str, ProgramFact]:
    """What becomes of the programs when their object has been changed like this."""
    elf = engine.OBJECT.read_bytes()
    assert old in elf
    assert len(old) == len(new)
    changed = folder / "changed.bpf.o"
    changed.write_bytes(elf.replace(old, new))
    monkeypatch.setattr(engine, "OBJECT", changed)
    return {fact.name: fact for fact in try_programs(cgroup2_root()).programs}


def test_hooks_that_would_not_be_run_are_told_with_the_mend(lab: Lab) -> None:
    """As the kernel sees it for each hook's user; those that are refused, and those that would only fail."""
    with tempfile.TemporaryDirectory(prefix="esimbpf-test-") as made:
        place = Path(made)
        folder, shut, rules = place / "hooks.d", place / "shut", place / "config.toml"
        for path, mode in ((place, 0o755), (folder, 0o755), (shut, 0o700)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        modes = {"good": 0o755, "plain": 0o644, "open": 0o757, "secret": 0o700, "unread": 0o711, "left.bak": 0o755}
        for path, mode in {**{folder / name: mode for name, mode in modes.items()}, shut / "inside": 0o755}.items():
            path.write_text("#!/bin/sh\n")
            path.chmod(mode)
        (folder / "roots").symlink_to(shut / "inside")
        rules.write_text(
            f'hooks_dir = "{folder}"\n[[hook]]\nfile = "gone"\n[[hook]]\nfile = "roots"\nuser = "root"\n'
            f'[[hook]]\ncommand = ["{shut}/inside"]\nevents = ["link.*"]\n'
            f'[[hook]]\nname = "no-user"\ncommand = ["{folder}/good"]\nuser = "no-such-user"\n'
            f'[[hook]]\nname = "binary"\ncommand = ["/bin/true"]\ntimeout_s = 2.5\n'
        )
        findings = doctor("--netns", lab.device.name, "--config", str(rules), "doctor", status=0)
        said = {name.removeprefix("hook."): one for name, one in findings.items() if name.startswith("hook.")}
        assert {name: one["detail"] for name, one in said.items()} == {
            "binary": "runs as nobody on all events, for 2.5 s at most",
            "hooks.d/good": "runs as nobody on all events, for 30 s at most",
            "hooks.d/roots": "runs as root on all events, for 30 s at most",
            "hooks.d/gone": f"not run: there is no {folder}/gone",
            "hooks.d/plain": f"not run: {folder}/plain is not executable",
            "hooks.d/open": f"not run: {folder}/open is not trusted: others than root can change {folder}/open",
            "hooks.d/secret": f"not run: nobody may not run {folder}/secret",
            "hooks.d/unread": f"not run: nobody may not run {folder}/unread",
            "inside": f"not run: nobody may not run {shut}/inside",
            "no-user": "not run: there is no user no-such-user",
        }
        assert {one["state"] for one in said.values() if one["detail"].startswith("runs")} == {"works"}
        assert said["hooks.d/open"]["remedy"] == f"chown root {folder}/open; chmod go-w {folder}/open"
        assert said["hooks.d/plain"]["remedy"] == f"chmod a+rx {folder}/plain"
        assert findings["hooks"]["detail"].endswith(f"{folder}; passed over for their names: left.bak")
        listed = subprocess.run(
            esimbpf("--config", str(rules), "hook", "list"),
            env={**os.environ, "COLUMNS": "250"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"no: nobody may not run {shut}/inside" in listed.stdout
        rules.write_text("[[hook]]\n")
        findings = doctor("--netns", lab.device.name, "--config", str(rules), "doctor", status=3)
        assert disturbed(findings)["config"] == "missing"
        assert "has neither" in findings["config"]["detail"]


def test_a_tracepoint_that_the_kernel_lacks_costs_that_program_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facts = tried_with(monkeypatch, tmp_path, b"tp_btf/sock_send_length", b"tp_btf/sock_send_nosuch")
    refused = [name for name, fact in facts.items() if not fact.loaded]
    assert refused == ["socket_sent"]
    assert facts["socket_sent"].lacks == ("sock_send_nosuch",)
    assert "sock_send_nosuch" in facts["socket_sent"].words
    assert all(fact.attached for name, fact in facts.items() if name != "socket_sent")


def test_a_helper_that_the_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call, get_netns_cookie, unheard_of = b"\x85\0\0\0", struct.pack("=i", 122), struct.pack("=i", 9999)
    facts = tried_with(monkeypatch, tmp_path, call + get_netns_cookie, call + unheard_of)
    assert [name for name, fact in facts.items() if not fact.loaded] == ["socket_created"]
    assert facts["socket_created"].lacks == ("helper 9999",)
    assert facts["socket_created"].words == "invalid func unknown#9999"


def test_a_helper_that_the_type_of_program_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    call, get_netns_cookie, redirect = b"\x85\0\0\0", struct.pack("=i", 122), struct.pack("=i", 23)
    facts = tried_with(monkeypatch, tmp_path, call + get_netns_cookie, call + redirect)
    assert facts["socket_created"].lacks == ("bpf_redirect",)


def test_the_object_agrees_with_the_package_and_another_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert examine_object().disagreements == ()
    other = tmp_path / "other.bpf.o"
    other.write_bytes(engine.OBJECT.read_bytes().replace(b"process_slots\0", b"process_slits\0"))
    monkeypatch.setattr("esimbpf.kernel.tryout.OBJECT", other)
    assert examine_object().disagreements == ("it has no map `process_slots`",)
    other.write_bytes(b"no object")
    assert "cannot be opened" in examine_object().disagreements[0]


def test_the_self_test_counts_real_packets() -> None:
    found = self_test()
    assert found.words == ""
    assert found.counted == found.sent
    assert (found.sent.rx_packets, found.sent.tx_packets) == (10, 10)
    assert found.unattributed == NOTHING


def test_where_the_kernel_has_no_tcx_filters_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_tcx(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(libbpf, "tcx_create", no_tcx)
    tried = try_programs("")
    facts = {fact.name: fact for fact in tried.programs}
    assert tried.tc == "clsact"
    assert facts["sent"].attached
    assert facts["received"].attached
    assert (facts["delivered"].loaded, facts["delivered"].attached) == (True, None)
