"""Encoding and decoding netlink messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.kernel.rtnetlink import attribute, attribute_list, attributes, messages, text, u32

PAYLOADS = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)))


@given(PAYLOADS)
def test_attributes_read_back_as_written_in_their_order(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, payload) for kind, payload in written)
    assert len(data) % 4 == 0
    assert attribute_list(data) == written
    assert attributes(data) == dict(written)


def test_flags_in_an_attributes_type_are_no_part_of_it() -> None:
    assert attributes(attribute(18 | 0x8000, b"nested")) == {18: b"nested"}
    assert attributes(attribute(18 | 0x4000, b"big endian")) == {18: b"big endian"}


@given(PAYLOADS, st.integers(1, 200))
def test_what_is_cut_off_loses_only_its_end(written: list[tuple[int, bytes]], kept: int) -> None:
    data = b"".join(attribute(kind, payload) for kind, payload in written)[:kept]
    read = attribute_list(data)
    assert read == written[: len(read)]


@given(st.binary(max_size=300))
def test_any_bytes_at_all_can_be_decoded(data: bytes) -> None:
    attribute_list(data)
    for message in messages(data):
        attributes(message.body)


def test_a_datagram_holds_several_messages_padded_to_four_bytes() -> None:
    first = struct.pack("=IHHII", 16 + 5, 16, 2, 7, 0) + b"hello" + bytes(3)
    second = struct.pack("=IHHII", 16, 3, 0, 7, 0)
    assert [(one.type, one.flags, one.sequence, one.body) for one in messages(first + second)] == [
        (16, 2, 7, b"hello"),
        (3, 0, 7, b""),
    ]


@pytest.mark.parametrize("payload", [None, b"", b"\1", bytes(8)])
def test_a_number_of_a_wrong_size_is_zero(payload: bytes | None) -> None:
    assert u32(payload) == 0


def test_a_number_is_in_the_hosts_order() -> None:
    assert u32(struct.pack("=I", 0xE51B)) == 0xE51B


@pytest.mark.parametrize(
    ("payload", "string"), [(None, b""), (b"", b""), (b"wwan0\0", b"wwan0"), (b"wwan0", b"wwan0"), (b"a\0b\0", b"a")]
)
def test_a_string_ends_at_its_nul(payload: bytes | None, string: bytes) -> None:
    assert text(payload) == string
