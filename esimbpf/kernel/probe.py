"""Asks the kernel, by really doing: what this machine has of what counting takes."""

from __future__ import annotations

import errno
import importlib.machinery
import os
import platform
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from esimbpf.config import DEFAULT_PATH
from esimbpf.config import read as read_config
from esimbpf.errors import CannotError, EsimbpfError, KernelLacks, LedgerError, NotPermitted
from esimbpf.exclusive import holder
from esimbpf.hooks import found as found_hooks
from esimbpf.hooks import passed_over, why_not_run
from esimbpf.kernel import clsact, libbpf, pins
from esimbpf.kernel.engine import BTF_VARIABLE, kernel_btf
from esimbpf.kernel.links import FoundLink, choose, list_links
from esimbpf.kernel.mounts import cgroup2_root, mount_points
from esimbpf.kernel.netns import cookie
from esimbpf.kernel.procfs import capabilities
from esimbpf.kernel.programs import PROGRAMS
from esimbpf.kernel.rtnetlink import SKIP_STATISTICS, listed, rtnetlink
from esimbpf.kernel.tryout import Features, Tried, examine_object, features, try_programs
from esimbpf.ledger.database import FILE_NAME, connect
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
    ObjectFact,
    ProgramFact,
    Rights,
    Service,
)
from esimbpf.text import printable

__all__ = ["probe"]

"""linux/capability.h."""

# The inodes of the first namespaces (PROC_USER_INIT_INO, PROC_PID_INIT_INO in linux/proc_ns.h).
_FIRST_USER_NAMESPACE: Final = 0xEFFFFFFD
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC

_DISTRIBUTIONS: Final = {
    "debian": ("debian", "ubuntu"),
    "fedora": ("fedora", "rhel", "centos"),
    "arch": ("arch", "archarm"),
    "alpine": ("alpine", "postmarketos"),
}

# Where distributions put modules for their own Python, which a virtual environment does not see.
_DISTRIBUTIONS_MODULES: Final = ("/usr/lib/python3/dist-packages",)

_BPFFS: Final = "/sys/fs/bpf"

_UNITS: Final = tuple(f"{top}/systemd/system/esimbpf.service" for top in ("/etc", "/usr/lib", "/lib"))
_WANTED: Final = "/etc/systemd/system/multi-user.target.wants/esimbpf.service"

_CGROUP_HOOKS: Final = {"ingress": libbpf.CGROUP_INET_INGRESS, "sock_create": libbpf.CGROUP_INET_SOCK_CREATE}

# linux/if_link.h, XDP_ATTACHED_*, by pyroute2's names of them.
_XDP_MODES: Final = {"xdp": "in the driver", "xdpgeneric": "generic", "xdpoffload": "in the hardware"}


def probe(names: Sequence[str], cgroup: str | None, state_dir: Path, config: Path | None = None) -> Machine:
    """All facts but the self test's, for the links named, or for those that would be counted.

    Programs are tried only where they may succeed. Raises UsageError for links that exclude each other.
    """
    rights = _rights()
    library = _library()
    made = examine_object() if library.version else ObjectFact("", False)
    btf = kernel_btf()
    btf_bytes = _size(btf)
    cgroups = _cgroups(cgroup, bool(library.version))
    tried, asked = Tried(), Features({}, {}, 0, ())
    if library.version and made.exists and not made.disagreements and btf_bytes and rights.may_load:
        tried = try_programs(cgroups.root)
        loaded = {program.name for program in tried.programs if program.loaded}
        if loaded or not any(program.forbidden for program in tried.programs):
            with suppress(OSError):  # said by `made`
                asked = features(loaded)
    links, error = _links(names, bool(library.version))
    return Machine(
        kernel=Kernel(
            release=printable(os.uname().release),
            machine=printable(platform.machine()),
            machine_known=libbpf.machine_known(),
            lockdown=_lockdown(),
            jit=tried.jit if tried.jit is not None else _jit(),
            btf=printable(btf),
            btf_bytes=btf_bytes,
            btf_hidden=BTF_VARIABLE in os.environ,
        ),
        rights=rights,
        distribution=_distribution(),
        library=library,
        object=made,
        bcc=_bcc(),
        cgroups=cgroups,
        bpffs=_BPFFS in mount_points("bpf"),
        bpffs_known="nodev\tbpf" in _read("/proc/filesystems").splitlines(),
        bpffs_read_only=bool(os.statvfs(_BPFFS).f_flag & os.ST_RDONLY) if os.path.isdir(_BPFFS) else False,
        lasting=_lasting(state_dir, bool(library.version)),
        hooks=_hooks(config),
        programs=tuple(tried.programs) or tuple(ProgramFact(program.name, None, None) for program in PROGRAMS),
        program_types=asked.program_types,
        map_types=asked.map_types,
        helpers=asked.helpers,
        missing_helpers=asked.missing_helpers,
        tc=tried.tc,
        tc_words=tried.tc_words,
        tc_tried=tried.tc_tried,
        links=links,
        links_named=bool(names),
        links_error=error,
        self_test=None,
    )


