"""What the list of links makes of the kernel's answers: rtnetlink's messages and sysfs, as modems leave them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from esimbpf.cellular import Certainty
from esimbpf.errors import CannotError
from esimbpf.kernel import links, netns
from esimbpf.kernel.links import FoundLink, cellular_links, list_links
from esimbpf.model import Link

ETHERNET, RAWIP, NONE, LOOPBACK = 1, 519, 65534, 772
UP = 0x1


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute (linux/rtnetlink.h: struct rtattr), padded to four bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


class Machine:
    """A kernel with these interfaces and no others, and its sysfs below a directory."""

    def __init__(self, root: Path) -> None:
        self.sysfs_certain = True
        self.devices = root / "devices"
        self.net = root / "class" / "net"
        self.net.mkdir(parents=True)
        self.link_bodies: list[bytes] = []
        self.address_bodies: list[bytes] = []

    def link(
        self,
        ifindex: int,
        name: bytes,
        kind: bytes = b"",
        device_type: int = ETHERNET,
        flags: int = UP,
        operstate: int = 6,
        address: bytes = b"",
        extra: bytes = b"",
        sysfs: bool = True,
    ) -> Path:
        """Add an interface; its directory in sysfs."""
        body = struct.pack("=BxHiII", 0, device_type, ifindex, flags, 0)
        body += attribute(3, name + b"\0") + attribute(4, struct.pack("=I", 1500)) + attribute(16, bytes([operstate]))
        body += attribute(1, address)
        if kind:
            body += attribute(18 | 0x8000, attribute(1, kind + b"\0"))
        self.link_bodies.append(body + extra)
        directory = self.net / name.decode("utf-8", "surrogateescape")
        if sysfs:
            directory.mkdir()
            (directory / "uevent").write_bytes(b"INTERFACE=%b\nIFINDEX=%d\n" % (name, ifindex))
            (directory / "ifindex").write_text(f"{ifindex}\n")
            (directory / "address").write_text(address.hex(":") + "\n")
            (directory / "type").write_text(f"{device_type}\n")
        return directory

    def hang_below(self, interface: Path, *path: str, driver: str = "", driver_at: str = "") -> None:
        """Hang an interface below a device, of which the directory `driver_at` has the driver."""
        device = self.devices.joinpath(*path)
        device.mkdir(parents=True, exist_ok=True)
        (interface / "device").symlink_to(device)
        if driver:
            at = device
            while driver_at and at.name != driver_at:
                at = at.parent
            (at / "driver").symlink_to(self.devices.parent / "bus" / "drivers" / driver)

    def address(self, ifindex: int, address: str, flags: int = 0, scope: int = 0, peer: str = "") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        given = attribute(1, socket.inet_pton(family, peer) if peer else packed)
        if family == socket.AF_INET:
            given += attribute(2, packed)
        self.address_bodies.append(struct.pack("=BBBBI", family, 32, flags, scope, ifindex) + given)


def datagram(kind: int, bodies: list[bytes]) -> bytes:
    """Messages of one type (struct nlmsghdr) as the kernel sends them."""
    return b"".join(struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body for body in bodies)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)

    class Answers:
        """pyroute2's socket, to which this kernel has answered."""

        def get_links(self, ext_mask: int) -> Any:
            assert ext_mask
            return MarshalRtnl().parse(datagram(16, made.link_bodies))

        def get_addr(self) -> Any:
            return MarshalRtnl().parse(datagram(20, made.address_bodies))

    @contextmanager
    def answers() -> Iterator[Answers]:
        yield Answers()

    @contextmanager
    def sysfs() -> Iterator[tuple[str, bool]]:
        yield str(made.net), made.sysfs_certain

    monkeypatch.setattr(links, "rtnetlink", answers)
    monkeypatch.setattr(netns, "sysfs_net", sysfs)
    return made


def only_link() -> FoundLink:
    (found,) = list_links()
    return found


def set_devtype(interface: Path, devtype: str) -> None:
    with (interface / "uevent").open("a") as file:
        file.write(f"DEVTYPE={devtype}\n")


