"""What the facts about a machine mean for counting: works, lost, missing or unknown, and what to do.

The ids are stable, so that programs may look for them:

    kernel architecture lockdown jit btf memlock user-namespace pid-namespace
    capability.bpf capability.perfmon capability.net_admin capability.sys_admin capability.sys_ptrace
    libbpf object bcc
    cgroup2 cgroup2.scope cgroup2.programs
    program-types map-types helpers program.NAME (of kernel/programs.py) tc
    bpffs pins daemon ledger service
    config hooks hook.NAME
    links link.LINK link.LINK.xdp link.LINK.tcx link.LINK.filters
    modem-manager
    self-test
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from esimbpf.kernel.programs import PROGRAMS, Program
from esimbpf.machine import AttachedProgram, HookFact, Lasting, LinkFact, Machine, ModemManager, ProgramFact, Service
from esimbpf.model import NOTHING
from esimbpf.modem import model as modems
from esimbpf.modem.numbering import masked

__all__ = ["TESTED_FROM", "Finding", "State", "can_count", "diagnose", "worth_testing"]

TESTED_FROM: Final = (6, 18)
"""The oldest kernel on which all tests have run."""

_MEMLOCK_UNTIL: Final = (5, 11)
"""From this kernel on, maps are charged to the memory cgroup, and RLIMIT_MEMLOCK no longer limits them."""
_ENOUGH_MEMLOCK: Final = 64 << 20

_OLDEST_LIBBPF: Final = (1, 0)

_INSTALL_LIBBPF: Final = {
    "debian": "apt install libbpf1",
    "fedora": "dnf install libbpf",
    "arch": "pacman -S libbpf",
    "alpine": "apk add libbpf",
}
_AS_ROOT: Final = "run as root: sudo esimbpf …"


class State(StrEnum):
    """What a finding says."""

    WORKS = "works"
    LOST = "lost"
    """Something optional does not work: counting goes on with less."""
    MISSING = "missing"
    """Without it nothing is counted, or what is counted is wrong."""
    UNKNOWN = "unknown"
    """It could not be found out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    id: str
    group: str
    title: str
    state: State
    detail: str
    lost: str = ""
    """What is lost, in one line; empty if nothing is."""
    remedy: str = ""
    """What to do about it, in one line; empty if there is nothing to do."""


def diagnose(machine: Machine) -> tuple[Finding, ...]:
    """All findings, group by group."""
    return (
        *_kernel(machine),
        *_rights(machine),
        *_software(machine),
        *_file_systems(machine),
        *_programs(machine),
        *_lasting(machine),
        *_hooks(machine),
        *_links(machine),
        *_modem_manager(machine),
        _self_test(machine),
    )


def can_count(findings: Iterable[Finding]) -> bool:
    """Whether counting works here: nothing that it takes is missing."""
    return all(finding.state is not State.MISSING for finding in findings)


def worth_testing(machine: Machine) -> bool:
    """Whether a self test can succeed: all required programs were attached."""
    attached = {fact.name for fact in machine.programs if fact.attached}
    return all(program.name in attached for program in PROGRAMS if program.required)


# -- the kernel --------------------------------------------------------------------------


