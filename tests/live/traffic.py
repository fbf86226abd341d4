"""Traffic over a lab's link: processes that a test steers, and kinds of traffic with what each must have moved.

Processes (puppet.py) run inside the namespaces and answer when a thing is done, so nothing here waits for time to pass.
Datagrams are sent in batches, the next when the one before has arrived, so that no queue overflows.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from esimbpf.model import NOTHING, Counters
from tests.live.netlab import Lab, Namespace
from tests.live.puppet import checksum

__all__ = ["ETHERNET_KINDS", "KINDS", "RARE_KINDS", "Moved", "Puppet", "Sock", "await_exit"]

PATIENCE_S = 20.0
IPPROTO_MPTCP = 262  # linux/in.h
BATCH = 40  # datagrams in flight
IP, IP6, UDP, ICMP = 20, 40, 8, 8  # header bytes


def await_exit(pid: int) -> None:
    """Return when the process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([handle], [], [], PATIENCE_S)[0]:
            raise TimeoutError(f"process {pid} does not end")
    finally:
        os.close(handle)


class Puppet:
    """A process inside a namespace."""

    def __init__(self, pid: int, control: socket.socket, namespace: Namespace) -> None:
        self.pid = pid
        self._control = control
        self._namespace = namespace
        self.process: subprocess.Popen[str] | None = None  # what was started; None for a fork
        namespace.keep(control)
        control.settimeout(PATIENCE_S)

    @classmethod
    def start(cls, namespace: Namespace, *program: str) -> Puppet:
        """Start one; `program` runs it under another interpreter or script name than the usual."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = program or (sys.executable, "-IS", str(Path(__file__).parent / "puppet.py"))
        with theirs:
            process = namespace.start(*words, str(theirs.fileno()), pass_fds=[theirs.fileno()])
        puppet = cls(process.pid, ours, namespace)
        puppet.process = process
        return puppet

    def begin(self, action: str, *arguments: object) -> None:
        """Ask for something; `result` waits for it."""
        self._control.send(json.dumps([action, *arguments]).encode())

    def _answer(self) -> tuple[Any, list[int]]:
        message, passed, _, _ = socket.recv_fds(self._control, 1 << 17, 1)
        if not message:
            raise EOFError(f"process {self.pid} has ended")
        answer = json.loads(message)
        if "error" in answer:
            raise OSError(f"process {self.pid}: {answer['error']}")
        return answer["result"], passed

    def result(self) -> Any:
        """What the last action asked for gave."""
        return self._answer()[0]

    def do(self, action: str, *arguments: object) -> Any:
        """Ask for something and wait for it."""
        self.begin(action, *arguments)
        return self.result()

    def socket(self, family: int, kind: int, protocol: int = 0) -> Sock:
        """Open a socket."""
        return Sock(self, self.do("open_socket", family, kind, protocol))

    def tcp(self, *, six: bool = False) -> Sock:
        """Open a TCP socket."""
        return self.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)

    def udp(self, *, six: bool = False) -> Sock:
        """Open a UDP socket with a roomy buffer."""
        sock = self.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        sock.do("option", socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        return sock

    def fork(self, wanted_pid: int | None = None) -> Puppet:
        """Split in two; the child has the same sockets."""
        self.begin("fork", wanted_pid)
        pid, [control] = self._answer()
        return Puppet(pid, socket.socket(fileno=control), self._namespace)

    def holding(self, sock: Sock) -> Sock:
        """The same descriptor in this process, which has inherited it."""
        return Sock(self, sock.fd)

    def execute(self, argv: Sequence[str], *keep: Sock) -> None:
        """Become another program; return when this one is gone."""
        self.begin("execute", list(argv), [sock.fd for sock in keep])
        if self._control.recv(1):
            raise OSError(f"process {self.pid} could not become {argv[0]}")

    def exit(self, status: int = 0) -> None:
        """End it and return when it has ended."""
        self.begin("exit", status)
        self.wait()

    def kill(self) -> None:
        """End it at once and return when it has ended."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Return when it has ended."""
        if self.process:
            self.process.wait(PATIENCE_S)
        await_exit(self.pid)
        self._control.close()


@dataclass(frozen=True, slots=True)
class Sock:
    """A socket of a process."""

    puppet: Puppet
    fd: int

    def do(self, action: str, *arguments: object) -> Any:
        """Let the process do something with it."""
        return self.puppet.do(action, self.fd, *arguments)

    def begin(self, action: str, *arguments: object) -> None:
        """The same without waiting."""
        self.puppet.begin(action, self.fd, *arguments)

    def accept(self) -> Sock:
        """The next connection, in the same process."""
        return Sock(self.puppet, self.do("accept"))

    def close(self) -> None:
        """Close it."""
        self.do("close")


