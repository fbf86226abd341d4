"""Following a ModemManager that does what no modem at hand can do, over the real dbus-daemon."""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, new_method_call, new_signal
from jeepney.io.blocking import open_dbus_connection

from esimbpf.errors import ModemError
from esimbpf.modem import decode, ussd
from esimbpf.modem.changes import Change
from esimbpf.modem.client import survey
from esimbpf.modem.identity import NO_MODEM, UNKNOWN, Identity
from esimbpf.modem.model import BearerStatistics, Moment, Operator, Service
from esimbpf.modem.numbering import Plmn
from esimbpf.modem.watch import ModemWatch
from tests.live.netlab import Lab
from tests.live.watching import esimbpf
from tests.modems.fake_service import (
    BEARER,
    HOME,
    LTE,
    MODEM,
    MODEM_3GPP,
    NR,
    PROPERTIES,
    ROAMING,
    SIGNAL,
    SIM,
    USSD,
    FakeModem,
    FakeModemManager,
)
from tests.modems.following import Following, changes
from tests.modems.private_bus import PATIENCE_S, PrivateBus

ICCID, OTHER_ICCID = "8949020000001234567", "8943010000007654321"
EID = "89049032007008882600049223344556"
AT_HOME = Operator(Plmn("262", "01"), "Home")
ABROAD = Operator(Plmn("232", "01"), "A1")
INTERFACES = Path("/usr/share/dbus-1/interfaces")


@pytest.fixture
def service(bus: PrivateBus) -> Iterator[FakeModemManager]:
    """A ModemManager on it, without modems."""
    with FakeModemManager(bus.address) as started:
        yield started


@pytest.fixture
def watch(bus: PrivateBus, service: FakeModemManager) -> Iterator[ModemWatch]:
    """A watch that has seen it."""
    with ModemWatch(bus.address, limit_s=2) as started:
        assert started.settle(10)
        assert started.survey.service is Service.RUNNING
        yield started


def seen(watch: ModemWatch, service: FakeModemManager, **options: Any) -> FakeModem:
    """A modem that has come, and that the watch has told of: what is done to it then is another change."""
    modem = service.add_modem(**{"iccid": ICCID, **options})
    changes(watch, 1)
    return modem


# -- what changes


def test_every_step_of_a_journey_is_told_once_and_in_order(service: FakeModemManager, watch: ModemWatch) -> None:
    began = Moment.now()
    modem = service.add_modem(iccid=ICCID + "F", eid=EID)
    [came] = changes(watch, 1)
    assert (came.link, came.before, came.after.identity) == ("wwan0", NO_MODEM, Identity(ICCID, esim=True))
    modem.register(HOME, "26201", "Home", LTE)
    [registered] = changes(watch, 1)
    at_home = Identity(ICCID, True, AT_HOME, False, "DE", "lte")
    assert registered.after.identity == at_home
    bearer = modem.connect()
    [connected] = changes(watch, 1)
    assert (connected.after.identity, connected.after.bearer, connected.after.connected) == (at_home, bearer, True)
    modem.register(ROAMING, "23201", "A1", NR | LTE)
    [roaming] = changes(watch, 1)
    assert roaming.after.identity == Identity(ICCID, True, ABROAD, True, "AT", "5gnr")
    assert roaming.after.identity.visited == "AT"
    modem.disconnect(bearer)
    modem.reconnect(bearer)
    ended, begun = changes(watch, 2)
    assert (ended.after.connected, ended.after.bearer, begun.after) == (False, "", roaming.after)
    modem.switch_profile(OTHER_ICCID, EID)
    [switched] = changes(watch, 1)
    assert switched.after.identity.profile == OTHER_ICCID
    told = [came, registered, connected, roaming, ended, begun, switched]
    assert all(one.after == other.before for one, other in pairwise(told))
    times = [began, *(one.at for one in told), Moment.now()]
    assert times == sorted(times, key=lambda at: at.boottime_ns)
    assert watch.known("wwan0").since == switched.at
    assert watch.status("eth0") == NO_MODEM
    assert not select.select([watch], [], [], 0)[0]


def test_the_steps_of_one_event_are_one_change_at_the_time_of_the_first(
    service: FakeModemManager, watch: ModemWatch
) -> None:
    modem = seen(watch, service)
    modem.register(HOME, "26201", "Home", LTE)
    changes(watch, 1)
    before = Moment.now()
    modem.set(MODEM_3GPP, OperatorCode="23201")
    between = Moment.now()
    # As long as a modem takes to say what its network is called.
    time.sleep(0.3)
    modem.set(MODEM_3GPP, OperatorName="A1")
    modem.set(MODEM_3GPP, RegistrationState=ROAMING)
    [change] = changes(watch, 1)
    assert (change.before.identity.operator, change.after.identity.operator) == (AT_HOME, ABROAD)
    assert before.boottime_ns <= change.at.boottime_ns <= between.boottime_ns + 200_000_000


