"""libbpf.so.1 through ctypes: the calls that are used, and no more.

Errors of libbpf come as OSError with the errno that the call gave.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from errno import ENOENT, ENOSPC
from functools import cache
from pathlib import Path
from typing import Any, Final

from esimbpf.errors import KernelLacks
from esimbpf.text import printable

TCX_INGRESS: Final = 46
TCX_EGRESS: Final = 47
CGROUP_INET_INGRESS: Final = 0
CGROUP_INET_EGRESS: Final = 1
CGROUP_INET_SOCK_CREATE: Final = 2
TRACE_ITER: Final = 28

_LINK_CREATE: Final = 28
_BEFORE: Final = 1 << 3

# The number of bpf(2); asm/unistd.h of each architecture.
_BPF_SYSCALL: Final = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "armv7l": 386,
    "armv8l": 386,
    "i686": 357,
    "ppc64le": 361,
    "s390x": 351,
}

_ALLOW_MULTI: Final = 1 << 1
_OWN_ERRORS: Final = 4000
_MOST_PROGRAMS: Final = 64  # BPF_CGROUP_MAX_PROGS, BPF_MPROG_MAX

# struct bpf_prog_info up to its name: id, jited_prog_len, name.
_PROGRAM_INFO: Final = struct.Struct("=4xI8xI44x16s")

# struct bpf_link_info of tcx: type, id, prog_id, and behind a hole of four bytes tcx.ifindex.
_LINK_INFO: Final = struct.Struct("=3I4xI")

# struct bpf_map_info up to its value_size: type, id, key_size, value_size.
_MAP_INFO: Final = struct.Struct("=I8xI")

_ENTRIES_AT_ONCE: Final = 1024
"""Of a hash."""

# enum bpf_map_type
_ARRAY: Final = 2
_PERCPU_ARRAY: Final = 6

_WARNING: Final = 0  # enum libbpf_print_level

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


class TcxAttr(ctypes.Structure):
    """union bpf_attr of BPF_LINK_CREATE for tcx (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("prog_fd", c_uint32),
        ("target_ifindex", c_uint32),
        ("attach_type", c_uint32),
        ("flags", c_uint32),
        ("relative_fd", c_uint32),
        ("padding", c_uint32),
        ("expected_revision", c_uint64),
    )


@cache
def library() -> ctypes.CDLL:
    """Load libbpf.so.1 and declare the calls; KernelLacks if it is not installed."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelLacks(
            f"libbpf.so.1 cannot be loaded: {error}",
            "install libbpf 1.0 or later (Debian, Ubuntu: apt install libbpf1), or run scripts/setup",
        ) from error
    declarations: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "libbpf_version_string": (c_char_p, ()),
        "libbpf_strerror": (c_int, (c_int, c_char_p, c_size_t)),
        "libbpf_set_print": (c_void_p, (c_void_p,)),
        "libbpf_num_possible_cpus": (c_int, ()),
        "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
        "bpf_object__load": (c_int, (c_void_p,)),
        "bpf_object__close": (None, (c_void_p,)),
        "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
        "bpf_program__set_autoload": (c_int, (c_void_p, ctypes.c_bool)),
        "bpf_program__fd": (c_int, (c_void_p,)),
        "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
        "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
        "bpf_map__fd": (c_int, (c_void_p,)),
        "bpf_map__initial_value": (c_void_p, (c_void_p, POINTER(c_size_t))),
        "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
        "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
        "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
        "bpf_map_lookup_batch": (
            c_int,
            (c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p),
        ),
        "bpf_map_create": (c_int, (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p)),
        "bpf_obj_pin": (c_int, (c_int, c_char_p)),
        "bpf_obj_get": (c_int, (c_char_p,)),
        "bpf_link_create": (c_int, (c_int, c_int, c_int, c_void_p)),
        "bpf_link_update": (c_int, (c_int, c_int, c_void_p)),
        "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
        "bpf_iter_create": (c_int, (c_int,)),
        "bpf_raw_tracepoint_open": (c_int, (c_char_p, c_int)),
        "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
        "bpf_program__name": (c_char_p, (c_void_p,)),
        "bpf_program__type": (c_int, (c_void_p,)),
        "bpf_program__insns": (c_void_p, (c_void_p,)),
        "bpf_program__insn_cnt": (c_size_t, (c_void_p,)),
        "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
        "bpf_map__name": (c_char_p, (c_void_p,)),
        "bpf_map__type": (c_int, (c_void_p,)),
        "bpf_map__value_size": (c_uint32, (c_void_p,)),
        "bpf_prog_query": (c_int, (c_int, c_int, c_uint32, POINTER(c_uint32), c_void_p, POINTER(c_uint32))),
        "bpf_prog_get_fd_by_id": (c_int, (c_uint32,)),
        "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, POINTER(c_uint32))),
        "libbpf_probe_bpf_prog_type": (c_int, (c_int, c_void_p)),
        "libbpf_probe_bpf_map_type": (c_int, (c_int, c_void_p)),
        "libbpf_probe_bpf_helper": (c_int, (c_int, c_int, c_void_p)),
        "libbpf_bpf_prog_type_str": (c_char_p, (c_int,)),
        "libbpf_bpf_map_type_str": (c_char_p, (c_int,)),
    }
    for name, (result, arguments) in declarations.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    return lib


def version() -> str:
    """libbpf's version, as in `v1.1`."""
    text: bytes = library().libbpf_version_string()
    return text.decode()


