"""Puts the programs into the kernel with libbpf, and attaches them.

Everything is attached by a descriptor of this process: when it ends, however it ends, the kernel detaches all.
The one exception is kernels without tcx (before 6.6), whose tc filters stay until the next start replaces them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from esimbpf.errors import EsimbpfError, KernelLacks, NotPermitted
from esimbpf.kernel import abi, libbpf, naming
from esimbpf.kernel.procfs import capabilities
from esimbpf.kernel.programs import PROGRAMS, Hook, Program
from esimbpf.machine import suffices
from esimbpf.model import Counters
from esimbpf.snapshot import FIRST_PROCESS_SLOT, ReservedSlot

__all__ = ["BTF_VARIABLE", "MAPS", "OBJECT", "Engine", "Lost", "header_bytes", "kernel_btf", "load"]

OBJECT: Final = Path(__file__).with_name("esimbpf.bpf.o")
_BTF: Final = "/sys/kernel/btf/vmlinux"
BTF_VARIABLE: Final = "ESIMBPF_BTF"
"""Environment variable naming the kernel's BTF; for tests, which hide it so."""

_HEADER_BYTES: Final = {1: 14, 772: 14}
"""Link-layer header by ARPHRD_* (linux/if_arp.h): Ethernet and loopback. Raw IP, PPP, TUN and tunnels have none."""

MAPS: Final = (
    *("usage_blocks", "slots", "processes", "free_slots", "process_slots", "commands", "descendants", ".bss"),
    # Named so that pins keep them, too.
    *("owners", "echo_senders", "deliveries"),
    *("quota_rules", "quota_uses", "quota_exes", "quota_cgroups", "quota_users", "quota_processes"),
    *("quota_names", "quota_everybody", "quotas_blocks", "ancestries", "words", "blocked", "unwanted"),
)
"""The maps of the object; those of the second line concern the programs alone."""

_FAILED_PROGRAM: Final = re.compile(r"prog '(\w+)': (?:failed to|BPF program load failed|-- BEGIN|couldn't|invalid)")


def header_bytes(device_type: int) -> int:
    """Bytes of the link-layer header that tc sees on a device of this ARPHRD_* type."""
    return _HEADER_BYTES.get(device_type, 0)


def kernel_btf() -> str:
    """Where the kernel's type information is looked for."""
    return os.environ.get(BTF_VARIABLE, _BTF)


@dataclass(frozen=True, slots=True)
class Lost:
    """An optional program that could not be loaded or attached, and why."""

    program: Program
    reason: str