def _kernel(machine: Machine) -> Iterator[Finding]:
    kernel, group = machine.kernel, "kernel"
    tested = ".".join(map(str, TESTED_FROM))
    older = kernel.version < TESTED_FROM
    yield Finding(
        "kernel",
        group,
        "version",
        State.WORKS,
        f"{kernel.release}, older than any that has been tested ({tested}): see the programs"
        if older
        else f"{kernel.release}; tested from {tested} on",
    )
    if kernel.machine_known:
        yield Finding("architecture", group, "architecture", State.WORKS, kernel.machine)
    else:
        yield Finding(
            "architecture",
            group,
            "architecture",
            State.LOST,
            f"{kernel.machine}, which has not been tested",
            "no place of our own among other tcx programs: theirs may hide packets",
            "if the self test fails, please report it",
        )
    yield _lockdown(machine)
    yield _jit(machine)
    yield _btf(machine)
    if kernel.version < _MEMLOCK_UNTIL:
        yield _memlock(machine)
    if machine.rights.initial_user_namespace is False:
        yield Finding(
            "user-namespace",
            group,
            "user namespace",
            State.MISSING,
            "not the first one",
            "everything: for eBPF, capabilities count only in the first user namespace",
            "run it outside the container, or in a privileged one",
        )
    if machine.rights.initial_pid_namespace is False:
        yield Finding(
            "pid-namespace",
            group,
            "pid namespace",
            State.LOST,
            "not the first one: a container's",
            "pids are shown as the host numbers them; long command lines are cut off",
            "run it on the host, or let the container share its pids (--pid=host)",
        )


def _lockdown(machine: Machine) -> Finding:
    mode = machine.kernel.lockdown
    if mode == "confidentiality":
        return Finding(
            "lockdown",
            "kernel",
            "lockdown",
            State.LOST,
            mode,
            "programs that read the kernel's memory are refused: see the programs",
            "boot with lockdown=integrity, or without lockdown= on the kernel's command line",
        )
    shown = {None: "none that the kernel tells of", "none": "none"}.get(mode, f"{mode}: harmless")
    return Finding("lockdown", "kernel", "lockdown", State.WORKS, shown)


def _jit(machine: Machine) -> Finding:
    match machine.kernel.jit:
        case True:
            return Finding("jit", "kernel", "BPF JIT", State.WORKS, "on")
        case False:
            return Finding(
                "jit",
                "kernel",
                "BPF JIT",
                State.LOST,
                "off",
                "speed: every packet takes several times as long to count",
                "sysctl -w net.core.bpf_jit_enable=1",
            )
        case None:
            return Finding("jit", "kernel", "BPF JIT", State.UNKNOWN, "only root may see it from here")


def _btf(machine: Machine) -> Finding:
    kernel = machine.kernel
    if kernel.btf_bytes:
        return Finding("btf", "kernel", "BTF", State.WORKS, f"{kernel.btf}, {kernel.btf_bytes / 1e6:.1f} MB")
    return Finding(
        "btf",
        "kernel",
        "BTF",
        State.MISSING,
        f"{kernel.btf} cannot be read",
        "everything: the programs cannot be fitted to this kernel",
        "unset ESIMBPF_BTF"
        if kernel.btf_hidden
        else "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as those of the large distributions are",
    )


def _memlock(machine: Machine) -> Finding:
    limit = machine.rights.memlock
    if limit is None or limit >= _ENOUGH_MEMLOCK or "CAP_SYS_RESOURCE" in machine.rights.capabilities:
        return Finding("memlock", "kernel", "locked memory", State.WORKS, "enough, or can be raised")
    return Finding(
        "memlock",
        "kernel",
        "locked memory",
        State.LOST,
        f"at most {limit} bytes",
        "room for the maps of many processes: before kernel 5.11 they are locked memory",
        "ulimit -l unlimited (in a systemd unit: LimitMEMLOCK=infinity)",
    )


# -- rights ------------------------------------------------------------------------------

_CAPABILITIES: Final = (
    ("CAP_BPF", True, "everything: no program can be loaded"),
    ("CAP_PERFMON", True, "everything: no program may look at processes and packets"),
    ("CAP_NET_ADMIN", True, "everything: no program can be attached to links and cgroups"),
    (
        "CAP_SYS_ADMIN",
        False,
        "--netns, the self test, the names of others' programs, some proofs that a link is cellular",
    ),
    ("CAP_SYS_PTRACE", False, "of other users' programs, the beginning of paths that are longer than 255 bytes"),
)