def machine_known() -> bool:
    """Whether the number of bpf(2) on this architecture is known, which a place among other tcx programs takes."""
    return platform.machine() in _BPF_SYSCALL


def supports(kind: str, *numbers: int) -> bool | None:
    """Whether the kernel knows a `prog_type`, a `map_type`, or in programs of a type a `helper`; None if unknown."""
    result: int = library()[f"libbpf_probe_bpf_{kind}"](*numbers, None)
    return bool(result) if result >= 0 else None


def strerror(number: int) -> str:
    """What an error number means, libbpf's own ones (from 4000 on, bpf/libbpf.h) included."""
    if number < _OWN_ERRORS:
        return os.strerror(number)
    words = ctypes.create_string_buffer(128)
    library().libbpf_strerror(number, words, len(words))
    return words.value.decode(errors="replace")


def check(result: int, what: str) -> int:
    """Pass on what a call returned; OSError if that is negative."""
    if result < 0:
        number = ctypes.get_errno() or -result
        raise OSError(number, f"{what}: {strerror(number)}")
    return result


def find_map(loaded: int, name: str) -> int:
    """The handle of an object's map; OSError if it has none of this name, as an object of another version."""
    return _found(library().bpf_object__find_map_by_name(loaded, name.encode()), f"map {name}")


def find_program(loaded: int, name: str) -> int:
    """The handle of an object's program; OSError if it has none of this name."""
    return _found(library().bpf_object__find_program_by_name(loaded, name.encode()), f"program {name}")


def _found(handle: int | None, what: str) -> int:
    if not handle:
        raise OSError(ENOENT, f"{what} is missing in the compiled programs")
    return handle


