"""Which interfaces are held to be cellular, on machines as they are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.cellular import Certainty, Facts, Verdict, judge

YES, WEAK, NO = Certainty.YES, Certainty.WEAK, Certainty.NO


def judged(*facts: Facts) -> dict[str, Verdict]:
    verdicts = judge(facts)
    return {one.name: verdicts[one.ifindex] for one in facts}


def the_verdict(name: str, **facts: str | int) -> Verdict:
    return judged(Facts(2, name, **facts))[name]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "facts", "evidence"),
    [
        ("wwan0", {"kind": "wwan", "devtype": "wwan", "driver": "mtk_t7xx"}, "kind wwan"),
        ("wwan0", {"kind": "wwan", "devtype": "wwan", "driver": "iosm"}, "kind wwan"),
        ("wwp0s20f0u2i4", {"devtype": "wwan", "driver": "qmi_wwan"}, "DEVTYPE=wwan"),
        ("wwan0", {"devtype": "wwan", "driver": "bam-dmux"}, "DEVTYPE=wwan"),
        ("wwx0c5b8f279a64", {"devtype": "wwan", "driver": "cdc_ether"}, "DEVTYPE=wwan"),
        ("usb0", {"driver": "qmi_wwan"}, "driver qmi_wwan"),
        ("mobile", {"driver": "cdc_mbim"}, "driver cdc_mbim"),
        ("mhi_hwip0", {"driver": "mhi_net"}, "driver mhi_net"),
        ("mhi_swip0", {"driver": "mhi_net"}, "driver mhi_net"),
        ("wwan0", {"driver": "mhi_wwan_mbim"}, "driver mhi_wwan_mbim"),
        ("qmapmux0.0", {"kind": "rmnet"}, "kind rmnet"),
    ],
)
def test_a_modem_is_known_by_its_kind_devtype_or_driver(name: str, facts: dict[str, str], evidence: str) -> None:
    verdict = the_verdict(name, **facts)
    assert verdict.cellular is YES
    assert verdict.evidence[0] == evidence


def test_evidence_is_listed_strongest_first() -> None:
    verdict = the_verdict("wwan0", kind="wwan", devtype="wwan", driver="mtk_t7xx")
    assert verdict.evidence == (
        "kind wwan",
        "DEVTYPE=wwan",
        "driver mtk_t7xx",
        "name ww*",
    )


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("wwan0", "name ww*"),
        ("wwp0s20u4", "name ww*"),
        ("rmnet_data3", "name rmnet*"),
        ("rmnet0", "name rmnet*"),
        ("ccmni0", "name ccmni*"),
        ("ppp0", "name ppp*"),
    ],
)
@pytest.mark.parametrize("kind", ["", "tun", "veth"])
def test_a_name_alone_is_weak_evidence(name: str, kind: str, evidence: str) -> None:
    verdict = the_verdict(name, kind=kind)
    assert (verdict.cellular, verdict.evidence) == (WEAK, (evidence,))


@pytest.mark.parametrize("kind", ["bridge", "bond", "wireguard", "vxlan", "vrf", "macvlan", "gre"])
def test_a_name_proves_nothing_of_an_interface_whose_kind_says_what_it_is(kind: str) -> None:
    assert the_verdict("wwan0", kind=kind) == Verdict(NO)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("lo", {}),
        ("eth0", {"driver": "e1000e"}),
        ("enp0s31f6", {"driver": "e1000e"}),
        ("wlan0", {"devtype": "wlan", "driver": "iwlwifi"}),
        ("wlp2s0", {"devtype": "wlan", "driver": "ath11k_pci"}),
        ("docker0", {"kind": "bridge"}),
        ("veth1a2b3c4", {"kind": "veth"}),
        ("wg0", {"kind": "wireguard"}),
        ("tun0", {"kind": "tun"}),
        ("pppoe-wan", {"kind": "ppp"}),
        ("power0", {}),
    ],
)
def test_other_interfaces_are_not_cellular(name: str, facts: dict[str, str]) -> None:
    assert the_verdict(name, **facts) == Verdict(NO)


def test_a_ppp_link_says_that_it_may_be_something_else() -> None:
    assert the_verdict("ppp0", kind="ppp", mtu=1500).note == "a modem's dial-up line, a VPN or DSL"


def test_a_ppp_link_with_the_mtu_of_pppoe_is_not_cellular() -> None:
    verdict = the_verdict("ppp0", kind="ppp", mtu=1492)
    assert verdict.cellular is NO
    assert "PPPoE" in verdict.note


def test_the_mtu_of_pppoe_means_nothing_on_a_modem() -> None:
    assert the_verdict("wwan0", devtype="wwan", mtu=1492).cellular is YES
    assert the_verdict("ppp0", kind="tun", mtu=1492).cellular is WEAK


@pytest.mark.parametrize("driver", ["rndis_host", "cdc_ether", "cdc_ncm", "ipheth"])
def test_a_usb_tether_is_no_cellular_link_but_mentioned(driver: str) -> None:
    verdict = the_verdict("usb0", driver=driver)
    assert (verdict.cellular, verdict.evidence) == (NO, ())
    assert driver in verdict.note


def test_a_bluetooth_tether_is_mentioned() -> None:
    verdict = the_verdict("bnep0", devtype="bluetooth")
    assert verdict.cellular is NO
    assert "Bluetooth" in verdict.note


def test_sessions_of_a_phone_stand_upon_its_ipa() -> None:
    verdicts = judged(
        Facts(3, "rmnet_ipa0", driver="ipa"),
        Facts(4, "rmnet_data0", kind="rmnet", below=3),
        Facts(5, "rmnet_data1", kind="rmnet", below=3),
    )
    assert verdicts["rmnet_data0"].lower == verdicts["rmnet_data1"].lower == 3
    assert verdicts["rmnet_data1"].evidence == (
        "kind rmnet",
        "upon rmnet_ipa0",
        "name rmnet*",
    )


@pytest.mark.parametrize("facts", [{"driver": "ipa"}, {}])
def test_the_ipa_device_carries_no_packets_of_its_own(facts: dict[str, str]) -> None:
    verdict = the_verdict("rmnet_ipa0", **facts)
    assert verdict.cellular is not NO
    assert not verdict.countable
    assert verdict.note == "has no packets but those of its sessions"


def test_a_qmimux_session_inherits_the_evidence_of_its_modem() -> None:
    verdicts = judged(
        Facts(3, "wwan0", devtype="wwan", driver="qmi_wwan"),
        Facts(7, "qmimux0", below=3),
    )
    assert verdicts["qmimux0"] == Verdict(YES, ("upon wwan0",), lower=3)


def test_a_vlan_session_inherits_the_evidence_of_its_mbim_modem() -> None:
    verdicts = judged(
        Facts(3, "wwp0s20u4i3", devtype="wwan", driver="cdc_mbim"),
        Facts(4, "internet", kind="vlan", below=3),
    )
    assert verdicts["internet"].evidence == ("upon wwp0s20u4i3",)
    assert verdicts["internet"].lower == 3


def test_what_stands_upon_a_weakly_evident_link_is_weakly_evident() -> None:
    verdicts = judged(Facts(3, "wwan0"), Facts(4, "wwan0.7", kind="vlan", below=3))
    assert verdicts["wwan0.7"].cellular is WEAK


def test_a_vlan_of_an_ethernet_is_not_cellular() -> None:
    verdicts = judged(Facts(3, "eth0", driver="r8169"), Facts(4, "eth0.7", kind="vlan", below=3))
    assert verdicts["eth0.7"] == Verdict(NO, lower=3)


@pytest.mark.parametrize("kind", ["macvlan", "ipvlan"])
def test_a_macvlan_shares_packets_but_the_modem_below_it_is_the_cellular_link(kind: str) -> None:
    verdicts = judged(Facts(3, "wwan0", devtype="wwan"), Facts(4, "guest", kind=kind, below=3))
    assert verdicts["guest"] == Verdict(NO, lower=3)


@pytest.mark.parametrize("kind", ["vxlan", "gre", "wireguard", "ipip", "veth"])
def test_a_tunnel_over_a_cellular_link_is_not_cellular(kind: str) -> None:
    verdicts = judged(Facts(3, "wwan0", devtype="wwan"), Facts(4, "office", kind=kind, below=3))
    assert verdicts["office"] == Verdict(NO)


@pytest.mark.parametrize("session", ["rmnet_mhi0.1", "rmnet_mhi0_1"])
def test_a_vendors_session_is_known_by_the_name_of_its_modem(session: str) -> None:
    verdicts = judged(Facts(3, "rmnet_mhi0", driver="mhi_net"), Facts(4, session))
    assert (verdicts[session].cellular, verdicts[session].lower) == (YES, 3)


def test_a_name_like_a_sessions_means_nothing_upon_a_link_that_is_not_cellular() -> None:
    assert judged(Facts(3, "eth0"), Facts(4, "eth0.1"))["eth0.1"] == Verdict(NO)


def test_wwan_core_interfaces_of_one_modem_stand_upon_nothing() -> None:
    verdicts = judged(
        *(Facts(ifindex, f"wwan{ifindex}", kind="wwan", devtype="wwan", below=ifindex) for ifindex in (3, 4, 5))
    )
    assert {verdict.lower for verdict in verdicts.values()} == {0}


FACTS = st.builds(
    Facts,
    ifindex=st.integers(1, 6),
    name=st.sampled_from(["wwan0", "wwan0.1", "wwan0_1", "rmnet_ipa0", "rmnet_data0", "ppp0", "eth0", "eth0.1"]),
    kind=st.sampled_from(["", "wwan", "rmnet", "vlan", "macvlan", "ppp", "tun", "bridge"]),
    devtype=st.sampled_from(["", "wwan", "wlan", "bluetooth"]),
    driver=st.sampled_from(["", "ipa", "qmi_wwan", "cdc_ether"]),
    mtu=st.sampled_from([0, 1492, 1500]),
    below=st.integers(0, 7),
)


@given(st.lists(FACTS, unique_by=lambda facts: facts.ifindex))
def test_any_facts_even_rings_of_lower_devices_get_a_verdict_with_its_reasons(facts: list[Facts]) -> None:
    verdicts = judge(facts)
    assert verdicts.keys() == {one.ifindex for one in facts}
    for ifindex, verdict in verdicts.items():
        assert (verdict.cellular is NO) == (not verdict.evidence)
        assert verdict.lower in {0} | verdicts.keys() - {ifindex}
