"""From readings to what each interval added: the closed ledger of a link.

    sum over processes + kernel + forwarded + unattributed + overflow = link

holds for every interval by construction: the link's line is the sum of its rows. What makes it true of the wire is
how the rows come about. Sent packets are counted once, in their row. Received packets are counted for the link
when they arrive and again when a socket takes them or another interface forwards them; what arrived and was
neither is the kernel's own. Two kinds of packets stand between the two counts and are told apart:

- IP fragments wait for each other. Until a datagram is whole, or its time to be so has passed, its bytes are
  carried to a later interval.
- Reassembly leaves one packet with one header. The other headers belong to some process, but nothing says to
  which: they are `unattributed`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from esimbpf.model import NOTHING, Counters, Kind
from esimbpf.snapshot import LinkReading, ReservedSlot

__all__ = ["KIND_OF_SLOT", "Difference", "LinkDelta", "Standing"]

KIND_OF_SLOT: Final[Mapping[int, Kind]] = {
    ReservedSlot.KERNEL: Kind.KERNEL,
    ReservedSlot.FORWARDED: Kind.FORWARDED,
    ReservedSlot.UNATTRIBUTED: Kind.UNATTRIBUTED,
    ReservedSlot.OVERFLOW: Kind.OVERFLOW,
}
"""The rows that are no process, by their slots."""

FRAGMENTS_WAIT_NS: Final = 65 * 10**9
"""How long a fragment may wait for the others: 30 s for IPv4 (net.ipv4.ipfrag_time), 60 s for IPv6 (RFC 8200, 4.5)."""


@dataclass(frozen=True, slots=True)
class LinkDelta:
    """What one interval added to a link; every row counts it once, and none is negative."""

    processes: Mapping[int, Counters]
    """By slot."""
    others: Mapping[Kind, Counters]
    """Of kernel, forwarded, unattributed and overflow."""
    no_ip: Counters
    """Frames that carry no IP packet; in none of the rows."""
    blocked: Mapping[int, Counters] = field(default_factory=dict)
    """By slot, a process's or one of KIND_OF_SLOT, what quotas have blocked; slots with nothing are left out."""

    @property
    def total(self) -> Counters:
        """The link's line: the sum of its rows."""
        return sum_of(self.processes.values()) + sum_of(self.others.values())

    @property
    def total_blocked(self) -> Counters:
        """Of the link's line."""
        return sum_of(self.blocked.values())


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a link's counters have been told: what a Difference begins with to go on where another has ended."""

    totals: Mapping[Kind, Counters]
    """Of kernel, forwarded, unattributed and overflow; what is missing is nothing."""
    no_ip: Counters = NOTHING
    never_whole: Counters = NOTHING
    """Received as fragments of what never became whole."""
    debt: Counters = NOTHING
    """What counting that was relieved by this one has told beyond what had come in (or, negative, not told of it):
    packets that came in under one version of the programs and got somewhere under the other."""
    blocked: Mapping[int, Counters] = field(default_factory=dict)
    """By slot."""


def sum_of(parts: Iterable[Counters]) -> Counters:
    """The sum of counters."""
    return sum(parts, start=NOTHING)


