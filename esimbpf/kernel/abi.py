"""The Python mirror of bpf/abi.h, and the decoding of what the maps hold.

A test holds sizes and offsets against the header's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from sys import intern
from typing import Any, Final

from esimbpf.model import Process
from esimbpf.snapshot import FIRST_PROCESS_SLOT, ReservedSlot
from esimbpf.text import printable

VERSION: Final = 1
"""ESIMBPF_ABI_VERSION: what is pinned is of this version, or cannot be read."""
MAX_LINKS: Final = 8
COMM_BYTES: Final = 16
PATH_BYTES: Final = 256
ARGS_BYTES: Final = 256

USAGE: Final = struct.Struct("=4Q")
"""struct usage."""
USAGE_FIELDS: Final = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
USAGES_PER_BLOCK: Final = 64
USAGE_BLOCK: Final = struct.Struct(f"={4 * USAGES_PER_BLOCK}Q")
"""struct usage_block."""
SLOT: Final = struct.Struct("=IBBH")
"""struct slot: generation, state, shares, revision."""
PROCESS: Final = struct.Struct(f"=6Q3I3H6x{COMM_BYTES}s{PATH_BYTES}s{PATH_BYTES}s{ARGS_BYTES}s")
"""struct process."""
PROCESS_FIELDS: Final = (
    *("start_ns", "cgroup_id", "netns_cookie", "app", "exe_path", "exe_inode", "exe_device", "tgid", "uid"),
    *("exe_bytes", "cgroup_bytes", "args_bytes", "comm", "exe", "cgroup", "args"),
)
PROCESS_KEY: Final = struct.Struct("=QII")
"""struct process_key: start_ns, tgid, padding."""
DESCENDANT: Final = struct.Struct("=2I")
"""struct descendant: command, exited."""
SETTINGS: Final = struct.Struct("=5I")
"""struct settings: slots_per_link, links, sees_forks, follows, enforces."""
WATCHED_LINKS: Final = struct.Struct("=Q" + "4I" * MAX_LINKS + "4I")
"""struct watched_links: netns_cookie; of each link ifindex, header_len, fragments_seen, number; quota_epoch,
open_services, resets_wanted, crowded."""
LINK_OFFSET: Final = 8
LINK_BYTES: Final = 16
QUOTA_EPOCH_OFFSET: Final = LINK_OFFSET + LINK_BYTES * MAX_LINKS
OPEN_SERVICES_OFFSET: Final = QUOTA_EPOCH_OFFSET + 4
CROWDED_OFFSET: Final = OPEN_SERVICES_OFFSET + 8
MAX_QUOTAS: Final = 4096
SAVER_QUOTA: Final = MAX_QUOTAS - 1
"""The number of the saver mode."""
QUOTAS_PER_SET: Final = 8
QUOTAS_PER_PROCESS: Final = 24
QUOTAS_PER_BLOCK: Final = 64
"""Processes whose quotas are in one entry of their map."""
QUOTA_TERMS: Final = struct.Struct("=3QI3Bx")
"""struct quota_terms: stop_at_bytes, bytes_per_s, burst_ns, links, counts, action, whole."""
QUOTA_RULE: Final = struct.Struct(f"={2 * QUOTA_TERMS.size}sQ")
"""struct quota_rule: terms[2], current."""
QUOTA_USE: Final = struct.Struct("=4Q")
"""struct quota_use: bytes, free_at_ns[2], padding."""
QUOTA_FREE_AT_OFFSET: Final = 8
QUOTA_SET: Final = struct.Struct(f"={QUOTAS_PER_SET}H2HI")
"""struct quota_set: quotas, count, is_app, spared."""
QUOTA_SETS: Final = struct.Struct(f"={QUOTA_SET.size}s{QUOTA_SET.size}s")
"""struct quota_sets: under[2]."""
NAME_KEY: Final = struct.Struct("=QI4x")
"""struct name_key: hash, named."""
BLOCKED_KEY: Final = struct.Struct("=2I")
"""struct blocked_key: link, slot."""
EXE_KEY: Final = struct.Struct("=QI4x")
"""struct exe_key: inode, device."""
WORD_KEY: Final = struct.Struct("=Q")
WORD: Final = struct.Struct("=2I4Q")
"""struct word: meanings, options, value, attached, code, script."""
DESCENDANTS: Final = 16384
"""Descendants of commands that are remembered where commands are followed."""
COMMANDS: Final = 64
"""Commands that can be followed at once."""


class SlotState(IntEnum):
    """enum slot_state."""

    FREE = 0
    LIVE = 1
    EXITED = 2
    RETIRED = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """How the maps of a version of the programs are to be read, kept with them: a later version reads by it.

    Formats are those of the module `struct`, in the order of the fields' names.
    """

    slots_per_link: int
    usages_per_block: int = USAGES_PER_BLOCK
    usage_format: str = USAGE.format
    usage_fields: tuple[str, ...] = USAGE_FIELDS
    process_format: str = PROCESS.format
    process_fields: tuple[str, ...] = PROCESS_FIELDS
    reserved: tuple[str, ...] = tuple(slot.name for slot in ReservedSlot)
    """The names of the reserved slots, by number."""
    first_process_slot: int = FIRST_PROCESS_SLOT

    @classmethod
    def unpacked(cls, kept: Mapping[str, Any]) -> Layout:
        """What was kept as JSON; KeyError if something is missing, more is passed over."""
        values: dict[str, Any] = {one.name: kept[one.name] for one in fields(cls)}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)

    def usage(self, raw: bytes, at: int) -> dict[str, int]:
        """A struct usage."""
        return dict(zip(self.usage_fields, struct.unpack_from(self.usage_format, raw, at), strict=True))

    def process(self, raw: bytes) -> dict[str, Any]:
        """A struct process."""
        return dict(zip(self.process_fields, struct.unpack(self.process_format, raw), strict=True))


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """struct process, decoded."""

    process: Process
    cut_exe: bool
    """The executable's path was longer than the record holds; its beginning is missing."""
    cut_args: bool