def load(
    without: Collection[str], slots: int, links: int, follow: bool = False, maps: Mapping[str, int] | None = None
) -> int:
    """Load the object without some of its programs, with room for that many slots and links; gives its handle.

    With `follow`, commands can be followed. `maps` are used again instead of new ones.
    OSError if the kernel or libbpf refuses; libbpf has said why.
    """
    lib = libbpf.library()
    loaded: int | None = lib.bpf_object__open_file(os.fsencode(OBJECT), None)
    if not loaded:
        raise OSError(ctypes.get_errno(), libbpf.strerror(ctypes.get_errno()))
    try:
        for program in PROGRAMS:
            if program.name in without:
                libbpf.check(lib.bpf_program__set_autoload(libbpf.find_program(loaded, program.name), False), "")
        for name, entries in (
            ("usage_blocks", slots // abi.USAGES_PER_BLOCK * links),
            ("slots", slots),
            ("processes", slots),
            ("free_slots", slots),
            ("process_slots", slots),
            ("quotas_blocks", slots // abi.QUOTAS_PER_BLOCK if follow else 1),
            ("ancestries", slots),
            ("words", naming.WORDS if follow else 1),
            ("commands", abi.COMMANDS if follow else 1),
            ("descendants", abi.DESCENDANTS if follow else 1),
        ):
            libbpf.check(lib.bpf_map__set_max_entries(libbpf.find_map(loaded, name), entries), name)
        for name, fd in (maps or {}).items():
            libbpf.check(lib.bpf_map__reuse_fd(libbpf.find_map(loaded, name), fd), name)
        size = ctypes.c_size_t()
        settings = lib.bpf_map__initial_value(libbpf.find_map(loaded, ".rodata"), ctypes.byref(size))
        packed = abi.SETTINGS.pack(slots, links, "process_forked" not in without, follow, follow)
        ctypes.memmove(settings, packed, abi.SETTINGS.size)
        libbpf.check(lib.bpf_object__load(loaded), "loading")
    except OSError:
        lib.bpf_object__close(loaded)
        raise
    return loaded


class Engine:
    """The loaded object: its maps, and what is attached where.

    There will be room for `processes` at once on each of `links` links. With `follow`, the descendants of commands
    can be followed, which costs each fork on the machine some 20 ns. `maps` are those of an engine to be relieved.
    Raises NotPermitted without the right to load, KernelLacks when a required program is refused.
    """

    name = "libbpf"

    def __init__(
        self,
        processes: int,
        links: int,
        skip: frozenset[str] = frozenset(),
        follow: bool = False,
        maps: Mapping[str, int] | None = None,
    ) -> None:
        self._prepare(processes, links)
        self._object: int | None = self._load(set(skip), follow, maps)
        self._open(self._loaded_map, self._loaded_program)
        if follow:
            for key, word in naming.packed_words():
                self.map_of("words", abi.WORD.size).put(key, word)
        if maps is None:
            for slot in range(self.last_slot, FIRST_PROCESS_SLOT - 1, -1):
                self.free_slots.push(slot)
            blocked = self._map("blocked", abi.USAGE.size)
            for link in range(links):
                blocked.put(abi.BLOCKED_KEY.pack(link, ReservedSlot.OVERFLOW), bytes(abi.USAGE.size))

    def _prepare(self, processes: int, links: int) -> None:
        """Sizes, and that nothing is attached yet."""
        wanted = processes + FIRST_PROCESS_SLOT
        self.last_slot = wanted - 1
        self.slots = -(-wanted // abi.USAGES_PER_BLOCK) * abi.USAGES_PER_BLOCK
        self.links = links
        self.lost: list[Lost] = []
        self._descriptors: dict[str, int] = {}
        self._link_descriptors: dict[int, list[int]] = {}
        self._filters: dict[int, int] = {}

    def _open(self, map_fd: Callable[[str], int], program_fd: Callable[[str], int | None]) -> None:
        """Take hold of the maps and programs, wherever they come from."""
        self.cpus = libbpf.possible_cpus()
        self._maps = {name: map_fd(name) for name in MAPS}
        self._programs = {program.name: program_fd(program.name) for program in PROGRAMS}
        self.usage_blocks = self._map("usage_blocks", abi.USAGE_BLOCK.size * self.cpus)
        self.slot_states = self._map("slots", abi.SLOT.size)
        self.processes = self._map("processes", abi.PROCESS.size)
        self.free_slots = self._map("free_slots", 4)
        self.process_slots = self._map("process_slots", 4)
        self._commands = self._map("commands", 1)
        self._descendants = self._map("descendants", abi.DESCENDANT.size)
        self._watched = mmap.mmap(self._map(".bss", 0).fd, abi.WATCHED_LINKS.size)
        self.state_memory = mmap.mmap(self.slot_states.fd, self.slots * abi.SLOT.size, prot=mmap.PROT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Detach everything and unload."""
        for index in list(self._link_descriptors) + list(self._filters):
            self.detach_link(index)
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
        self._watched.close()
        self.state_memory.close()
        if self._object:
            libbpf.library().bpf_object__close(self._object)

    # -- loading -----------------------------------------------------------------

    def _load(self, without: set[str], follow: bool, maps: Mapping[str, int] | None) -> int:
        """Load the object, leaving out optional programs that the kernel refuses, one by one."""
        btf = kernel_btf()
        if not os.path.exists(btf):
            raise KernelLacks(
                f"the kernel gives no type information (BTF): {btf} is missing",
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of the large distributions are",
            )
        if not OBJECT.exists():
            raise EsimbpfError(
                f"the compiled programs are missing: {OBJECT}",
                "run scripts/setup, or install the package again",
            )
        while True:
            try:
                with libbpf.Log() as log:
                    return load(without, self.slots, self.links, follow, maps)
            except OSError as error:
                # Without CAP_PERFMON it is the verifier that refuses, with EACCES.
                privileged = suffices(capabilities())
                if error.errno == errno.EPERM or (error.errno == errno.EACCES and not privileged):
                    raise NotPermitted(
                        "loading eBPF programs is not permitted",
                        "a seccomp filter or a security module forbids it, as those of containers do: run it outside"
                        if privileged
                        else "run as root (sudo esimbpf …), or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
                    ) from error
                refused = self._refused(log.lines, without)
                if refused is None or refused.required:
                    name = f"the program `{refused.name}`" if refused else "the programs"
                    said = [line for line in "\n".join(log.lines).splitlines() if line.strip()][-12:]
                    raise KernelLacks(
                        f"the kernel refuses {name}: {error.strerror}",
                        "esimbpf doctor says what this kernel has; the last words of libbpf:\n  " + "\n  ".join(said),
                    ) from error
                self.lost.append(Lost(refused, error.strerror or "refused"))
                without.add(refused.name)

    @staticmethod
    def _refused(lines: list[str], without: set[str]) -> Program | None:
        """The program that libbpf last complained of."""
        for line in reversed(lines):
            found = _FAILED_PROGRAM.search(line)
            if found:
                return next((p for p in PROGRAMS if p.name == found[1] and p.name not in without), None)
        return None

    def _loaded_map(self, name: str) -> int:
        assert self._object
        return libbpf.check(libbpf.library().bpf_map__fd(libbpf.find_map(self._object, name)), f"map {name}")

    def _loaded_program(self, name: str) -> int | None:
        assert self._object
        fd: int = libbpf.library().bpf_program__fd(libbpf.find_program(self._object, name))
        return fd if fd >= 0 else None

    def _map(self, name: str, value_bytes: int) -> libbpf.Map:
        return libbpf.Map(name, self._maps[name], value_bytes)

    def map_fd(self, name: str) -> int:
        """The descriptor of a map."""
        return self._maps[name]

    def map_of(self, name: str, value_bytes: int) -> libbpf.Map:
        """A map with values of this size."""
        return self._map(name, value_bytes)

    @property
    def quota_epoch(self) -> int:
        """How often it was said whom quotas are about; 0 if never."""
        return self._watched_word(abi.QUOTA_EPOCH_OFFSET)

    def raise_quota_epoch(self) -> None:
        """Have every process's quotas found anew."""
        # 0 is none, and odd and even ones take turns.
        self._set_watched_word(abi.QUOTA_EPOCH_OFFSET, self.quota_epoch + 1 & 0xFFFFFFFF or 2)

    def blocked(self) -> dict[tuple[int, int], Counters]:
        """What quotas have ever blocked, by link's number and slot."""
        if not self.quota_epoch:
            return {}
        return {
            abi.BLOCKED_KEY.unpack(key): Counters(*abi.USAGE.unpack(value))
            for key, value in self._map("blocked", abi.USAGE.size).items(abi.BLOCKED_KEY.size)
        }

    def open_services(self, services: int) -> None:
        """Leave services open to everybody in the saver mode: enum open_service."""
        self._set_watched_word(abi.OPEN_SERVICES_OFFSET, services)

    def crowded(self) -> int | None:
        """A slot for whose process there was no room for all quotas that are about it, since this was asked last."""
        slot = self._watched_word(abi.CROWDED_OFFSET)
        self._set_watched_word(abi.CROWDED_OFFSET, 0)
        return slot or None

    def _watched_word(self, at: int) -> int:
        return int.from_bytes(self._watched[at : at + 4], sys.byteorder)

    def _set_watched_word(self, at: int, value: int) -> None:
        self._watched[at : at + 4] = value.to_bytes(4, sys.byteorder)

    @property
    def services_open(self) -> int:
        """Those that `open_services` has left open last."""
        return self._watched_word(abi.OPEN_SERVICES_OFFSET)

    def program_fd(self, name: str) -> int | None:
        """The descriptor of a loaded program; None if it was left out."""
        return self._programs[name]

    def _required_fd(self, name: str) -> int:
        fd = self.program_fd(name)
        assert fd is not None, f"{name} is required, and so it is loaded"
        return fd

    # -- attaching ---------------------------------------------------------------

    def attach(self, cgroup: str, without: Collection[str] = ()) -> None:
        """Attach all that knows no link, but for `without`, then find the owners of the sockets that are open."""
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for program in PROGRAMS:
                fd = self.program_fd(program.name)
                if fd is None or program.on_demand or program.name in without:
                    continue
                try:
                    self._attach(program, fd, directory)
                except OSError as error:
                    if program.required:
                        raise self._refusal(program, error) from error
                    self.lost.append(Lost(program, error.strerror or str(error)))
        finally:
            os.close(directory)

    def _attach(self, program: Program, fd: int, cgroup: int) -> None:
        match program.hook:
            case Hook.CGROUP_INGRESS:
                link = libbpf.link_create(fd, cgroup, libbpf.CGROUP_INET_INGRESS, "cgroup ingress")
                self._descriptors[program.name] = link
            case Hook.CGROUP_EGRESS:
                link = libbpf.link_create(fd, cgroup, libbpf.CGROUP_INET_EGRESS, "cgroup egress")
                self._descriptors[program.name] = link
            case Hook.CGROUP_SOCK_CREATE:
                link = libbpf.link_create(fd, cgroup, libbpf.CGROUP_INET_SOCK_CREATE, "cgroup sock_create")
                self._descriptors[program.name] = link
            case Hook.TRACEPOINT:
                opened = libbpf.library().bpf_raw_tracepoint_open(None, fd)
                self._descriptors[program.name] = libbpf.check(opened, "tracepoint")
            case Hook.ITERATOR:
                self._run_iterator(fd)
            case Hook.TC_EGRESS | Hook.TC_INGRESS:
                pass  # attached to each link

    @staticmethod
    def _run_iterator(fd: int) -> None:
        link = libbpf.link_create(fd, 0, libbpf.TRACE_ITER, "iterator")
        try:
            iterator = libbpf.check(libbpf.library().bpf_iter_create(link), "iterator")
            try:
                while os.read(iterator, 4096):
                    pass
            finally:
                os.close(iterator)
        finally:
            os.close(link)

    @staticmethod
    def _refusal(program: Program, error: OSError) -> EsimbpfError:
        if error.errno in (errno.EPERM, errno.EACCES):
            return NotPermitted(
                f"attaching `{program.name}` is not permitted: {error.strerror}",
                "run as root; `esimbpf doctor` says what else may be in the way",
            )
        return KernelLacks(
            f"`{program.name}` cannot be attached: {error.strerror}",
            f"it needs {program.needs}; see esimbpf doctor",
        )

    def attach_link(self, index: int, ifindex: int, header_len: int) -> None:
        """Attach to an interface and count it as link number `index`; OSError if it is gone."""
        self.detach_link(index)
        egress, ingress = self._required_fd("sent"), self._required_fd("received")
        self.watch_link(index, 0, header_len)
        opened: list[int] = []
        try:
            try:
                opened.append(libbpf.tcx_create(egress, ifindex, libbpf.TCX_EGRESS, "tcx egress"))
                opened.append(libbpf.tcx_create(ingress, ifindex, libbpf.TCX_INGRESS, "tcx ingress"))
                self._link_descriptors[index] = opened
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._attach_filters(index, ifindex, egress, ingress)
        except OSError:
            for fd in opened:
                os.close(fd)
            self._link_descriptors.pop(index, None)
            raise
        self.watch_link(index, ifindex, header_len)

    def _attach_filters(self, index: int, ifindex: int, egress: int, ingress: int) -> None:
        """Attach through clsact, where the kernel has no tcx."""
        from esimbpf.kernel import clsact

        clsact.attach(ifindex, egress, clsact.Direction.EGRESS)
        clsact.attach(ifindex, ingress, clsact.Direction.INGRESS)
        self._filters[index] = ifindex

    def detach_link(self, index: int) -> None:
        """Stop counting a link; what it counted stays. Harmless if it is not attached."""
        self.watch_link(index, 0, 0)
        for fd in self._link_descriptors.pop(index, ()):
            os.close(fd)
        ifindex = self._filters.pop(index, None)
        if ifindex is not None:
            from esimbpf.kernel import clsact

            with contextlib.suppress(OSError):  # the interface may be gone, and the filters with it
                clsact.detach(ifindex, clsact.Direction.EGRESS)
                clsact.detach(ifindex, clsact.Direction.INGRESS)

    def watch_link(self, index: int, ifindex: int, header_len: int) -> None:
        """Tell the programs the interface of link number `index`; ifindex 0: none."""
        at = abi.LINK_OFFSET + index * abi.LINK_BYTES
        self._watched[at + 12 : at + 16] = index.to_bytes(4, sys.byteorder)
        self._watched[at + 4 : at + 8] = header_len.to_bytes(4, sys.byteorder)
        self._watched[at : at + 4] = ifindex.to_bytes(4, sys.byteorder)

    def set_namespace(self, cookie: int) -> None:
        """Name the network namespace of the links; received packets of others' sockets are left out."""
        self._watched[0:8] = cookie.to_bytes(8, sys.byteorder)

    def watched_ifindex(self, index: int) -> int:
        """The interface that the programs count as link number `index`; 0 if they count none."""
        at = abi.LINK_OFFSET + index * abi.LINK_BYTES
        return int.from_bytes(self._watched[at : at + 4], sys.byteorder)

    def pin(self, folder: Path) -> None:
        """Pin maps, programs and what is attached, but for links' programs, below a folder on bpffs; OSError."""
        for name, fd in self._maps.items():
            libbpf.pin(fd, folder / "maps" / name.lstrip("."))
        for name, program in self._programs.items():
            if program is not None:
                libbpf.pin(program, folder / "programs" / name)
        for name, fd in self._descriptors.items():
            libbpf.pin(fd, folder / "hooks" / name)

    # -- commands ----------------------------------------------------------------

    def follow(self, pid: int) -> None:
        """Know the descendants of a command from now on, before it has any."""
        self._commands.update(pid, b"\1")

    def unfollow(self, pid: int) -> None:
        """Follow a command no longer."""
        self._commands.delete(pid.to_bytes(4, sys.byteorder))

    def descends(self, pid: int, start_ns: int) -> bool:
        """Whether a process is a descendant of a command that is followed, wherever it has gone since."""
        return self._descendants.find(abi.PROCESS_KEY.pack(start_ns, pid, 0)) is not None

    def living_descendants(self) -> frozenset[int]:
        """The pids of the descendants that have not ended; the followed commands themselves are not among them."""
        found = set()
        for key, value in self._descendants.items(abi.PROCESS_KEY.size):
            _command, exited = abi.DESCENDANT.unpack(value)
            if not exited:
                _start_ns, pid, _padding = abi.PROCESS_KEY.unpack(key)
                found.add(pid)
        return frozenset(found)
