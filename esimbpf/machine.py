"""What is known about a machine: the facts that `doctor` judges, as kernel.probe finds them.

None stands for what could not be found out. Every string is safe to print (see `text.printable`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esimbpf.model import Counters
from esimbpf.modem.model import Survey

__all__ = [
    "AttachedProgram",
    "BccFact",
    "Cgroups",
    "Filter",
    "HookFact",
    "Hooks",
    "Kernel",
    "Lasting",
    "LibraryFact",
    "LinkFact",
    "Machine",
    "ModemManager",
    "ObjectFact",
    "ProgramFact",
    "Rights",
    "SelfTest",
    "Service",
    "suffices",
]


@dataclass(frozen=True, slots=True)
class Kernel:
    """The running kernel."""

    release: str
    machine: str
    """The architecture as uname(2) names it."""
    machine_known: bool
    """Whether the loader knows this architecture's system calls."""
    lockdown: str | None
    """`none`, `integrity` or `confidentiality`; None where the kernel does not say."""
    jit: bool | None
    btf: str
    """Where its type information is looked for."""
    btf_bytes: int | None
    """Its size; None if it cannot be read."""
    btf_hidden: bool = False
    """Whether an environment variable chose the place."""

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number; (0, 0) if the release says none."""
        numbers = self.release.split("-")[0].split(".")
        if len(numbers) < 2 or not all(part.isdecimal() for part in numbers[:2]):
            return (0, 0)
        return int(numbers[0]), int(numbers[1])


_LOADING: Final = frozenset({"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"})


def suffices(capabilities: frozenset[str]) -> bool:
    """Whether these capabilities are all that loading the programs takes."""
    return "CAP_SYS_ADMIN" in capabilities or capabilities >= _LOADING


@dataclass(frozen=True, slots=True)
class Rights:
    """What this process may do."""

    uid: int
    capabilities: frozenset[str]
    """Those that are in effect, of the ones that matter: `CAP_BPF`, …"""
    memlock: int | None
    """Bytes that may be locked in memory (RLIMIT_MEMLOCK); None for no limit."""
    initial_user_namespace: bool | None
    initial_pid_namespace: bool | None

    @property
    def may_load(self) -> bool:
        """Whether they suffice for loading all programs; outside of the first user namespace none do."""
        if self.initial_user_namespace is False:
            return False
        return suffices(self.capabilities)


@dataclass(frozen=True, slots=True)
class LibraryFact:
    """libbpf.so.1."""

    version: tuple[int, int] | None
    """None if it cannot be loaded; `words` says why."""
    words: str = ""


@dataclass(frozen=True, slots=True)
class ObjectFact:
    """The compiled programs."""

    path: str
    exists: bool
    disagreements: tuple[str, ...] = ()
    """Where it is not the one that this version of the package reads."""


@dataclass(frozen=True, slots=True)
class BccFact:
    """What the name `bcc` means to Python here."""

    bindings: str
    """Where the distribution's bindings lie; empty if they are not installed."""
    stranger: str
    """Where an unrelated package of this name lies, PyPI's for one; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The cgroup v2 hierarchy."""

    root: str
    """The directory that the programs are attached to; empty if there is none."""
    words: str
    """Why there is none, or why it cannot be opened."""
    hint: str
    hybrid: bool
    """Whether cgroup v1 hierarchies are mounted too."""
    whole: bool | None
    """Whether it is the root of all cgroups, not a part as in a container."""
    chosen: bool
    """Whether the directory was given by --cgroup."""
    occupied: tuple[str, ...] = ()
    """The hooks (`ingress`, `sock_create`) that somebody else holds for himself alone."""
    others: tuple[str, ...] | None = None
    """Names of the programs that share our hooks with us; None where that could not be asked."""


@dataclass(frozen=True, slots=True)
class ProgramFact:
    """What became of one program when it was tried; None where it was not."""

    name: str
    loaded: bool | None
    attached: bool | None
    words: str = ""
    """Why it was refused: the kernel's last words."""
    lacks: tuple[str, ...] = ()
    """Helper functions and tracepoints that the kernel does not have, where it names them."""
    forbidden: bool = False
    """It was refused for want of a right (EPERM), which says nothing of what the kernel has."""


