"""Tries each eBPF program on this kernel: loads it, attaches it where it touches nobody, and lets go.

The object is loaded whole, as for counting. Only if the kernel refuses that, each program is tried by itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from esimbpf.errors import EsimbpfError
from esimbpf.kernel import abi, clsact, libbpf
from esimbpf.kernel.engine import OBJECT, load
from esimbpf.kernel.programs import PROGRAMS, Hook, Program
from esimbpf.kernel.throwaway import in_new_namespace
from esimbpf.machine import ObjectFact, ProgramFact
from esimbpf.text import printable

__all__ = ["Features", "Tried", "examine_object", "features", "lacking", "last_words", "try_programs"]

_LOOPBACK: Final = 1
"""The ifindex of lo in a new network namespace (LOOPBACK_IFINDEX)."""

_INSTRUCTION: Final = struct.Struct("=BBhi")  # struct bpf_insn
_CALL: Final = 0x85
_TRACING: Final = 26  # BPF_PROG_TYPE_TRACING
_MOST_HELPERS: Final = 0x10000
"""Helpers are numbered from 1; libbpf puts huge numbers where CO-RE has ruled code out."""

_VERIFIER: Final = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)
_VERIFIER_STATISTICS: Final = re.compile(r"processed \d+ insns|verification time|stack depth|max_states|;")
_TELLS_NOTHING: Final = re.compile(r"failed to load: -|-- BEGIN")
_LACKING: Final = (
    re.compile(r"(?:unknown func|cannot use helper) (\w+)"),
    re.compile(r"kernel BTF type ID of '(\w+)'"),
    re.compile(r"(?:kernel function|extern \(func ksym\)) '?(\w+)'?"),
)
_UNHEARD_OF: Final = re.compile(r"invalid func unknown#(\d+)")


@dataclass(slots=True)
class Tried:
    """What became of the programs."""

    programs: list[ProgramFact] = field(default_factory=list)
    tc: str = ""
    """How programs get onto a link: `tcx`, `clsact`, empty if not at all."""
    tc_words: str = ""
    tc_tried: bool = False
    jit: bool | None = None


def try_programs(cgroup: str) -> Tried:
    """Load and attach every program; those of cgroups to a throwaway cgroup below `cgroup`, which may be empty."""
    tried = Tried()
    with _throwaway_cgroup(cgroup) as directory:
        try:
            with libbpf.Log():
                loaded = load((), abi.USAGES_PER_BLOCK, 1)
        except OSError:
            for program in PROGRAMS:
                _try_alone(program, directory, tried)
            return tried
        try:
            for program in PROGRAMS:
                tried.programs.append(_attach(program, loaded, directory, tried))
        finally:
            libbpf.library().bpf_object__close(loaded)
    return tried


def _try_alone(program: Program, cgroup: int | None, tried: Tried) -> None:
    others = [other.name for other in PROGRAMS if other is not program]
    with libbpf.Log() as log:
        try:
            loaded = load(others, abi.USAGES_PER_BLOCK, 1)
        except OSError as error:
            words = last_words(log.warnings, program.name) or (error.strerror or str(error))
            forbidden = error.errno == errno.EPERM
            lacks = () if forbidden else lacking(log.warnings)
            tried.programs.append(ProgramFact(program.name, False, None, printable(words), lacks, forbidden))
            return
    try:
        tried.programs.append(_attach(program, loaded, cgroup, tried))
    finally:
        libbpf.library().bpf_object__close(loaded)


def last_words(warnings: Sequence[str], program: str) -> str:
    """Why a program was refused: the verifier's last line, else what libbpf first said of it; empty if nothing."""
    for warning in reversed(warnings):
        found = _VERIFIER.search(warning)
        if found:
            said = [line for line in found[1].splitlines() if line and not _VERIFIER_STATISTICS.match(line)]
            if said:
                return said[-1].strip()
    named = f"prog '{program}': "
    about = [warning.partition(named)[2].strip() for warning in warnings if named in warning]
    telling = [words for words in about if not _TELLS_NOTHING.match(words)]
    return telling[0] if telling else ""


def lacking(warnings: Sequence[str]) -> tuple[str, ...]:
    """The functions and tracepoints that the kernel is said not to have, in the order in which they are named."""
    named = [name for warning in warnings for pattern in _LACKING for name in pattern.findall(warning)]
    # Of a helper that it has never heard of, a kernel knows no name.
    numbered = [f"helper {number}" for warning in warnings for number in _UNHEARD_OF.findall(warning)]
    return tuple(map(printable, dict.fromkeys(named + numbered)))


