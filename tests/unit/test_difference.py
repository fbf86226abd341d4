"""The closed ledger: what may be concluded from readings, and what may not."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from esimbpf.difference import FRAGMENTS_WAIT_NS, Difference
from esimbpf.model import NOTHING, Counters, Kind
from esimbpf.snapshot import LinkReading, ReservedSlot

SECOND = 10**9


def reading(reserved: Mapping[ReservedSlot, Counters] | None = None, **processes: Counters) -> LinkReading:
    """A link's reading; what processes have received is all that sockets took, unless `reserved` says more."""
    taken = sum(processes.values(), start=NOTHING)
    everything = dict.fromkeys(ReservedSlot, NOTHING) | {ReservedSlot.TAKEN: taken} | dict(reserved or {})
    return LinkReading(everything, {int(slot[1:]): counters for slot, counters in processes.items()})


def rx(count: int, packets: int = 1) -> Counters:
    return Counters(rx_bytes=count, rx_packets=packets)


def tx(count: int, packets: int = 1) -> Counters:
    return Counters(tx_bytes=count, tx_packets=packets)


def test_what_no_socket_took_is_the_kernels() -> None:
    delta = Difference().advance(reading({ReservedSlot.LINK: rx(1000, 10)}, s16=rx(700, 7)), 0)
    assert delta.others[Kind.KERNEL] == rx(300, 3)
    assert delta.others[Kind.UNATTRIBUTED] == NOTHING
    assert delta.total == rx(1000, 10)


def test_where_not_all_can_be_seen_the_rest_is_unattributed() -> None:
    delta = Difference(sees_all=False).advance(reading({ReservedSlot.LINK: rx(1000, 10)}, s16=rx(700, 7)), 0)
    assert delta.others[Kind.KERNEL] == NOTHING
    assert delta.others[Kind.UNATTRIBUTED] == rx(300, 3)


def test_sent_packets_are_what_their_rows_say() -> None:
    reserved = {
        ReservedSlot.KERNEL: tx(40),
        ReservedSlot.FORWARDED: tx(1500),
        ReservedSlot.UNATTRIBUTED: tx(7),
        ReservedSlot.OVERFLOW: tx(9),
        ReservedSlot.OTHER: tx(28),
    }
    delta = Difference().advance(reading(reserved, s20=tx(100)), 0)
    assert delta.total == tx(40 + 1500 + 7 + 9 + 100, 5)
    assert delta.no_ip == tx(28)


def test_forwarded_packets_are_not_the_kernels() -> None:
    delta = Difference().advance(reading({ReservedSlot.LINK: rx(1000, 10), ReservedSlot.FORWARDED: rx(600, 6)}), 0)
    assert delta.others[Kind.FORWARDED] == rx(600, 6)
    assert delta.others[Kind.KERNEL] == rx(400, 4)


def test_a_router_that_fragments_has_not_received_more_than_arrived() -> None:
    delta = Difference().advance(reading({ReservedSlot.LINK: rx(1000, 1), ReservedSlot.FORWARDED: rx(1020, 2)}), 0)
    assert delta.others[Kind.FORWARDED] == rx(1000, 1)
    assert delta.total == rx(1000, 1)


def fragmented(fragments: Counters, headers: Counters, whole: Counters) -> dict[ReservedSlot, Counters]:
    return {
        ReservedSlot.LINK: fragments,
        ReservedSlot.FRAGMENT: fragments,
        ReservedSlot.FRAGMENT_HEADER: headers,
        ReservedSlot.REASSEMBLED: whole,
    }


def test_headers_that_reassembly_took_away_are_unattributed() -> None:
    # 3 fragments of one datagram: two headers of 20 bytes and two packets less for the process.
    reserved = fragmented(rx(3060, 3), rx(40, 2), rx(3020, 1))
    delta = Difference().advance(reading(reserved, s16=rx(3020, 1)), 0)
    assert delta.others[Kind.UNATTRIBUTED] == rx(40, 2)
    assert delta.others[Kind.KERNEL] == NOTHING
    assert delta.total == rx(3060, 3)


