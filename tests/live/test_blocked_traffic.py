"""What becomes of traffic that may not pass: who learns of it, and what passes all the same."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from esimbpf.kernel.abi import SAVER_QUOTA
from esimbpf.kernel.mounts import cgroup2_root
from esimbpf.kernel.quotas import Action, Counts, OpenServices, Otherwise, Rule, Some, Whom
from esimbpf.model import Counters
from tests.live.limited import LARGEST_PACKET, Limited, settled
from tests.live.netlab import Wire
from tests.live.traffic import Puppet, connected

BLOCKED = Rule(0, 1, action=Action.BLOCK)
SIZE, HEADER = 1201, 28


def refuses(puppet: Puppet, limited: Limited) -> bool:
    """Whether a new socket of the process cannot send."""
    try:
        puppet.udp().do("send_datagrams", [limited.lab.link.network_ip, 9], [100])
    except OSError as error:
        if "not permitted" not in str(error):
            raise
        return True
    return False


@pytest.mark.parametrize("lab", [Wire.PLAIN, Wire.MERGE, Wire.RAW_IP], indirect=True, ids=str)
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_a_program_that_only_receives_is_told_and_little_is_paid_for_in_vain(limited: Limited, six: bool) -> None:
    lab = limited.lab
    address = lab.link.network_ip6 if six else lab.link.network_ip
    near, far = connected(limited.start(), Puppet.start(lab.network), address)
    far.do("send", 10_001)
    near.do("receive", 10_001)
    limited.block(0)
    before = lab.link.crossed()
    near.begin("receive")
    far.begin("send", 10_001)
    begun = time.monotonic()
    with pytest.raises(OSError, match="reset"):
        near.puppet.result()
    assert time.monotonic() - begun < 5
    # The peer has handed all to its kernel; that learns of it, too, and sends no more.
    far.puppet.result()
    crossed = settled(lab.link.crossed_so_far) - before
    assert crossed.rx_bytes < 10 * LARGEST_PACKET * 4
    assert limited.quotas.used_bytes(1) <= crossed.total_bytes
    lab.link.crossed()


def test_a_connection_that_was_blocked_and_is_free_again_goes_on(limited: Limited) -> None:
    lab = limited.lab
    near, far = connected(limited.start(), Puppet.start(lab.network), lab.link.network_ip)
    limited.block(0)
    before = lab.link.crossed_so_far().rx_packets
    near.begin("receive", 1_003)
    far.begin("send", 1_003)
    while lab.link.crossed_so_far().rx_packets == before:
        pass
    limited.quotas.name({})
    assert near.puppet.result() == 1_003
    far.puppet.result()
    lab.link.crossed()


def test_who_only_calls_a_blocked_server_takes_no_place_of_a_connection(limited: Limited) -> None:
    """Anybody may call, from as many ports as he likes, and never call again."""
    lab = limited.lab
    server = limited.start()
    listener = server.tcp()
    listener.do("bind", ["0.0.0.0", 0])
    port = listener.do("listen")
    limited.block(0)
    caller = Puppet.start(lab.network)
    caller.tcp().begin("connect", [lab.link.device_ip, port])
    while not limited.blocked(server.pid).rx_packets:
        pass
    assert not list(limited.engine.map_of("unwanted", 8).items(36))
    caller.kill()
    lab.link.crossed()


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_options_and_extension_headers_do_not_keep_the_refusal_away(limited: Limited, six: bool) -> None:
    lab = limited.lab
    limited.block(0)
    before = lab.link.crossed()
    calling = limited.start().tcp(six=six)
    if six:
        # A destination options header of eight bytes, all padding (RFC 8200, 4.6).
        calling.do("option", socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, "0000010400000000")
    else:
        calling.do("option", socket.IPPROTO_IP, socket.IP_OPTIONS, "01010101")
    with pytest.raises(OSError, match="refused"):
        calling.do("connect", [lab.link.network_ip6 if six else lab.link.network_ip, 9])
    assert lab.link.crossed() - before == Counters()


def test_a_batch_of_datagrams_that_reaches_the_limit_passes_and_the_next_is_refused(limited: Limited) -> None:
    lab = limited.lab
    limited.block(300_007, Counts.SENT)
    before = lab.link.crossed()
    sock = limited.start().udp()
    sock.do("option", socket.IPPROTO_UDP, 103, SIZE)  # UDP_SEGMENT, linux/udp.h
    with pytest.raises(OSError, match="not permitted"):
        sock.do("send_datagrams", [lab.link.network_ip, 9], [40 * SIZE] * 20)
    batch = 40 * (SIZE + HEADER)
    passing = -(-300_007 // batch)
    crossed = lab.link.crossed() - before
    assert crossed.tx_packets == passing * 40
    assert limited.quotas.used_bytes(1) == crossed.tx_bytes == passing * batch


def test_who_inherits_a_blocked_programs_socket_is_judged_for_himself(limited: Limited) -> None:
    lab = limited.lab
    parent = limited.start()
    sock = parent.udp()
    sock.do("send_datagrams", [lab.link.network_ip, 9], [100])
    limited.quotas.write(1, BLOCKED)
    of_parent = Otherwise({(parent.pid, limited.start_of(parent.pid)): "parent"})
    limited.quotas.name({1: Whom(Some(apps=frozenset({"parent"})))}, of_parent)
    limited.quotas.tell_senders(True)
    child = parent.fork()
    before = lab.link.crossed()
    child.holding(sock).do("send_datagrams", [lab.link.network_ip, 9], [100] * 3)
    assert refuses(parent, limited)
    child.holding(sock).do("send_datagrams", [lab.link.network_ip, 9], [100] * 3)
    assert (lab.link.crossed() - before).tx_packets == 6


def test_a_process_that_goes_to_a_limited_cgroup_and_out_of_it_is_judged_anew(limited: Limited) -> None:
    here = Path(cgroup2_root(), f"esimbpf-moved-{os.getpid()}")
    here.mkdir()
    moving = limited.start()
    home = Path(f"/proc/{moving.pid}/cgroup").read_text().rpartition("0::")[2].strip()
    try:
        limited.quotas.write(1, BLOCKED)
        limited.quotas.name({1: Whom(Some(cgroups=frozenset({here.stat().st_ino})))})
        limited.quotas.tell_senders(True)
        assert not refuses(moving, limited)
        moving.do("join_cgroup", str(here))
        assert refuses(moving, limited)
        moving.do("join_cgroup", cgroup2_root() + home)
        assert not refuses(moving, limited)
        moving.exit()
    finally:
        here.rmdir()


def test_in_saver_mode_neighbours_are_found(limited: Limited) -> None:
    """Neighbour discovery is the kernel's, which no saver mode allows by name."""
    lab = limited.lab
    lab.link.forget_neighbours()
    limited.quotas.write(SAVER_QUOTA, BLOCKED)
    limited.quotas.name({SAVER_QUOTA: Whom(Some(exes=frozenset({limited.exe})), everybody=True)})
    limited.quotas.tell_senders(True)
    try:
        near, far = connected(limited.start(), Puppet.start(lab.network), lab.link.network_ip6)
        near.begin("send", 1_003)
        assert far.do("receive", 1_003) == 1_003
        assert refuses(Puppet.start(lab.device), limited)
    finally:
        lab.link.know_neighbours()


