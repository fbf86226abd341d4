"""The saver mode: only what is named may use the link.

It is a quota of nothing for everybody, with some apps spared, and some services, which are known by their ports. A
service is open to every app: whoever is determined can use its ports for something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Any, Final, Literal

from esimbpf.fields import checked_text
from esimbpf.quota import (
    NEVER,
    Action,
    Everybody,
    Kept,
    Quota,
    QuotaPer,
    Standing,
    Then,
    When,
    checked_link,
    choice,
)
from esimbpf.spans import Span

__all__ = ["NAME", "PORTS", "Port", "Saver", "Service", "parse_saver"]

NAME: Final = "saver"
"""Of the quota that it is; no other may have it."""


class Service(StrEnum):
    """What may be used by all apps if it is named."""

    DNS = "dns"
    DHCP = "dhcp"
    NTP = "ntp"


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """Packets of a protocol with a port at one of the two ends."""

    protocol: Literal["tcp", "udp"]
    end: Literal["local", "remote"]
    """Remote is the destination of what is sent, and the source of what is received."""
    number: int


# DNS: RFC 1035 and, over TLS and QUIC, RFC 7858 and 9250. DHCP: RFC 2131, section 4.1, and RFC 8415, section 7.2, which
# says at which ports clients and servers listen, and not from which they send: so what goes to the server's and what
# comes to the client's is let through. NTP: RFC 5905.
PORTS: Final[Mapping[Service, tuple[Port, ...]]] = {
    Service.DNS: (
        Port("udp", "remote", 53),
        Port("tcp", "remote", 53),
        Port("tcp", "remote", 853),
        Port("udp", "remote", 853),
    ),
    Service.DHCP: (
        Port("udp", "remote", 67),
        Port("udp", "local", 68),
        Port("udp", "remote", 547),
        Port("udp", "local", 546),
    ),
    Service.NTP: (Port("udp", "remote", 123),),
}


@dataclass(frozen=True, slots=True)
class Saver:
    """What may use the link."""

    since: datetime
    allow: tuple[str, ...] = ()
    """Apps."""
    services: tuple[Service, ...] = ()
    link: str = ""
    """Empty for every link."""
    when: When | None = None
    """None for everywhere."""

    @property
    def quota(self) -> Quota:
        """The quota that it is, beside the ports that are open."""
        return Quota(
            NAME,
            Everybody(self.allow),
            "0B",
            QuotaPer.ONCE,
            Action(Then.BLOCK),
            link=self.link,
            when=self.when,
            warn=(),
        )

    @property
    def ports(self) -> tuple[Port, ...]:
        """A packet that any of these fits may pass."""
        return tuple(port for service in self.services for port in PORTS[service])

    def standing(self, now: datetime, zone: tzinfo) -> Standing:
        """How the quota that it is stands: used up from the beginning."""
        return Standing(Kept(self.quota, self.since), now, zone, Span(self.since, NEVER))

    def to_json(self) -> dict[str, Any]:
        """As it is kept; version 1."""
        return {
            "v": 1,
            "since": self.since.astimezone(UTC).isoformat(),
            "allow": list(self.allow),
            "services": [str(service) for service in self.services],
            "link": self.link,
            "when": self.when and str(self.when),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Saver:
        """What `to_json` has made."""
        return cls(
            since=datetime.fromisoformat(kept["since"]),
            allow=tuple(kept["allow"]),
            services=tuple(map(Service, kept["services"])),
            link=kept["link"],
            when=kept["when"] and When(kept["when"]),
        )


def parse_saver(
    since: datetime, allow: Sequence[str], services: Sequence[Service], link: str | None, when: str | None
) -> Saver:
    """The saver mode as a person asks for it; UsageError names the field, what was given and what is allowed."""
    return Saver(
        since,
        tuple(dict.fromkeys(checked_text("allow", app, 255) for app in allow)),
        tuple(services),
        "" if link is None else checked_link(link),
        None if when is None else choice(When, "when", when),
    )