def _rights(machine: Machine) -> Iterator[Finding]:
    held = machine.rights.capabilities
    who = "root" if machine.rights.uid == 0 else f"user {machine.rights.uid}"
    for name, required, lost in _CAPABILITIES:
        identity = "capability." + name.removeprefix("CAP_").lower()
        if name in held:
            yield Finding(identity, "rights", name, State.WORKS, "yes")
        elif required and "CAP_SYS_ADMIN" in held:
            yield Finding(identity, "rights", name, State.WORKS, "no, but CAP_SYS_ADMIN includes it")
        else:
            remedy = _AS_ROOT if machine.rights.uid else "start it with this capability: it was taken from this root"
            yield Finding(
                identity,
                "rights",
                name,
                State.MISSING if required else State.LOST,
                f"{who} has not got it",
                lost,
                remedy,
            )


# -- software ----------------------------------------------------------------------------


def _software(machine: Machine) -> Iterator[Finding]:
    yield _libbpf(machine)
    if machine.library.version:
        yield _object(machine)
    yield _bcc(machine)


def _libbpf(machine: Machine) -> Finding:
    library = machine.library
    install = _how_to_install(_INSTALL_LIBBPF, machine.distribution)
    if library.version is None:
        return Finding(
            "libbpf",
            "software",
            "libbpf",
            State.MISSING,
            library.words,
            "everything: nothing loads the programs",
            install,
        )
    shown = ".".join(map(str, library.version))
    if library.version < _OLDEST_LIBBPF:
        return Finding(
            "libbpf", "software", "libbpf", State.MISSING, f"{shown} is older than 1.0", "everything", install
        )
    return Finding("libbpf", "software", "libbpf", State.WORKS, f"{shown}, the engine of this version")


def _how_to_install(commands: Mapping[str, str], distribution: str) -> str:
    """The command for this distribution, or for all where it is not known."""
    every = "; ".join(f"{family.capitalize()}: {command}" for family, command in commands.items())
    return commands.get(distribution) or every


def _object(machine: Machine) -> Finding:
    made = machine.object
    if made.exists and not made.disagreements:
        return Finding("object", "software", "compiled programs", State.WORKS, made.path)
    return Finding(
        "object",
        "software",
        "compiled programs",
        State.MISSING,
        f"{made.path}: {'; '.join(made.disagreements)}" if made.exists else f"{made.path} is not there",
        "everything: there is nothing to load that fits this package",
        "install the package again; in a checkout: scripts/setup",
    )


def _bcc(machine: Machine) -> Finding:
    bcc = machine.bcc
    if bcc.stranger:
        return Finding(
            "bcc",
            "software",
            "bcc",
            State.LOST,
            f"{bcc.stranger} is not BPF's bcc, but a package for lattices that has the same name",
            "nothing in this version, which does not use bcc",
            "pip uninstall bcc",
        )
    where = f"found ({bcc.bindings})" if bcc.bindings else "not installed"
    return Finding("bcc", "software", "bcc", State.WORKS, f"{where}; not used by this version")


# -- cgroups and file systems ------------------------------------------------------------


def _file_systems(machine: Machine) -> Iterator[Finding]:
    cgroups, group = machine.cgroups, "file systems"
    if not cgroups.root:
        yield Finding(
            "cgroup2",
            group,
            "cgroup v2",
            State.MISSING,
            cgroups.words,
            "everything: received bytes and new sockets are seen there",
            cgroups.hint,
        )
    else:
        beside = ", beside cgroup v1 (hybrid)" if cgroups.hybrid else ""
        yield Finding("cgroup2", group, "cgroup v2", State.WORKS, cgroups.root + beside)
        yield _scope(machine)
        yield _cgroup_programs(machine)


def _scope(machine: Machine) -> Finding:
    cgroups = machine.cgroups
    if cgroups.chosen:
        return Finding(
            "cgroup2.scope", "file systems", "its reach", State.WORKS, "the processes below it, as --cgroup says"
        )
    if cgroups.whole is False:
        return Finding(
            "cgroup2.scope",
            "file systems",
            "its reach",
            State.LOST,
            "a part of the hierarchy, as in a container",
            "who the processes outside of it are: what they move shows as unattributed",
            "run it on the host, or let the container share its cgroups (--cgroupns=host)",
        )
    return Finding("cgroup2.scope", "file systems", "its reach", State.WORKS, "all processes")


