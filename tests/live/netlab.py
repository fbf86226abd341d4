"""A device and a network in two namespaces, joined by an emulated cellular link whose traffic is counted independently.

The truth about what crossed a link is the number and length of its IP packets after segmentation.

Ethernet (veth): nftables in the network's namespace copies every IP packet of its end of the link, seen at the netdev
hooks `ingress` and `egress`, into a meter: a veth pair that can segment nothing in hardware. An offload packet is
therefore cut by the kernel's own segmentation when its copy enters the meter, and nftables counts and drops what comes
out of it: one packet at a time, without the Ethernet header. No code of the tracer, and no rule about headers of
segments, has a part in it.

Raw IP (TUN): the pump (pump.py) carries packets between two TUN devices and counts what it reads. The kernel cuts
offload packets before a TUN device.

Either way a packet that is lost between a device and its counter shows in the devices' and queues' counts of drops,
and `crossed` refuses to tell a truth of which something is missing.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path

from esimbpf.model import NOTHING, Counters

__all__ = ["Lab", "Namespace", "Wire", "WireLink", "device_hooks"]

HERE = Path(__file__).parent
ALL_OFFLOADS = (
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-accecn-segmentation",
    "tx-udp-segmentation",
    "tx-gso-list",
    "gso",
    "gro",
)
# Flights of a connection stay well below the 256 packets that fit a veth ring and the 1000 of the kernel's backlog.
TCP_BUFFERS = "4096 65536 131072"
SILENCE_S = 0.25  # longer than a delayed acknowledgement (TCP_DELACK_MAX, 200 ms)

# What hosts say unasked, at times of their own: it would make two readings of a silent link differ.
QUIET = """
table inet quiet {
    chain sent {
        type filter hook output priority 0;
        icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report, nd-router-solicit } drop
        meta l4proto igmp drop
    }
}
"""

_serial = itertools.count()


class Wire(StrEnum):
    """What the link is made of."""

    PLAIN = "ethernet"
    OFFLOAD = "ethernet-offloads"
    MERGE = "ethernet-gro"
    RAW_IP = "raw-ip"
    RAW_IP_MERGE = "raw-ip-gro"

    @property
    def raw(self) -> bool:
        """Whether packets have no link-layer header."""
        return self in (Wire.RAW_IP, Wire.RAW_IP_MERGE)


def run(*argv: str, text: str | None = None) -> str:
    """Run a command to its end and return its output; a failure raises with what it said."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Namespace:
    """A network namespace; programs run in it keep the machine's cgroups and files."""

    def __init__(self, role: str) -> None:
        self.name = f"esimbpf-{role}-{os.getpid()}-{next(_serial)}"
        self._programs: list[subprocess.Popen[str]] = []
        self._controls: list[socket.socket] = []
        run("ip", "netns", "add", self.name)
        self.ip("link set lo up")
        self.run("nft", "-f", "-", text=QUIET)
        self.sysctl(
            {
                "net.ipv4.tcp_rmem": TCP_BUFFERS,
                "net.ipv4.tcp_wmem": TCP_BUFFERS,
                "net.ipv4.tcp_no_metrics_save": "1",
                "net.ipv4.icmp_ratelimit": "0",
                "net.ipv6.icmp.ratelimit": "0",
                "net.ipv6.conf.default.accept_ra": "0",
            }
        )

    @property
    def path(self) -> str:
        """The file that names it."""
        return f"/run/netns/{self.name}"

    def command(self, *argv: str) -> list[str]:
        """The command line that runs another one inside, as the same process."""
        return ["nsenter", f"--net={self.path}", *argv]

    def run(self, *argv: str, text: str | None = None) -> str:
        """Run a command inside to its end and return its output."""
        return run(*self.command(*argv), text=text)

    def start(self, *argv: str, pass_fds: Sequence[int] = (), stdout: int | None = None) -> subprocess.Popen[str]:
        """Start a program inside; its pid is the process's."""
        program = subprocess.Popen(
            self.command(*argv), pass_fds=pass_fds, stdin=subprocess.DEVNULL, stdout=stdout, text=True
        )
        self._programs.append(program)
        return program

    def keep(self, control: socket.socket) -> None:
        """Hold what a program inside is steered by for as long as it may run; it ends when that is closed."""
        self._controls.append(control)

    def ip(self, *lines: str) -> None:
        """Run lines of iproute2's batch language inside."""
        run("ip", "-n", self.name, "-batch", "-", text="\n".join(lines) + "\n")

    def sysctl(self, settings: Mapping[str, str]) -> None:
        """Set kernel parameters of the namespace."""
        self.run("sysctl", "-q", "-w", *(f"{name}={value}" for name, value in settings.items()))

    def offloads(self, device: str, *, on: bool) -> None:
        """Let the device segment and merge packets, or not."""
        state = "on" if on else "off"
        self.run("ethtool", "-K", device, *(word for feature in ALL_OFFLOADS for word in (feature, state)))

    def link_statistics(self, device: str) -> dict[str, dict[str, int]]:
        """The device's own counts by direction, as iproute2 shows them."""
        [shown] = json.loads(run("ip", "-n", self.name, "-j", "-s", "link", "show", "dev", device))
        statistics: dict[str, dict[str, int]] = shown["stats64"]
        return statistics

    def nft_counter(self, table: str, name: str) -> dict[str, int]:
        """Bytes and packets of a named counter of nftables' netdev family."""
        listed = json.loads(self.run("nft", "-j", "list", "counter", "netdev", table, name))
        [counter] = [entry["counter"] for entry in listed["nftables"] if "counter" in entry]
        return {"bytes": int(counter["bytes"]), "packets": int(counter["packets"])}

    def ifindex(self, device: str) -> int:
        """The device's index."""
        [shown] = json.loads(run("ip", "-n", self.name, "-j", "link", "show", "dev", device))
        return int(shown["ifindex"])

    def end_programs(self) -> None:
        """Kill every process inside; they are all the lab's, since the namespace is."""
        for pid in run("ip", "netns", "pids", self.name).split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        while self._controls:
            self._controls.pop().close()
        while self._programs:
            with self._programs.pop():
                pass  # closes its pipes and waits for its end

    def remove(self) -> None:
        """End what runs inside and take the namespace away, its devices with it."""
        self.end_programs()
        run("ip", "netns", "del", self.name)


