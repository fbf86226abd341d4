"""What faked facts about a machine come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esimbpf.doctor import Finding, State, can_count, diagnose, worth_testing
from esimbpf.kernel.programs import PROGRAMS
from esimbpf.kernel.tryout import lacking, last_words
from esimbpf.machine import (
    AttachedProgram,
    BccFact,
    Cgroups,
    Filter,
    HookFact,
    Hooks,
    Kernel,
    Lasting,
    LibraryFact,
    LinkFact,
    Machine,
    ModemManager,
    ObjectFact,
    ProgramFact,
    Rights,
    SelfTest,
    Service,
)
from esimbpf.model import NOTHING, Counters
from esimbpf.modem.model import Modem, ModemState, Sim, Survey
from esimbpf.modem.model import Service as MmService

ALL = frozenset({"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE"})
MOVED = Counters(5920, 2460, 10, 10)
WWAN0 = LinkFact("wwan0", "wwan", "up", "yes", (), (), ())

LASTING = Lasting(
    pinned=True,
    pinned_version="0.1.0",
    pinned_links=("wwan0",),
    state_dir="/var/lib/esimbpf",
    daemon=812,
    ledger_bytes=1_234_567,
    service=Service(True, "/etc/systemd/system/esimbpf.service", True),
)

MODEM = Modem(
    "/m/0", ModemState.CONNECTED, manufacturer="Quectel", model="RM520N-GL", sim=Sim("/s/0", "8949020000001234567")
)
MODEM_MANAGER = ModemManager(True, Survey(MmService.RUNNING, version="1.20.4", modems=(MODEM,)), ("wwan0",))
TELL = HookFact("tell-me", ("quota.*", "link.down"), "ann", 2.5)
HOOKS = Hooks("/etc/esimbpf/config.toml", folder="/etc/esimbpf/hooks.d", hooks=(TELL,))

SOUND = Machine(
    kernel=Kernel("6.18.44-generic", "x86_64", True, "none", True, "/sys/kernel/btf/vmlinux", 5_516_713),
    rights=Rights(0, ALL, 8 << 20, True, True),
    distribution="debian",
    library=LibraryFact((1, 1), "v1.1"),
    object=ObjectFact("/usr/lib/esimbpf.bpf.o", True),
    bcc=BccFact("", ""),
    cgroups=Cgroups("/sys/fs/cgroup", "", "", False, True, False, (), ()),
    bpffs=True,
    bpffs_known=True,
    bpffs_read_only=False,
    lasting=LASTING,
    hooks=HOOKS,
    programs=tuple(ProgramFact(program.name, True, True) for program in PROGRAMS),
    program_types={"sched_cls": True, "tracing": None},
    map_types={"array": True, "sk_storage": True},
    helpers=10,
    missing_helpers=(),
    tc="tcx",
    tc_words="",
    tc_tried=True,
    links=(WWAN0,),
    links_named=False,
    links_error=None,
    self_test=SelfTest(MOVED, MOVED, NOTHING),
    modem_manager=MODEM_MANAGER,
)


def found(machine: Machine) -> dict[str, Finding]:
    return {finding.id: finding for finding in diagnose(machine)}


def kernel(**changes: Any) -> Machine:
    return replace(SOUND, kernel=replace(SOUND.kernel, **changes))


def rights(**changes: Any) -> Machine:
    return replace(SOUND, rights=replace(SOUND.rights, **changes))


def cgroups(**changes: Any) -> Machine:
    return replace(SOUND, cgroups=replace(SOUND.cgroups, **changes))


def lasting(**changes: Any) -> Machine:
    return replace(SOUND, lasting=replace(LASTING, **changes))


def hooks(**changes: Any) -> Machine:
    return replace(SOUND, hooks=replace(HOOKS, **changes))


def link(**changes: Any) -> Machine:
    return replace(SOUND, links=(replace(WWAN0, **changes),))


def manager(service: MmService, words: str = "", installed: bool = True, **of_modem: Any) -> Machine:
    modems = (replace(MODEM, **of_modem),) if of_modem else ()
    return replace(SOUND, modem_manager=ModemManager(installed, Survey(service, words, "1.20.4", modems)))


def program(name: str, **changes: Any) -> Machine:
    facts = tuple(replace(fact, **changes) if fact.name == name else fact for fact in SOUND.programs)
    return replace(SOUND, programs=facts)


def test_on_a_sound_machine_everything_works() -> None:
    findings = diagnose(SOUND)
    assert {finding.state for finding in findings} == {State.WORKS}
    assert can_count(findings)
    assert worth_testing(SOUND)
    assert not [finding for finding in findings if finding.lost or finding.remedy]


def test_ids_are_unique_and_stay() -> None:
    identities = [finding.id for finding in diagnose(SOUND)]
    assert identities == [
        *("kernel", "architecture", "lockdown", "jit", "btf"),
        *("capability.bpf", "capability.perfmon", "capability.net_admin"),
        *("capability.sys_admin", "capability.sys_ptrace"),
        *("libbpf", "object", "bcc"),
        *("cgroup2", "cgroup2.scope", "cgroup2.programs"),
        *("program-types", "map-types", "helpers"),
        *(f"program.{program.name}" for program in PROGRAMS),
        "tc",
        *("bpffs", "pins", "daemon", "ledger", "service"),
        *("config", "hooks", "hook.tell-me"),
        *("links", "link.wwan0", "link.wwan0.xdp", "link.wwan0.tcx", "link.wwan0.filters"),
        "modem-manager",
        "self-test",
    ]


TWO_ARGUMENTS_STRANGER = (AttachedProgram(7, "firewall", False),)

FAULTS: list[tuple[Machine, str, State, str]] = [
    (kernel(machine="mips", machine_known=False), "architecture", State.LOST, "mips"),
    (kernel(lockdown="confidentiality"), "lockdown", State.LOST, "confidentiality"),
    (kernel(jit=False), "jit", State.LOST, "off"),
    (kernel(btf_bytes=None), "btf", State.MISSING, "cannot be read"),
    (rights(initial_user_namespace=False), "user-namespace", State.MISSING, "not the first"),
    (rights(initial_pid_namespace=False), "pid-namespace", State.LOST, "not the first"),
    (rights(capabilities=ALL - {"CAP_BPF", "CAP_SYS_ADMIN"}), "capability.bpf", State.MISSING, "root has not got it"),
    (rights(capabilities=ALL - {"CAP_SYS_ADMIN"}), "capability.sys_admin", State.LOST, "root has not got it"),
    (rights(uid=1000, capabilities=frozenset()), "capability.net_admin", State.MISSING, "user 1000 has not got it"),
    (replace(SOUND, library=LibraryFact(None, "no such file")), "libbpf", State.MISSING, "no such file"),
    (replace(SOUND, library=LibraryFact((0, 8), "v0.8")), "libbpf", State.MISSING, "0.8 is older than 1.0"),
    (replace(SOUND, object=ObjectFact("/x.o", False)), "object", State.MISSING, "/x.o is not there"),
    (
        replace(SOUND, object=ObjectFact("/x.o", True, ("it has no map `slots`",))),
        "object",
        State.MISSING,
        "/x.o: it has no map `slots`",
    ),
    (replace(SOUND, bcc=BccFact("", "/site-packages/bcc/__init__.py")), "bcc", State.LOST, "lattices"),
    (
        replace(SOUND, cgroups=Cgroups("", "no cgroup v2 hierarchy is mounted", "mount one", True, None, False)),
        "cgroup2",
        State.MISSING,
        "no cgroup v2 hierarchy is mounted",
    ),
    (cgroups(whole=False), "cgroup2.scope", State.LOST, "a part of the hierarchy"),
    (cgroups(occupied=("ingress",)), "cgroup2.programs", State.MISSING, "ingress for itself alone"),
    (replace(SOUND, bpffs_known=False), "bpffs", State.LOST, "does not know it"),
    (replace(SOUND, bpffs_read_only=True), "bpffs", State.LOST, "read-only"),
    (replace(rights(capabilities=ALL - {"CAP_SYS_ADMIN"}), bpffs=False), "bpffs", State.LOST, "not mounted"),
    (lasting(strangers=("/sys/fs/bpf/esimbpf/v9",)), "pins", State.LOST, "/sys/fs/bpf/esimbpf/v9"),
    (lasting(elsewhere=True), "pins", State.LOST, "in another network namespace: wwan0"),
    (lasting(ledger_error=("the ledger is damaged", "keep it")), "ledger", State.LOST, "the ledger is damaged"),
    (hooks(config_error=("this is not TOML", "see the README")), "config", State.MISSING, "this is not TOML"),
    (hooks(folder_error=("cannot read the folder", "check hooks_dir")), "hooks", State.LOST, "cannot read the folder"),
    (
        hooks(hooks=(replace(TELL, problem=("/x is not executable", "chmod a+rx /x")),)),
        "hook.tell-me",
        State.LOST,
        "not run: /x is not executable",
    ),
    (
        replace(SOUND, map_types={"array": True, "sk_storage": False}),
        "map-types",
        State.MISSING,
        "the kernel lacks sk_storage",
    ),
    (
        replace(SOUND, missing_helpers=("helper 122 of cgroup_sock",)),
        "helpers",
        State.LOST,
        "helper 122 of cgroup_sock",
    ),
    (
        program("sent", loaded=False, attached=None, words="unknown func bpf_sk_fullsock#95"),
        "program.sent",
        State.MISSING,
        "refused: unknown func bpf_sk_fullsock#95",
    ),
    (
        program("delivered", attached=False, words="Operation not permitted", forbidden=True),
        "program.delivered",
        State.MISSING,
        "not attached: Operation not permitted",
    ),
    (
        program("forwarded", loaded=False, attached=None, words="no BTF"),
        "program.forwarded",
        State.LOST,
        "refused: no BTF",
    ),
    (replace(SOUND, tc="clsact"), "tc", State.LOST, "no tcx"),
    (replace(SOUND, tc="", tc_words="Invalid argument"), "tc", State.MISSING, "Invalid argument"),
    (replace(SOUND, links=(), links_error=("none", "try eth0")), "links", State.LOST, "none"),
    (replace(SOUND, links=(), links_named=True, links_error=("no x0", "try eth0")), "links", State.MISSING, "no x0"),
    (link(xdp="program 5, generic"), "link.wwan0.xdp", State.LOST, "program 5"),
    (link(tcx_egress=TWO_ARGUMENTS_STRANGER), "link.wwan0.tcx", State.LOST, "firewall (id 7)"),
    (link(filters=(Filter("egress", 900, "shaper", False),)), "link.wwan0.filters", State.LOST, "shaper"),
    (
        replace(SOUND, self_test=SelfTest(MOVED, Counters(5920, 2459, 10, 10), NOTHING)),
        "self-test",
        State.MISSING,
        "20 and 8379",
    ),
    (
        replace(SOUND, self_test=SelfTest(MOVED, MOVED, Counters(rx_bytes=99))),
        "self-test",
        State.MISSING,
        "99 bytes are unattributed",
    ),
    (manager(MmService.NOT_RUNNING, installed=False), "modem-manager", State.LOST, "not installed"),
    (manager(MmService.NOT_RUNNING), "modem-manager", State.LOST, "not running"),
    (manager(MmService.NO_BUS, "it has gone"), "modem-manager", State.LOST, "cannot be asked: it has gone"),
    (manager(MmService.SILENT, "no answer"), "modem-manager", State.LOST, "does not answer: no answer"),
    (manager(MmService.RUNNING), "modem-manager", State.LOST, "1.20.4; it knows of no modem"),
    (
        manager(MmService.RUNNING, sim=None, state=ModemState.FAILED, failure="the SIM is missing"),
        "modem-manager",
        State.LOST,
        "Quectel RM520N-GL (the SIM is missing, no SIM known)",
    ),
]


@pytest.mark.parametrize(
    ("machine", "identity", "state", "detail"), FAULTS, ids=[f"{one[1]}-{index}" for index, one in enumerate(FAULTS)]
)
def test_each_fault_is_told_with_what_is_lost_and_what_to_do(
    machine: Machine, identity: str, state: State, detail: str
) -> None:
    findings = found(machine)
    finding = findings[identity]
    assert finding.state is state
    assert detail in finding.detail
    assert finding.lost
    assert finding.remedy
    assert "\n" not in finding.detail + finding.lost + finding.remedy
    assert can_count(findings.values()) is (state is State.LOST)


def test_a_sims_number_is_masked() -> None:
    assert found(SOUND)["modem-manager"].detail == "1.20.4; Quectel RM520N-GL with SIM 8949…4567 on wwan0"


def test_who_may_not_ask_modemmanager_knows_nothing_of_it() -> None:
    assert found(manager(MmService.REFUSED))["modem-manager"].state is State.UNKNOWN


def test_one_fault_is_not_told_as_many() -> None:
    for machine, identity, _, _ in FAULTS:
        told = {one.id for one in diagnose(machine) if one.state in (State.LOST, State.MISSING)}
        # Rights come together: who has none lacks all.
        assert {one for one in told if not one.startswith("capability.")} <= {identity}


@pytest.mark.parametrize(
    ("machine", "identity", "said"),
    [
        (replace(kernel(btf_bytes=None), programs=()), "btf", "CONFIG_DEBUG_INFO_BTF"),
        (replace(kernel(btf_bytes=None, btf_hidden=True), programs=()), "btf", "unset ESIMBPF_BTF"),
        (replace(SOUND, library=LibraryFact(None, "no")), "libbpf", "apt install libbpf1"),
        (replace(SOUND, library=LibraryFact(None, "no"), distribution="fedora"), "libbpf", "dnf install libbpf"),
        (replace(SOUND, library=LibraryFact(None, "no"), distribution="arch"), "libbpf", "pacman -S libbpf"),
        (replace(SOUND, library=LibraryFact(None, "no"), distribution="alpine"), "libbpf", "apk add libbpf"),
        (replace(SOUND, library=LibraryFact(None, "no"), distribution=""), "libbpf", "Alpine: apk add libbpf"),
        (replace(rights(capabilities=frozenset()), bpffs=False), "bpffs", "mount -t bpf bpf /sys/fs/bpf"),
        (lasting(strangers=("/sys/fs/bpf/esimbpf/v9",)), "pins", "esimbpf attach --replace"),
        (rights(uid=1000, capabilities=frozenset()), "capability.bpf", "sudo"),
        (hooks(hooks=(replace(TELL, problem=("no", "chmod a+rx /x")),)), "hook.tell-me", "chmod a+rx /x"),
        (kernel(jit=False), "jit", "sysctl -w net.core.bpf_jit_enable=1"),
        (manager(MmService.NOT_RUNNING, installed=False), "modem-manager", "apt install modemmanager"),
        (manager(MmService.NOT_RUNNING), "modem-manager", "systemctl enable --now ModemManager"),
        (manager(MmService.NO_BUS), "modem-manager", "systemctl start dbus"),
        (manager(MmService.SILENT), "modem-manager", "systemctl restart ModemManager"),
        (manager(MmService.RUNNING), "modem-manager", "mmcli --scan-modems"),
        (manager(MmService.RUNNING, sim=None), "modem-manager", "unlock it"),
        (link(xdp="program 5, generic"), "link.wwan0.xdp", "ip link set dev wwan0 xdp off"),
        (program("forwarded", loaded=False, words="x", forbidden=True), "program.forwarded", "seccomp"),
        (program("socket_sent", loaded=False, words="x"), "program.socket_sent", "kernel 6.3"),
    ],
)
def test_the_remedy_fits_the_machine(machine: Machine, identity: str, said: str) -> None:
    machine = replace(machine, programs=machine.programs or SOUND.programs)
    assert said in found(machine)[identity].remedy


@pytest.mark.parametrize(
    ("machine", "identity", "state", "detail"),
    [
        (SOUND, "config", State.WORKS, "/etc/esimbpf/config.toml"),
        (hooks(config_there=False), "config", State.WORKS, "none: there is no /etc/esimbpf/config.toml"),
        (SOUND, "hooks", State.WORKS, "1 in the configuration and /etc/esimbpf/hooks.d"),
        (
            hooks(hooks=(), folder_there=False),
            "hooks",
            State.WORKS,
            "none in the configuration and /etc/esimbpf/hooks.d, which is not there",
        ),
        (
            hooks(passed_over=("a~", "b.bak")),
            "hooks",
            State.WORKS,
            "1 in the configuration and /etc/esimbpf/hooks.d; passed over for their names: a~, b.bak",
        ),
        (hooks(config_error=("no", "mend it")), "hooks", State.UNKNOWN, "the configuration names them"),
        (SOUND, "hook.tell-me", State.WORKS, "runs as ann on quota.*, link.down, for 2.5 s at most"),
        (
            hooks(hooks=(replace(TELL, events=("*",), timeout_s=30.0),)),
            "hook.tell-me",
            State.WORKS,
            "runs as ann on all events, for 30 s at most",
        ),
        (rights(uid=1000), "hook.tell-me", State.UNKNOWN, "it takes root to see whether it would be run"),
    ],
)
def test_hooks_are_told_one_by_one(machine: Machine, identity: str, state: State, detail: str) -> None:
    finding = found(machine)[identity]
    assert (finding.state, finding.detail) == (state, detail)


def untried(machine: Machine) -> Machine:
    programs = tuple(ProgramFact(program.name, None, None) for program in PROGRAMS)
    return replace(machine, programs=programs, program_types={}, map_types={}, tc="", tc_tried=False, self_test=None)


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (rights(uid=1000, capabilities=frozenset()), "it takes root"),
        (rights(capabilities=frozenset()), "it takes the capabilities that are missing"),
        (rights(initial_user_namespace=False), "it takes the first user namespace"),
        (kernel(btf_bytes=None), "it takes BTF"),
        (replace(SOUND, library=LibraryFact(None, "no")), "it takes libbpf"),
    ],
)
def test_what_was_not_tried_is_unknown_and_its_reason_is_told(machine: Machine, reason: str) -> None:
    findings = found(untried(machine))
    for identity in ("tc", *(f"program.{program.name}" for program in PROGRAMS)):
        assert findings[identity].state is State.UNKNOWN
        assert findings[identity].detail == f"not tried: {reason}"
    assert findings["self-test"].state is State.UNKNOWN
    assert not worth_testing(untried(machine))
    assert not can_count(findings.values())


def test_cap_sys_admin_includes_the_newer_capabilities() -> None:
    findings = found(rights(capabilities=frozenset({"CAP_SYS_ADMIN"})))
    assert {findings[f"capability.{name}"].state for name in ("bpf", "perfmon", "net_admin")} == {State.WORKS}


@pytest.mark.parametrize(
    ("release", "version", "older"),
    [
        ("6.18.44-fc", (6, 18), False),
        ("7.0-rc1", (7, 0), False),
        ("6.1.0-44-amd64", (6, 1), True),
        ("odd", (0, 0), True),
    ],
)
def test_a_kernel_older_than_tested_is_said_and_not_condemned(
    release: str, version: tuple[int, int], older: bool
) -> None:
    machine = kernel(release=release)
    assert machine.kernel.version == version
    finding = found(machine)["kernel"]
    assert finding.state is State.WORKS
    assert ("older than any that has been tested" in finding.detail) is older


@pytest.mark.parametrize(
    ("limit", "capabilities", "state"),
    [
        (65536, ALL - {"CAP_SYS_RESOURCE"}, State.LOST),
        (65536, ALL, State.WORKS),
        (None, ALL - {"CAP_SYS_RESOURCE"}, State.WORKS),
    ],
)
def test_locked_memory_matters_before_5_11_alone(limit: int | None, capabilities: frozenset[str], state: State) -> None:
    machine = replace(kernel(release="5.10.0"), rights=replace(SOUND.rights, memlock=limit, capabilities=capabilities))
    assert found(machine)["memlock"].state is state
    assert "memlock" not in found(replace(machine, kernel=replace(machine.kernel, release="5.11.0")))


def test_programs_behind_ours_and_other_runs_do_not_disturb() -> None:
    ours = AttachedProgram(9, "sent", True)
    received = link(tcx_ingress=TWO_ARGUMENTS_STRANGER, tcx_egress=(ours,))
    finding = found(received)["link.wwan0.tcx"]
    assert finding.state is State.WORKS
    assert "firewall (id 7)" in finding.detail
    assert "another run of esimbpf" in finding.detail
    assert found(cgroups(others=("sd_fw_ingress",)))["cgroup2.programs"].state is State.WORKS


def test_filters_disturb_by_their_place_and_by_ours() -> None:
    early = Filter("ingress", 1, "early", True)
    late = Filter("ingress", 900, "late", False)
    for tc, filters, state in (
        ("tcx", (early, late), State.WORKS),
        ("clsact", (late,), State.WORKS),
        ("clsact", (early,), State.LOST),
    ):
        machine = replace(link(filters=filters), tc=tc)
        assert found(machine)["link.wwan0.filters"].state is state, tc


def test_what_could_not_be_asked_about_a_link_is_unknown() -> None:
    findings = found(replace(link(tcx_ingress=None, filters=None), cgroups=replace(SOUND.cgroups, others=None)))
    for identity in ("link.wwan0.tcx", "link.wwan0.filters", "cgroup2.programs"):
        assert findings[identity].state is State.UNKNOWN
    assert can_count(findings.values())


def test_a_link_that_is_down_will_be_counted() -> None:
    finding = found(link(state="down"))["link.wwan0"]
    assert finding.state is State.WORKS
    assert finding.detail == "wwan, cellular, down; counted as soon as it is up"


@pytest.mark.parametrize(
    ("machine", "identity", "said"),
    [
        (SOUND, "pins", "wwan0, by esimbpf 0.1.0"),
        (lasting(pinned=False), "pins", "nothing; esimbpf attach does it"),
        (replace(SOUND, bpffs=False), "bpffs", "not mounted; attach and daemon mount it"),
        (SOUND, "daemon", "pid 812"),
        (lasting(daemon=0), "daemon", "runs, in another pid namespace"),
        (lasting(daemon=None), "daemon", "none runs: what is counted is not written down"),
        (SOUND, "ledger", "1.2 MB in /var/lib/esimbpf"),
        (lasting(ledger_bytes=None), "ledger", "none yet in /var/lib/esimbpf"),
        (SOUND, "service", "/etc/systemd/system/esimbpf.service, starts with the machine"),
        (lasting(service=Service(True)), "service", "not installed; scripts/setup --service does it"),
        (lasting(service=Service(False)), "service", "none: systemd does not run here"),
        (
            lasting(service=Service(True, "/lib/x.service")),
            "service",
            "/lib/x.service; for each start of the machine: systemctl enable --now esimbpf",
        ),
    ],
)
def test_what_outlives_a_command_is_told(machine: Machine, identity: str, said: str) -> None:
    finding = found(machine)[identity]
    assert (finding.state, finding.detail) == (State.WORKS, said)


def test_what_outlives_a_command_and_may_not_be_seen_is_unknown() -> None:
    findings = found(lasting(pinned=None, ledger_hidden=True))
    assert {findings[one].state for one in ("pins", "ledger")} == {State.UNKNOWN}
    assert can_count(findings.values())


def test_functions_that_the_kernel_lacks_are_named_once() -> None:
    refused = {"loaded": False, "attached": None, "words": "x", "lacks": ("bpf_sk_fullsock",)}
    facts = tuple(replace(fact, **refused) for fact in SOUND.programs)  # type: ignore[arg-type]
    finding = found(replace(SOUND, programs=facts))["helpers"]
    assert finding.detail == "the kernel lacks bpf_sk_fullsock"


# --- the kernel's words --------------------------------------------------------------------------------------------

VERIFIER = """libbpf: prog 'sent': -- BEGIN PROG LOAD LOG --
0: R1=ctx(off=0,imm=0) R10=fp0
; struct bpf_sock *sk = bpf_sk_fullsock(skb->sk);
12: (85) call bpf_sk_fullsock#95
unknown func bpf_sk_fullsock#95
verification time 131 usec
stack depth 0
processed 12 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --"""

REFUSED = [
    "libbpf: prog 'sent': BPF program load failed: Invalid argument",
    VERIFIER,
    "libbpf: prog 'sent': failed to load: -22",
    "libbpf: failed to load object '/usr/lib/esimbpf.bpf.o'",
]
NO_TRACEPOINT = [
    "libbpf: prog 'socket_sent': failed to find kernel BTF type ID of 'sock_send_length': -3",
    "libbpf: prog 'socket_sent': failed to prepare load attributes: -3",
    "libbpf: prog 'socket_sent': failed to load: -3",
]


def test_the_verifiers_last_line_is_the_reason() -> None:
    assert last_words(REFUSED, "sent") == "unknown func bpf_sk_fullsock#95"
    assert lacking(REFUSED) == ("bpf_sk_fullsock",)


def test_without_the_verifiers_words_libbpfs_are_the_reason() -> None:
    assert last_words([REFUSED[0], REFUSED[2]], "sent") == "BPF program load failed: Invalid argument"
    assert last_words(NO_TRACEPOINT, "socket_sent").startswith("failed to find kernel BTF type ID")
    assert lacking(NO_TRACEPOINT) == ("sock_send_length",)
    assert last_words([], "sent") == ""


@pytest.mark.parametrize(
    "line",
    [
        "program of this type cannot use helper bpf_get_current_task#35",
        "unknown func bpf_get_current_task#35",
        "calling kernel function bpf_get_current_task is not allowed",
    ],
)
def test_a_function_that_the_kernel_lacks_is_found_by_name(line: str) -> None:
    assert lacking([line]) == ("bpf_get_current_task",)


def test_a_function_that_the_kernel_has_never_heard_of_is_told_by_number() -> None:
    assert lacking(["invalid func unknown#211", "invalid func unknown#211"]) == ("helper 211",)
