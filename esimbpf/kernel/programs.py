"""The eBPF programs: where each is attached, and what is lost without it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Hook(Enum):
    """How a program is attached."""

    TC_EGRESS = auto()
    TC_INGRESS = auto()
    CGROUP_INGRESS = auto()
    CGROUP_EGRESS = auto()
    CGROUP_SOCK_CREATE = auto()
    TRACEPOINT = auto()
    ITERATOR = auto()


@dataclass(frozen=True, slots=True)
class Program:
    """One program of the object; `name` is its function in bpf/esimbpf.bpf.c."""

    name: str
    hook: Hook
    required: bool
    purpose: str
    lost: str
    """What is lost when it cannot be loaded or attached."""
    needs: str
    """What it takes from the kernel."""
    on_demand: bool = False
    """Attached only while it has something to do."""


PROGRAMS: Final = (
    Program(
        "sent",
        Hook.TC_EGRESS,
        True,
        "counts what each process sends over the link",
        "nothing can be counted",
        "tc programs (CONFIG_NET_CLS_BPF or tcx, kernel 6.6)",
    ),
    Program(
        "received",
        Hook.TC_INGRESS,
        True,
        "counts what comes in over the link",
        "nothing can be counted",
        "tc programs (CONFIG_NET_CLS_BPF or tcx, kernel 6.6)",
    ),
    Program(
        "delivered",
        Hook.CGROUP_INGRESS,
        True,
        "counts what each process receives",
        "nothing can be counted",
        "CONFIG_CGROUP_BPF, cgroup v2",
    ),
    Program(
        "refused",
        Hook.CGROUP_EGRESS,
        False,
        "lets sending fail at once where a quota blocks it",
        "a program that sends datagrams which a quota blocks does not learn of it",
        "CONFIG_CGROUP_BPF, cgroup v2",
        on_demand=True,
    ),
    Program(
        "socket_created",
        Hook.CGROUP_SOCK_CREATE,
        True,
        "notes which process opens a socket",
        "nothing can be attributed",
        "CONFIG_CGROUP_BPF, cgroup v2",
    ),
    Program(
        "socket_sent",
        Hook.TRACEPOINT,
        False,
        "notices a socket that another process sends on",
        "bytes that a stream socket sends later for a process that inherited it may stay with the opener",
        "BTF and the tracepoint sock_send_length (kernel 6.3)",
    ),
    Program(
        "socket_received",
        Hook.TRACEPOINT,
        False,
        "notices a socket that another process receives on",
        "what is received on an accepted or passed socket stays with the opener until the new owner sends",
        "BTF and the tracepoint sock_recv_length (kernel 6.3)",
    ),
    Program(
        "process_forked",
        Hook.TRACEPOINT,
        False,
        "notices that a process may share its sockets",
        "nothing is miscounted; each sent packet takes about 10 ns longer, since its sender is always looked up",
        "BTF (CONFIG_DEBUG_INFO_BTF)",
    ),
    Program(
        "process_exited",
        Hook.TRACEPOINT,
        False,
        "notices that a process has ended",
        "ended processes are found by looking through /proc, a few seconds late",
        "BTF (CONFIG_DEBUG_INFO_BTF)",
    ),
    Program(
        "process_execed",
        Hook.TRACEPOINT,
        False,
        "notices that a process runs another program",
        "a process that opened a socket before exec keeps the old program's name",
        "BTF (CONFIG_DEBUG_INFO_BTF)",
    ),
    Program(
        "process_moved",
        Hook.TRACEPOINT,
        False,
        "notices that a process goes to another cgroup",
        "a process that has opened a socket keeps the name and the quotas of the cgroup in which it did",
        "BTF (CONFIG_DEBUG_INFO_BTF)",
    ),
    Program(
        "forwarded",
        Hook.TRACEPOINT,
        False,
        "counts what is received and routed on to others",
        "received bytes of tethered devices and containers show as unattributed",
        "BTF (CONFIG_DEBUG_INFO_BTF)",
    ),
    Program(
        "open_sockets",
        Hook.ITERATOR,
        False,
        "finds the owners of sockets that are open before the start",
        "sockets that were open before the start show as unattributed until they are used",
        "BTF and task_file iterators (kernel 5.11)",
    ),
)