# -- attaching -------------------------------------------------------------------------


def _attach(program: Program, loaded: int, cgroup: int | None, tried: Tried) -> ProgramFact:
    """Attach a loaded program for an instant."""
    fd = libbpf.check(libbpf.library().bpf_program__fd(libbpf.find_program(loaded, program.name)), program.name)
    if tried.jit is None:
        tried.jit = libbpf.program_info(fd).jitted
    try:
        attached = _attach_by_hook(program.hook, fd, cgroup, tried)
    except OSError as error:
        words = printable(error.strerror or str(error))
        return ProgramFact(program.name, True, False, words, forbidden=error.errno == errno.EPERM)
    except EsimbpfError as error:
        return ProgramFact(program.name, True, False, error.message)
    return ProgramFact(program.name, True, attached)


def _attach_by_hook(hook: Hook, fd: int, cgroup: int | None, tried: Tried) -> bool | None:
    """Whether it worked; None where it could not be tried. OSError, EsimbpfError if it was refused."""
    match hook:
        case Hook.TC_EGRESS:
            return _attach_to_loopback(fd, libbpf.TCX_EGRESS, clsact.Direction.EGRESS, tried)
        case Hook.TC_INGRESS:
            return _attach_to_loopback(fd, libbpf.TCX_INGRESS, clsact.Direction.INGRESS, tried)
        case Hook.CGROUP_INGRESS | Hook.CGROUP_SOCK_CREATE:
            if cgroup is None:
                return None
            place = libbpf.CGROUP_INET_INGRESS if hook is Hook.CGROUP_INGRESS else libbpf.CGROUP_INET_SOCK_CREATE
            os.close(libbpf.link_create(fd, cgroup, place, "cgroup"))
        case Hook.TRACEPOINT:
            os.close(libbpf.check(libbpf.library().bpf_raw_tracepoint_open(None, fd), "tracepoint"))
        case Hook.ITERATOR:
            link = libbpf.link_create(fd, 0, libbpf.TRACE_ITER, "iterator")
            try:
                os.close(libbpf.check(libbpf.library().bpf_iter_create(link), "iterator"))
            finally:
                os.close(link)
    return True


def _attach_to_loopback(fd: int, place: int, direction: clsact.Direction, tried: Tried) -> bool | None:
    """Attach to lo of a network namespace that lives for this call; None where none can be made."""

    def attach() -> str:
        try:
            os.close(libbpf.tcx_create(fd, _LOOPBACK, place, "tcx"))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            clsact.attach(_LOOPBACK, fd, direction)
            return "clsact"
        return "tcx"

    if not _namespaces_can_be_made():
        return None
    tried.tc_tried = True
    try:
        tried.tc = in_new_namespace(attach)
    except (OSError, EsimbpfError) as error:
        tried.tc_words = printable(str(error))
        raise
    return True


def _namespaces_can_be_made() -> bool:
    try:
        in_new_namespace(lambda: None)
    except OSError:
        return False
    return True


@contextmanager
def _throwaway_cgroup(root: str) -> Iterator[int | None]:
    """A descriptor of a new cgroup below `root`; of `root` itself where none can be made there; None without one.

    The root does as well: with no link to count, the programs count nothing.
    """
    if not root:
        yield None
        return
    path = os.path.join(root, f"esimbpf-doctor-{os.getpid()}")
    made = True
    try:
        os.mkdir(path)
    except OSError:  # read-only in many containers
        made, path = False, root
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        if made:
            os.rmdir(path)


# -- the object ------------------------------------------------------------------------

_VALUE_BYTES: Final = {
    "usage_blocks": abi.USAGE_BLOCK.size,
    "slots": abi.SLOT.size,
    "processes": abi.PROCESS.size,
    "free_slots": 4,
    "process_slots": 4,
    ".bss": abi.WATCHED_LINKS.size,
}


@contextmanager
def _opened() -> Iterator[int]:
    """The object, opened and not loaded; OSError if it is none. Needs no privilege."""
    lib = libbpf.library()
    with libbpf.Log():
        handle: int | None = lib.bpf_object__open_file(os.fsencode(OBJECT), None)
    if not handle:
        raise OSError(ctypes.get_errno(), libbpf.strerror(ctypes.get_errno()))
    try:
        yield handle
    finally:
        lib.bpf_object__close(handle)