# --- building blocks ---------------------------------------------------------------------------------------------


def connected(
    client: Puppet,
    server: Puppet,
    address: str,
    *,
    protocol: int = 0,
    server_options: Iterable[tuple[int, int, int]] = (),
) -> tuple[Sock, Sock]:
    """A connection between two processes: the client's socket and the server's."""
    six = ":" in address
    family = socket.AF_INET6 if six else socket.AF_INET
    listener, calling = (puppet.socket(family, socket.SOCK_STREAM, protocol) for puppet in (server, client))
    for option in server_options:
        listener.do("option", *option)
    listener.do("bind", ["::" if six else "0.0.0.0", 0])
    port = listener.do("listen")
    calling.do("connect", [address, port])
    accepted = listener.accept()
    listener.close()
    return calling, accepted


def stream(sender: Sock, receiver: Sock, amount: int, how: str = "send") -> None:
    """Move bytes one way through a connection."""
    sender.begin(how, amount)
    assert receiver.do("receive", amount) == amount
    assert sender.puppet.result() == amount


def begin_transfer(lab: Lab, *, down: int = 0, up: int = 0) -> tuple[int, Callable[[], None]]:
    """Let a process of its own move bytes; its pid, and what waits for the end."""
    scene = Scene(lab)
    calling, accepted = connected(scene.device, scene.network, scene.network_ip)
    accepted.begin("exchange", down, up)
    calling.begin("exchange", up, down)

    def end() -> None:
        assert scene.device.result() == [up, down]
        assert scene.network.result() == [down, up]
        finish(accepted, calling)

    return scene.device.pid, end


def finish(first: Sock, second: Sock) -> None:
    """End a connection in this order: who closes first keeps it in time-wait, where it is the kernel's."""
    first.close()
    assert second.do("receive") == 0
    second.close()


def batches(count: int) -> Iterable[int]:
    """Sizes of batches that add up to the count."""
    while count > 0:
        yield min(count, BATCH)
        count -= BATCH


def datagrams(sender: Sock, receiver: Sock, address: Sequence[object] | None, count: int, size: int) -> None:
    """Send datagrams of one size, no faster than they are received."""
    for batch in batches(count):
        receiver.begin("receive_datagrams", batch * size)
        sender.do("send_datagrams", address, [size] * batch)
        assert receiver.puppet.result() == batch * size


# --- kinds of traffic --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moved:
    """What traffic must show in the ledger, by the generator's own account.

    What the named processes have moved is the link's truth less the rest; `at_least` is the content alone, so that
    traffic that never came about is noticed. `exactly` is the whole, where it can be told without looking.
    """

    pids: tuple[int, ...] = ()
    kernel: Counters = NOTHING
    unattributed: Counters = NOTHING
    forwarded: bool = False
    all_kernel: bool = False
    at_least: Counters = NOTHING
    exactly: Counters | None = None
    silent: tuple[int, ...] = ()
    """Processes that hold sockets and have moved nothing over the link."""
    each: Mapping[int, Counters] = field(default_factory=dict)
    """What single processes have moved, where several have a part in it."""


Kind = Callable[[Lab], Moved]


class Scene:
    """One process on the device and one in the network, and the addresses they use."""

    def __init__(self, lab: Lab, *, six: bool = False) -> None:
        self.lab, self.six = lab, six
        self.header = IP6 if six else IP
        self.family = socket.AF_INET6 if six else socket.AF_INET

    @cached_property
    def device(self) -> Puppet:
        """The process on the device."""
        return Puppet.start(self.lab.device)

    @cached_property
    def network(self) -> Puppet:
        """The process in the network."""
        return Puppet.start(self.lab.network)

    @property
    def device_ip(self) -> str:
        """The device's address on the link."""
        return self.lab.link.device_ip6 if self.six else self.lab.link.device_ip

    @property
    def network_ip(self) -> str:
        """The network's address on the link."""
        return self.lab.link.network_ip6 if self.six else self.lab.link.network_ip

    def received(self, count: int, size: int, header: int | None = None) -> Counters:
        """Packets of equal content that the device received; `size` is behind the IP header."""
        return Counters(rx_bytes=count * (size + (header or self.header)), rx_packets=count)

    def sent(self, count: int, size: int, header: int | None = None) -> Counters:
        """Packets of equal content that the device sent; `size` is behind the IP header."""
        return Counters(tx_bytes=count * (size + (header or self.header)), tx_packets=count)