def test_a_step_that_leads_back_is_no_change(service: FakeModemManager, watch: ModemWatch) -> None:
    modem = seen(watch, service)
    modem.register(HOME, "26201", "Home", LTE)
    [at_home] = changes(watch, 1)
    modem.set(AccessTechnologies=NR)
    modem.set(AccessTechnologies=LTE)
    modem.connect()
    [connected] = changes(watch, 1)
    assert (connected.before, connected.after.identity) == (at_home.after, at_home.after.identity)


def test_a_modem_that_resets_is_unknown_until_it_is_back(service: FakeModemManager, watch: ModemWatch) -> None:
    modem = seen(watch, service, eid=EID)
    modem.connect()
    [connected] = changes(watch, 1)
    modem.reset()
    gone, back = changes(watch, 2)
    assert (gone.before, gone.after) == (connected.after, NO_MODEM)
    assert (back.after.identity, back.after.connected) == (Identity(ICCID, True), False)
    assert back.after.modem != connected.after.modem


def test_a_modemmanager_that_restarts_is_followed(
    bus: PrivateBus, service: FakeModemManager, watch: ModemWatch
) -> None:
    seen(watch, service)
    service.stop()
    [gone] = changes(watch, 1)
    assert (gone.after, watch.survey.service) == (NO_MODEM, Service.NOT_RUNNING)
    service.start()
    service.add_modem(iccid=OTHER_ICCID)
    [back] = changes(watch, 1)
    assert back.after.identity.profile == OTHER_ICCID


def test_a_bus_that_goes_and_comes_back_is_followed(
    bus: PrivateBus, service: FakeModemManager, watch: ModemWatch
) -> None:
    seen(watch, service)
    bus.stop()
    [gone] = changes(watch, 1)
    assert (gone.after, watch.survey.service) == (NO_MODEM, Service.NO_BUS)
    service.stop()
    bus.start()
    service.start()
    service.add_modem(iccid=ICCID)
    [back] = changes(watch, 1)
    assert back.after.identity.profile == ICCID


def test_a_modem_that_was_there_before_the_watch_is_known_when_it_has_settled(
    bus: PrivateBus, service: FakeModemManager
) -> None:
    modem = service.add_modem(iccid=ICCID)
    modem.register(ROAMING, "23201", "A1", LTE)
    modem.connect()
    with ModemWatch(bus.address) as watch:
        assert watch.settle(10)
        assert watch.status("wwan0").identity == Identity(ICCID, None, ABROAD, True, "AT", "lte")
        assert set(watch.links()) == {"wwan0"}


# -- what is in the way


def test_a_modemmanager_that_hangs_holds_up_nothing(bus: PrivateBus, service: FakeModemManager) -> None:
    service.add_modem(iccid=ICCID)
    service.hang()
    with ModemWatch(bus.address, limit_s=0.5) as watch:
        assert not watch.settle(0)
        started_s = time.monotonic()
        assert (watch.poll(), watch.status("wwan0"), watch.survey.service) == ((), NO_MODEM, Service.UNKNOWN)
        assert time.monotonic() - started_s < 0.3
        assert watch.settle(10)
        assert (watch.survey.service, watch.survey.words) == (Service.SILENT, "no answer to Get within 0.5 seconds")
        service.resume()
        [known] = changes(watch, 1)
        assert known.after.identity.profile == ICCID
        assert watch.survey.service is Service.RUNNING
        service.hang()
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 1, "it ends at once, whatever it waits for"


def test_a_sim_that_is_not_told_in_time_is_unknown_and_asked_for_again(
    bus: PrivateBus, service: FakeModemManager
) -> None:
    with ModemWatch(bus.address, limit_s=0.5) as watch:
        assert watch.settle(10)
        service.hang()
        modem = service.add_modem(iccid=ICCID)
        [unknown] = changes(watch, 1)
        assert (unknown.after.identity, unknown.after.modem) == (UNKNOWN, modem.path)
        service.resume()
        [known] = changes(watch, 1)
        assert known.after.identity == Identity(ICCID)