class WireLink:
    """One link from the device to the network, its addresses, and the truth about it.

    `number` tells links of a lab apart; it is in their addresses and in the names of the network's devices.
    """

    def __init__(self, wire: Wire, device: Namespace, network: Namespace, number: int) -> None:
        self.wire = wire
        self.device, self.network = device, network
        self.name = f"wwan{number}"
        self.tower = f"tower{number}"
        self.device_ip, self.network_ip = f"10.77.{number}.1", f"10.77.{number}.2"
        self.device_ip6, self.network_ip6 = f"fd77:{number}::1", f"fd77:{number}::2"
        self.device_mac, self.network_mac = f"02:00:00:77:{number:02x}:01", f"02:00:00:77:{number:02x}:02"
        self._pump: subprocess.Popen[str] | None = None
        self._before = NOTHING  # what pumps of earlier links of this name have carried
        self._present = False
        self._uplink_meter, self._downlink_meter = f"up{number}", f"down{number}"
        if not wire.raw:
            self._make_meters()

    @property
    def ifindex(self) -> int:
        """Its index in the device's namespace."""
        return self.device.ifindex(self.name)

    # --- making and unmaking ---------------------------------------------------------------------------------------

    def up(self) -> None:
        """Make the link and give both ends their addresses."""
        if self.wire.raw:
            self._start_pump()
            ends = ((self.device, self.name), (self.network, self.tower))
            for namespace, end in ends:
                namespace.ip(f"link set {end} txqueuelen 100000")
        else:
            self._make_veth()
        self._present = True
        for namespace, end, address, address6 in (
            (self.device, self.name, self.device_ip, self.device_ip6),
            (self.network, self.tower, self.network_ip, self.network_ip6),
        ):
            namespace.ip(
                f"link set {end} addrgenmode none",
                f"link set {end} up",
                f"address add {address}/24 dev {end}",
                f"address add {address6}/64 dev {end} nodad",
            )
        if not self.wire.raw:
            # Known neighbours: no ARP and no neighbour discovery at times of the kernel's choice.
            self.know_neighbours()
        if self.name == "wwan0":
            self.device.ip(
                f"route add default via {self.network_ip} dev {self.name}",
                f"route add ::/0 via {self.network_ip6} dev {self.name}",
            )

    def know_neighbours(self) -> None:
        """Let both ends know each other's address for good."""
        self.device.ip(*self._neighbours(self.name, self.network_mac, self.network_ip, self.network_ip6))
        self.network.ip(*self._neighbours(self.tower, self.device_mac, self.device_ip, self.device_ip6))

    def forget_neighbours(self) -> None:
        """Let both ends find each other's address anew."""
        self.device.ip(f"neighbour flush nud all dev {self.name}")
        self.network.ip(f"neighbour flush nud all dev {self.tower}")

    def flap(self) -> None:
        """Let the device go down and up again, as it does when it loses the network."""
        self.device.ip(f"link set {self.name} down", f"link set {self.name} up")
        if not self.wire.raw:
            self.device.ip(*self._neighbours(self.name, self.network_mac, self.network_ip))

    def down(self) -> None:
        """Take the link away, as a modem's reset does; what has crossed it stays counted."""
        crossed = self.crossed()
        self._present = False
        if self._pump:
            self._before = crossed
            self._stop_pump()
        else:
            self.network.run("nft", "delete", "table", "netdev", f"tap{self.tower}")
            self.device.ip(f"link del {self.name}")

    def _make_veth(self) -> None:
        self.device.ip(
            f"link add {self.name} address {self.device_mac} type veth"
            f" peer name {self.tower} address {self.network_mac} netns {self.network.name}"
        )
        merge = self.wire is Wire.MERGE
        for namespace, end in ((self.device, self.name), (self.network, self.tower)):
            namespace.offloads(end, on=False)
            if self.wire is Wire.OFFLOAD:
                namespace.offloads(end, on=True)
                namespace.run("ethtool", "-K", end, "gro", "off")
        if merge:
            self.device.run("ethtool", "-K", self.name, "gro", "on", "rx-udp-gro-forwarding", "on")
        self.network.run("nft", "-f", "-", text=self._tap())

    def _tap(self) -> str:
        return f"""
            table netdev tap{self.tower} {{
                chain uplink {{
                    type filter hook ingress device {self.tower} priority 0;
                    ip saddr {self.network_ip} return comment "its own broadcasts, which it hears"
                    meta protocol {{ ip, ip6 }} dup to {self._uplink_meter}
                }}
                chain downlink {{
                    type filter hook egress device {self.tower} priority 0;
                    meta protocol {{ ip, ip6 }} dup to {self._downlink_meter}
                }}
            }}
        """

    def _make_meters(self) -> None:
        for meter in (self._uplink_meter, self._downlink_meter):
            self.network.ip(
                f"link add {meter} type veth peer name {meter}-out",
                f"link set {meter} addrgenmode none up",
                f"link set {meter}-out addrgenmode none up",
            )
            self.network.offloads(meter, on=False)
            self.network.offloads(f"{meter}-out", on=False)
            self.network.run(
                "nft",
                "-f",
                "-",
                text=f"""
                    table netdev meter{meter} {{
                        counter crossed {{}}
                        chain metered {{
                            type filter hook ingress device {meter}-out priority 0;
                            counter name crossed drop
                        }}
                    }}
                """,
            )

    @staticmethod
    def _neighbours(device: str, mac: str, *addresses: str) -> list[str]:
        return [f"neighbour replace {address} lladdr {mac} nud permanent dev {device}" for address in addresses]

    def _start_pump(self) -> None:
        self._pump = subprocess.Popen(
            [
                sys.executable,
                "-IS",
                str(HERE / "pump.py"),
                self.device.path,
                self.name,
                self.network.path,
                self.tower,
                *(["gro"] if self.wire is Wire.RAW_IP_MERGE else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._pump.stdout
        if self._pump.stdout.readline() != "ready\n":
            raise RuntimeError("the pump has not started")
        if self.wire is Wire.RAW_IP_MERGE:
            # Without a pause between polls there is nothing to merge: each packet that is written is polled at once.
            run(
                *("ip", "netns", "exec", self.device.name, "sh", "-c"),
                f"cd /sys/class/net/{self.name}; echo 1 > napi_defer_hard_irqs; echo 50000 > gro_flush_timeout",
            )

    def _stop_pump(self) -> None:
        assert self._pump
        self._pump.communicate(timeout=10)
        self._pump = None

    def close(self) -> None:
        """Stop the pump; the rest goes with the namespaces."""
        if self._pump:
            self._stop_pump()

    # --- the truth ---------------------------------------------------------------------------------------------------

    def crossed(self) -> Counters:
        """What has crossed the link since it was first made, once it has fallen silent.

        Raises AssertionError if a packet was lost between a device and the counter.
        """
        last, since = self.crossed_so_far(), time.monotonic()
        deadline = since + 15
        while time.monotonic() - since < SILENCE_S:
            now = self.crossed_so_far()
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not fall silent")
            time.sleep(0.05)
        lost = dict(self._lost()) if self._present else {}
        assert not any(lost.values()), f"packets were lost before they could be counted: {lost}"
        return last

    def crossed_so_far(self) -> Counters:
        """The same while traffic goes on."""
        return self._before + self._counted()

    def _counted(self) -> Counters:
        return self._metered() if not self.wire.raw else self._pumped()

    def _metered(self) -> Counters:
        rx, tx = (
            self.network.nft_counter(f"meter{meter}", "crossed") for meter in (self._downlink_meter, self._uplink_meter)
        )
        return Counters(rx["bytes"], tx["bytes"], rx["packets"], tx["packets"])

    def _ask_pump(self) -> dict[str, int]:
        if not self._pump:
            return {}
        assert self._pump.stdin
        assert self._pump.stdout
        self._pump.stdin.write("\n")
        self._pump.stdin.flush()
        counts: dict[str, int] = json.loads(self._pump.stdout.readline())
        return counts

    def _pumped(self) -> Counters:
        counts = self._ask_pump()
        counts.pop("refused", None)
        return Counters(**counts)

    def _lost(self) -> Iterator[tuple[str, int]]:
        ends = [(self.device, self.name), (self.network, self.tower)]
        if self.wire.raw:
            yield "pump", self._ask_pump().get("refused", 0)
        else:
            ends += [(self.network, self._uplink_meter), (self.network, self._downlink_meter)]
        for namespace, end in ends:
            yield end, namespace.link_statistics(end)["tx"]["dropped"]
            for qdisc in json.loads(run("tc", "-n", namespace.name, "-j", "-s", "qdisc", "show", "dev", end)):
                yield f"{end} {qdisc['kind']}", qdisc["drops"]


@contextmanager
def device_hooks(link: WireLink) -> Iterator[Callable[[str], dict[str, int]]]:
    """Count what hooks on the device are shown, offload packets as one: `received`, `sent`, `jumbo`.

    What is `jumbo` is too large for the length field of an IP header.
    """
    link.device.run(
        "nft",
        "-f",
        "-",
        text=f"""
            table netdev shown {{
                counter received {{}}
                counter sent {{}}
                counter jumbo {{}}
                chain in {{
                    type filter hook ingress device {link.name} priority 0;
                    meta length > 65600 counter name jumbo
                    counter name received
                }}
                chain out {{
                    type filter hook egress device {link.name} priority 0;
                    meta length > 65600 counter name jumbo
                    counter name sent
                }}
            }}
        """,
    )
    try:
        yield lambda name: link.device.nft_counter("shown", name)
    finally:
        link.device.run("nft", "delete", "table", "netdev", "shown")


class Lab:
    """The device, the network behind its links, and a host that reaches the network through the device."""

    def __init__(self, wire: Wire, stack: ExitStack) -> None:
        self.wire = wire
        self._stack = stack
        self.device = self.namespace("device")
        self.network = self.namespace("network")
        self.links: list[WireLink] = []
        self.link = self.add_link()
        self._tethered: Namespace | None = None

    @classmethod
    @contextmanager
    def made_of(cls, wire: Wire) -> Iterator[Lab]:
        """A lab that leaves nothing behind."""
        with ExitStack() as stack:
            yield cls(wire, stack)

    def namespace(self, role: str) -> Namespace:
        """One more namespace that goes with the lab."""
        namespace = Namespace(role)
        self._stack.callback(namespace.remove)
        return namespace

    def add_link(self) -> WireLink:
        """One more link between the device and the network."""
        link = WireLink(self.wire, self.device, self.network, len(self.links))
        self._stack.callback(link.close)
        self.links.append(link)
        link.up()
        return link

    def end_programs(self) -> None:
        """Kill whatever still runs in the lab's namespaces."""
        for namespace in (self.device, self.network, self._tethered):
            if namespace:
                namespace.end_programs()

    @property
    def tethered(self) -> Namespace:
        """A host behind the device, which routes for it; the network knows the way back."""
        if not self._tethered:
            self._tethered = self._make_tethered()
        return self._tethered

    def _make_tethered(self) -> Namespace:
        host = self.namespace("tethered")
        self.device.ip(f"link add lan0 type veth peer name eth0 netns {host.name}")
        self.device.sysctl({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"})
        self.device.ip(
            "link set lan0 addrgenmode none up",
            "address add 10.78.0.1/24 dev lan0",
            "address add fd78::1/64 dev lan0 nodad",
        )
        host.ip(
            "link set eth0 addrgenmode none up",
            "address add 10.78.0.2/24 dev eth0",
            "address add fd78::2/64 dev eth0 nodad",
            "route add default via 10.78.0.1",
            "route add ::/0 via fd78::1",
        )
        self.network.ip(
            f"route add 10.78.0.0/24 via {self.link.device_ip}",
            f"route add fd78::/64 via {self.link.device_ip6}",
        )
        return host

    @contextmanager
    def masquerading(self) -> Iterator[None]:
        """The device hides the host behind it, as a phone that tethers does."""
        self.device.run(
            "nft",
            "-f",
            "-",
            text=f"""
                table inet tether {{
                    chain out {{
                        type nat hook postrouting priority srcnat;
                        oifname "{self.link.name}" masquerade
                    }}
                }}
            """,
        )
        try:
            yield
        finally:
            self.device.run("nft", "delete", "table", "inet", "tether")