def _cgroup_programs(machine: Machine) -> Finding:
    cgroups = machine.cgroups
    if cgroups.occupied:
        return Finding(
            "cgroup2.programs",
            "file systems",
            "its programs",
            State.MISSING,
            f"a program holds {' and '.join(cgroups.occupied)} for itself alone",
            "everything: ours cannot be attached beside it",
            f"see whose it is: bpftool cgroup show {cgroups.root}; or count below another: --cgroup PATH",
        )
    if cgroups.others is None:
        reason = _unseen(machine)
        return Finding("cgroup2.programs", "file systems", "its programs", State.UNKNOWN, reason)
    shown = f"beside ours, undisturbed: {', '.join(cgroups.others)}" if cgroups.others else "no others"
    return Finding("cgroup2.programs", "file systems", "its programs", State.WORKS, shown)


def _unseen(machine: Machine) -> str:
    """Why the kernel's attached programs cannot be listed."""
    if not machine.library.version:
        return "it takes libbpf to see"
    return "the kernel does not tell" if machine.rights.may_load else "it takes root to see"


# -- programs ----------------------------------------------------------------------------


def _programs(machine: Machine) -> Iterator[Finding]:
    if machine.program_types:
        yield _types("program-types", "program types", machine.program_types, "see the programs")
        yield _types("map-types", "map types", machine.map_types, "what the maps hold: nothing can be counted")
        yield _helpers(machine)
    facts = {fact.name: fact for fact in machine.programs}
    for program in PROGRAMS:
        yield _program(program, facts[program.name], _why_not_tried(machine))
    yield _tc(machine)


def _why_not_tried(machine: Machine) -> str:
    if not machine.library.version:
        return "it takes libbpf"
    if not machine.object.exists or machine.object.disagreements:
        return "it takes the compiled programs"
    if not machine.kernel.btf_bytes:
        return "it takes BTF"
    if machine.rights.initial_user_namespace is False:
        return "it takes the first user namespace"
    if machine.rights.may_load:
        return "the kernel loads no program"
    return "it takes root" if machine.rights.uid else "it takes the capabilities that are missing"


def _types(identity: str, title: str, known: dict[str, bool | None], lost: str) -> Finding:
    missing = [name for name, there in known.items() if there is False]
    if missing:
        return Finding(
            identity,
            "programs",
            title,
            State.LOST if identity == "program-types" else State.MISSING,
            f"the kernel lacks {', '.join(missing)}",
            lost,
            "use a kernel with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_NET_CLS_BPF and CONFIG_BPF_EVENTS",
        )
    return Finding(identity, "programs", title, State.WORKS, ", ".join(known))


def _helpers(machine: Machine) -> Finding:
    lacks = [*dict.fromkeys(name for fact in machine.programs for name in fact.lacks), *machine.missing_helpers]
    if lacks:
        return Finding(
            "helpers",
            "programs",
            "kernel functions",
            State.LOST,
            f"the kernel lacks {', '.join(lacks)}",
            "the programs that use them",
            "use a newer kernel; lockdown=confidentiality takes some away too",
        )
    return Finding("helpers", "programs", "kernel functions", State.WORKS, "all that are used")


def _program(program: Program, fact: ProgramFact, not_tried: str) -> Finding:
    identity, title = f"program.{program.name}", program.name
    if fact.loaded is None:
        return Finding(identity, "programs", title, State.UNKNOWN, f"not tried: {not_tried}")
    if fact.loaded and fact.attached:
        return Finding(identity, "programs", title, State.WORKS, program.purpose)
    if fact.loaded and fact.attached is None:
        return Finding(identity, "programs", title, State.UNKNOWN, "loads; there was no place to try attaching it")
    return Finding(
        identity,
        "programs",
        title,
        State.MISSING if program.required else State.LOST,
        f"{'not attached' if fact.loaded else 'refused'}: {fact.words}",
        program.lost,
        "see what forbids it: a container's seccomp filter, a security module, another program in its place"
        if fact.forbidden
        else f"use a kernel that has what it takes: {program.needs}",
    )