def test_an_mtk_t7xx_modem_shows_its_driver_three_devices_up(machine: Machine) -> None:
    wwan0 = machine.link(3, b"wwan0", b"wwan", NONE)
    set_devtype(wwan0, "wwan")
    machine.hang_below(
        wwan0, "pci0000:00", "0000:72:00.0", "wwan", "wwan0", driver="mtk_t7xx", driver_at="0000:72:00.0"
    )
    found = only_link()
    assert (found.driver, found.certainty, found.link.kind) == ("mtk_t7xx", Certainty.YES, "wwan")


def test_a_usb_modem_shows_the_driver_of_its_usb_interface(machine: Machine) -> None:
    wwp = machine.link(5, b"wwp0s20f0u2i4", device_type=NONE, operstate=0)
    set_devtype(wwp, "wwan")
    machine.hang_below(wwp, "pci0000:00", "usb1", "1-2", "1-2:1.4", driver="qmi_wwan")
    found = only_link()
    assert found.evidence == ("DEVTYPE=wwan", "driver qmi_wwan", "name ww*")
    assert (found.link.kind, found.state) == ("wwan", "up")


def test_a_driver_far_above_is_not_the_interfaces(machine: Machine) -> None:
    eth0 = machine.link(2, b"eth0")
    machine.hang_below(eth0, "bridge0", "a", "b", "c", "d", driver="qmi_wwan", driver_at="bridge0")
    found = only_link()
    assert (found.driver, found.certainty) == ("", Certainty.NO)


def test_a_qmimux_is_found_upon_its_modem_though_netlink_does_not_say_so(machine: Machine) -> None:
    modem = machine.link(3, b"wwan0", device_type=NONE)
    machine.hang_below(modem, "usb1", "1-2:1.4", driver="qmi_wwan")
    for ifindex, name in ((6, b"qmimux0"), (7, b"qmimux1")):
        (machine.link(ifindex, name, device_type=NONE) / "lower_wwan0").symlink_to(modem)
    found = {one.link.name: one for one in list_links()}
    assert found["qmimux0"].lower == "wwan0"
    assert found["wwan0"].uppers == ("qmimux0", "qmimux1")
    assert [one.link.name for one in cellular_links(tuple(found.values()))] == ["qmimux0", "qmimux1"]


def test_a_vendors_session_that_hangs_below_its_modems_interface_is_found_upon_it(machine: Machine) -> None:
    modem = machine.link(3, b"usb0")
    machine.hang_below(modem, "usb1", "1-2:1.4", driver="qmi_wwan_q")
    session = machine.link(8, b"apn2")
    (session / "device").symlink_to(modem)
    found = {one.link.name: one for one in list_links()}
    assert (found["apn2"].lower, found["apn2"].certainty) == ("usb0", Certainty.YES)


def test_rmnet_is_found_upon_its_ipa_by_netlink(machine: Machine) -> None:
    ipa = machine.link(3, b"rmnet_ipa0", device_type=RAWIP)
    machine.hang_below(ipa, "soc", "1e40000.ipa", driver="ipa")
    machine.link(4, b"qmapmux0.0", b"rmnet", RAWIP, extra=attribute(5, struct.pack("=I", 3)))
    found = {one.link.name: one for one in list_links()}
    assert found["qmapmux0.0"].lower == "rmnet_ipa0"
    assert [one.link.name for one in cellular_links(tuple(found.values()))] == ["qmapmux0.0"]


def test_an_index_of_another_namespace_is_no_lower_device(machine: Machine) -> None:
    machine.link(3, b"wwan0")
    elsewhere = attribute(5, struct.pack("=I", 3)) + attribute(37, struct.pack("=I", 0))
    machine.link(4, b"eth0", b"vlan", extra=elsewhere)
    assert {one.link.name: one.lower for one in list_links()} == {"wwan0": "", "eth0": ""}


def test_a_sysfs_that_shows_another_interface_of_that_name_is_not_believed(machine: Machine) -> None:
    wwan0 = machine.link(3, b"eth1", address=b"\2\0\0\0\0\1")
    set_devtype(wwan0, "wwan")
    assert only_link().certainty is Certainty.YES
    (wwan0 / "ifindex").unlink()
    (wwan0 / "uevent").write_text("INTERFACE=eth1\nIFINDEX=4\nDEVTYPE=wwan\n")
    assert only_link().certainty is Certainty.NO