def tcp(lab: Lab, *, down: int = 0, up: int = 0, six: bool = False, how: str = "send") -> Moved:
    """A connection that the device opens and the network closes."""
    scene = Scene(lab, six=six)
    calling, accepted = connected(scene.device, scene.network, scene.network_ip)
    if down and up:
        calling.begin("exchange", up, down)
        assert accepted.do("exchange", down, up) == [down, up]
        assert scene.device.result() == [up, down]
    elif down:
        stream(accepted, calling, down)
    else:
        stream(calling, accepted, up, how)
    finish(accepted, calling)
    return Moved(pids=(scene.device.pid,), at_least=Counters(down, up, 1, 1))


def tcp_served(lab: Lab) -> Moved:
    """The device is the server: the handshake is the listener's, the rest the accepted socket's."""
    scene = Scene(lab)
    calling, accepted = connected(scene.network, scene.device, scene.device_ip)
    stream(accepted, calling, 3_145_739)
    finish(calling, accepted)
    return Moved(pids=(scene.device.pid,), at_least=Counters(0, 3_145_739))


def tcp_time_wait(lab: Lab) -> Moved:
    """The device closes first, so that the network's FIN finds a time-wait socket: the kernel answers for nobody."""
    scene = Scene(lab)
    calling, accepted = connected(scene.device, scene.network, scene.network_ip)
    stream(calling, accepted, 100_003)
    calling.close()
    assert accepted.do("receive") == 0
    lab.link.crossed()  # the FIN's acknowledgement has arrived, delayed or not
    accepted.close()
    goodbye = IP + 32  # a TCP header with the timestamp option
    return Moved(pids=(scene.device.pid,), kernel=Counters(goodbye, goodbye, 1, 1), at_least=Counters(0, 100_003))


def tcp_refused(lab: Lab, *, six: bool = False) -> Moved:
    """The network knocks at a closed port: the kernel answers with resets."""
    scene = Scene(lab, six=six)
    for _ in range(11):
        sock = scene.network.tcp(six=six)
        assert sock.do("connect_refused", [scene.device_ip, 7])
        sock.close()
    exactly = scene.received(11, 40) + scene.sent(11, 20)
    return Moved(all_kernel=True, exactly=exactly)


def tcp_refused_by_network(lab: Lab) -> Moved:
    """The device knocks at a closed port: the reset finds the process's socket."""
    scene = Scene(lab)
    for _ in range(11):
        sock = scene.device.tcp()
        assert sock.do("connect_refused", [scene.network_ip, 7])
        sock.close()
    return Moved(pids=(scene.device.pid,), exactly=scene.received(11, 20) + scene.sent(11, 40))


def tcp_with_sniffer(lab: Lab) -> Moved:
    """A packet socket that looks at all that passes moves nothing itself."""
    sniffer = Puppet.start(lab.device)
    watching = sniffer.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))  # ETH_P_ALL
    watching.do("bind", [lab.link.name, 0x0003])
    moved = tcp(lab, down=1_048_583)
    assert watching.do("receive_datagrams", 1) >= 1
    return Moved(pids=moved.pids, at_least=moved.at_least, silent=(sniffer.pid,))


def udp(lab: Lab, *, down: int = 0, up: int = 0, size: int = 1201, six: bool = False) -> Moved:
    """Datagrams that fit a packet."""
    scene = Scene(lab, six=six)
    ours, theirs = scene.device.udp(six=six), scene.network.udp(six=six)
    own_port = ours.do("bind", [scene.device_ip, 0])[1]
    port = theirs.do("bind", [scene.network_ip, 0])[1]
    datagrams(ours, theirs, [scene.network_ip, port], up, size)
    datagrams(theirs, ours, [scene.device_ip, own_port], down, size)
    exactly = scene.sent(up, UDP + size) + scene.received(down, UDP + size)
    return Moved(pids=(scene.device.pid,), exactly=exactly)


def udp_fragments_sent(lab: Lab, *, six: bool = False) -> Moved:
    """Datagrams of 9001 bytes, cut into fragments on the device: each fragment's headers are the process's."""
    scene = Scene(lab, six=six)
    ours, theirs = scene.device.udp(six=six), scene.network.udp(six=six)
    port = theirs.do("bind", [scene.network_ip, 0])[1]
    datagrams(ours, theirs, [scene.network_ip, port], 50, 9001)
    return Moved(pids=(scene.device.pid,), exactly=fragmented(scene.sent, 50, UDP + 9001, six=six))


