"""A cellular link that is made of network namespaces: for trying things out where there is no modem.

    laptop --usb0-- phone --wwan0-- carrier

All of it is in namespaces of its own, whose names carry this process's pid; the host's network is not touched.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from esimbpf.errors import CannotError, EsimbpfError, NotPermitted
from esimbpf.kernel import netns as namespaces
from esimbpf.text import printable

__all__ = ["CARRIER_ADDRESS", "LINK", "PHONE_ADDRESS", "EmulatedLink", "Names"]

LINK: Final = "wwan0"
PHONE_ADDRESS: Final = "100.64.0.2"
CARRIER_ADDRESS: Final = "100.64.0.1"
_LAPTOP_NET: Final = "192.168.42"
_PREFIX: Final = "esimbpf-demo-"


@dataclass(frozen=True, slots=True)
class Names:
    """The namespaces of one emulation."""

    phone: str
    carrier: str
    laptop: str


class EmulatedLink:
    """Within `with`, the namespaces `phone`, `carrier` and `laptop` exist; nothing is left afterwards.

    Leftovers of an emulation whose process was killed are removed at the next start. Raises NotPermitted without
    root, EsimbpfError if the kernel refuses a part.
    """

    def __init__(self) -> None:
        base = f"{_PREFIX}{os.getpid()}"
        self.names = Names(f"{base}-phone", f"{base}-carrier", f"{base}-laptop")

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NotPermitted("making network namespaces needs root", "run: sudo esimbpf demo")
        _remove_stale()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _make(self) -> None:
        phone, carrier, laptop = self.names.phone, self.names.carrier, self.names.laptop
        for name in (phone, carrier, laptop):
            _ip("netns", "add", name)
        _ip("-n", phone, "link", "add", LINK, "type", "veth", "peer", "name", "gateway0", "netns", carrier)
        _ip("-n", phone, "link", "add", "usb0", "type", "veth", "peer", "name", "eth0", "netns", laptop)
        for name, link, addresses in (
            (phone, LINK, (f"{PHONE_ADDRESS}/30", "2001:db8:5::2/64")),
            (phone, "usb0", (f"{_LAPTOP_NET}.1/24",)),
            (carrier, "gateway0", (f"{CARRIER_ADDRESS}/30", "2001:db8:5::1/64")),
            (laptop, "eth0", (f"{_LAPTOP_NET}.2/24",)),
        ):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", link, "up")
            for address in addresses:
                _ip("-n", name, "address", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
        _ip("-n", phone, "route", "add", "default", "via", CARRIER_ADDRESS)
        _ip("-n", laptop, "route", "add", "default", "via", f"{_LAPTOP_NET}.1")
        _ip("-n", carrier, "route", "add", f"{_LAPTOP_NET}.0/24", "via", PHONE_ADDRESS)
        _ip("netns", "exec", phone, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def _remove(self) -> None:
        for name in (self.names.phone, self.names.carrier, self.names.laptop):
            _remove_namespace(name)


def _ip(*words: str) -> None:
    """Run iproute2's ip; EsimbpfError with what it says if it fails."""
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotError(
            "the emulated link is made with `ip`, which is not installed",
            "install iproute2 (Debian, Ubuntu: apt install iproute2)",
        ) from error
    if done.returncode:
        raise EsimbpfError(
            f"the emulated link cannot be made: {printable(done.stderr.strip())}",
            "it takes network namespaces and veth (CONFIG_NET_NS, CONFIG_VETH); esimbpf doctor says more",
        )


def _remove_stale() -> None:
    """What demos have left whose process is no more."""
    for name in namespaces.names():
        if name.startswith(_PREFIX):
            pid = name.removeprefix(_PREFIX).split("-")[0]
            if pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
                _remove_namespace(name)


def _remove_namespace(name: str) -> None:
    if name in namespaces.names():
        _ip("netns", "delete", name)
