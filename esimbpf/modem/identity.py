"""Whose traffic a link carries: the SIM profile, the network and the radio technology behind each interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from esimbpf.modem.model import Bearer, Modem, Operator, Registration
from esimbpf.modem.numbering import masked

__all__ = ["NO_MODEM", "UNKNOWN", "Identity", "LinkStatus", "identity_of", "in_words", "link_statuses", "runs_ppp"]


@dataclass(frozen=True, slots=True)
class Identity:
    """On whose account, and where, a link's bytes are moved. None stands for what is not known.

    It changes at a switch of profiles, when roaming begins and ends, when another network or another technology serves.
    """

    profile: str | None = None
    """The SIM profile's ICCID, in its normal form."""
    esim: bool | None = None
    """Whether that is an eSIM's profile."""
    operator: Operator | None = None
    """The network that serves, at home or abroad."""
    roaming: bool | None = None
    """Whether the network says that it is not at home; None as long as the modem is not registered."""
    country: str | None = None
    """Where the network that serves is, by its MCC: ISO 3166-1 alpha-2."""
    technology: str | None = None
    """The strongest access technology in use, by ModemManager's name: `5gnr`, `lte`, `umts`, …"""

    @property
    def visited(self) -> str | None:
        """The country that is visited; None at home, and where it is not known."""
        return self.country if self.roaming else None


UNKNOWN: Final = Identity()


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """What ModemManager has of one link. A change of any field ends a segment of its traffic."""

    identity: Identity = UNKNOWN
    registration: Registration = Registration.UNKNOWN
    modem: str = ""
    """The modem's D-Bus path; empty if no modem is known to own the link."""
    bearer: str = ""
    """The D-Bus path of the bearer that runs over the link; empty if none does."""
    connected: bool | None = None
    """Whether a bearer is connected over the link; None if that is not known."""


NO_MODEM: Final = LinkStatus()
"""Of a link that no modem is known to own."""


def link_statuses(modems: Iterable[Modem], ppp_of: Callable[[str], str | None]) -> dict[str, LinkStatus]:
    """Of all interfaces that modems own, by name.

    A bearer's interface is its modem's, of a multiplexed one the upper interface, which carries the packets. A modem's
    other network ports are its own too, multiplexed ones' lower device included. `ppp_of` finds the PPP interface that
    runs over a TTY, or None: as long as it finds none, no link is known to be that modem's.
    """
    found: dict[str, LinkStatus] = {}
    for modem in modems:
        identity = identity_of(modem)
        carried = {name: bearer for bearer in modem.bearers if (name := _interface(modem, bearer, ppp_of))}
        for name in (*(port.name for port in modem.ports if port.kind == "net"), *carried):
            bearer = carried.get(name)
            found[name] = LinkStatus(
                identity=identity,
                registration=modem.registration,
                modem=modem.path,
                bearer=bearer.path if bearer else "",
                connected=bearer.connected if bearer else False,
            )
    return found


def identity_of(modem: Modem) -> Identity:
    """Of what moves through a modem now."""
    registered = modem.registration.roaming is not None
    operator = modem.operator if registered else None
    return Identity(
        profile=modem.sim.iccid if modem.sim else None,
        esim=modem.sim.esim if modem.sim else None,
        operator=operator,
        roaming=modem.registration.roaming,
        country=operator.plmn.country if operator and operator.plmn else None,
        technology=modem.technology if registered else None,
    )


def in_words(identity: Identity) -> str:
    """For a log: network and technology, home or abroad, and the profile, masked."""
    if identity == UNKNOWN:
        return "SIM profile and network are not known"
    where = {None: "not registered", False: "at home", True: f"roaming in {identity.country or 'an unknown country'}"}
    profile = f"SIM profile {masked(identity.profile)}" if identity.profile else "SIM profile unknown"
    words = (profile, where[identity.roaming], str(identity.operator or ""), identity.technology or "")
    return ", ".join(filter(None, words))


def runs_ppp(modem: Modem, bearer: Bearer) -> bool:
    """Whether a bearer's interface is a TTY, over which PPP runs, and no network interface."""
    kinds = {port.name: port.kind for port in modem.ports}
    return bool(bearer.interface) and kinds.get(bearer.interface, "net") != "net"


def _interface(modem: Modem, bearer: Bearer, ppp_of: Callable[[str], str | None]) -> str | None:
    """The network interface of a connected bearer."""
    if not bearer.interface:
        return None
    return ppp_of(bearer.interface) if runs_ppp(modem, bearer) else bearer.interface