def test_a_modemmanager_that_says_something_is_asked_again_at_once(
    bus: PrivateBus, service: FakeModemManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esimbpf.modem.client._RETRY_S", (3600.0,))
    modem = service.add_modem(iccid=ICCID)
    service.hang()
    with ModemWatch(bus.address, limit_s=0.5) as watch:
        assert watch.settle(10)
        assert watch.survey.service is Service.SILENT
        service.resume()
        modem.set(State=8)
        [known] = changes(watch, 1)
    assert known.after.identity.profile == ICCID


def test_a_change_is_as_of_its_signal_however_long_the_answers_take(
    service: FakeModemManager, watch: ModemWatch
) -> None:
    modem = seen(watch, service)
    service.hang()
    modem.switch_profile(OTHER_ICCID)
    assert not select.select([watch], [], [], 0.5)[0]
    answered = Moment.now()
    service.resume()
    [change] = changes(watch, 1)
    assert change.after.identity.profile == OTHER_ICCID
    assert change.at.boottime_ns < answered.boottime_ns - 300_000_000


def test_a_sim_that_is_not_there_is_unknown(service: FakeModemManager, watch: ModemWatch) -> None:
    modem = seen(watch, service)
    modem.set(Sim="/org/freedesktop/ModemManager1/SIM/99")
    [change] = changes(watch, 1)
    assert (change.after.identity, change.after.modem) == (UNKNOWN, modem.path)
    assert (watch.survey.service, watch.survey.words) == (Service.RUNNING, "")


def test_who_may_not_ask_is_told_so(bus: PrivateBus, service: FakeModemManager) -> None:
    service.denied = True
    told = survey(bus.address)
    assert (told.service, told.words, told.modems) == (Service.REFUSED, "not you", ())


@pytest.mark.parametrize("address", ["unix:path=/nonexistent/bus", "tcp:host=localhost", "nonsense"])
def test_without_a_bus_nothing_is_known_at_once(address: str) -> None:
    started_s = time.monotonic()
    told = survey(address)
    assert (told.service, told.modems) == (Service.NO_BUS, ())
    assert address in told.words
    assert time.monotonic() - started_s < 1


def test_without_modemmanager_nothing_is_known_and_it_is_not_started(bus: PrivateBus) -> None:
    assert survey(bus.address).service is Service.NOT_RUNNING
    with pytest.raises(ModemError, match="ModemManager cannot be asked"):
        ussd.ask("*100#", address=bus.address)
    assert not bus.activated


def test_a_signal_that_somebody_else_sends_is_not_believed(
    bus: PrivateBus, service: FakeModemManager, watch: ModemWatch
) -> None:
    modem = seen(watch, service)
    with open_dbus_connection(bus.address) as stranger:
        everybody = stranger.send_and_get_reply(
            new_method_call(DBusAddress("/", "org.freedesktop.DBus", "org.freedesktop.DBus"), "ListNames")
        ).body[0]
        lie: tuple[str, dict[str, Any], list[str]] = (MODEM_3GPP, {"RegistrationState": ("u", ROAMING)}, [])
        for name in everybody:
            sent = new_signal(
                DBusAddress(modem.path, interface="org.freedesktop.DBus.Properties"),
                "PropertiesChanged",
                "sa{sv}as",
                lie,
            )
            sent.header.fields[HeaderFields.destination] = name
            stranger.send(sent)
        modem.connect()
        [change] = changes(watch, 1)
    assert change.after.identity.roaming is None


def test_the_threads_signals_stay_the_main_ones(watch: ModemWatch) -> None:
    [own] = [thread for thread in threading.enumerate() if thread.name == "modems"]
    status = Path(f"/proc/self/task/{own.native_id}/status").read_text()
    blocked = int(re.findall(r"SigBlk:\s*([0-9a-f]+)", status)[0], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert blocked >> (number - 1) & 1
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# -- what only some modems tell


def test_slots_esim_multiplexing_and_statistics(bus: PrivateBus, service: FakeModemManager) -> None:
    modem = service.add_modem(iccid=ICCID, eid=EID, slots=2)
    bearer = modem.connect("qmimux0", multiplexed=True)
    with Following(bus.address) as following:
        told = following.modem(lambda one: bool(one.bearers))
        assert told.sim
        assert (told.sim.iccid, told.sim.eid, told.sim.esim) == (ICCID, EID, True)
        assert (told.slots, told.primary_slot) == ((told.sim, None), 1)
        assert (told.bearers[0].interface, told.bearers[0].multiplexed) == ("qmimux0", True)
        assert told.bearers[0].statistics == BearerStatistics()
        counted = {"rx-bytes": ("t", 123_457), "tx-bytes": ("t", 4_321), "duration": ("u", 61)}
        service.set(bearer, BEARER, Stats=counted)
        [told_bearer] = following.modem(lambda one: one.bearers[0].statistics.duration_s == 61).bearers
        assert told_bearer.statistics.rx_bytes is None
        service.set(bearer, BEARER, ReloadStatsSupported=True)
        [told_bearer] = following.modem(lambda one: one.bearers[0].statistics.rx_bytes is not None).bearers
        assert (told_bearer.statistics.rx_bytes, told_bearer.statistics.tx_bytes) == (123_457, 4_321)


def test_of_a_multiplexed_modem_the_upper_interface_carries_the_bearer(
    service: FakeModemManager, watch: ModemWatch
) -> None:
    seen(watch, service).connect("qmimux0", multiplexed=True)
    [told] = changes(watch, 1)
    assert (told.link, bool(told.after.bearer), told.after.identity) == ("qmimux0", True, Identity(ICCID))
    assert {link: bool(status.bearer) for link, status in watch.links().items()} == {"wwan0": False, "qmimux0": True}


def test_the_ppp_interface_of_a_tty_is_found_when_it_comes(
    service: FakeModemManager, watch: ModemWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    interfaces: dict[str, str] = {}
    monkeypatch.setattr("esimbpf.modem.watch.ppp_interface", interfaces.get)
    modem = service.add_modem(iccid=ICCID, ports=(("ttyUSB2", 3), ("ttyUSB3", 3)))
    bearer = modem.connect("ttyUSB2")
    assert not select.select([watch], [], [], 0.5)[0]
    interfaces["ttyUSB2"] = "ppp0"
    [change] = changes(watch, 1)
    assert (change.link, change.after.identity, change.after.bearer) == ("ppp0", Identity(ICCID), bearer)
    del interfaces["ttyUSB2"]
    watch.look_again()
    [change] = changes(watch, 1, within_s=0.1)
    assert (change.link, change.after) == ("ppp0", NO_MODEM)


# -- what is set


def test_the_signal_is_measured_where_asked_for_and_as_before_at_the_end(
    bus: PrivateBus, service: FakeModemManager
) -> None:
    mine, others = service.add_modem(iccid=ICCID), service.add_modem(iccid=OTHER_ICCID, net="wwan1")
    others.set(SIGNAL, Rate=5)
    with ModemWatch(bus.address, signal_every_s=30) as watch:
        assert watch.settle(10)
        changes(watch, 2)
        mine.connect()
        changes(watch, 1)
    assert service.calls == [(mine.path, "Signal.Setup", (30,)), (mine.path, "Signal.Setup", (0,))]


def test_what_somebody_else_has_set_meanwhile_stays(bus: PrivateBus, service: FakeModemManager) -> None:
    modem = service.add_modem(iccid=ICCID)
    with ModemWatch(bus.address, signal_every_s=30) as watch:
        changes(watch, 1)
        modem.connect()
        changes(watch, 1)
        modem.set(SIGNAL, Rate=5)
        modem.register(HOME, "26201", "Home", LTE)
        changes(watch, 1)
    assert service.calls == [(modem.path, "Signal.Setup", (30,))]


def test_unless_it_is_asked_for_nothing_is_set(service: FakeModemManager, watch: ModemWatch) -> None:
    seen(watch, service).connect()
    changes(watch, 1)
    watch.close()
    assert service.calls == []


# -- USSD


def test_a_network_that_does_not_answer_is_left_in_time(bus: PrivateBus, service: FakeModemManager) -> None:
    service.add_modem(iccid=ICCID)
    modem = next(path for path, one in service.objects.items() if MODEM in one)
    service.hang()
    started_s = time.monotonic()
    with pytest.raises(ModemError, match=r"USSD \*100#: the network did not answer in time"):
        ussd.ask("*100#", modem=modem, limit_s=0.5, address=bus.address)
    assert time.monotonic() - started_s < 7


def test_of_several_modems_one_must_be_named(bus: PrivateBus, service: FakeModemManager) -> None:
    with pytest.raises(ModemError, match="not one modem to dial with, but none"):
        ussd.ask("*100#", address=bus.address)
    paths = [service.add_modem(net=f"wwan{number}").path for number in range(2)]
    with pytest.raises(ModemError, match=f"but {', '.join(paths)}"):
        ussd.ask("*100#", address=bus.address)


# -- commands


def told(lab: Lab, bus: PrivateBus, *words: str) -> str:
    """What a command says of the lab's device."""
    done = subprocess.run(
        esimbpf("--netns", lab.device.name, *words),
        env=bus.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.stdout


def test_links_tells_whose_they_are(lab: Lab, bus: PrivateBus, service: FakeModemManager) -> None:
    modem = service.add_modem(iccid=ICCID, eid=EID, manufacturer="Fake\x1b[2J", model="[bold]M1")
    modem.register(ROAMING, "23201", "A1", LTE)
    modem.connect("wwan0")
    table = told(lab, bus, "links")
    [row] = [line for line in table.splitlines() if "A1" in line]
    assert row.split("  ")[1:] == [
        "wwan0",
        r"Fake\x1b[2J [bold]M1",
        "232-01 A1",
        "roaming in AT, lte",
        "eSIM 8949…4567",
    ]
    assert ICCID in told(lab, bus, "links", "--show-ids")
    entries = {one["link"]: one["modem"] for one in json.loads(told(lab, bus, "links", "--json"))["links"]}
    assert entries["lo"] is None
    assert (entries["wwan0"]["profile"], entries["wwan0"]["country"]) == ("8949…4567", "AT")
    service.hang()
    assert "A1" not in told(lab, bus, "links")


def test_doctor_tells_of_modemmanager(lab: Lab, bus: PrivateBus, service: FakeModemManager) -> None:
    def finding() -> str:
        findings = json.loads(told(lab, bus, "doctor", "--json"))["findings"]
        [one] = [one for one in findings if one["id"] == "modem-manager"]
        return f"{one['state']}: {one['detail']}"

    assert finding() == "lost: 1.20.4; it knows of no modem"
    service.add_modem(iccid=ICCID)
    assert finding() == "works: 1.20.4; Fake M1 with SIM 8949…4567 on wwan0"
    service.stop()
    assert finding() == "lost: not running"


# -- ModemManager's own interfaces


def installed(name: str) -> tuple[dict[str, str], str]:
    """The properties of an interface by their types, and its text, as Debian installs it."""
    text = (INTERFACES / f"{name}.xml").read_text()
    interface = ET.fromstring(text).find("interface")
    assert interface is not None
    assert interface.get("name") == name
    return {one.get("name", ""): one.get("type", "") for one in interface.findall("property")}, text


@pytest.mark.parametrize("interface", PROPERTIES)
def test_the_fakes_properties_are_modemmanagers_own(interface: str) -> None:
    own, _ = installed(interface)
    assert {name: own.get(name) for name in PROPERTIES[interface]} == PROPERTIES[interface]


class Asked(dict[str, Any]):
    """Properties that keep the names that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)


def test_every_property_that_is_read_is_one_of_modemmanagers_and_the_fake_has_it() -> None:
    asked = {interface: Asked() for interface in (MODEM, MODEM_3GPP, SIGNAL, SIM, BEARER)}
    decode.modem("/m", {name: one for name, one in asked.items() if name not in (SIM, BEARER)}, {}, {})
    decode.modem("/m", {MODEM: Asked() | {"State": -1}}, {}, {})
    decode.sim("/s", asked[SIM])
    decode.bearer("/b", asked[BEARER])
    for interface, properties in asked.items():
        assert properties.names
        assert properties.names <= set(PROPERTIES[interface])
    assert {"NetworkNotification", "NetworkRequest"} <= set(PROPERTIES[USSD])


def test_every_value_that_is_read_of_a_dictionary_is_documented_with_its_type() -> None:
    """Dictionaries have no types in introspection, so the words beside them are read: NAME … signature "t"."""
    asked, stats, settings = Asked(), Asked(), Asked()
    asked.update({"Stats": stats, "Properties": settings, "ReloadStatsSupported": True})
    stats["never"] = settings["never"] = None
    decode.bearer("/b", asked)
    _, text = installed(BEARER)
    documented = dict(
        re.findall(r'<literal>"([a-z-]+)"</literal></term>.*?signature\s+<literal>"(\w+)"', text, re.DOTALL)
    )
    kinds = {name: documented[name] for name in stats.names | settings.names}
    assert len(stats.names) == 9
    assert set(kinds.values()) <= {"t", "u", "s"}
    levels = Asked()
    levels["never"] = None
    decode.modem("/m", {SIGNAL: {"Lte": levels}}, {}, {})
    _, text = installed(SIGNAL)
    for name in levels.names:
        assert re.search(rf'<literal>"{name}"</literal></term>.*?signature <literal>"d"', text, re.DOTALL), name


def test_a_change_names_what_it_says() -> None:
    change = Change("wwan0", NO_MODEM, NO_MODEM, Moment(1, 1_700_000_000_123_000_000))
    assert change.at.utc.isoformat(timespec="milliseconds") == "2023-11-14T22:13:20.123+00:00"
