"""Which interfaces are cellular, judged from what the kernel says about them.

Evidence, strongest first:

    rtnetlink kind     wwan (drivers/net/wwan/wwan_core.c), rmnet (drivers/net/ethernet/qualcomm/rmnet)
    uevent DEVTYPE     wwan: set by wwan_core, bam-dmux, and by usbnet for drivers with FLAG_WWAN
    driver             one that drives modems only; mhi_net and ipa set no DEVTYPE, so only this tells
    lower device       a session of a cellular one: qmimux, a VLAN of an MBIM modem
    name               ww* is systemd's prefix for DEVTYPE=wwan (systemd.net-naming-scheme(7)), wwan* the kernel's;
                       rmnet* Qualcomm's, ccmni* MediaTek's, ppp* a dial-up modem's

A name proves nothing, for anyone may give it: evidence of that sort alone is `weak`, and ppp* is most often a
DSL line or a VPN. A PPP link with an MTU of 1492 is PPPoE (RFC 2516, section 7), so its name counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Certainty", "Facts", "Verdict", "judge"]


class Certainty(StrEnum):
    """Whether an interface is cellular."""

    YES = "yes"
    WEAK = "weak"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel says about one interface; an empty string or 0 is "nothing"."""

    ifindex: int
    name: str
    kind: str = ""
    """rtnetlink's IFLA_INFO_KIND; hardware drivers mostly have none."""
    devtype: str = ""
    """DEVTYPE of its uevent."""
    driver: str = ""
    """The driver of the device that it hangs below."""
    mtu: int = 0
    below: int = 0
    """The ifindex of the interface that it stands upon (IFLA_LINK or sysfs lower_*) in the same namespace."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `judge` made of the facts about one interface."""

    cellular: Certainty
    evidence: tuple[str, ...] = ()
    """Why it is held to be cellular, strongest first; empty if it is not."""
    note: str = ""
    """What a person who looks for the cellular link should know about it."""
    lower: int = 0
    """The ifindex of the interface that carries this one's packets as well; 0 if there is none."""
    countable: bool = True
    """False if it never carries IP packets of its own, only those of interfaces that stand upon it."""


_KINDS = frozenset({"wwan", "rmnet"})

# Names as in the driver's `.name`: a modem is all that these drive.
_DRIVERS = frozenset(
    {
        "iosm",  # Intel M.2 modems: drivers/net/wwan/iosm
        "mtk_t7xx",  # MediaTek T7xx: drivers/net/wwan/t7xx
        "mhi_wwan_mbim",  # Qualcomm PCIe: drivers/net/wwan/mhi_wwan_mbim.c
        "mhi_net",  # drivers/net/mhi_net.c
        "bam-dmux",  # older Qualcomm SoCs: drivers/net/wwan/qcom_bam_dmux.c
        "ipa",  # newer Qualcomm SoCs: drivers/net/ipa
        "qmi_wwan",  # USB: drivers/net/usb
        "cdc_mbim",
        "huawei_cdc_ncm",
        "sierra_net",
        "hso",
        "qmi_wwan_q",  # Quectel's own qmi_wwan
    }
)

# USB functions by which phones share their link, and by which some modems and pocket routers pose as Ethernet.
_TETHER_DRIVERS = frozenset({"rndis_host", "cdc_ether", "cdc_ncm", "cdc_eem", "ipheth"})

_NAME = re.compile(r"(ww|rmnet|ccmni|ppp\d)")

# Interfaces that can have any name and yet be a modem's, or a stand-in for one. All others (bridge, bond,
# wireguard, …) say by their kind what they are.
_KINDS_WITH_TELLING_NAMES = frozenset({"", "wwan", "rmnet", "ppp", "tun", "veth", "dummy"})

# Sessions of a modem that shares its lower device among several: that one has no traffic of its own.
# "" is qmi_wwan's qmimux and what vendors' drivers make of it; MBIM's sessions are VLANs (cdc_mbim.rst).
_SESSION_KINDS = frozenset({"", "rmnet", "vlan"})

# Their packets are their lower device's as well, unlike a tunnel's, which are other ones.
_KINDS_SHARING_PACKETS = _SESSION_KINDS | {"macvlan", "macvtap", "ipvlan", "ipvtap"}