def examine_object() -> ObjectFact:
    """Whether the compiled programs are there, and whether they are those that this package reads."""
    path = printable(str(OBJECT))
    if not OBJECT.exists():
        return ObjectFact(path, False)
    try:
        with _opened() as handle:
            return ObjectFact(path, True, tuple(_disagreements(handle)))
    except OSError as error:
        return ObjectFact(path, True, (f"it cannot be opened: {error.strerror}",))


def _disagreements(handle: int) -> Iterator[str]:
    there = {_text(libbpf.library().bpf_program__name, program) for program in _programs(handle)}
    for program in PROGRAMS:
        if program.name not in there:
            yield f"it has no program `{program.name}`"
    for name, size in _VALUE_BYTES.items():
        found = libbpf.library().bpf_object__find_map_by_name(handle, name.encode())
        if not found:
            yield f"it has no map `{name}`"
        elif (actual := libbpf.library().bpf_map__value_size(found)) != size:
            yield f"its map `{name}` has values of {actual} bytes, not {size}"


def _programs(handle: int) -> Iterator[int]:
    return _each(lambda last: libbpf.library().bpf_object__next_program(handle, last))


def _maps(handle: int) -> Iterator[int]:
    return _each(lambda last: libbpf.library().bpf_object__next_map(handle, last))


def _each(after: Callable[[int | None], int | None]) -> Iterator[int]:
    last = after(None)
    while last:
        yield last
        last = after(last)


def _text(function: Callable[[int], bytes | None], argument: int) -> str:
    return (function(argument) or b"?").decode(errors="replace")


# -- features --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Features:
    """What the object uses of the kernel, and whether the kernel has it; None where it does not say."""

    program_types: dict[str, bool | None]
    map_types: dict[str, bool | None]
    helpers: int
    """How many pairs of program type and helper function were asked for; libbpf cannot ask for tracing programs."""
    missing_helpers: tuple[str, ...]


def features(loaded: Collection[str]) -> Features:
    """Ask for each program type, map type and helper that the object uses.

    `loaded` names the programs that the kernel has taken, which says more than asking. OSError without the object.
    """
    lib = libbpf.library()
    with _opened() as handle, libbpf.Log():
        program_types: dict[int, bool | None] = {}
        for program in _programs(handle):
            kind = lib.bpf_program__type(program)
            if _text(lib.bpf_program__name, program) in loaded:
                program_types[kind] = True
            elif kind not in program_types:
                # libbpf asks for tracing programs with one that a locked-down kernel refuses for other reasons.
                program_types[kind] = libbpf.supports("prog_type", kind) or (None if kind == _TRACING else False)
        # The helpers that a program calls itself; those of the functions that it shares show when it is loaded.
        calls = {
            (lib.bpf_program__type(program), helper) for program in _programs(handle) for helper in _calls(program)
        }
        map_types = {lib.bpf_map__type(one) for one in _maps(handle)}
        answers = {pair: libbpf.supports("helper", *pair) for pair in calls}
        return Features(
            program_types={
                _text(lib.libbpf_bpf_prog_type_str, kind): known for kind, known in sorted(program_types.items())
            },
            map_types={
                _text(lib.libbpf_bpf_map_type_str, one): libbpf.supports("map_type", one) for one in sorted(map_types)
            },
            helpers=sum(answer is not None for answer in answers.values()),
            missing_helpers=tuple(
                f"helper {helper} of {_text(lib.libbpf_bpf_prog_type_str, kind)}"
                for (kind, helper), answer in sorted(answers.items())
                if answer is False
            ),
        )


def _calls(program: int) -> set[int]:
    """The helpers that a program's own instructions call."""
    lib = libbpf.library()
    raw = ctypes.string_at(lib.bpf_program__insns(program), lib.bpf_program__insn_cnt(program) * _INSTRUCTION.size)
    # With no source register, a call is one of a helper; with one, of a function or a kfunc.
    return {
        number
        for code, registers, _offset, number in _INSTRUCTION.iter_unpack(raw)
        if code == _CALL and registers >> 4 == 0 and 0 < number < _MOST_HELPERS
    }