def test_the_sysfs_of_perhaps_another_namespace_must_agree_in_address_and_type_too(machine: Machine) -> None:
    eth1 = machine.link(3, b"eth1", address=b"\2\0\0\0\0\1")
    set_devtype(eth1, "wwan")
    machine.sysfs_certain = False
    assert only_link().certainty is Certainty.YES
    (eth1 / "address").write_text("02:00:00:00:00:02\n")
    assert only_link().certainty is Certainty.NO
    machine.sysfs_certain = True
    assert only_link().certainty is Certainty.YES


def test_links_are_listed_without_any_sysfs(machine: Machine) -> None:
    machine.link(3, b"wwan0", b"wwan", RAWIP, sysfs=False)
    found = only_link()
    assert (found.certainty, found.driver, found.link.kind) == (Certainty.YES, "", "wwan")


@pytest.mark.parametrize(
    ("kind", "devtype", "device_type", "shown"),
    [
        (b"veth", "", ETHERNET, "veth"),
        (b"tun", "", NONE, "tun"),
        (b"", "wlan", ETHERNET, "wlan"),
        (b"", "", ETHERNET, "ethernet"),
        (b"", "", RAWIP, "rawip"),
        (b"", "", NONE, "none"),
        (b"", "", LOOPBACK, "loopback"),
        (b"", "", 512, "ppp"),
        (b"", "", 280, "type 280"),
    ],
)
def test_the_kind_is_rtnetlinks_else_the_devices(
    machine: Machine, kind: bytes, devtype: str, device_type: int, shown: str
) -> None:
    interface = machine.link(2, b"x", kind, device_type)
    if devtype:
        set_devtype(interface, devtype)
    assert only_link().link.kind == shown


def test_addresses_are_told_own_ones_first_and_deprecated_ones_last(machine: Machine) -> None:
    machine.link(3, b"ppp0", b"ppp", 512)
    machine.address(3, "2001:db8::dead", flags=0x20)
    machine.address(3, "fe80::1", scope=253)
    machine.address(3, "2001:db8::1")
    machine.address(3, "10.64.7.2", peer="10.64.7.1")
    machine.address(4, "192.0.2.1")
    assert only_link().link == Link(
        "ppp0", 3, "ppp", ("10.64.7.2", "2001:db8::1", "fe80::1", "2001:db8::dead"), up=True
    )


def test_state_mtu_and_alternative_names_are_told(machine: Machine) -> None:
    names = attribute(52 | 0x8000, attribute(53, b"wwp0s20\0") + attribute(53, b"lte\0"))
    machine.link(3, b"wwan0", flags=0, operstate=2, extra=names)
    found = only_link()
    assert (found.link.up, found.operstate, found.state, found.mtu) == (False, "down", "down", 1500)
    assert found.altnames == ("wwp0s20", "lte")


def test_an_operational_state_that_a_later_kernel_may_know_is_unknown(machine: Machine) -> None:
    machine.link(3, b"wwan0", operstate=77)
    assert only_link().operstate == "unknown"


def test_names_with_odd_bytes_are_listed_safe_to_print(machine: Machine) -> None:
    interface = machine.link(3, b"ww\x1b[2J\xff[b]")
    set_devtype(interface, "wwan")
    found = only_link()
    assert found.link.name == r"ww\x1b[2J\xff[b]"
    assert found.certainty is Certainty.YES


def test_what_is_no_ip_address_is_passed_over(machine: Machine) -> None:
    machine.link(3, b"wwan0", b"wwan")
    machine.address_bodies += [
        struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 3),
        struct.pack("=BBBBI", 77, 32, 0, 0, 3) + attribute(1, b"\1\2\3\4"),
    ]
    assert only_link().link.addresses == ()


def test_where_netlink_is_forbidden_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(links, "rtnetlink", refused)
    with pytest.raises(CannotError, match="cannot list the network interfaces: Address family"):
        list_links()
