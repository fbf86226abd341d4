"""What ModemManager's properties come to: SIMs, networks, signal, bearers, and whose a link is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esimbpf.modem import decode
from esimbpf.modem.countries import country_of
from esimbpf.modem.decode import BEARER, MODEM, MODEM_3GPP, SIGNAL, SIM
from esimbpf.modem.identity import Identity, link_statuses
from esimbpf.modem.model import Bearer, BearerStatistics, Modem, ModemState, Operator, Port, Registration, Sim
from esimbpf.modem.model import Signal as Measured
from esimbpf.modem.numbering import Plmn, masked, normal_eid, normal_iccid
from esimbpf.modem.objects import Objects
from esimbpf.modem.ppp import ppp_interface

ICCID = "8949020000001234567"
EID = "89049032007008882600049223344556"


# -- numbers


@pytest.mark.parametrize(
    ("told", "normal"),
    [
        (ICCID, ICCID),
        (ICCID + "F", ICCID),
        ("894902000000123456ff", "894902000000123456"),
        ("89490 20000-0012345 67", ICCID),
        ("89860012ab3456789012", "89860012AB3456789012"),
        ("", None),
        ("FFFFFFFFFFFFFFFFFFFF", None),
        ("8949020", None),
        (ICCID + "12", None),
        ("894902000000\x1b[2J1234", None),
        ("8949020000001234٣67", None),
    ],
)
def test_iccids_have_one_form(told: str, normal: str | None) -> None:
    assert normal_iccid(told) == normal
    if normal:
        assert normal_iccid(normal) == normal


def test_of_a_masked_number_only_issuer_and_last_digits_are_left() -> None:
    assert masked(ICCID) == "8949…4567"
    assert masked("12345678") == "…"


def test_an_eid_has_32_digits() -> None:
    assert normal_eid(EID) == EID
    assert normal_eid(EID[1:]) is None


@pytest.mark.parametrize(
    ("told", "plmn", "country"),
    [
        ("26201", Plmn("262", "01"), "DE"),
        ("310410", Plmn("310", "410"), "US"),
        ("405-025", Plmn("405", "025"), "IN"),
        ("42505", Plmn("425", "05"), "PS"),
        ("42501", Plmn("425", "01"), "IL"),
        ("23450", Plmn("234", "50"), None),
        ("34001", Plmn("340", "01"), None),
        ("90128", Plmn("901", "28"), None),
        ("00000", None, None),
        ("", None, None),
        ("Telekom", None, None),
        ("2620100", None, None),
    ],
)
def test_networks_by_number(told: str, plmn: Plmn | None, country: str | None) -> None:
    assert Plmn.of(told) == plmn
    assert (plmn.country if plmn else None) == country


def test_network_codes_of_two_and_three_digits_are_different_networks() -> None:
    assert Plmn.of("31001") != Plmn.of("310001")
    assert str(Plmn.of("310001")) == "310-001"


def test_every_country_has_two_letters_and_each_code_stands_once() -> None:
    from esimbpf.modem.countries import _CODES

    codes = [word for word in _CODES.split() if word.isdecimal()]
    assert len(codes) == len(set(codes)) > 220
    countries = {country_of(code) for code in codes}
    assert all(country and len(country) == 2 and country.isupper() for country in countries)


# -- properties


def modem_of(of: dict[str, Any] | None = None, **interfaces: dict[str, Any]) -> Modem:
    named = {MODEM: of or {}, MODEM_3GPP: interfaces.get("in_3gpp", {}), SIGNAL: interfaces.get("signal", {})}
    return decode.modem("/m/0", named, {}, {})


@pytest.mark.parametrize(
    ("number", "registration", "roaming"),
    [
        (0, Registration.IDLE, None),
        (1, Registration.HOME, False),
        (2, Registration.SEARCHING, None),
        (3, Registration.DENIED, None),
        (4, Registration.UNKNOWN, None),
        (5, Registration.ROAMING, True),
        (6, Registration.HOME, False),
        (7, Registration.ROAMING, True),
        (8, Registration.LIMITED, None),
        (9, Registration.HOME, False),
        (10, Registration.ROAMING, True),
        (11, Registration.LIMITED, None),
        (12, Registration.UNKNOWN, None),
        ("5", Registration.UNKNOWN, None),
        (True, Registration.UNKNOWN, None),
    ],
)
def test_registrations(number: object, registration: Registration, roaming: bool | None) -> None:
    told = modem_of(in_3gpp={"RegistrationState": number}).registration
    assert (told, told.roaming) == (registration, roaming)


@pytest.mark.parametrize(
    ("bits", "technologies"),
    [
        (0, ()),
        (1 << 14, ("lte",)),
        (1 << 15 | 1 << 14, ("5gnr", "lte")),
        (1 << 5 | 1 << 6 | 1 << 9, ("hspa-plus", "hsdpa", "umts")),
        (1 << 17, ("lte-nb-iot",)),
        (0xFFFFFFFF, ()),
        (1 << 30, ()),
        ("lte", ()),
    ],
)
def test_technologies_are_named_the_strongest_first(bits: object, technologies: tuple[str, ...]) -> None:
    assert modem_of({"AccessTechnologies": bits}).technologies == technologies


def test_the_signal_is_that_of_the_strongest_technology_measured_without_what_is_not_known() -> None:
    quality = {"SignalQuality": (57, True)}
    levels = {"rssi": -61.0, "rsrp": -94.5, "rsrq": -1.7976931348623157e308, "snr": float("nan")}
    assert modem_of(quality, signal={"Gsm": {"rssi": -1.0}, "Lte": levels, "Nr5g": {}}).signal == Measured(
        57, True, "lte", rssi_dbm=-61.0, rsrp_dbm=-94.5
    )
    assert modem_of({"SignalQuality": (0, False)}).signal == Measured()
    assert modem_of({"SignalQuality": (0, True)}).signal == Measured(0, True)


@pytest.mark.parametrize(
    ("properties", "esim"),
    [
        ({"Eid": EID}, True),
        ({"Eid": EID, "SimType": 1}, True),
        ({"Eid": "", "SimType": 2}, True),
        ({"Eid": "", "SimType": 1}, False),
        ({"Eid": "", "SimType": 0}, None),
        ({}, None),
    ],
)
def test_a_sim_with_an_eid_is_an_esim_whatever_its_type(properties: dict[str, Any], esim: bool | None) -> None:
    assert decode.sim("/s/0", properties).esim is esim


def test_a_bearers_bytes_are_told_only_where_they_are_live() -> None:
    counted = {"rx-bytes": 1001, "tx-bytes": 77, "total-rx-bytes": 5005, "total-tx-bytes": 99}
    properties = {
        "Connected": True,
        "Interface": "wwan0",
        "Properties": {"ip-type": 4, "apn": "internet\x1b[2J"},
        "Stats": {"duration": 61, "attempts": 3, "failed-attempts": 1, "start-date": 1_700_000_000, **counted},
    }
    told = decode.bearer("/b/0", properties)
    assert (told.connected, told.interface, told.ip_type, told.apn) == (True, "wwan0", "ipv4v6", r"internet\x1b[2J")
    assert (told.statistics.rx_bytes, told.statistics.total_tx_bytes) == (None, None)
    assert (told.statistics.duration_s, told.statistics.attempts, told.statistics.failed_attempts) == (61, 3, 1)
    assert told.statistics.started
    assert told.statistics.started.timestamp() == 1_700_000_000
    live = decode.bearer("/b/0", {**properties, "ReloadStatsSupported": True}).statistics
    assert live == replace(told.statistics, rx_bytes=1001, tx_bytes=77, total_rx_bytes=5005, total_tx_bytes=99)


def test_of_a_failed_modem_it_is_told_why() -> None:
    assert modem_of({"State": -1, "StateFailedReason": 2}).failure == "the SIM is missing"
    assert modem_of({"State": -1, "StateFailedReason": 99}).failure == "for a reason that is not known"
    assert modem_of({"State": 8, "StateFailedReason": 0}) == modem_of({"State": 8})
    assert modem_of({"State": 99}).state is ModemState.UNKNOWN


def test_a_modem_has_its_makers_name_once() -> None:
    assert Modem("/m", ModemState.FAILED, manufacturer="Quectel", model="RM520N").name == "Quectel RM520N"
    assert Modem("/m", ModemState.FAILED, manufacturer="quectel", model="Quectel RM520N").name == "Quectel RM520N"
    assert Modem("/m", ModemState.FAILED).name == "modem"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("State", "SignalQuality", "AccessTechnologies", "Ports", "Sim", "SimSlots", "Bearers", "Drivers", "Lte"),
        *("RegistrationState", "OperatorCode", "SimIdentifier", "Eid", "SimType", "Interface", "Stats", "Properties"),
    ]
)


@given(st.dictionaries(NAMES, VALUES))
def test_whatever_properties_hold_nothing_fails(properties: dict[str, object]) -> None:
    objects = Objects()
    objects.add("/m/0", {MODEM: properties, MODEM_3GPP: properties, SIGNAL: properties})
    for path, interface in objects.missing():
        objects.add(path, {interface: properties})
    [modem] = objects.modems()
    link_statuses([modem, replace(modem, bearers=(decode.bearer("/b/0", properties),))], lambda _: None)


# -- objects


def test_sims_and_bearers_are_asked_for_and_forgotten_with_those_who_name_them() -> None:
    objects = Objects()
    objects.add("/m/0", {MODEM: {"Sim": "/s/1", "SimSlots": ["/s/1", "/", "/s/2"], "Bearers": ["/b/0"]}})
    assert set(objects.missing()) == {("/s/1", SIM), ("/s/2", SIM), ("/b/0", BEARER)}
    objects.add("/s/1", {SIM: {"SimIdentifier": ICCID}})
    objects.add("/s/2", {SIM: {"SimIdentifier": ICCID[:-1] + "8"}})
    objects.give_up("/b/0", BEARER)
    assert objects.missing() == ()
    [modem] = objects.modems()
    assert modem.sim
    assert modem.sim.iccid == ICCID
    assert [slot and slot.iccid for slot in modem.slots] == [ICCID, None, ICCID[:-1] + "8"]
    assert modem.bearers == (Bearer("/b/0", None),)
    objects.change("/m/0", MODEM, {"Sim": "/s/3", "SimSlots": [], "Bearers": []})
    assert objects.missing() == (("/s/3", SIM),)
    objects.change("/m/0", MODEM, {"Sim": "/s/1"})
    assert objects.missing() == (("/s/1", SIM),), "what was known of an object that was gone is not believed"
    objects.remove("/m/0", [MODEM])
    assert (objects.missing(), objects.modems()) == ((), ())


def test_what_is_invalidated_is_asked_for_again() -> None:
    objects = Objects()
    objects.add("/m/0", {MODEM: {"Model": "A", "State": 8}})
    objects.change("/m/0", MODEM, {"State": 11}, ["Model"])
    assert objects.missing() == (("/m/0", MODEM),)
    assert objects.modems()[0].model == ""
    objects.add("/m/0", {MODEM: {"Model": "B", "State": 11}})
    assert objects.missing() == ()
    assert objects.modems()[0].model == "B"


# -- whose a link is


SIM_1 = Sim("/s/1", ICCID, EID, True, True, Operator(Plmn("262", "01"), "Home"))
ABROAD = Operator(Plmn("232", "01"), "A1")
LTE = Modem(
    "/m/0",
    ModemState.CONNECTED,
    ports=(Port("wwan0", "net"), Port("cdc-wdm0", "qmi"), Port("ttyUSB2", "at")),
    sim=SIM_1,
    registration=Registration.ROAMING,
    operator=ABROAD,
    technologies=("lte",),
    bearers=(Bearer("/b/0", True, "wwan0"),),
)
IDENTITY = Identity(ICCID, True, ABROAD, True, "AT", "lte")


def nothing(_: str) -> None:
    return None


def bearing(*bearers: Bearer) -> list[Modem]:
    return [replace(LTE, bearers=bearers)]


def test_a_connected_bearers_interface_is_its_modems() -> None:
    statuses = link_statuses([LTE], nothing)
    assert set(statuses) == {"wwan0"}
    assert (statuses["wwan0"].identity, statuses["wwan0"].bearer) == (IDENTITY, "/b/0")
    assert (statuses["wwan0"].modem, statuses["wwan0"].connected) == ("/m/0", True)
    assert statuses["wwan0"].identity.visited == "AT"


def test_without_a_bearer_the_modems_network_port_is_known_too() -> None:
    [(link, status)] = link_statuses(bearing(Bearer("/b/0", False)), nothing).items()
    assert (link, status.identity, status.bearer, status.connected) == ("wwan0", IDENTITY, "", False)


def test_a_multiplexed_bearer_runs_over_the_upper_interface_only() -> None:
    statuses = link_statuses(bearing(Bearer("/b/0", True, "qmimux0", multiplexed=True)), nothing)
    assert {link: status.bearer for link, status in statuses.items()} == {"wwan0": "", "qmimux0": "/b/0"}
    assert statuses["qmimux0"].identity == IDENTITY


@pytest.mark.parametrize(("found", "links"), [("ppp0", {"wwan0", "ppp0"}), (None, {"wwan0"})])
def test_a_bearer_over_a_tty_runs_over_its_ppp_interface_if_that_is_known(found: str | None, links: set[str]) -> None:
    asked = []

    def ppp_of(tty: str) -> str | None:
        asked.append(tty)
        return found

    assert set(link_statuses(bearing(Bearer("/b/0", True, "ttyUSB2")), ppp_of)) == links
    assert asked == ["ttyUSB2"]


def test_what_a_modem_that_is_not_registered_says_of_its_network_is_not_believed() -> None:
    searching = replace(LTE, registration=Registration.SEARCHING)
    assert link_statuses([searching], nothing)["wwan0"].identity == Identity(ICCID, True)


def test_at_home_no_country_is_visited() -> None:
    home = replace(LTE, registration=Registration.HOME)
    identity = link_statuses([home], nothing)["wwan0"].identity
    assert (identity.roaming, identity.country, identity.visited) == (False, "AT", None)


# -- PPP


@pytest.fixture
def pppd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a pppd to the machine below a folder: its interface, pid and arguments, and what it has open or locked."""
    interfaces: list[tuple[int, str]] = [(1, "lo")]
    monkeypatch.setattr("socket.if_nameindex", lambda: interfaces)
    (tmp_path / "run" / "pppd").mkdir(parents=True)
    (tmp_path / "run" / "lock").mkdir()

    def add(
        name: str,
        pid: int,
        arguments: str = "nodetach",
        opened: str = "",
        locked: str = "",
        old: bool = True,
        up: bool = True,
    ) -> None:
        if up:
            interfaces.append((len(interfaces) + 1, name))
        run = tmp_path / "run"
        (run / ("" if old else "pppd") / f"{name}.pid").write_text(f"{pid}\n")
        own = tmp_path / "proc" / str(pid)
        (own / "fd").mkdir(parents=True)
        (own / "cmdline").write_bytes(
            b"".join(os.fsencode(word) + b"\0" for word in ("/usr/sbin/pppd", *arguments.split()))
        )
        if opened:
            (own / "fd" / "5").symlink_to(opened)
        if locked:
            (run / "lock" / f"LCK..{locked}").write_text(f"{pid:10}\n")

    return add