def _tc(machine: Machine) -> Finding:
    if machine.tc == "tcx":
        return Finding("tc", "programs", "place on a link", State.WORKS, "tcx")
    if machine.tc == "clsact":
        return Finding(
            "tc",
            "programs",
            "place on a link",
            State.LOST,
            "tc filters (clsact): the kernel has no tcx",
            "cleaning up by itself: after a kill, filters stay until the next start",
            "use kernel 6.6 or later",
        )
    if machine.tc_tried:
        return Finding(
            "tc",
            "programs",
            "place on a link",
            State.MISSING,
            f"neither tcx nor clsact: {machine.tc_words}",
            "everything: programs cannot be attached to a link",
            "use kernel 6.6 or later, or one with CONFIG_NET_CLS_ACT, CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF",
        )
    loaded = any(fact.loaded for fact in machine.programs)
    reason = "no network namespace can be made for it" if loaded else _why_not_tried(machine)
    return Finding("tc", "programs", "place on a link", State.UNKNOWN, f"not tried: {reason}")


# -- counting that outlives a command ----------------------------------------------------

_LASTING: Final = "outliving a command"


def _lasting(machine: Machine) -> Iterator[Finding]:
    yield _bpffs(machine)
    yield _pins(machine.lasting)
    yield _daemon(machine.lasting)
    yield _ledger(machine.lasting)
    yield _service(machine.lasting)


def _bpffs(machine: Machine) -> Finding:
    lost = "counting that outlives a command; nothing else"
    if not machine.bpffs_known:
        remedy = "use a kernel with CONFIG_BPF_SYSCALL=y"
        return Finding("bpffs", _LASTING, "bpffs", State.LOST, "the kernel does not know it", lost, remedy)
    if machine.bpffs and machine.bpffs_read_only:
        remedy = "mount -o remount,rw /sys/fs/bpf"
        return Finding("bpffs", _LASTING, "bpffs", State.LOST, "/sys/fs/bpf is read-only", lost, remedy)
    if machine.bpffs:
        return Finding("bpffs", _LASTING, "bpffs", State.WORKS, "/sys/fs/bpf")
    if "CAP_SYS_ADMIN" in machine.rights.capabilities:
        return Finding("bpffs", _LASTING, "bpffs", State.WORKS, "not mounted; attach and daemon mount it")
    remedy = "mount -t bpf bpf /sys/fs/bpf, as root"
    return Finding("bpffs", _LASTING, "bpffs", State.LOST, "not mounted", lost, remedy)


def _pins(lasting: Lasting) -> Finding:
    identity, title = "pins", "attached for good"
    if lasting.strangers:
        return Finding(
            identity,
            _LASTING,
            title,
            State.LOST,
            f"by another version of esimbpf: {', '.join(lasting.strangers)}",
            "attach and daemon refuse as long as it is there",
            "take over from it: esimbpf attach --replace; or lose what it has counted: esimbpf detach --discard",
        )
    if lasting.pinned is None:
        return Finding(identity, _LASTING, title, State.UNKNOWN, "it takes root to see")
    if not lasting.pinned:
        return Finding(identity, _LASTING, title, State.WORKS, "nothing; esimbpf attach does it")
    shown = f"{', '.join(lasting.pinned_links) or 'no link yet'}, by esimbpf {lasting.pinned_version}"
    if lasting.elsewhere:
        return Finding(
            identity,
            _LASTING,
            title,
            State.LOST,
            f"in another network namespace: {shown}",
            "attach and daemon refuse in this one",
            "take it off there first: esimbpf detach",
        )
    return Finding(identity, _LASTING, title, State.WORKS, shown)