@dataclass(frozen=True, slots=True)
class AttachedProgram:
    """A program of another on a link."""

    id: int
    name: str
    ours: bool
    """Whether it bears the name of one of ours: another run."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A tc filter of another on a link."""

    direction: str
    priority: int
    name: str
    before_ours: bool
    """Whether it would run before ours where ours is a filter too."""


@dataclass(frozen=True, slots=True)
class LinkFact:
    """A link that would be counted, and what else is attached to it; None where that could not be asked."""

    name: str
    kind: str
    state: str
    cellular: str
    tcx_ingress: tuple[AttachedProgram, ...] | None
    tcx_egress: tuple[AttachedProgram, ...] | None
    filters: tuple[Filter, ...] | None
    xdp: str = ""
    """The XDP program in words; empty if there is none."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What was sent over a link of two throwaway namespaces, and what was counted."""

    sent: Counters
    """What this process's packets amount to."""
    counted: Counters
    """What its row has."""
    unattributed: Counters
    words: str = ""
    """Why the test could not be made; empty if it was."""


@dataclass(frozen=True, slots=True)
class Service:
    """What systemd has of us."""

    systemd: bool
    """Whether systemd runs here."""
    unit: str = ""
    """The unit's file; empty if it is not installed."""
    enabled: bool = False
    """Whether it starts with the machine."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """Counting that outlives a command: what there is of it, and of what keeps its history."""

    pinned: bool | None
    """Whether this version's programs are attached for good; None if that may not be seen."""
    pinned_version: str = ""
    pinned_links: tuple[str, ...] = ()
    elsewhere: bool = False
    """Whether they count in another network namespace."""
    strangers: tuple[str, ...] = ()
    """Pins of other versions."""
    state_dir: str = ""
    daemon: int | None = None
    """The pid of the daemon that keeps the ledger there; 0 if it has none here, None if no daemon runs."""
    ledger_bytes: int | None = None
    """The ledger's size; None if there is no ledger."""
    ledger_error: tuple[str, str] | None = None
    """Why it cannot be read: message and hint."""
    ledger_hidden: bool = False
    """Whether it may not be read."""
    service: Service = Service(False)


@dataclass(frozen=True, slots=True)
class ModemManager:
    """Who knows of SIMs, networks and signals."""

    installed: bool
    survey: Survey
    """What it says, or why it does not."""
    links: tuple[str, ...] = ()
    """The interfaces that are its modems'."""


@dataclass(frozen=True, slots=True)
class HookFact:
    """A program that is to be run on events."""

    name: str
    events: tuple[str, ...]
    """Shell globs."""
    user: str
    timeout_s: float
    problem: tuple[str, str] | None = None
    """Why it would not be run: message and hint."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The configuration, as far as it can be wrong, and the hooks that it and the folder name."""

    config: str
    """The file."""
    config_there: bool = True
    config_error: tuple[str, str] | None = None
    """Why it cannot be used: message and hint; then nothing is known of hooks."""
    folder: str = ""
    folder_there: bool = True
    folder_error: tuple[str, str] | None = None
    """Why it cannot be read: message and hint."""
    passed_over: tuple[str, ...] = ()
    """Files in the folder that are no hooks by their names."""
    hooks: tuple[HookFact, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """All facts."""

    kernel: Kernel
    rights: Rights
    distribution: str
    """`debian`, `fedora`, `arch`, `alpine`, or empty."""
    library: LibraryFact
    object: ObjectFact
    bcc: BccFact
    cgroups: Cgroups
    bpffs: bool
    """Whether it is mounted where it belongs, at /sys/fs/bpf."""
    bpffs_known: bool
    """Whether the kernel knows this file system."""
    bpffs_read_only: bool
    """Whether it is mounted read-only where it belongs."""
    lasting: Lasting
    hooks: Hooks
    programs: tuple[ProgramFact, ...]
    program_types: dict[str, bool | None]
    map_types: dict[str, bool | None]
    helpers: int | None
    """How many helper functions were asked for; None if none could be."""
    missing_helpers: tuple[str, ...]
    tc: str
    """How programs get onto a link: `tcx`, `clsact`, empty if neither works; see `tc_words`."""
    tc_words: str
    tc_tried: bool
    links: tuple[LinkFact, ...]
    links_named: bool
    """Whether the links were named, not found."""
    links_error: tuple[str, str] | None
    """Why there are none: message and hint."""
    self_test: SelfTest | None
    """None if it was not made."""
    modem_manager: ModemManager | None = None
    """None if it was not asked."""