def test_what_comes_in_for_nobody_is_used_of_everybodys_quota(limited: Limited) -> None:
    lab = limited.lab
    limited.quotas.write(1, Rule(10**9, 1, Counts.RECEIVED, whole=True))
    limited.quotas.name({1: Whom(Some(), everybody=True)})
    before = lab.link.crossed()
    Puppet.start(lab.network).udp().do("send_datagrams", [lab.link.device_ip, 9], [SIZE] * 7)
    sock = Puppet.start(lab.device).udp()
    port = sock.do("bind", [lab.link.device_ip, 0])[1]
    Puppet.start(lab.network).udp().do("send_datagrams", [lab.link.device_ip, port], [SIZE] * 5)
    assert sock.do("receive_datagrams", 5 * SIZE) == 5 * SIZE
    crossed = lab.link.crossed() - before
    assert limited.quotas.used_bytes(1) == crossed.rx_bytes == 12 * (SIZE + HEADER)


def test_a_packet_that_one_quota_blocks_is_used_of_no_other(limited: Limited) -> None:
    lab, quotas = limited.lab, limited.quotas
    here = frozenset({limited.exe})
    for number, limit in ((1, 10**9), (2, 10 * (SIZE + HEADER)), (3, 10**9)):
        quotas.write(number, Rule(limit, 1, action=Action.BLOCK))
    quotas.name({number: Whom(Some(exes=here)) for number in (1, 2)} | {3: Whom(Some(), everybody=True)})
    before = lab.link.crossed()
    sender = limited.start().udp()
    sender.do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * 25)
    crossed = lab.link.crossed() - before
    assert crossed.tx_bytes == 10 * (SIZE + HEADER)
    assert [quotas.used_bytes(number) for number in (1, 2, 3)] == [crossed.tx_bytes] * 3
    assert limited.blocked(sender.puppet.pid).tx_packets == 15


def test_a_later_fragment_is_no_service_that_is_open(limited: Limited) -> None:
    """Its content may begin with what would be the ports of DNS."""
    lab, quotas = limited.lab, limited.quotas
    quotas.write(SAVER_QUOTA, BLOCKED)
    quotas.name({SAVER_QUOTA: Whom(Some(), everybody=True)})
    quotas.leave_open(OpenServices.DNS)
    before = lab.link.crossed()
    raw = limited.start().socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    address = socket.inet_aton(lab.link.device_ip) + socket.inet_aton(lab.link.network_ip)
    payload = bytes([0x80, 0, 0, 53]) * 10
    header = bytes([0x45, 0, 0, 60, 0, 1, 0, 5, 64, socket.IPPROTO_UDP, 0, 0]) + address
    raw.do("send_packet", [lab.link.network_ip, 0], (header + payload).hex())
    assert lab.link.crossed() - before == Counters()
    quotas.leave_open(OpenServices(0))


def test_datagrams_that_a_rate_does_not_let_pass_are_told_as_blocked(limited: Limited) -> None:
    lab = limited.lab
    limited.quotas.write(1, Rule(1, 1, action=Action.THROTTLE, bytes_per_s=125_000, burst_ns=10**9))
    limited.quotas.name({1: Whom(Some(exes=frozenset({limited.exe})))})
    before = lab.link.crossed()
    sender = limited.start().udp()
    sender.do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * 500)
    crossed = lab.link.crossed() - before
    assert 0 < crossed.tx_packets < 500
    assert limited.blocked(sender.puppet.pid).tx_packets == 500 - crossed.tx_packets