class Difference:
    """Keeps what the last reading of one link said.

    `sees_all` is False where the kernel side cannot count received packets that are routed on, or is asked to look
    at some of the processes only: what no socket took is then `unattributed` instead of `kernel`.
    """

    def __init__(self, sees_all: bool = True, standing: Standing | None = None) -> None:
        standing = standing or Standing({})
        self._sees_all = sees_all
        self._totals = {kind: standing.totals.get(kind, NOTHING) for kind in KIND_OF_SLOT.values()}
        self._no_ip = standing.no_ip
        self._waiting: deque[tuple[int, _Received]] = deque()
        self._never_whole = _Received.of(standing.never_whole)
        self._debt = standing.debt
        self._blocked = dict(standing.blocked)

    @property
    def standing(self) -> Standing:
        """How far it has told."""
        never_whole = Counters(rx_bytes=self._never_whole.bytes, rx_packets=self._never_whole.packets)
        return Standing(dict(self._totals), self._no_ip, never_whole, self._debt, dict(self._blocked))

    def advance(self, reading: LinkReading, now_ns: int, final: bool = False) -> LinkDelta:
        """What has been added since the last call; `final` carries nothing over any more."""
        at = reading.reserved
        arrived = _Received.of(at[ReservedSlot.LINK])
        forwarded = _Received.of(at[ReservedSlot.FORWARDED])
        taken = _Received.of(at[ReservedSlot.TAKEN])
        headers, waiting = self._fragments(at, now_ns, final)
        left = arrived - taken - forwarded - headers - waiting - _Received.of(self._debt)
        # A router that fragments sends on more than it received.
        forwarded = (forwarded + left.negative_part()).at_least_zero()
        left = left.at_least_zero()

        unattributed = _Received.of(at[ReservedSlot.UNATTRIBUTED]) + headers + self._never_whole
        kernel = _Received.of(at[ReservedSlot.KERNEL])
        if self._sees_all:
            kernel += left
        else:
            unattributed += left

        received = {
            Kind.KERNEL: kernel,
            Kind.FORWARDED: forwarded,
            Kind.UNATTRIBUTED: unattributed,
            Kind.OVERFLOW: _Received.of(at[ReservedSlot.OVERFLOW]),
        }
        others = {}
        for kind, before in self._totals.items():
            sent = at[ReservedSlot[kind.name]]
            after = Counters(
                max(before.rx_bytes, received[kind].bytes),
                sent.tx_bytes,
                max(before.rx_packets, received[kind].packets),
                sent.tx_packets,
            )
            others[kind] = after - before
            self._totals[kind] = after
        no_ip = at[ReservedSlot.OTHER] - self._no_ip
        self._no_ip = at[ReservedSlot.OTHER]
        return LinkDelta(reading.processes, others, no_ip, self._newly_blocked(reading.blocked))

    def _newly_blocked(self, blocked: Mapping[int, Counters]) -> dict[int, Counters]:
        added = {}
        for slot, counters in blocked.items():
            more = counters - self._blocked.get(slot, NOTHING)
            if more:
                added[slot], self._blocked[slot] = more, counters
        return added

    def _fragments(self, at: Mapping[ReservedSlot, Counters], now_ns: int, final: bool) -> tuple[_Received, _Received]:
        """Headers that reassembly took away, and fragments of what is not whole.

        What has been waiting for longer than the kernel keeps fragments is noted in `_never_whole`.
        """
        lost = at[ReservedSlot.FORWARDED_FRAGMENT]
        headers = _Received.of(at[ReservedSlot.FRAGMENT_HEADER]) - _Received(lost.tx_bytes, lost.tx_packets)
        settled = headers + _Received.of(at[ReservedSlot.REASSEMBLED]) + _Received.of(lost)
        waiting = (_Received.of(at[ReservedSlot.FRAGMENT]) - settled).at_least_zero()
        if final:
            self._never_whole = waiting
        elif waiting or self._waiting:
            self._waiting.append((now_ns, waiting))
            while len(self._waiting) > 1 and self._waiting[1][0] <= now_ns - FRAGMENTS_WAIT_NS:
                self._waiting.popleft()
            if self._waiting[0][0] <= now_ns - FRAGMENTS_WAIT_NS:
                self._never_whole = _Received(
                    max(self._never_whole.bytes, min(item.bytes for _, item in self._waiting)),
                    max(self._never_whole.packets, min(item.packets for _, item in self._waiting)),
                )
        return headers.at_least_zero(), waiting


@dataclass(frozen=True, slots=True)
class _Received:
    """Received bytes and packets."""

    bytes: int
    packets: int

    @classmethod
    def of(cls, counters: Counters) -> _Received:
        return cls(counters.rx_bytes, counters.rx_packets)

    def __add__(self, other: _Received) -> _Received:
        return _Received(self.bytes + other.bytes, self.packets + other.packets)

    def __sub__(self, other: _Received) -> _Received:
        return _Received(self.bytes - other.bytes, self.packets - other.packets)

    def __bool__(self) -> bool:
        return bool(self.bytes or self.packets)

    def at_least_zero(self) -> _Received:
        return _Received(max(0, self.bytes), max(0, self.packets))

    def negative_part(self) -> _Received:
        return _Received(min(0, self.bytes), min(0, self.packets))
