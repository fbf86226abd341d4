"""What is made of pyroute2's answers and refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from esimbpf.kernel import rtnetlink


class Interrupted:
    """A dump of which the first few attempts end in the middle."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> Iterator[str]:
        yield "first"
        if self.left:
            self.left -= 1
            raise NetlinkDumpInterrupted
        yield "last"


def test_a_list_that_changed_while_it_was_read_is_read_again_and_whole() -> None:
    assert rtnetlink.listed(Interrupted(3)) == ["first", "last"]


def test_a_list_that_never_stands_still_is_an_error() -> None:
    with pytest.raises(OSError, match="keeps changing"):
        rtnetlink.listed(Interrupted(1000))


@pytest.mark.parametrize(("words", "told"), [("Exclusivity flag on, cannot modify", "Exclusivity"), (None, "exists")])
def test_a_refusal_is_an_os_error_with_the_kernels_own_words_if_it_has_any(words: str | None, told: str) -> None:
    with pytest.raises(OSError, match=told) as refused, rtnetlink.rtnetlink():
        raise NetlinkError(17, words)
    assert refused.value.errno == 17


@pytest.mark.parametrize(
    ("given", "bytes_"), [("wwan0", b"wwan0"), ("é", b"\xc3\xa9"), (b"\xff", b"\xff"), (None, b"")]
)
def test_a_string_keeps_its_bytes_whatever_they_are(given: str | bytes | None, bytes_: bytes) -> None:
    assert rtnetlink.raw(given) == bytes_