# drivers/net/ipa/ipa_modem.c drops all that is not ETH_P_MAP, the multiplexed form.
_MUX_ONLY_DRIVERS = frozenset({"ipa"})
_MUX_ONLY_NAME = re.compile(r"rmnet_ipa\d+")

# Quectel's and Fibocom's drivers name a session after its modem: wwan0.1, wwan0_1, rmnet_mhi0.1.
_SESSION_NAME = re.compile(r"(.+)[._]\d+")

_PPPOE_MTU = 1492

_PPP_NOTE = "a modem's dial-up line, a VPN or DSL"
_PPPOE_NOTE = f"an MTU of {_PPPOE_MTU}: PPPoE over DSL or fibre"
_MUX_ONLY_NOTE = "has no packets but those of its sessions"


def judge(interfaces: Iterable[Facts]) -> dict[int, Verdict]:
    """A verdict for each interface of one network namespace, by ifindex."""
    known = {facts.ifindex: facts for facts in interfaces}
    names = {facts.name: facts.ifindex for facts in known.values()}
    verdicts: dict[int, Verdict] = {}

    def settle(ifindex: int, above: frozenset[int]) -> Verdict:
        """The verdict, the lower device's first; `above` guards against a ring of lower devices."""
        if ifindex not in verdicts:
            facts = known[ifindex]
            lower = _lower(facts, known, names)
            carrier = settle(lower, above | {ifindex}) if lower and lower not in above else None
            if carrier is not None and facts.below != lower and carrier.cellular is Certainty.NO:
                carrier = None  # only the name said that it stands upon that one
            verdicts[ifindex] = _verdict(facts, known[lower] if carrier else None, carrier)
        return verdicts[ifindex]

    for ifindex in known:
        settle(ifindex, frozenset({ifindex}))
    return verdicts


def _lower(facts: Facts, known: dict[int, Facts], names: dict[str, int]) -> int:
    """The ifindex of the interface whose packets it shares; 0 if there is none."""
    if facts.kind not in _KINDS_SHARING_PACKETS:
        return 0
    if facts.below in known and facts.below != facts.ifindex:
        return facts.below
    session = _SESSION_NAME.fullmatch(facts.name)
    return names.get(session[1], 0) if session and facts.kind == "" else 0


def _verdict(facts: Facts, lower: Facts | None, carrier: Verdict | None) -> Verdict:
    proof: list[str] = []
    if facts.kind in _KINDS:
        proof.append(f"kind {facts.kind}")
    if facts.devtype == "wwan":
        proof.append("DEVTYPE=wwan")
    if facts.driver in _DRIVERS:
        proof.append(f"driver {facts.driver}")
    hints: list[str] = []
    if lower and carrier and carrier.evidence and facts.kind in _SESSION_KINDS:
        (proof if carrier.cellular is Certainty.YES else hints).append(f"upon {lower.name}")
    is_ppp = facts.name.startswith("ppp") and facts.kind in ("", "ppp")
    is_pppoe = is_ppp and facts.mtu == _PPPOE_MTU
    named = _NAME.match(facts.name) if facts.kind in _KINDS_WITH_TELLING_NAMES and not is_pppoe else None
    if named:
        hints.append("name " + ("ppp*" if named[0].startswith("ppp") else named[0] + "*"))
    certainty = Certainty.YES if proof else Certainty.WEAK if hints else Certainty.NO
    mux_only = facts.driver in _MUX_ONLY_DRIVERS or bool(named and _MUX_ONLY_NAME.fullmatch(facts.name))
    return Verdict(
        cellular=certainty,
        evidence=(*proof, *hints),
        note=_note(facts, certainty, is_pppoe, mux_only),
        lower=lower.ifindex if lower else 0,
        countable=not mux_only,
    )


def _note(facts: Facts, certainty: Certainty, is_pppoe: bool, mux_only: bool) -> str:
    if mux_only:
        return _MUX_ONLY_NOTE
    if certainty is Certainty.NO and is_pppoe:
        return _PPPOE_NOTE
    if certainty is Certainty.WEAK and facts.name.startswith("ppp"):
        return _PPP_NOTE
    if certainty is Certainty.NO and facts.driver in _TETHER_DRIVERS:
        return f"perhaps a tethered phone or a modem ({facts.driver})"
    if certainty is Certainty.NO and facts.devtype == "bluetooth":
        return "perhaps a phone tethered over Bluetooth"
    return ""
