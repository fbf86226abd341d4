"""The lab itself: its counters are held to the generator's own account before the tracer is held to them."""

from __future__ import annotations

import pytest

from tests.live.netlab import Lab, Wire, device_hooks
from tests.live.traffic import KINDS, Puppet

COUNTABLE = ("udp", "udp, IPv6", "udp fragments received", "udp segments sent", "udp segments received", "ping")


@pytest.mark.parametrize("kind", COUNTABLE)
@pytest.mark.parametrize("lab", Wire, indirect=True, ids=str)
def test_the_truth_is_what_the_generator_has_sent(lab: Lab, kind: str) -> None:
    before = lab.link.crossed()
    moved = KINDS[kind](lab)
    assert lab.link.crossed() - before == moved.exactly


@pytest.mark.parametrize(
    ("lab", "sends_whole", "receives_whole"),
    [
        (Wire.PLAIN, True, False),
        (Wire.OFFLOAD, True, True),
        (Wire.MERGE, True, True),
        (Wire.RAW_IP, True, False),
        (Wire.RAW_IP_MERGE, True, True),
    ],
    indirect=["lab"],
    ids=str,
)
def test_links_carry_offload_packets_where_they_should(lab: Lab, sends_whole: bool, receives_whole: bool) -> None:
    before = lab.link.crossed()
    with device_hooks(lab.link) as shown:
        KINDS["tcp both ways"](lab)
        truth, received, sent = lab.link.crossed() - before, shown("received"), shown("sent")
    assert (sent["packets"] < truth.tx_packets) is sends_whole
    assert (received["packets"] < truth.rx_packets) is receives_whole
    if not receives_whole:
        assert received == {"bytes": truth.rx_bytes, "packets": truth.rx_packets}


def test_a_lost_packet_is_noticed(fresh_lab: Lab) -> None:
    fresh_lab.link.crossed()
    fresh_lab.network.ip(f"link set {fresh_lab.link.tower} down")
    lost = Puppet.start(fresh_lab.device).udp()
    lost.do("send_datagrams", [fresh_lab.link.network_ip, 9], [101])
    with pytest.raises(AssertionError, match="lost"):
        fresh_lab.link.crossed()