# -- files -------------------------------------------------------------------------------


def _read(path: str) -> str:
    """A small file's text; empty where it cannot be read."""
    with suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""


def _size(path: str) -> int | None:
    """Bytes of a file that can be opened for reading."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError:
        return None


def _lockdown() -> str | None:
    """The word in brackets: `[none] integrity confidentiality` (security/lockdown/lockdown.c)."""
    _, bracket, rest = _read("/sys/kernel/security/lockdown").partition("[")
    return printable(rest.partition("]")[0]) if bracket else None


def _jit() -> bool | None:
    """By the setting, which only the first network namespace shows."""
    said = _read("/proc/sys/net/core/bpf_jit_enable").strip()
    return said != "0" if said else None


def _distribution() -> str:
    """The family, by os-release(5)'s ID and ID_LIKE."""
    lines = (_read("/etc/os-release") or _read("/usr/lib/os-release")).splitlines()
    fields = dict(line.partition("=")[::2] for line in lines)
    words = [word for name in ("ID", "ID_LIKE") for word in fields.get(name, "").strip("\"'").split()]
    for word in words:
        for family, members in _DISTRIBUTIONS.items():
            if word in members:
                return family
    return ""


# -- this process ------------------------------------------------------------------------


def _rights() -> Rights:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return Rights(
        uid=os.geteuid(),
        capabilities=capabilities(),
        memlock=None if limit == resource.RLIM_INFINITY else limit,
        initial_user_namespace=_is_first("user", _FIRST_USER_NAMESPACE),
        initial_pid_namespace=_is_first("pid", _FIRST_PID_NAMESPACE),
    )


def _is_first(kind: str, inode: int) -> bool | None:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino == inode
    except OSError:
        return None


# -- software ----------------------------------------------------------------------------


def _library() -> LibraryFact:
    try:
        said = libbpf.version()
    except KernelLacks as error:
        return LibraryFact(None, printable(error.message))
    numbers = said.removeprefix("v").split(".")
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers[:2]):
        return LibraryFact((1, 0), printable(said))
    return LibraryFact((int(numbers[0]), int(numbers[1])), printable(said))


def _bcc() -> BccFact:
    """Which `bcc` Python would import, and where the distribution's bindings are, without importing either.

    The bindings have a module libbcc (src/python/bcc/libbcc.py in iovisor/bcc), the lattice library has not.
    """
    bindings = stranger = ""
    for path in (None, list(_DISTRIBUTIONS_MODULES)):
        spec = importlib.machinery.PathFinder.find_spec("bcc", path)
        if spec is None:
            continue
        places = list(spec.submodule_search_locations or ())
        if any(os.path.exists(os.path.join(place, "libbcc.py")) for place in places):
            bindings = bindings or printable(places[0])
        else:
            stranger = stranger or printable(spec.origin or (places[0] if places else ""))
    return BccFact(bindings, stranger)


# -- cgroups -----------------------------------------------------------------------------


def _cgroups(chosen: str | None, can_ask: bool) -> Cgroups:
    hybrid = bool(mount_points("cgroup"))
    try:
        root = cgroup2_root(chosen)
    except KernelLacks as error:
        return Cgroups("", printable(error.message), printable(error.hint), hybrid, None, chosen is not None)
    try:
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        words = f"{printable(root)} cannot be opened: {error.strerror}"
        return Cgroups("", words, "run it as root", hybrid, None, chosen is not None)
    occupied: list[str] = []
    others: list[str] | None = [] if can_ask else None
    try:
        # The root of all cgroups is the one without a type (CFTYPE_NOT_ON_ROOT in kernel/cgroup/cgroup.c).
        whole = not os.path.exists(os.path.join(root, "cgroup.type"))
        if others is not None:
            for hook, place in _CGROUP_HOOKS.items():
                there = libbpf.programs_at(directory, place)
                others += [program.name or f"program {program.id}" for program in there.programs]
                occupied += [hook] if there.exclusive else []
    except OSError:  # no right to ask
        others = None
    finally:
        os.close(directory)
    return Cgroups(
        printable(root),
        "",
        "",
        hybrid,
        whole,
        chosen is not None,
        tuple(occupied),
        None if others is None else tuple(others),
    )


# -- counting that outlives a command ----------------------------------------------------