def test_a_datagram_that_is_not_whole_yet_is_carried_to_a_later_interval() -> None:
    difference = Difference()
    first = difference.advance(reading(fragmented(rx(3020, 2), rx(20, 1), NOTHING)), 0)
    assert first.others[Kind.KERNEL] == NOTHING
    assert first.total == rx(20, 1)
    second = difference.advance(reading(fragmented(rx(3060, 3), rx(40, 2), rx(3020, 1)), s16=rx(3020, 1)), SECOND)
    assert first.total + second.total == rx(3060, 3)
    assert second.others[Kind.UNATTRIBUTED] == rx(20, 1)


def test_a_datagram_that_never_becomes_whole_is_unattributed_in_the_end() -> None:
    difference = Difference()
    lost = fragmented(rx(1500, 1), NOTHING, NOTHING)
    total = NOTHING
    for now in range(0, FRAGMENTS_WAIT_NS + 5 * SECOND, SECOND):
        delta = difference.advance(reading(lost), now)
        assert delta.others[Kind.KERNEL] == NOTHING
        total += delta.total
    assert total == rx(1500, 1)


def test_the_last_reading_carries_nothing_over() -> None:
    difference = Difference()
    lost = fragmented(rx(1500, 1), NOTHING, NOTHING)
    assert difference.advance(reading(lost), 0).total == NOTHING
    assert difference.advance(reading(lost), SECOND, final=True).others[Kind.UNATTRIBUTED] == rx(1500, 1)


def test_forwarded_fragments_are_forwarded_whole() -> None:
    reserved = {
        ReservedSlot.LINK: rx(3060, 3),
        ReservedSlot.FRAGMENT: rx(3060, 3),
        ReservedSlot.FRAGMENT_HEADER: rx(40, 2),
        ReservedSlot.FORWARDED: rx(3060, 3),
        ReservedSlot.FORWARDED_FRAGMENT: Counters(rx_bytes=3060, rx_packets=3, tx_bytes=40, tx_packets=2),
    }
    delta = Difference().advance(reading(reserved), 0, final=True)
    assert delta.others[Kind.FORWARDED] == rx(3060, 3)
    assert delta.others[Kind.UNATTRIBUTED] == NOTHING
    assert delta.others[Kind.KERNEL] == NOTHING


def test_what_was_blocked_is_told_once_by_slot_and_the_next_one_goes_on_from_there() -> None:
    difference = Difference()
    sent, received = tx(1229, 1), rx(1500, 1)
    first = difference.advance(replace(reading(s16=rx(1500)), blocked={16: sent + received, 0: sent}), 0)
    assert first.blocked == {16: sent + received, 0: sent}
    assert (first.total, first.total_blocked) == (rx(1500), sent + sent + received)
    assert difference.advance(replace(reading(), blocked={16: sent + received, 0: sent}), SECOND).blocked == {}
    later = Difference(standing=difference.standing)
    then = {16: sent + sent + received, 0: sent, 17: sent}
    assert later.advance(replace(reading(), blocked=then), 2 * SECOND).blocked == {16: sent, 17: sent}


amounts = st.integers(min_value=0, max_value=10**6)
counters = st.builds(Counters, amounts, amounts, amounts, amounts)


@given(
    st.lists(
        st.tuples(
            counters,  # delivered to a process
            st.dictionaries(st.sampled_from(list(ReservedSlot)), counters),  # added to the reserved slots
            amounts,  # arrived, and under way between the hooks at the time of reading
        ),
        max_size=8,
    )
)
def test_nothing_is_negative_and_rows_add_up_whatever_the_readings(
    steps: list[tuple[Counters, dict[ReservedSlot, Counters], int]],
) -> None:
    difference = Difference()
    totals = dict.fromkeys(ReservedSlot, NOTHING)
    for number, (delivered, added, under_way) in enumerate(steps):
        for slot, more in added.items():
            totals[slot] += more
        totals[ReservedSlot.LINK] += replace(NOTHING, rx_bytes=under_way + delivered.rx_bytes)
        delta = difference.advance(reading(totals, s16=delivered), number * SECOND)
        rows = [*delta.processes.values(), *delta.others.values(), delta.no_ip]
        for row in rows:
            assert min(row.rx_bytes, row.tx_bytes, row.rx_packets, row.tx_packets) >= 0
        assert delta.total == sum(rows[:-1], start=NOTHING)