def udp_fragments_received(lab: Lab, *, six: bool = False) -> Moved:
    """The same the other way: what reassembly takes away before a socket is known can be nobody's."""
    scene = Scene(lab, six=six)
    ours, theirs = scene.device.udp(six=six), scene.network.udp(six=six)
    port = ours.do("bind", [scene.device_ip, 0])[1]
    datagrams(theirs, ours, [scene.device_ip, port], 50, 9001)
    exactly = fragmented(scene.received, 50, UDP + 9001, six=six)
    return Moved(pids=(scene.device.pid,), exactly=exactly, unattributed=exactly - scene.received(50, UDP + 9001))


def fragmented(direction: Callable[[int, int], Counters], count: int, size: int, *, six: bool) -> Counters:
    """Datagrams larger than a packet of 1500 bytes, as RFC 791 and RFC 8200 cut them."""
    own_header = 8 if six else 0
    room = (1500 - (IP6 if six else IP) - own_header) // 8 * 8
    total = NOTHING
    while size:
        part = min(size, room)
        total += direction(count, part + own_header)
        size -= part
    return total


def udp_segments_sent(lab: Lab, *, six: bool = False) -> Moved:
    """One call hands over many datagrams (UDP_SEGMENT); the kernel or the device cuts them."""
    scene = Scene(lab, six=six)
    ours, theirs = scene.device.udp(six=six), scene.network.udp(six=six)
    port = theirs.do("bind", [scene.network_ip, 0])[1]
    exactly = segmented(scene.sent, ours, theirs, [scene.network_ip, port])
    return Moved(pids=(scene.device.pid,), exactly=exactly)


def udp_segments_received(lab: Lab, *, six: bool = False) -> Moved:
    """The same the other way, to a socket that takes merged datagrams (UDP_GRO)."""
    scene = Scene(lab, six=six)
    ours, theirs = scene.device.udp(six=six), scene.network.udp(six=six)
    ours.do("option", socket.IPPROTO_UDP, 104, 1)  # UDP_GRO, linux/udp.h
    port = ours.do("bind", [scene.device_ip, 0])[1]
    exactly = segmented(scene.received, theirs, ours, [scene.device_ip, port])
    return Moved(pids=(scene.device.pid,), exactly=exactly)


def segmented(
    direction: Callable[[int, int], Counters], sender: Sock, receiver: Sock, address: list[object]
) -> Counters:
    """30 calls of 20 whole datagrams and a shorter one."""
    sender.do("option", socket.IPPROTO_UDP, 103, 1201)  # UDP_SEGMENT, linux/udp.h
    size = 20 * 1201 + 333
    for _ in range(30):
        datagrams(sender, receiver, address, 1, size)
    return direction(600, UDP + 1201) + direction(30, UDP + 333)