def _daemon(lasting: Lasting) -> Finding:
    if lasting.daemon is None:
        shown = "none runs: what is counted is not written down"
    else:
        shown = f"pid {lasting.daemon}" if lasting.daemon else "runs, in another pid namespace"
    return Finding("daemon", _LASTING, "daemon", State.WORKS, shown)


def _ledger(lasting: Lasting) -> Finding:
    if lasting.ledger_hidden:
        return Finding("ledger", _LASTING, "ledger", State.UNKNOWN, "it takes root to see")
    if lasting.ledger_error:
        message, hint = lasting.ledger_error
        lost = "the history: nothing is written down until it is mended; counting goes on"
        return Finding("ledger", _LASTING, "ledger", State.LOST, message, lost, hint)
    if lasting.ledger_bytes is None:
        return Finding("ledger", _LASTING, "ledger", State.WORKS, f"none yet in {lasting.state_dir}")
    size = f"{lasting.ledger_bytes / 1e6:.1f} MB"
    return Finding("ledger", _LASTING, "ledger", State.WORKS, f"{size} in {lasting.state_dir}")


def _service(lasting: Lasting) -> Finding:
    match lasting.service:
        case Service(unit="", systemd=True):
            shown = "not installed; scripts/setup --service does it"
        case Service(unit=""):
            shown = "none: systemd does not run here"
        case Service(enabled=True):
            shown = f"{lasting.service.unit}, starts with the machine"
        case _:
            shown = f"{lasting.service.unit}; for each start of the machine: systemctl enable --now esimbpf"
    return Finding("service", _LASTING, "service", State.WORKS, shown)


# -- hooks -------------------------------------------------------------------------------

_HOOKS: Final = "configuration and hooks"


def _hooks(machine: Machine) -> Iterator[Finding]:
    facts = machine.hooks
    if facts.config_error:
        message, hint = facts.config_error
        lost = "everything: no command counts with it, and no daemon starts"
        yield Finding("config", _HOOKS, "configuration", State.MISSING, message, lost, hint)
        yield Finding("hooks", _HOOKS, "hooks", State.UNKNOWN, "the configuration names them")
        return
    shown = facts.config if facts.config_there else f"none: there is no {facts.config}"
    yield Finding("config", _HOOKS, "configuration", State.WORKS, shown)
    if facts.folder_error:
        message, hint = facts.folder_error
        yield Finding("hooks", _HOOKS, "hooks", State.LOST, message, "all hooks: none is run", hint)
        return
    where = facts.folder if facts.folder_there else f"{facts.folder}, which is not there"
    left = f"; passed over for their names: {', '.join(facts.passed_over)}" if facts.passed_over else ""
    number = len(facts.hooks) or "none"
    yield Finding("hooks", _HOOKS, "hooks", State.WORKS, f"{number} in the configuration and {where}{left}")
    for hook in facts.hooks:
        yield _hook(hook, machine.rights.uid)


def _hook(hook: HookFact, uid: int) -> Finding:
    identity = f"hook.{hook.name}"
    if hook.problem:
        message, hint = hook.problem
        return Finding(identity, _HOOKS, hook.name, State.LOST, f"not run: {message}", "what it is to do", hint)
    if uid:
        return Finding(identity, _HOOKS, hook.name, State.UNKNOWN, "it takes root to see whether it would be run")
    events = "all events" if hook.events == ("*",) else ", ".join(hook.events)
    shown = f"runs as {hook.user} on {events}, for {hook.timeout_s:g} s at most"
    return Finding(identity, _HOOKS, hook.name, State.WORKS, shown)


# -- links -------------------------------------------------------------------------------