def decode_process(raw: bytes | memoryview, exited: bool) -> ProcessRecord:
    """Decode one struct process; hostile names come out as printable text."""
    return process_of(dict(zip(PROCESS_FIELDS, PROCESS.unpack(raw), strict=True)), exited)


def process_of(record: Mapping[str, Any], exited: bool) -> ProcessRecord:
    """Make sense of a struct process by its fields."""
    exe_bytes, cgroup_bytes, args_bytes = record["exe_bytes"], record["cgroup_bytes"], record["args_bytes"]
    process = Process(
        pid=record["tgid"],
        start_ns=record["start_ns"],
        uid=record["uid"],
        comm=intern(printable(record["comm"].split(b"\0", 1)[0])),
        exe=_path(record["exe"][:exe_bytes], exe_bytes),
        args=_arguments(record["args"][:args_bytes]),
        cgroup=_path(record["cgroup"][:cgroup_bytes], cgroup_bytes) or "/",
        exited=exited,
        cgroup_id=record["cgroup_id"],
        exe_device=record["exe_device"],
        exe_inode=record["exe_inode"],
        # Programs of before quotas did not have it.
        app_hash=record.get("app", 0),
    )
    return ProcessRecord(process, cut_exe=exe_bytes >= PATH_BYTES, cut_args=args_bytes >= ARGS_BYTES)


# Many processes have the same names; the caches let them share one text.


@lru_cache(maxsize=4096)
def _arguments(raw: bytes) -> tuple[str, ...]:
    """The arguments; what the record had no room for is left out, the argument that was cut with it."""
    if not raw:
        return ()
    arguments = raw.rstrip(b"\0").split(b"\0")
    if len(raw) >= ARGS_BYTES and not raw.endswith(b"\0"):
        arguments.pop()
    return tuple(map(printable, arguments))


@lru_cache(maxsize=4096)
def _path(leaf_first: bytes, length: int) -> str:
    """Turn components, leaf first, into a path; what was cut off at its root shows as `…`."""
    if not length:
        return ""
    cut = length >= PATH_BYTES
    components = leaf_first.rstrip(b"\0").split(b"\0")
    if cut and len(components) > 1:
        components.pop()  # it may be cut in the middle
    path = "/" + "/".join(printable(component) for component in reversed(components))
    return "…" + path if cut else path
