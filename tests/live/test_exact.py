"""Exact to the byte and to the packet: the ledger against counters that are none of the tracer's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from esimbpf.model import NOTHING
from tests.live.netlab import Lab, Wire, device_hooks
from tests.live.traffic import (
    ETHERNET_KINDS,
    KINDS,
    RARE_KINDS,
    Kind,
    Moved,
    begin_transfer,
    forwarded,
    many_pings,
    tcp,
    udp,
    udp_fragments_received,
)
from tests.live.watching import Watch, within

MERGED = (
    "tcp down",
    "tcp both ways",
    "tcp down, IPv6",
    "tcp served by the device",
    "udp",
    "udp segments received",
    "udp segments received, IPv6",
    "udp fragments received",
    "ping",
    "routed for a host",
    "masqueraded for a host",
)


def check(watch: Watch, moved: Moved) -> None:
    """Hold the ledger to the truth about the link, and its rows to what the generator says it has done."""
    report, truth = watch.report, watch.truth()
    assert moved.exactly in (None, truth), "the traffic was not what it should have been"
    assert within(moved.at_least, truth), "the traffic was not what it should have been"

    assert report.link() == truth
    kernel = truth if moved.all_kernel else moved.kernel
    forwarded = truth if moved.forwarded else NOTHING
    assert report.total("unattributed") == moved.unattributed
    assert report.total("forwarded") == forwarded
    assert report.total("kernel") == kernel
    assert report.total("overflow") == NOTHING
    own = sum((report.process(pid) for pid in moved.pids), NOTHING)
    assert own == truth - moved.unattributed - forwarded - kernel
    for pid in moved.silent:
        assert report.process(pid) == NOTHING
    assert {pid: report.process(pid) for pid in moved.each} == moved.each


@pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items()])
@pytest.mark.parametrize("lab", [Wire.PLAIN, Wire.OFFLOAD, Wire.RAW_IP], indirect=True, ids=str)
def test_every_byte_and_packet_is_counted_once_under_its_owner(lab: Lab, kind: Kind) -> None:
    with Watch(lab) as watch:
        moved = kind(lab)
    check(watch, moved)


@pytest.mark.parametrize("kind", MERGED)
@pytest.mark.parametrize("lab", [Wire.MERGE, Wire.RAW_IP_MERGE], indirect=True, ids=str)
def test_packets_that_were_merged_on_arrival_are_counted_as_they_came(lab: Lab, kind: str) -> None:
    with Watch(lab) as watch:
        moved = KINDS[kind](lab)
    check(watch, moved)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in RARE_KINDS.items()])
def test_rarer_kinds_of_traffic_are_counted_once_under_their_owners(lab: Lab, kind: Kind) -> None:
    with Watch(lab) as watch:
        moved = kind(lab)
    check(watch, moved)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in ETHERNET_KINDS.items()])
@pytest.mark.parametrize("lab", [Wire.PLAIN, Wire.OFFLOAD], indirect=True, ids=str)
def test_frames_that_carry_no_ip_are_in_no_row(lab: Lab, kind: Kind) -> None:
    with Watch(lab) as watch:
        moved = kind(lab)
    check(watch, moved)
    [closing] = [line for line in watch.report.lines if line["type"] == "link"][-1:]
    assert (closing["other_rx_packets_total"], closing["other_tx_packets_total"]) == (80, 80)


@pytest.mark.parametrize("fresh_lab", [Wire.OFFLOAD], indirect=True, ids=str)
@pytest.mark.parametrize("transfer", [partial(tcp, six=True, up=15_728_669), partial(tcp, six=True, down=15_728_669)])
def test_offload_packets_too_large_for_an_ip_header_are_counted_as_their_segments(
    fresh_lab: Lab, transfer: Kind
) -> None:
    """IPv6 packets above 64 KiB ("BIG TCP") carry a hop-by-hop header that no segment has."""
    link = fresh_lab.link
    for namespace, end in ((fresh_lab.device, link.name), (fresh_lab.network, link.tower)):
        namespace.ip(f"link set {end} gso_max_size 200000 gro_max_size 200000")
        namespace.sysctl({"net.ipv4.tcp_rmem": "4096 600000 600000", "net.ipv4.tcp_wmem": "4096 600000 600000"})
    with device_hooks(link) as shown, Watch(fresh_lab) as watch:
        moved = transfer(fresh_lab)
        assert shown("jumbo")["packets"] > 0
    check(watch, moved)


@pytest.mark.parametrize("lab", [Wire.OFFLOAD, Wire.RAW_IP], indirect=True, ids=str)
def test_the_ledger_closes_in_every_interval_of_a_run_under_load(lab: Lab) -> None:
    """Many kinds at once and readings as often as can be; `Report` holds each interval to the closed ledger."""
    with Watch(lab, interval="0.1") as watch:
        downloads = [begin_transfer(lab, down=5_242_883) for _ in range(2)]
        uploads = [begin_transfer(lab, up=5_242_883) for _ in range(2)]
        with ThreadPoolExecutor() as workers:
            kinds = (udp_fragments_received, forwarded, partial(udp, down=601, up=403), many_pings)
            fragments, relayed, datagrams, pings = workers.map(lambda kind: kind(lab), kinds)
        for _, end in (*downloads, *uploads):
            end()
    report, truth = watch.report, watch.truth()
    assert report.link() == truth
    assert report.total("unattributed") == fragments.unattributed
    for pid, _ in downloads:
        assert report.process(pid).rx_bytes > 5_242_883
    for pid, _ in uploads:
        assert report.process(pid).tx_bytes > 5_242_883
    assert {pid: report.process(pid) for pid in pings.each} == pings.each
    assert report.process(datagrams.pids[0]) == datagrams.exactly
    assert within(relayed.at_least, report.total("forwarded"))
    intervals = [line for line in report.lines if line["type"] == "link"]
    assert sum(line["rx_bytes"] > 0 for line in intervals) > 2, "the load was over too soon"