def _links(machine: Machine) -> Iterator[Finding]:
    if machine.links_error:
        message, hint = machine.links_error
        yield Finding(
            "links",
            "links",
            "links",
            State.MISSING if machine.links_named else State.LOST,
            message,
            "its counts" if machine.links_named else "commands that name no LINK have nothing to count",
            hint,
        )
        return
    names = ", ".join(link.name for link in machine.links)
    yield Finding(
        "links", "links", "links", State.WORKS, names if machine.links_named else f"{names}: counted when none is named"
    )
    for link in machine.links:
        yield from _link(link, machine.tc, _unseen(machine))


def _link(link: LinkFact, tc: str, unseen: str) -> Iterator[Finding]:
    later = "" if link.state == "up" else "; counted as soon as it is up"
    sure = {"yes": "cellular", "weak": "perhaps cellular"}.get(link.cellular, "not cellular")
    yield Finding(f"link.{link.name}", "links", link.name, State.WORKS, f"{link.kind}, {sure}, {link.state}{later}")
    yield _xdp(link)
    yield _tcx(link, unseen)
    yield _filters(link, tc, unseen)


def _xdp(link: LinkFact) -> Finding:
    identity, title = f"link.{link.name}.xdp", f"{link.name} XDP"
    if not link.xdp:
        return Finding(identity, "links", title, State.WORKS, "none")
    return Finding(
        identity,
        "links",
        title,
        State.LOST,
        link.xdp,
        "packets that it drops, redirects or sends back: it runs before all that counts",
        f"see what it does: bpftool net show dev {link.name}; take it off: ip link set dev {link.name} xdp off",
    )


def _tcx(link: LinkFact, unseen: str) -> Finding:
    identity, title = f"link.{link.name}.tcx", f"{link.name} tcx"
    if link.tcx_ingress is None or link.tcx_egress is None:
        return Finding(identity, "links", title, State.UNKNOWN, unseen)
    strangers = [one for one in link.tcx_egress if not one.ours]
    if strangers:
        return Finding(
            identity,
            "links",
            title,
            State.LOST,
            f"on sent packets, behind ours: {_named(strangers)}",
            "exactness, if it drops or redirects: such packets have been counted as sent",
            f"see whose it is: bpftool net show dev {link.name}",
        )
    others = [one for one in link.tcx_ingress if not one.ours]
    runs = max(sum(one.ours for one in side) for side in (link.tcx_ingress, link.tcx_egress))
    said = [f"on received packets, behind ours: {_named(others)}"] if others else []
    if runs:
        said.append("another run of esimbpf, which does not disturb")
    return Finding(identity, "links", title, State.WORKS, "; ".join(said) or "no others")


def _named(programs: list[AttachedProgram]) -> str:
    return ", ".join(f"{one.name or 'a program'} (id {one.id})" for one in programs)


def _filters(link: LinkFact, tc: str, unseen: str) -> Finding:
    identity, title = f"link.{link.name}.filters", f"{link.name} tc filters"
    if link.filters is None:
        return Finding(identity, "links", title, State.UNKNOWN, unseen)
    by_filters = tc == "clsact"
    hiding = [one for one in link.filters if by_filters and one.before_ours]
    behind = [one for one in link.filters if one.direction == "egress" and one not in hiding]
    if hiding:
        return Finding(
            identity,
            "links",
            title,
            State.LOST,
            f"before ours: {', '.join(f'{one.name} ({one.direction})' for one in hiding)}",
            "packets for which they end the classification",
            f"give them a priority above 6: tc filter show dev {link.name} {hiding[0].direction}",
        )
    if behind:
        return Finding(
            identity,
            "links",
            title,
            State.LOST,
            f"on sent packets, behind ours: {', '.join(one.name for one in behind)}",
            "exactness, if they drop or redirect: such packets have been counted as sent",
            f"see what they do: tc filter show dev {link.name} egress",
        )
    received = [one.name for one in link.filters]
    shown = f"on received packets, behind ours: {', '.join(received)}" if received else "no others"
    return Finding(identity, "links", title, State.WORKS, shown)


# -- modems ------------------------------------------------------------------------------