def udp_unread(lab: Lab) -> Moved:
    """A receiver whose buffer is full loses datagrams; they have been paid for all the same."""
    scene = Scene(lab)
    ours, theirs = scene.device.udp(), scene.network.udp()
    ours.do("option", socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    port = ours.do("bind", [scene.device_ip, 0])[1]
    for batch in batches(200):
        theirs.do("send_datagrams", [scene.device_ip, port], [1201] * batch)
        lab.link.crossed()
    return Moved(pids=(scene.device.pid,), exactly=scene.received(200, UDP + 1201))


def udp_refused(lab: Lab) -> Moved:
    """Datagrams to a closed port: nobody received them, and the kernel says so."""
    scene = Scene(lab)
    theirs = scene.network.udp()
    theirs.do("send_datagrams", [scene.device_ip, 7], [301] * 5)
    answer = IP + ICMP + IP + UDP + 301
    exactly = scene.received(5, UDP + 301) + scene.sent(5, answer - IP)
    return Moved(all_kernel=True, exactly=exactly)


def udp_refused_by_network(lab: Lab) -> Moved:
    """The network's kernel refuses datagrams: its ICMP messages go to the device's kernel."""
    scene = Scene(lab)
    scene.device.udp().do("send_datagrams", [scene.network_ip, 7], [301] * 5)
    lab.link.crossed()
    sent, refusals = scene.sent(5, UDP + 301), scene.received(5, ICMP + IP + UDP + 301)
    return Moved(pids=(scene.device.pid,), kernel=refusals, exactly=sent + refusals)


def multicast_sent(lab: Lab) -> Moved:
    """A sender that hears itself (IP_MULTICAST_LOOP): what is looped back never crossed the link."""
    scene = Scene(lab)
    ours, theirs = scene.device.udp(), scene.network.udp()
    port = theirs.do("bind", ["0.0.0.0", 0])[1]
    join(theirs, scene.network_ip)
    ours.do("bind", ["0.0.0.0", port])
    join(ours, scene.device_ip)
    ours.do("option", socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    datagrams(ours, theirs, [GROUP, port], 60, 701)
    assert ours.do("receive_datagrams", 60 * 701) == 60 * 701
    return Moved(pids=(scene.device.pid,), exactly=scene.sent(60, UDP + 701))


def multicast_received(lab: Lab) -> Moved:
    """Two processes receive the same packets: each crossed the link once."""
    scene, other = Scene(lab), Puppet.start(lab.device)
    ours, also, theirs = scene.device.udp(), other.udp(), scene.network.udp()
    for sock in (ours, also):
        sock.do("option", socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.do("bind", ["0.0.0.0", 5353])
        join(sock, scene.device_ip)
    theirs.do("option", socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(scene.network_ip).hex())
    for batch in batches(60):
        also.begin("receive_datagrams", batch * 701)
        datagrams(theirs, ours, [GROUP, 5353], batch, 701)
        assert other.result() == batch * 701
    return Moved(pids=(scene.device.pid, other.pid), exactly=scene.received(60, UDP + 701))


GROUP = "239.77.0.1"


def join(sock: Sock, interface: str) -> None:
    """Let a socket take part in the multicast group on the interface with this address."""
    membership = socket.inet_aton(GROUP) + socket.inet_aton(interface)
    sock.do("option", socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership.hex())
    sock.do("option", socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface).hex())


def ping(lab: Lab, *, six: bool = False) -> Moved:
    """A process on the device pings the network."""
    scene = Scene(lab, six=six)
    scene.device.do("ping", scene.network_ip, 300, 777)
    exactly = scene.sent(300, ICMP + 777) + scene.received(300, ICMP + 777)
    return Moved(pids=(scene.device.pid,), exactly=exactly)


def many_pings(lab: Lab) -> Moved:
    """Each of several raw sockets is handed a copy of every reply, from the moment it opens; each reply came once."""
    scene = Scene(lab)
    sizes = range(401, 801, 50)
    pingers = [Puppet.start(lab.device) for _ in sizes]
    for pinger, size in zip(pingers, sizes, strict=True):
        pinger.begin("ping", scene.network_ip, 300, size)
    for pinger in pingers:
        pinger.result()
    each = {
        pinger.pid: scene.sent(300, ICMP + size) + scene.received(300, ICMP + size)
        for pinger, size in zip(pingers, sizes, strict=True)
    }
    return Moved(pids=tuple(each), exactly=sum(each.values(), NOTHING), each=each)


def ping_from_network(lab: Lab, *, six: bool = False) -> Moved:
    """The kernel answers pings; no process has a part in it."""
    scene = Scene(lab, six=six)
    scene.network.do("ping", scene.device_ip, 300, 777)
    return Moved(all_kernel=True, exactly=scene.sent(300, ICMP + 777) + scene.received(300, ICMP + 777))


def raw_protocol(lab: Lab, *, six: bool = False) -> Moved:
    """Raw sockets of a protocol of nobody's (253, RFC 3692), both ways."""
    scene = Scene(lab, six=six)
    ours = scene.device.socket(scene.family, socket.SOCK_RAW, 253)
    theirs = scene.network.socket(scene.family, socket.SOCK_RAW, 253)
    header = 0 if six else IP  # an IPv4 raw socket is handed the IP header too
    for _ in range(30):
        theirs.begin("receive_datagrams", 999 + header)
        ours.do("send_datagrams", [scene.network_ip, 0], [999])
        assert scene.network.result() == 999 + header
        ours.begin("receive_datagrams", 501 + header)
        theirs.do("send_datagrams", [scene.device_ip, 0], [501])
        assert scene.device.result() == 501 + header
    return Moved(pids=(scene.device.pid,), exactly=scene.sent(30, 999) + scene.received(30, 501))


def ipv4_packet(source: str, destination: str, content: bytes) -> bytes:
    """An IPv4 packet of protocol 253."""
    length = IP + len(content)
    header = (
        bytes([0x45, 0])
        + length.to_bytes(2, "big")
        + bytes([0, 0, 0, 0, 64, 253, 0, 0])
        + socket.inet_aton(source)
        + socket.inet_aton(destination)
    )
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + content


def raw_with_header(lab: Lab) -> Moved:
    """A process that writes the IP header itself (IPPROTO_RAW)."""
    scene = Scene(lab)
    scene.network.socket(socket.AF_INET, socket.SOCK_RAW, 253)  # or its kernel would say that nobody is there
    ours = scene.device.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    packet = ipv4_packet(scene.device_ip, scene.network_ip, bytes(611))
    ours.do("send_packet", [scene.network_ip, 0], packet.hex(), 40)
    return Moved(pids=(scene.device.pid,), exactly=scene.sent(40, 611))


def packet_socket(lab: Lab, *, raw: bool) -> Moved:
    """A packet socket sends IP: with the link-layer header its own (SOCK_RAW) or the kernel's (SOCK_DGRAM)."""
    scene = Scene(lab)
    scene.network.socket(socket.AF_INET, socket.SOCK_RAW, 253)
    packet = ipv4_packet(scene.device_ip, scene.network_ip, bytes(433))
    mac = lab.link.network_mac.replace(":", "")
    if raw:
        ours = scene.device.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        own = lab.link.device_mac.replace(":", "")
        frame = packet if lab.wire.raw else bytes.fromhex(mac + own + "0800") + packet
        ours.do("send_packet", [lab.link.name, 0x0800], frame.hex(), 40)
    else:
        ours = scene.device.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        ours.do("send_packet", [lab.link.name, 0x0800, 0, 0, mac], packet.hex(), 40)
    return Moved(pids=(scene.device.pid,), exactly=scene.sent(40, 433))


def not_ip(lab: Lab) -> Moved:
    """Ethernet frames that carry no IP, both ways: no carrier bills them."""
    scene = Scene(lab)
    device_mac, network_mac = (mac.replace(":", "") for mac in (lab.link.device_mac, lab.link.network_mac))
    for puppet, name, to, own in (
        (scene.device, lab.link.name, network_mac, device_mac),
        (scene.network, lab.link.tower, device_mac, network_mac),
    ):
        sock = puppet.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        for ether_type in ("88b5", "0806"):  # IEEE's for experiments, and ARP
            sock.do("send_packet", [name, int(ether_type, 16)], to + own + ether_type + "00" * 100, 40)
    return Moved(silent=(scene.device.pid,), exactly=NOTHING)


def forwarded(lab: Lab, *, six: bool = False, masquerade: bool = False) -> Moved:
    """A host behind the device downloads and uploads through it."""
    host, network = Puppet.start(lab.tethered), Puppet.start(lab.network)
    network_ip = lab.link.network_ip6 if six else lab.link.network_ip

    with lab.masquerading() if masquerade else nullcontext():
        calling, accepted = connected(host, network, network_ip)
        stream(accepted, calling, 2_097_169)
        stream(calling, accepted, 1_048_583)
        finish(accepted, calling)
        if masquerade:
            lab.link.crossed()  # the last packet has been translated too
    return Moved(forwarded=True, at_least=Counters(2_097_169, 1_048_583))


def forwarded_fragments(lab: Lab) -> Moved:
    """Fragments that go through the device, both ways."""
    host, network = Puppet.start(lab.tethered), Puppet.start(lab.network)
    ours, theirs = host.udp(), network.udp()
    own_port = ours.do("bind", ["10.78.0.2", 0])[1]
    port = theirs.do("bind", [lab.link.network_ip, 0])[1]
    datagrams(ours, theirs, [lab.link.network_ip, port], 30, 9001)
    datagrams(theirs, ours, ["10.78.0.2", own_port], 30, 9001)
    scene = Scene(lab)
    exactly = fragmented(scene.sent, 30, UDP + 9001, six=False) + fragmented(scene.received, 30, UDP + 9001, six=False)
    return Moved(forwarded=True, exactly=exactly)


def tcp_reset(lab: Lab, *, by_device: bool) -> Moved:
    """A connection that one side breaks off (SO_LINGER with no time)."""
    scene = Scene(lab)
    calling, accepted = connected(scene.device, scene.network, scene.network_ip)
    stream(calling, accepted, 100_003)
    breaking, broken = (calling, accepted) if by_device else (accepted, calling)
    breaking.do("option", socket.SOL_SOCKET, socket.SO_LINGER, "0100000000000000")
    breaking.close()
    lab.link.crossed()
    broken.close()
    return Moved(pids=(scene.device.pid,), at_least=Counters(0, 100_003))


def mptcp(lab: Lab, *, down: int = 0, up: int = 0) -> Moved:
    """Multipath TCP, whose subflows are sockets of the kernel's own making."""
    scene = Scene(lab)
    calling, accepted = connected(scene.device, scene.network, scene.network_ip, protocol=IPPROTO_MPTCP)
    if down:
        stream(accepted, calling, down)
    if up:
        stream(calling, accepted, up)
    finish(accepted, calling)
    return Moved(pids=(scene.device.pid,), at_least=Counters(down, up))


def udp_lite(lab: Lab) -> Moved:
    """The other datagrams (RFC 3828)."""
    scene = Scene(lab)
    ours, theirs = (puppet.socket(scene.family, socket.SOCK_DGRAM, 136) for puppet in (scene.device, scene.network))
    own_port = ours.do("bind", [scene.device_ip, 0])[1]
    port = theirs.do("bind", [scene.network_ip, 0])[1]
    datagrams(ours, theirs, [scene.network_ip, port], 11, 901)
    datagrams(theirs, ours, [scene.device_ip, own_port], 13, 903)
    return Moved(pids=(scene.device.pid,), exactly=scene.sent(11, UDP + 901) + scene.received(13, UDP + 903))


def udp_mapped(lab: Lab) -> Moved:
    """IPv4 through an IPv6 socket (RFC 4291, 2.5.5.2)."""
    scene = Scene(lab)
    ours, theirs = scene.device.udp(six=True), scene.network.udp()
    own_port = ours.do("bind", ["::", 0])[1]
    port = theirs.do("bind", [scene.network_ip, 0])[1]
    datagrams(ours, theirs, [f"::ffff:{scene.network_ip}", port], 11, 901)
    datagrams(theirs, ours, [scene.device_ip, own_port], 13, 903)
    return Moved(pids=(scene.device.pid,), exactly=scene.sent(11, UDP + 901) + scene.received(13, UDP + 903))


def broadcast(lab: Lab) -> Moved:
    """To everybody on the link, both ways; what the device hears of itself never crossed it."""
    scene = Scene(lab)
    everybody = scene.network_ip.rsplit(".", 1)[0] + ".255"
    ours, theirs = scene.device.udp(), scene.network.udp()
    for sock, port in ((ours, 6001), (theirs, 6002)):
        sock.do("option", socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.do("bind", ["0.0.0.0", port])
    datagrams(ours, theirs, [everybody, 6002], 11, 901)
    datagrams(theirs, ours, [everybody, 6001], 13, 903)
    return Moved(pids=(scene.device.pid,), exactly=scene.sent(11, UDP + 901) + scene.received(13, UDP + 903))


def multicast_received_six(lab: Lab) -> Moved:
    """IPv6 multicast from the network."""
    scene = Scene(lab, six=True)
    ours, theirs = scene.device.udp(six=True), scene.network.udp(six=True)
    port = ours.do("bind", ["::", 0])[1]
    membership = socket.inet_pton(socket.AF_INET6, "ff05::77:1") + struct.pack("@I", lab.link.ifindex)
    ours.do("option", socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership.hex())
    outgoing = lab.network.ifindex(lab.link.tower)
    theirs.do("option", socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, outgoing)
    datagrams(theirs, ours, ["ff05::77:1", port], 17, 701)
    return Moved(pids=(scene.device.pid,), exactly=scene.received(17, UDP + 701))


def ping_socket(lab: Lab) -> Moved:
    """Pings without a raw socket: the kernel writes the identifier (net.ipv4.ping_group_range)."""
    scene = Scene(lab)
    lab.device.sysctl({"net.ipv4.ping_group_range": "0 0"})
    ours = scene.device.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    for number in range(19):
        ours.do("send_packet", [scene.network_ip, 0], f"080000000000{number:04x}" + "00" * 101)
        ours.do("receive_datagrams", 1)
    exactly = scene.sent(19, ICMP + 101) + scene.received(19, ICMP + 101)
    return Moved(pids=(scene.device.pid,), exactly=exactly)


def raw_fragments_received(lab: Lab) -> Moved:
    """A raw socket is handed whole packets that came in fragments."""
    scene = Scene(lab)
    ours, theirs = (puppet.socket(scene.family, socket.SOCK_RAW, 253) for puppet in (scene.device, scene.network))
    for _ in range(7):
        ours.begin("receive_datagrams", IP + 4981)
        theirs.do("send_datagrams", [scene.device_ip, 0], [4981])
        assert scene.device.result() == IP + 4981
    exactly = fragmented(scene.received, 7, 4981, six=False)
    return Moved(pids=(scene.device.pid,), exactly=exactly, unattributed=exactly - scene.received(7, 4981))


def masqueraded_fragments(lab: Lab) -> Moved:
    """Fragments that the device puts together to translate them, and cuts again."""
    host, scene = Puppet.start(lab.tethered), Scene(lab)
    ours, theirs = host.udp(), scene.network.udp()
    port = theirs.do("bind", [scene.network_ip, 0])[1]
    with lab.masquerading():
        datagrams(ours, theirs, [scene.network_ip, port], 30, 9001)
        lab.link.crossed()
    return Moved(forwarded=True, exactly=fragmented(scene.sent, 30, UDP + 9001, six=False))


KINDS: dict[str, Kind] = {
    "tcp down": partial(tcp, down=7_340_033),
    "tcp up": partial(tcp, up=7_340_033),
    "tcp both ways": partial(tcp, down=3_145_739, up=2_097_169),
    "tcp down, IPv6": partial(tcp, down=3_145_739, six=True),
    "tcp up, IPv6": partial(tcp, up=3_145_739, six=True),
    "tcp by sendfile": partial(tcp, up=3_145_739, how="send_by_sendfile"),
    "tcp by splice": partial(tcp, up=3_145_739, how="send_by_splice"),
    "tcp without copying": partial(tcp, up=3_145_739, how="send_by_zerocopy"),
    "tcp served by the device": tcp_served,
    "tcp in time-wait": tcp_time_wait,
    "tcp refused by the device": tcp_refused,
    "tcp refused by the device, IPv6": partial(tcp_refused, six=True),
    "tcp refused by the network": tcp_refused_by_network,
    "tcp with a sniffer": tcp_with_sniffer,
    "udp": partial(udp, down=301, up=203),
    "udp, IPv6": partial(udp, down=203, up=301, six=True),
    "udp, empty datagrams": partial(udp, down=41, up=43, size=1),
    "udp fragments sent": udp_fragments_sent,
    "udp fragments sent, IPv6": partial(udp_fragments_sent, six=True),
    "udp fragments received": udp_fragments_received,
    "udp fragments received, IPv6": partial(udp_fragments_received, six=True),
    "udp segments sent": udp_segments_sent,
    "udp segments sent, IPv6": partial(udp_segments_sent, six=True),
    "udp segments received": udp_segments_received,
    "udp segments received, IPv6": partial(udp_segments_received, six=True),
    "udp unread": udp_unread,
    "udp refused by the device": udp_refused,
    "udp refused by the network": udp_refused_by_network,
    "multicast sent": multicast_sent,
    "multicast received": multicast_received,
    "ping": ping,
    "ping, IPv6": partial(ping, six=True),
    "many pings at once": many_pings,
    "ping from the network": ping_from_network,
    "ping from the network, IPv6": partial(ping_from_network, six=True),
    "raw protocol": raw_protocol,
    "raw protocol, IPv6": partial(raw_protocol, six=True),
    "raw with its own header": raw_with_header,
    "packet socket, raw": partial(packet_socket, raw=True),
    "packet socket, datagram": partial(packet_socket, raw=False),
    "routed for a host": forwarded,
    "routed for a host, IPv6": partial(forwarded, six=True),
    "masqueraded for a host": partial(forwarded, masquerade=True),
    "fragments routed for a host": forwarded_fragments,
}
RARE_KINDS: dict[str, Kind] = {
    "tcp reset by the network": partial(tcp_reset, by_device=False),
    "tcp reset by the device": partial(tcp_reset, by_device=True),
    "multipath tcp down": partial(mptcp, down=1_048_583),
    "multipath tcp up": partial(mptcp, up=1_048_583),
    "udp-lite": udp_lite,
    "udp through an IPv6 socket": udp_mapped,
    "broadcast": broadcast,
    "multicast received, IPv6": multicast_received_six,
    "ping socket": ping_socket,
    "raw fragments received": raw_fragments_received,
    "fragments masqueraded for a host": masqueraded_fragments,
}
ETHERNET_KINDS: dict[str, Kind] = {"frames that are no IP": not_ip}
