"""Which links are counted: named ones, or those found; and where a link is after a change."""

from __future__ import annotations

import pytest

from esimbpf.cellular import Certainty
from esimbpf.errors import NoSuchLink, UsageError
from esimbpf.kernel.links import FoundLink, cellular_links, choose, follow
from esimbpf.model import Link


def found_link(
    name: str,
    certainty: Certainty = Certainty.NO,
    ifindex: int = 2,
    kind: str = "ethernet",
    up: bool = True,
    device_type: int = 1,
    operstate: str = "up",
    altnames: tuple[str, ...] = (),
    lower: str = "",
    note: str = "",
    countable: bool = True,
) -> FoundLink:
    return FoundLink(
        Link(name, ifindex, kind, up=up),
        device_type,
        certainty,
        ("evidence",) if certainty is not Certainty.NO else (),
        note=note,
        operstate=operstate,
        altnames=altnames,
        lower=lower,
        countable=countable,
    )


LO = found_link("lo", ifindex=1, kind="loopback", device_type=772)
ETH0 = found_link("eth0")
WWAN0 = found_link("wwan0", Certainty.YES, 3, "wwan", altnames=("wwp0s20f0u2i4",))
PPP0 = found_link("ppp0", Certainty.WEAK, 4, "ppp")
IPA = found_link("rmnet_ipa0", Certainty.YES, 5, "rawip", countable=False)
DATA0 = found_link("rmnet_data0", Certainty.YES, 6, "rmnet", lower="rmnet_ipa0")
DATA1 = found_link("rmnet_data1", Certainty.YES, 7, "rmnet", lower="rmnet_ipa0")


def names(links: tuple[FoundLink, ...]) -> list[str]:
    return [link.link.name for link in links]


def test_without_names_every_cellular_link_is_chosen() -> None:
    other = found_link("wwan1", Certainty.YES, 9)
    assert names(choose([], [LO, ETH0, WWAN0, other])) == ["wwan0", "wwan1"]


def test_a_cellular_link_that_is_down_is_chosen_all_the_same() -> None:
    (chosen,) = choose([], [LO, found_link("wwan0", Certainty.YES, up=False)])
    assert not chosen.link.up


def test_a_weakly_evident_link_is_chosen_only_where_no_sure_one_is() -> None:
    assert names(cellular_links([ETH0, PPP0])) == ["ppp0"]
    assert names(cellular_links([ETH0, PPP0, WWAN0])) == ["wwan0"]


def test_sessions_are_chosen_and_not_the_device_that_carries_them() -> None:
    assert names(cellular_links([IPA, DATA0, DATA1])) == ["rmnet_data0", "rmnet_data1"]
    modem = found_link("wwan0", Certainty.YES, 3)
    session = found_link("qmimux0", Certainty.YES, 4, lower="wwan0")
    assert names(cellular_links([modem, session])) == ["qmimux0"]


def test_only_the_topmost_of_a_stack_is_chosen() -> None:
    modem = found_link("wwan0", Certainty.YES, 3)
    session = found_link("qmimux0", Certainty.YES, 4, lower="wwan0")
    vlan = found_link("qmimux0.5", Certainty.YES, 5, lower="qmimux0")
    assert names(cellular_links([modem, session, vlan])) == ["qmimux0.5"]


def test_a_modem_under_a_guests_macvlan_is_chosen_itself() -> None:
    assert names(cellular_links([WWAN0, found_link("guest", lower="wwan0")])) == ["wwan0"]


def test_of_more_links_than_can_be_watched_those_that_are_up_are_chosen() -> None:
    phone = [found_link(f"rmnet_data{n}", Certainty.YES, n + 1, up=n in (0, 7, 9)) for n in range(11)]
    assert names(cellular_links(phone)) == ["rmnet_data0", "rmnet_data7", "rmnet_data9"]
    assert len(cellular_links(phone[:8])) == 8


def test_with_no_cellular_link_the_error_names_the_candidates_likeliest_first() -> None:
    tether = found_link("usb0", ifindex=8, note="perhaps a tethered phone")
    asleep = found_link("eth1", ifindex=9, up=False)
    with pytest.raises(NoSuchLink) as refusal:
        choose([], [LO, asleep, ETH0, tether])
    assert refusal.value.exit_status == 3
    assert refusal.value.message == "no cellular link found"
    assert refusal.value.hint == (
        "interfaces here: usb0 (ethernet, up), eth0 (ethernet, up), eth1 (ethernet, down); "
        "name one of them; or try: esimbpf demo"
    )


def test_where_there_is_only_loopback_the_hint_is_the_demo() -> None:
    with pytest.raises(NoSuchLink) as refusal:
        choose([], [LO])
    assert refusal.value.hint.endswith("try: esimbpf demo")


def test_a_long_list_of_candidates_is_cut() -> None:
    with pytest.raises(NoSuchLink) as refusal:
        choose([], [found_link(f"veth{n}", ifindex=n + 1) for n in range(300)])
    assert "and 292 more" in refusal.value.hint
    assert len(refusal.value.hint) < 400