_INSTALL_MODEM_MANAGER: Final = {
    "debian": "apt install modemmanager",
    "fedora": "dnf install ModemManager",
    "arch": "pacman -S modemmanager",
    "alpine": "apk add modemmanager",
}
_WITHOUT_MODEM_MANAGER: Final = "SIM profile, operator, roaming and signal: they are unknown; nothing else"


def _modem_manager(machine: Machine) -> Iterator[Finding]:
    manager = machine.modem_manager
    if manager is None:
        return
    told = manager.survey
    service = modems.Service
    identity, group, title = "modem-manager", "modem", "ModemManager"
    if told.service is service.REFUSED:
        yield Finding(identity, group, title, State.UNKNOWN, f"it takes root to see: {told.words}")
    elif told.service is not service.RUNNING:
        detail, remedy = _why_not_running(manager, machine.distribution)
        yield Finding(identity, group, title, State.LOST, detail, _WITHOUT_MODEM_MANAGER, remedy)
    elif not told.modems:
        yield Finding(
            identity,
            group,
            title,
            State.LOST,
            f"{told.version}; it knows of no modem",
            _WITHOUT_MODEM_MANAGER,
            "mmcli --scan-modems; a modem that poses as an Ethernet card or a phone is none of its",
        )
    else:
        yield _modems(manager)


def _why_not_running(manager: ModemManager, distribution: str) -> tuple[str, str]:
    """In words, and what to do about it."""
    if not manager.installed:
        return "not installed", _how_to_install(_INSTALL_MODEM_MANAGER, distribution)
    match manager.survey.service:
        case modems.Service.NOT_RUNNING:
            return "not running", "systemctl enable --now ModemManager"
        case modems.Service.NO_BUS:
            return f"cannot be asked: {manager.survey.words}", "systemctl start dbus"
        case _:
            return f"does not answer: {manager.survey.words}", "systemctl restart ModemManager"


def _modems(manager: ModemManager) -> Finding:
    told = manager.survey
    on = f" on {', '.join(manager.links)}" if manager.links else ""
    shown = f"{told.version}; {', '.join(map(_modem, told.modems))}{on}"
    if any(modem.sim and modem.sim.iccid for modem in told.modems):
        return Finding("modem-manager", "modem", "ModemManager", State.WORKS, shown)
    return Finding(
        "modem-manager",
        "modem",
        "ModemManager",
        State.LOST,
        shown,
        "the SIM profile: it is unknown",
        "put in a SIM, enable a profile of the eSIM (lpac profile enable …), or unlock it (mmcli -i any --pin=…)",
    )


def _modem(modem: modems.Modem) -> str:
    sim = modem.sim
    if sim and sim.iccid:
        return f"{modem.name} with {'eSIM' if sim.esim else 'SIM'} {masked(sim.iccid)}"
    return f"{modem.name} ({modem.failure or modem.state}, no SIM known)"


# -- the self test -----------------------------------------------------------------------


def _self_test(machine: Machine) -> Finding:
    test = machine.self_test
    identity, group, title = "self-test", "self test", "counting"
    if test is None:
        return Finding(identity, group, title, State.UNKNOWN, "not made: it takes all required programs, attached")
    if test.words:
        return Finding(identity, group, title, State.UNKNOWN, f"could not be made: {test.words}")
    packets = test.sent.rx_packets + test.sent.tx_packets
    if test.counted == test.sent and test.unattributed == NOTHING:
        return Finding(
            identity, group, title, State.WORKS, f"{packets} packets, {test.sent.total_bytes} bytes: exact to the byte"
        )
    return Finding(
        identity,
        group,
        title,
        State.MISSING,
        f"of {packets} packets and {test.sent.total_bytes} bytes, this process has "
        f"{test.counted.rx_packets + test.counted.tx_packets} and {test.counted.total_bytes}; "
        f"{test.unattributed.total_bytes} bytes are unattributed",
        "exactness: what is counted here is not to be trusted",
        "please report it, with what this prints: esimbpf doctor --json",
    )
