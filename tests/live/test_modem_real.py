"""The real ModemManager, with a modem that answers AT commands, and what is made of what it tells.

What is expected stands in the modem: in its SIM's files, in its registration, in the levels of +CESQ by 3GPP TS 27.007.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from esimbpf.errors import ModemError
from esimbpf.modem import ussd
from esimbpf.modem.client import survey
from esimbpf.modem.decode import MODEM, SIMPLE
from esimbpf.modem.identity import NO_MODEM, Identity
from esimbpf.modem.model import Modem, ModemState, Operator, Registration, Service
from esimbpf.modem.numbering import Plmn
from esimbpf.modem.watch import ModemWatch
from tests.modems.at_modem import HOME, ROAMING, AtModem, Menu
from tests.modems.following import Following, changes
from tests.modems.private_bus import PrivateBus
from tests.modems.real_service import RealModemManager

ICCID, OTHER_ICCID = "8949020000001234567", "89430100000076543210"
AT_HOME = Operator(Plmn("262", "01"), "Home")
ABROAD = Operator(Plmn("232", "01"), "A1")


@pytest.fixture
def manager(bus: PrivateBus, tmp_path: Path) -> Iterator[RealModemManager]:
    """ModemManager on it, without modems."""
    with RealModemManager(bus, tmp_path) as started:
        yield started


@pytest.fixture
def modem() -> Iterator[AtModem]:
    """A modem that is registered at home."""
    with AtModem(ICCID, imsi="262011234567890") as made:
        made.register(HOME, "26201", "Home")
        yield made


@pytest.fixture
def following(bus: PrivateBus, manager: RealModemManager) -> Iterator[Following]:
    """What is made of all that it tells."""
    with Following(bus.address) as started:
        yield started


def enabled(manager: RealModemManager, modem: AtModem, following: Following) -> Modem:
    """The modem, plugged in, switched on and registered."""
    manager.plug_in(modem)
    found = following.modem(lambda one: one.state is ModemState.DISABLED)
    manager.call(found.path, MODEM, "Enable", "b", (True,))
    return following.modem(lambda one: one.registration.roaming is not None)


def connected(manager: RealModemManager, path: str) -> str:
    settings = {"apn": ("s", "internet"), "allow-roaming": ("b", True)}
    return str(manager.call(path, SIMPLE, "Connect", "a{sv}", (settings,), "o")[0])


def test_sim_network_and_technology_are_what_the_modem_says(
    manager: RealModemManager, modem: AtModem, following: Following
) -> None:
    found = enabled(manager, modem, following)
    assert found.sim
    assert (found.sim.iccid, found.sim.eid, found.sim.esim) == (ICCID, None, None)
    assert found.sim.issuer == AT_HOME
    assert (found.registration, found.operator, found.technology) == (Registration.HOME, AT_HOME, "lte")
    assert (found.manufacturer, found.model, found.equipment) == ("Fake", "AT1", "350000000000017")
    assert {port.name for port in found.ports} == set(modem.ports)
    modem.register(ROAMING, "23201", "A1")
    abroad = following.modem(lambda one: one.registration is Registration.ROAMING)
    assert (abroad.operator, abroad.sim) == (ABROAD, found.sim)
    modem.register(0)
    assert following.modem(lambda one: one.registration is Registration.IDLE).sim == found.sim


def test_the_signals_levels_are_told_when_they_are_asked_for(
    bus: PrivateBus, manager: RealModemManager, modem: AtModem, following: Following
) -> None:
    modem.signal = (20, 60)
    found = enabled(manager, modem, following)
    assert (found.signal.rsrp_dbm, found.signal_rate_s) == (None, 0)
    with Following(bus.address, signal_every_s=1) as measured:
        told = measured.modem(lambda one: one.signal.rsrp_dbm is not None)
        # <rsrp> 60 is -81 dBm ≤ rsrp < -80 dBm, <rsrq> 20 is -10 dB ≤ rsrq < -9.5 dB (27.007, section 8.69).
        assert (told.signal.technology, told.signal.rsrp_dbm, told.signal.rsrq_db) == ("lte", -81, -10)
        assert (told.signal.snr_db, told.signal_rate_s) == (None, 1)
        # <rssi> 17 of 31 (27.007, section 8.5)
        assert told.signal.quality_percent == 17 * 100 // 31
        modem.signal = (10, 30)
        told = measured.modem(lambda one: one.signal.rsrp_dbm == -111)
        assert told.signal.rsrq_db == -15


def test_a_link_follows_its_modem_abroad_through_a_connection_and_a_reset(
    bus: PrivateBus,
    manager: RealModemManager,
    modem: AtModem,
    following: Following,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The kernel at hand has no PPP: whichever of its ports is dialled with, ppp0 stands for what would run over it.
    monkeypatch.setattr("esimbpf.modem.watch.ppp_interface", dict.fromkeys(modem.ports, "ppp0").get)
    with ModemWatch(bus.address) as watch:
        found = enabled(manager, modem, following)
        bearer = connected(manager, found.path)
        [change] = changes(watch, 1)
        at_home = Identity(ICCID, None, AT_HOME, False, "DE", "lte")
        assert (change.link, change.before) == ("ppp0", NO_MODEM)
        assert (change.after.identity, change.after.bearer, change.after.connected) == (at_home, bearer, True)
        modem.register(ROAMING, "23201", "A1")
        [change] = changes(watch, 1)
        assert change.after.identity == Identity(ICCID, None, ABROAD, True, "AT", "lte")
        manager.call(found.path, SIMPLE, "Disconnect", "o", ("/",))
        [change] = changes(watch, 1)
        assert change.after == NO_MODEM
        modem.reset()
        modem.iccid = OTHER_ICCID
        modem.register(ROAMING, "23201", "A1")
        again = enabled(manager, modem, following)
        assert again.path != found.path
        connected(manager, again.path)
        [change] = changes(watch, 1)
        assert change.after.identity == Identity(OTHER_ICCID, None, ABROAD, True, "AT", "lte")
        manager.stop()
        [change] = changes(watch, 1)
        assert (change.after, watch.survey.service) == (NO_MODEM, Service.NOT_RUNNING)
        modem.reset()
        modem.register(HOME, "26201", "Home")
        manager.start()
        last = enabled(manager, modem, following)
        connected(manager, last.path)
        [change] = changes(watch, 1)
        assert change.after.identity == Identity(OTHER_ICCID, None, AT_HOME, False, "DE", "lte")


def test_a_modemmanager_that_hangs_is_left_in_time(bus: PrivateBus, manager: RealModemManager) -> None:
    assert survey(bus.address).version
    os.kill(manager.pid, signal.SIGSTOP)
    try:
        started_s = time.monotonic()
        assert survey(bus.address, limit_s=0.5).service is Service.SILENT
        assert time.monotonic() - started_s < 2
    finally:
        os.kill(manager.pid, signal.SIGCONT)
    assert survey(bus.address).service is Service.RUNNING


def test_a_modem_without_a_sim_says_so(manager: RealModemManager, modem: AtModem, following: Following) -> None:
    modem.iccid = ""
    manager.plug_in(modem)
    found = following.modem(lambda one: one.state is ModemState.FAILED)
    assert (found.failure, found.sim) == ("the SIM is missing", None)


# -- USSD


BALANCE = Menu(
    "Balance: 12.34 EUR\n1 data\n2 voice",
    {"1": Menu("Data:\n1 at home\n2 abroad", {"2": Menu("1,234 MB are left in Österreich\x1b")}), "2": Menu("0 min")},
)


def test_a_code_with_menus_is_run_to_its_end(
    bus: PrivateBus, manager: RealModemManager, modem: AtModem, following: Following
) -> None:
    modem.menus["*100#"] = BALANCE
    enabled(manager, modem, following)
    answer = ussd.ask("*100#", ["1", "2"], address=bus.address)
    assert answer.texts == (
        "Balance: 12.34 EUR\n1 data\n2 voice",
        "Data:\n1 at home\n2 abroad",
        r"1,234 MB are left in Österreich\x1b",
    )
    assert answer.notifications == ()


def test_a_menu_that_is_not_followed_to_its_end_is_closed(
    bus: PrivateBus, manager: RealModemManager, modem: AtModem, following: Following
) -> None:
    modem.menus["*100#"] = BALANCE
    enabled(manager, modem, following)
    assert ussd.ask("*100#", address=bus.address).texts == ("Balance: 12.34 EUR\n1 data\n2 voice",)
    assert modem.spoken[-1] == "+CUSD=2"


def test_what_the_network_does_not_know_is_said_to_be_so(
    bus: PrivateBus, manager: RealModemManager, modem: AtModem, following: Following
) -> None:
    modem.menus["*100#"] = BALANCE
    enabled(manager, modem, following)
    with pytest.raises(ModemError, match=r"^USSD \*999#: Operation not supported"):
        ussd.ask("*999#", address=bus.address)
    with pytest.raises(ModemError, match=r"^USSD \*100# 7: "):
        ussd.ask("*100#", ["7"], address=bus.address)
    assert ussd.ask("*100#", ["2"], address=bus.address).texts[-1] == "0 min"


def test_an_answer_that_comes_of_itself_is_waited_for(
    bus: PrivateBus, manager: RealModemManager, modem: AtModem, following: Following
) -> None:
    modem.menus["*100#"] = Menu("You will be told.")
    modem.afterwards = "1,234 MB are left"
    enabled(manager, modem, following)
    started_s = time.monotonic()
    answer = ussd.ask("*100#", address=bus.address, notified_s=20)
    assert (answer.texts, answer.notifications) == (("You will be told.",), ("1,234 MB are left",))
    assert time.monotonic() - started_s < 10


def test_a_modem_that_hangs_is_left_in_time(
    bus: PrivateBus, manager: RealModemManager, modem: AtModem, following: Following
) -> None:
    enabled(manager, modem, following)
    modem.mute = True
    started_s = time.monotonic()
    with pytest.raises(ModemError, match=r"^USSD \*100#: the network did not answer in time"):
        ussd.ask("*100#", limit_s=1, address=bus.address)
    assert time.monotonic() - started_s < 8