def _lasting(state_dir: Path, can_ask: bool) -> Lasting:
    facts = Lasting(
        pinned=None,
        strangers=tuple(printable(str(path)) for path in pins.foreign()),
        state_dir=printable(str(state_dir)),
        daemon=_daemon(state_dir),
        service=_service(),
    )
    try:
        if can_ask:
            about = pins.About.of(pins.place())
            facts = replace(
                facts,
                pinned=True,
                pinned_version=printable(about.version),
                pinned_links=tuple(map(printable, about.links)),
                elsewhere=about.netns_cookie != (cookie() or 0),
            )
    except FileNotFoundError:
        facts = replace(facts, pinned=False)
    except NotPermitted:
        pass
    except (OSError, EsimbpfError):  # by what this version does not understand
        facts = replace(facts, strangers=(*facts.strangers, printable(str(pins.place()))))
    return _with_ledger(facts, state_dir)


def _hooks(config: Path | None) -> Hooks:
    path = config or DEFAULT_PATH
    facts = Hooks(printable(str(path)), os.path.exists(path))
    try:
        told = read_config(config)
    except EsimbpfError as error:
        return replace(facts, config_error=(error.message, error.hint))
    folder = told.hooks_dir
    facts = replace(facts, folder=printable(str(folder)), folder_there=os.path.exists(folder))
    try:
        hooks = found_hooks(told.hooks, folder)
    except CannotError as error:
        return replace(facts, folder_error=(error.message, error.hint))
    return replace(
        facts,
        passed_over=tuple(passed_over(folder)),
        hooks=tuple(HookFact(one.name, one.events, one.user, one.timeout_s, why_not_run(one)) for one in hooks),
    )


def _with_ledger(facts: Lasting, state_dir: Path) -> Lasting:
    path = state_dir / FILE_NAME
    try:
        size = sum(one.stat().st_size for one in (path, path.with_name(f"{FILE_NAME}-wal")) if one.exists())
        if not size:
            return facts
        facts = replace(facts, ledger_bytes=size)
        with open(path, "rb"):
            connect(state_dir, read_only=True).close()
    except PermissionError:
        return replace(facts, ledger_hidden=True)
    except LedgerError as error:
        return replace(facts, ledger_error=(error.message, error.hint))
    except OSError as error:
        message = f"the ledger {printable(str(path))} cannot be opened: {error.strerror}"
        return replace(facts, ledger_error=(message, "move it away: the daemon then begins a new one"))
    return facts


def _daemon(state_dir: Path) -> int | None:
    keeper = holder(state_dir)
    return (keeper.pid or 0) if keeper else None


def _service() -> Service:
    unit = next((path for path in _UNITS if os.path.exists(path)), "")
    return Service(os.path.isdir("/run/systemd/system"), unit, bool(unit) and os.path.lexists(_WANTED))


# -- links -------------------------------------------------------------------------------


def _links(names: Sequence[str], can_ask: bool) -> tuple[tuple[LinkFact, ...], tuple[str, str] | None]:
    """The links that would be counted, or why there are none."""
    try:
        chosen = choose(names, list_links())
    except CannotError as error:
        return (), (error.message, error.hint)
    xdp = _xdp()
    return tuple(_link(one, xdp.get(one.link.ifindex, ""), can_ask) for one in chosen), None


def _link(found: FoundLink, xdp: str, can_ask: bool) -> LinkFact:
    ifindex = found.link.ifindex
    try:
        filters: tuple[Filter, ...] | None = tuple(
            Filter(
                one.direction.name.lower(),
                one.priority,
                one.name or one.kind,
                before_ours=one.priority < clsact.PRIORITY,
            )
            for one in clsact.others(ifindex)
        )
    except EsimbpfError:
        filters = None
    return LinkFact(
        name=found.link.name,
        kind=found.link.kind,
        state=found.state,
        cellular=found.certainty,
        tcx_ingress=_tcx(ifindex, libbpf.TCX_INGRESS) if can_ask else None,
        tcx_egress=_tcx(ifindex, libbpf.TCX_EGRESS) if can_ask else None,
        filters=filters,
        xdp=xdp,
    )


def _tcx(ifindex: int, place: int) -> tuple[AttachedProgram, ...] | None:
    """The programs at a link's tcx hook; none where the kernel has no tcx, None where it may not be asked."""
    ours = {program.name for program in PROGRAMS}
    try:
        there = libbpf.programs_at(ifindex, place)
    except OSError as error:
        return () if error.errno == errno.EINVAL else None
    return tuple(AttachedProgram(one.id, one.name, one.name in ours) for one in there.programs)


def _xdp() -> dict[int, str]:
    """By ifindex, the XDP program on a link in words."""
    found = {}
    with suppress(OSError), rtnetlink() as netlink:
        for message in listed(lambda: netlink.get_links(ext_mask=SKIP_STATISTICS)):
            given = message.get_attr("IFLA_XDP")
            program = given and given.get_attr("IFLA_XDP_PROG_ID")
            if program:
                mode = _XDP_MODES.get(given.get_attr("IFLA_XDP_ATTACHED"), "attached")
                found[message["index"]] = f"program {program}, {mode}"
    return found