class Log:
    """Collects what libbpf prints, the verifier's words included, instead of stderr.

    `lines` is all of it, `warnings` what is no mere information; the verifier's words on one program are one of them.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        libc = ctypes.CDLL(None)

        def collect(level: int, template: bytes, arguments: int) -> int:
            # What matters in the verifier's words is at their end, however long they are.
            made = c_void_p()
            length = libc.vasprintf(byref(made), c_char_p(template), c_void_p(arguments))
            if length >= 0:
                line = ctypes.string_at(made, length).decode(errors="replace").rstrip("\n")
                libc.free(made)
                self.lines.append(line)
                if level == _WARNING:
                    self.warnings.append(line)
            return 0

        self._callback = _PRINT(collect)

    def __enter__(self) -> Log:
        library().libbpf_set_print(ctypes.cast(self._callback, c_void_p))
        return self

    def __exit__(self, *_: object) -> None:
        library().libbpf_set_print(None)


class Map:
    """A loaded map, by its file descriptor."""

    def __init__(self, name: str, fd: int, value_bytes: int) -> None:
        self.name = name
        self.fd = fd
        self._value = ctypes.create_string_buffer(value_bytes)

    def lookup(self, key: int) -> bytes:
        """The value of a u32 key; of all CPUs, one after the other, in a per-CPU map."""
        check(
            library().bpf_map_lookup_elem(self.fd, byref(c_uint32(key)), self._value),
            f"map {self.name}, key {key}",
        )
        return self._value.raw

    def update(self, key: int, value: bytes) -> None:
        """Set the value of a u32 key."""
        check(
            library().bpf_map_update_elem(self.fd, byref(c_uint32(key)), value, 0),
            f"map {self.name}, key {key}",
        )

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key of any type; OSError, with E2BIG if there is no room."""
        check(library().bpf_map_update_elem(self.fd, key, value, 0), f"map {self.name}")

    def push(self, value: int) -> None:
        """Push a u32 onto a stack."""
        check(
            library().bpf_map_update_elem(self.fd, None, byref(c_uint32(value)), 0),
            f"map {self.name}",
        )

    def find(self, key: bytes) -> bytes | None:
        """The value of a key of any type; None if the map has none."""
        result: int = library().bpf_map_lookup_elem(self.fd, key, self._value)
        return self._value.raw if result == 0 else None

    def items(self, key_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values of a hash, many at once; what comes and goes meanwhile may be missed. OSError.

        Takes kernel 5.6. A batch has whole buckets of the hash: for one that has no room, it gets more.
        """
        value_bytes, position = len(self._value), c_uint32()
        entries, ended, after = _ENTRIES_AT_ONCE, False, None
        while not ended:
            keys = ctypes.create_string_buffer(entries * key_bytes)
            values = ctypes.create_string_buffer(entries * value_bytes)
            read, ended = self.look_up(after, position, keys, values, entries)
            raw_keys, raw_values = keys.raw, values.raw
            for at in range(read):
                key, value = at * key_bytes, at * value_bytes
                yield raw_keys[key : key + key_bytes], raw_values[value : value + value_bytes]
            if not read:
                entries *= 2
            after = byref(position)

    def look_up(self, after: Any, position: c_uint32, keys: Any, values: Any, entries: int) -> tuple[int, bool]:
        """Read up to so many entries at once into buffers for them: how many, and whether the map ended with them.

        `position` is where it goes on, and `after` a pointer to where it did last (None: from the beginning). OSError.
        """
        count = c_uint32(entries)
        result: int = library().bpf_map_lookup_batch(self.fd, after, byref(position), keys, values, byref(count), None)
        if result < 0 and ctypes.get_errno() not in (ENOENT, ENOSPC):
            check(result, f"map {self.name}")
        return count.value, result < 0 and ctypes.get_errno() == ENOENT

    def delete(self, key: bytes) -> bool:
        """Remove a key; False if it was not there."""
        result: int = library().bpf_map_delete_elem(self.fd, key)
        return result == 0


class Batch:
    """Reads the first entries of an array map in one call.

    `stride` is the bytes of a value: of all possible CPUs' values for a per-CPU map, each rounded up to 8.
    """

    def __init__(self, source: Map, entries: int, stride: int) -> None:
        self._map = source
        self._entries = entries
        self.stride = stride
        self._keys = (c_uint32 * entries)()
        self._values = bytearray(entries * stride)
        self._pointer = (ctypes.c_char * len(self._values)).from_buffer(self._values)
        self._position = c_uint32()

    def read(self) -> bytearray:
        """The values, in the order of their keys; the buffer is used again by the next call."""
        self._map.look_up(None, self._position, self._keys, self._pointer, self._entries)
        return self._values


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel tells of a loaded program."""

    id: int
    name: str
    jitted: bool
    """Whether it runs as machine code; an interpreter runs it otherwise."""


def program_info(fd: int) -> ProgramInfo:
    """What the kernel tells of the program with this descriptor; OSError if it does not."""
    raw = ctypes.create_string_buffer(_PROGRAM_INFO.size)
    size = c_uint32(len(raw))
    check(library().bpf_obj_get_info_by_fd(fd, raw, byref(size)), "program's info")
    number, jitted_bytes, name = _PROGRAM_INFO.unpack(raw)
    return ProgramInfo(number, printable(name.split(b"\0", 1)[0]), bool(jitted_bytes))


@dataclass(frozen=True, slots=True)
class Attached:
    """The programs at one place, in the order in which they run."""

    programs: tuple[ProgramInfo, ...]
    exclusive: bool
    """Whoever attached them to this cgroup lets nobody else in (no BPF_F_ALLOW_MULTI)."""


def programs_at(target: int, attach_type: int) -> Attached:
    """The programs that are attached to a cgroup (its descriptor) or an interface (its ifindex, for tcx).

    OSError where the kernel does not tell: EINVAL without tcx (before 6.6), EPERM without CAP_NET_ADMIN.
    """
    flags, count = c_uint32(), c_uint32(_MOST_PROGRAMS)
    ids = (c_uint32 * _MOST_PROGRAMS)()
    check(library().bpf_prog_query(target, attach_type, 0, byref(flags), ids, byref(count)), "query")
    programs = []
    for number in ids[: count.value]:
        fd = library().bpf_prog_get_fd_by_id(number)
        if fd < 0:  # gone meanwhile, or no CAP_SYS_ADMIN
            programs.append(ProgramInfo(number, "", True))
            continue
        try:
            programs.append(program_info(fd))
        finally:
            os.close(fd)
    in_cgroup = attach_type not in (TCX_INGRESS, TCX_EGRESS)
    return Attached(tuple(programs), in_cgroup and bool(programs) and not flags.value & _ALLOW_MULTI)


def pin(fd: int, path: Path) -> None:
    """Keep a map, program or link alive by a name on bpffs, for as long as that exists."""
    check(library().bpf_obj_pin(fd, os.fsencode(path)), f"pin {path.name}")


def repin(fd: int, path: Path) -> None:
    """`pin` under a name that something else may have: it is kept until this one is."""
    fresh = path.with_name(f"{path.name}-fresh")
    fresh.unlink(missing_ok=True)
    pin(fd, fresh)
    fresh.rename(path)


def pinned(path: Path) -> int:
    """A descriptor of what is pinned there; OSError with ENOENT if nothing is."""
    return check(library().bpf_obj_get(os.fsencode(path)), f"pin {path.name}")


def opened(name: str, fd: int) -> Map:
    """A map by its descriptor, with values as long as the kernel says; OSError."""
    raw = ctypes.create_string_buffer(_MAP_INFO.size)
    size = c_uint32(len(raw))
    check(library().bpf_obj_get_info_by_fd(fd, raw, byref(size)), "map's info")
    kind, value_bytes = _MAP_INFO.unpack(raw)
    return Map(name, fd, value_bytes * (possible_cpus() if kind == _PERCPU_ARRAY else 1))


def possible_cpus() -> int:
    """For how many CPUs a per-CPU map has values; OSError."""
    return check(library().libbpf_num_possible_cpus(), "possible CPUs")


def array_create(name: str, value_bytes: int) -> Map:
    """A new array map of one entry."""
    fd = check(library().bpf_map_create(_ARRAY, name.encode(), 4, value_bytes, 1, None), f"map {name}")
    return Map(name, fd, value_bytes)


def link_interface(fd: int) -> int:
    """The ifindex on which a tcx link is; 0 if its interface is gone."""
    raw = ctypes.create_string_buffer(_LINK_INFO.size)
    size = c_uint32(len(raw))
    check(library().bpf_obj_get_info_by_fd(fd, raw, byref(size)), "link's info")
    _type, _id, _program, ifindex = _LINK_INFO.unpack(raw)
    return int(ifindex)


def link_update(fd: int, program_fd: int) -> None:
    """Put another program in the place of the one that a link has, between two packets."""
    check(library().bpf_link_update(fd, program_fd, None), "link update")


def link_create(program_fd: int, target: int, attach_type: int, what: str) -> int:
    """Attach a program with a link that ends when its descriptor is closed; gives the descriptor."""
    return check(library().bpf_link_create(program_fd, target, attach_type, None), what)


def tcx_create(program_fd: int, ifindex: int, attach_type: int, what: str) -> int:
    """Attach to tcx, before all other programs.

    What others drop on receiving has crossed the link and must count. On sending, a program before ours that lets
    a packet pass with TCX_PASS would end the chain, and the packet would not be counted at all; so we are the first
    there too, and what others drop behind us has been counted as sent. OSError with EINVAL where the kernel has no
    tcx (before 6.6). A call of its own, since libbpf before 1.3 cannot say where.
    """
    number = _BPF_SYSCALL.get(platform.machine())
    if number is None:
        return link_create(program_fd, ifindex, attach_type, what)
    attr = TcxAttr(program_fd, ifindex, attach_type, _BEFORE)
    syscall: Callable[..., int] = ctypes.CDLL(None, use_errno=True).syscall
    return check(syscall(c_long(number), c_long(_LINK_CREATE), byref(attr), c_size_t(ctypes.sizeof(attr))), what)