def test_a_modem_without_a_session_is_told_from_no_modem() -> None:
    with pytest.raises(NoSuchLink, match="modem is not connected") as refusal:
        choose([], [LO, IPA, ETH0])
    assert "connect first" in refusal.value.hint


def test_named_links_are_chosen_in_the_order_of_their_names_and_once() -> None:
    found = [LO, ETH0, WWAN0, PPP0]
    assert names(choose(["ppp0", "eth0", "ppp0"], found)) == ["ppp0", "eth0"]
    assert names(choose(["wwp0s20f0u2i4", "wwan0"], found)) == ["wwan0"]


def test_loopback_and_a_muxing_device_may_be_named() -> None:
    assert names(choose(["lo"], [LO, ETH0])) == ["lo"]
    assert names(choose(["rmnet_ipa0"], [IPA, DATA0])) == ["rmnet_ipa0"]


@pytest.mark.parametrize("order", [["rmnet_ipa0", "rmnet_data1"], ["rmnet_data1", "rmnet_ipa0"]])
def test_a_link_and_the_one_that_carries_it_are_refused_together(order: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        choose(order, [IPA, DATA0, DATA1])
    assert refusal.value.message == (
        "rmnet_ipa0 carries the packets of rmnet_data1 too: together they would be counted twice"
    )
    assert refusal.value.hint == "name either rmnet_data1 or rmnet_ipa0"


def test_the_bottom_and_the_top_of_a_stack_are_refused_together() -> None:
    modem = found_link("wwan0", Certainty.YES, 3)
    session = found_link("qmimux0", Certainty.YES, 4, lower="wwan0")
    vlan = found_link("v5", Certainty.YES, 5, lower="qmimux0")
    with pytest.raises(UsageError, match="wwan0 carries the packets of v5 too"):
        choose(["v5", "wwan0"], [modem, session, vlan])


@pytest.mark.parametrize("name", ["wwan9", "", "wwan0 ", "WWAN0", "wwan0\n"])
def test_a_name_that_is_not_there_is_refused_with_the_candidates(name: str) -> None:
    with pytest.raises(NoSuchLink, match="there is no link named") as refusal:
        choose([name], [LO, ETH0, WWAN0])
    assert refusal.value.hint.startswith("interfaces here: wwan0 (wwan, up), eth0 (ethernet, up); name one")


def test_a_refused_name_is_printed_safely() -> None:
    with pytest.raises(NoSuchLink) as refusal:
        choose(["\x1b[2J"], [ETH0])
    assert refusal.value.message == r"there is no link named \x1b[2J"


def test_a_link_with_odd_bytes_is_found_by_its_name_and_by_what_is_shown_of_it() -> None:
    odd = found_link(r"ww\x1b[1m\xff")
    assert choose(["ww\x1b[1m\udcff"], [odd]) == (odd,)
    assert choose([r"ww\x1b[1m\xff"], [odd]) == (odd,)


def test_a_real_name_wins_over_an_alternative_one() -> None:
    impostor = found_link("eth9", ifindex=9, altnames=("eth0",))
    assert names(choose(["eth0"], [ETH0, impostor])) == ["eth0"]


@pytest.mark.parametrize(
    ("up", "operstate", "state"),
    [
        (True, "up", "up"),
        (True, "unknown", "up"),
        (True, "down", "no carrier"),
        (True, "dormant", "dormant"),
        (True, "lower layer down", "lower layer down"),
        (False, "down", "down"),
        (False, "up", "down"),
    ],
)
def test_the_state_says_what_keeps_a_link_from_working(up: bool, operstate: str, state: str) -> None:
    assert found_link("wwan0", up=up, operstate=operstate).state == state


def test_a_link_is_followed_through_a_rename() -> None:
    renamed = found_link("wwp0s20", ifindex=3)
    assert follow(Link("wwan0", 3, "wwan"), [ETH0, renamed]) == renamed


def test_a_link_is_followed_to_the_new_device_of_its_name() -> None:
    reset = found_link("wwan0", ifindex=12)
    assert follow(Link("wwan0", 3, "wwan"), [ETH0, reset], frozenset({3})) == reset


def test_a_link_that_is_away_is_nowhere() -> None:
    assert follow(Link("wwan0", 3, "wwan"), [ETH0], frozenset({3})) is None


def test_another_device_with_the_index_of_a_vanished_link_is_not_followed() -> None:
    other = found_link("tun9", ifindex=3)
    assert follow(Link("wwan0", 3, "wwan"), [other], frozenset({3})) is None


def test_the_same_device_is_followed_though_another_took_its_name() -> None:
    renamed, thief = found_link("modem", ifindex=3), found_link("wwan0", ifindex=12)
    assert follow(Link("wwan0", 3, "wwan"), [thief, renamed]) == renamed
