"""The Python mirror of bpf/abi.h, and the decoding of what the maps hold.

A test holds sizes and offsets against the header's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from sys import intern
from typing import Final

from esimbpf.model import Process
from esimbpf.text import printable

VERSION: Final = 1
"""ESIMBPF_ABI_VERSION: what is pinned is of this version, or cannot be read."""
MAX_LINKS: Final = 8
COMM_BYTES: Final = 16
PATH_BYTES: Final = 256
ARGS_BYTES: Final = 256

USAGE: Final = struct.Struct("=4Q")
"""struct usage: rx_bytes, tx_bytes, rx_packets, tx_packets."""
USAGES_PER_BLOCK: Final = 64
USAGE_BLOCK: Final = struct.Struct(f"={4 * USAGES_PER_BLOCK}Q")
"""struct usage_block."""
SLOT: Final = struct.Struct("=IBBH")
"""struct slot: generation, state, shares, revision."""
PROCESS: Final = struct.Struct(f"=4Q3I3H6x{COMM_BYTES}s{PATH_BYTES}s{PATH_BYTES}s{ARGS_BYTES}s")
"""struct process, in the header's order."""
PROCESS_KEY: Final = struct.Struct("=QII")
"""struct process_key: start_ns, tgid, padding."""
DESCENDANT: Final = struct.Struct("=2I")
"""struct descendant: command, exited."""
SETTINGS: Final = struct.Struct("=4I")
"""struct settings: slots_per_link, links, sees_forks, follows."""
WATCHED_LINKS: Final = struct.Struct("=Q" + "4I" * MAX_LINKS)
"""struct watched_links: netns_cookie; of each link ifindex, header_len, fragments_seen, padding."""
LINK_OFFSET: Final = 8
LINK_BYTES: Final = 16
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
class ProcessRecord:
    """struct process, decoded."""

    process: Process
    cut_exe: bool
    """The executable's path was longer than the record holds; its beginning is missing."""
    cut_args: bool


def decode_process(raw: bytes | memoryview, exited: bool) -> ProcessRecord:
    """Decode one struct process; hostile names come out as printable text."""
    (
        start_ns,
        cgroup_id,
        _netns_cookie,
        exe_inode,
        exe_device,
        tgid,
        uid,
        exe_bytes,
        cgroup_bytes,
        args_bytes,
        comm,
        exe,
        cgroup,
        args,
    ) = PROCESS.unpack(raw)
    process = Process(
        pid=tgid,
        start_ns=start_ns,
        uid=uid,
        comm=intern(printable(comm.split(b"\0", 1)[0])),
        exe=_path(exe[:exe_bytes], exe_bytes),
        args=_arguments(args[:args_bytes]),
        cgroup=_path(cgroup[:cgroup_bytes], cgroup_bytes) or "/",
        exited=exited,
        cgroup_id=cgroup_id,
        exe_device=exe_device,
        exe_inode=exe_inode,
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