def ppp_at(tmp_path: Path, tty: str = "ttyUSB2") -> str | None:
    return ppp_interface(tty, tmp_path / "run", tmp_path / "proc")


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    "how",
    [
        {"arguments": "nodetach ttyUSB2 noipdefault"},
        {"arguments": "/dev/ttyUSB2 460800"},
        {"opened": "/dev/ttyUSB2"},
        {"locked": "ttyUSB2"},
    ],
)
def test_the_ppp_interface_of_a_tty_is_found(
    pppd: Callable[..., None], tmp_path: Path, how: dict[str, Any], old: bool
) -> None:
    pppd("ppp0", 811, "/dev/ttyUSB0")
    pppd("dialup", 812, **how, old=old)
    assert ppp_at(tmp_path) == "dialup"


def test_a_ppp_interface_that_cannot_be_told_is_not_guessed(pppd: Callable[..., None], tmp_path: Path) -> None:
    assert ppp_at(tmp_path) is None
    pppd("ppp0", 811, "/dev/ttyUSB0")
    assert ppp_at(tmp_path) is None
    pppd("ppp1", 812, "ttyUSB2")
    pppd("ppp2", 813, "ttyUSB2")
    assert ppp_at(tmp_path) is None


def test_a_pid_file_that_was_left_behind_names_no_interface(pppd: Callable[..., None], tmp_path: Path) -> None:
    pppd("ppp0", 811, "ttyUSB2", up=False)
    assert ppp_at(tmp_path) is None
    pppd("ppp1", 812, "ttyUSB2")
    (tmp_path / "proc" / "812" / "cmdline").write_bytes(b"/bin/bash\0ttyUSB2\0")
    assert ppp_at(tmp_path) is None


def test_statistics_that_were_never_told_are_unknown() -> None:
    assert decode.bearer("/b/0", {}).statistics == BearerStatistics()
