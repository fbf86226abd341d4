"""The Python mirror of the kernel side's structures, held against the header itself."""

import ctypes
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from struct import Struct

import pytest

from esimbpf.apps import Meaning
from esimbpf.kernel import abi
from esimbpf.snapshot import FIRST_PROCESS_SLOT, ReservedSlot

BPF = Path(__file__).parents[2] / "bpf"


def say(tmp_path: Path, *expressions: str) -> list[int]:
    """What a C program that includes abi.h says of constant expressions."""
    source = tmp_path / "say.c"
    lines = "".join(f'printf("%lld\\n", (long long)({expression}));' for expression in expressions)
    source.write_text(
        "#include <linux/types.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "abi.h"\nint main(void) {{ {lines} return 0; }}\n'
    )
    program = tmp_path / "say"
    subprocess.run(["gcc", "-Wall", "-Werror", f"-I{BPF}", "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in output.split()]


def test_sizes_are_those_of_the_header(tmp_path: Path) -> None:
    mirrored = {
        "struct usage": abi.USAGE,
        "struct usage_block": abi.USAGE_BLOCK,
        "struct slot": abi.SLOT,
        "struct process": abi.PROCESS,
        "struct process_key": abi.PROCESS_KEY,
        "struct descendant": abi.DESCENDANT,
        "struct settings": abi.SETTINGS,
        "struct watched_links": abi.WATCHED_LINKS,
        "struct quota_terms": abi.QUOTA_TERMS,
        "struct quota_rule": abi.QUOTA_RULE,
        "struct quota_use": abi.QUOTA_USE,
        "struct quota_set": abi.QUOTA_SET,
        "struct quota_sets": abi.QUOTA_SETS,
        "struct exe_key": abi.EXE_KEY,
        "struct name_key": abi.NAME_KEY,
        "struct blocked_key": abi.BLOCKED_KEY,
        "struct word": abi.WORD,
    }
    said = say(tmp_path, *(f"sizeof({name})" for name in mirrored))
    assert said == [structure.size for structure in mirrored.values()]


@pytest.mark.parametrize(
    ("name", "structure", "fields"),
    [
        ("usage", abi.USAGE, abi.USAGE_FIELDS),
        ("slot", abi.SLOT, ["generation", "state", "shares", "revision"]),
        ("process_key", abi.PROCESS_KEY, ["start_ns", "tgid"]),
        ("descendant", abi.DESCENDANT, ["command", "exited"]),
        ("settings", abi.SETTINGS, ["slots_per_link", "links", "sees_forks", "follows"]),
        ("process", abi.PROCESS, abi.PROCESS_FIELDS),
        (
            "quota_terms",
            abi.QUOTA_TERMS,
            ["stop_at_bytes", "bytes_per_s", "burst_ns", "links", "counts", "action", "whole"],
        ),
        ("quota_rule", abi.QUOTA_RULE, ["terms", "current"]),
        ("exe_key", abi.EXE_KEY, ["inode", "device"]),
        ("name_key", abi.NAME_KEY, ["hash", "named"]),
        ("blocked_key", abi.BLOCKED_KEY, ["link", "slot"]),
        ("word", abi.WORD, ["meanings", "options", "value", "attached", "code", "script"]),
    ],
)
def test_fields_stand_where_the_header_has_them(
    tmp_path: Path, name: str, structure: Struct, fields: Sequence[str]
) -> None:
    said = say(
        tmp_path,
        *(f"offsetof(struct {name}, {field})" for field in fields),
        *(f"sizeof(((struct {name} *)0)->{field})" for field in fields),
    )
    offsets, sizes = said[: len(fields)], said[len(fields) :]
    for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        raw = bytearray(structure.size)
        raw[offset : offset + size] = b"\1" * size
        values = structure.unpack(bytes(raw))
        set_fields = [at for at, value in enumerate(values) if value not in (0, b"\0" * size) and any_bits(value)]
        assert set_fields == [index], fields[index]


def any_bits(value: int | bytes) -> bool:
    return any(value) if isinstance(value, bytes) else bool(value)


def test_constants_are_those_of_the_header(tmp_path: Path) -> None:
    names = ["MAX_LINKS", "COMM_BYTES", "PATH_BYTES", "ARGS_BYTES", "USAGES_PER_BLOCK"]
    names += ["MAX_QUOTAS", "SAVER_QUOTA", "QUOTAS_PER_SET", "QUOTAS_PER_PROCESS", "QUOTAS_PER_BLOCK"]
    assert say(tmp_path, *names) == [getattr(abi, name) for name in names]
    assert say(tmp_path, "FIRST_PROCESS_SLOT") == [FIRST_PROCESS_SLOT]
    assert say(tmp_path, *(f"SLOT_{slot.name}" for slot in ReservedSlot)) == [slot.value for slot in ReservedSlot]
    assert say(tmp_path, *(f"SLOT_{state.name}" for state in abi.SlotState)) == [s.value for s in abi.SlotState]
    assert say(tmp_path, *(f"WORD_{meaning.name}" for meaning in Meaning)) == list(Meaning)
    assert say(tmp_path, "offsetof(struct quota_use, free_at_ns)") == [abi.QUOTA_FREE_AT_OFFSET]
    words = ["links", "quota_epoch", "open_services", "crowded"]
    at = ["sizeof(struct link)", *(f"offsetof(struct watched_links, {word})" for word in words)]
    offsets = [abi.LINK_OFFSET, abi.QUOTA_EPOCH_OFFSET, abi.OPEN_SERVICES_OFFSET, abi.CROWDED_OFFSET]
    assert say(tmp_path, *at) == [abi.LINK_BYTES, *offsets]


def test_every_reserved_slot_of_the_header_is_mirrored() -> None:
    body = re.search(r"enum reserved_slot \{(.*?)\};", (BPF / "abi.h").read_text(), re.DOTALL)
    assert body is not None
    names = re.findall(r"\bSLOT_(\w+) =", body[1])
    assert names == [slot.name for slot in ReservedSlot]


def record(exe: bytes = b"", cgroup: bytes = b"", args: bytes = b"", comm: bytes = b"curl") -> bytes:
    return abi.PROCESS.pack(
        5_000_000_007,
        77,
        88,
        55,
        66,
        99,
        0x800001,
        4711,
        1000,
        len(exe),
        len(cgroup),
        len(args),
        comm,
        exe,
        cgroup,
        args,
    )


def test_paths_come_leaf_first_and_leave_root_first() -> None:
    raw = record(exe=b"curl\0bin\0usr\0", cgroup=b"app.scope\0user.slice\0", args=b"curl\0-O\0")
    process = abi.decode_process(raw, exited=False).process
    assert process.exe == "/usr/bin/curl"
    assert process.cgroup == "/user.slice/app.scope"
    assert process.args == ("curl", "-O")
    assert (process.pid, process.start_ns, process.uid, process.comm) == (4711, 5_000_000_007, 1000, "curl")
    assert (process.cgroup_id, process.exe_device, process.exe_inode) == (77, 0x800001, 99)


def test_a_path_that_was_too_long_says_so_and_keeps_its_leaf() -> None:
    components = b"tool\0" + b"d" * 100 + b"\0" + b"e" * 100 + b"\0" + b"f" * 100 + b"\0"
    cut = components[: abi.PATH_BYTES]
    raw = bytearray(record(exe=cut))
    raw[60:62] = len(components).to_bytes(2, "little")
    decoded = abi.decode_process(bytes(raw), exited=True)
    assert decoded.cut_exe
    assert decoded.process.exe == "…/" + "e" * 100 + "/" + "d" * 100 + "/tool"
    assert decoded.process.exited


def test_an_argument_that_was_cut_off_is_left_out() -> None:
    args = (b"python3\0--name\0" + b"x" * 500)[: abi.ARGS_BYTES]
    decoded = abi.decode_process(record(args=args), exited=False)
    assert decoded.cut_args
    assert decoded.process.args == ("python3", "--name")


def test_hostile_names_come_out_as_text() -> None:
    process = abi.decode_process(record(exe=b"\x1b[31m\xff\n\0tmp\0", comm=b"a\x1b]0;x\x07\0"), exited=False).process
    assert process.exe == r"/tmp/\x1b[31m\xff\x0a"
    assert process.comm == r"a\x1b]0;x\x07"


def test_a_process_in_the_root_cgroup_and_of_unknown_program() -> None:
    process = abi.decode_process(record(), exited=False).process
    assert (process.exe, process.cgroup, process.args) == ("", "/", ())


def test_libbpf_attribute_of_tcx_has_the_kernels_layout() -> None:
    from esimbpf.kernel.libbpf import TcxAttr

    # include/uapi/linux/bpf.h, struct { … } link_create: relative_fd at 16, expected_revision at 24.
    assert TcxAttr.relative_fd.offset == 16
    assert TcxAttr.expected_revision.offset == 24
    assert ctypes.sizeof(TcxAttr) == 32


def test_the_version_is_the_headers(tmp_path: Path) -> None:
    assert say(tmp_path, "ESIMBPF_ABI_VERSION") == [abi.VERSION]
