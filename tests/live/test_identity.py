"""On whose account bytes are moved, and where: profiles that are switched and roaming that begins in mid-traffic."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from esimbpf.ledger.database import connect
from esimbpf.model import NOTHING, Counters
from tests.live.attached import ENVIRONMENT, command, daemon, end, ledger, said
from tests.live.limited import PUPPET
from tests.live.netlab import Lab
from tests.live.traffic import Puppet
from tests.modems.fake_service import HOME, LTE, NR, ROAMING, FakeModem, FakeModemManager
from tests.modems.private_bus import PrivateBus

pytestmark = pytest.mark.usefixtures("own_pins")

ICCID, OTHER_ICCID = "8949020000001234567", "8943010000007654321"
SIZE, HEADER = 1201, 28


@pytest.fixture
def service(bus: PrivateBus) -> Iterator[FakeModemManager]:
    with FakeModemManager(bus.address) as started:
        yield started


@pytest.fixture
def modem(service: FakeModemManager) -> FakeModem:
    """One whose profile is at home, and connected over wwan0."""
    modem = service.add_modem(iccid=ICCID)
    modem.register(HOME, "26201", "Home", LTE)
    modem.connect()
    return modem


@contextmanager
def sending(lab: Lab) -> Iterator[Puppet]:
    """A program that sends datagrams without an end."""
    puppet = Puppet.start(lab.device)
    stop = threading.Event()
    sock = puppet.udp()

    def flood() -> None:
        while not stop.is_set():
            sock.do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * 20)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield puppet
    finally:
        stop.set()
        thread.join()


def environment(bus: PrivateBus) -> dict[str, str]:
    return {**ENVIRONMENT, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}


def of(state: Path, **where: Any) -> Counters:
    """What the ledger has of an identity."""
    wanted = " AND ".join(f"{name} = {value!r}" for name, value in where.items())
    ids = f"SELECT identity.id FROM identity JOIN profile ON profile.id = profile_id WHERE {wanted}"
    return ledger(state, where=f"identity_id IN ({ids})")


def report(lab: Lab, state: Path, by: str) -> list[dict[str, Any]]:
    lines = command(lab, "--state-dir", str(state), "report", "--json", "--by", by).stdout.splitlines()
    return [line for line in map(json.loads, lines) if line["type"] == "report"]


def test_every_byte_counts_for_one_identity_whatever_changes_in_mid_traffic(
    lab: Lab, tmp_path: Path, bus: PrivateBus, service: FakeModemManager, modem: FakeModem
) -> None:
    state = tmp_path / "state"
    before = lab.link.crossed()
    with daemon(lab, state, environment=environment(bus)) as process:
        with sending(lab):
            modem.register(ROAMING, "23201", "A1", LTE)
            said(process, "roaming in AT")
            modem.register(ROAMING, "23201", "A1", NR)
            said(process, "5gnr")
            modem.switch_profile(OTHER_ICCID)
            said(process, "8943")
            modem.register(HOME, "26201", "Home", LTE)
            said(process, "at home")
            modem.reset()
            said(process, "not known")
            modem.register(HOME, "26201", "Home", LTE)
            modem.connect()
            said(process, "at home")
            service.stop()
            said(process, "not known")
            service.start()
            fresh = service.add_modem(iccid=ICCID)
            fresh.register(HOME, "26201", "Home", LTE)
            fresh.connect()
            said(process, "at home")
            bus.stop()
            said(process, "not known")
        end(process)
    crossed = lab.link.crossed() - before
    assert ledger(state) == crossed
    parts = [
        of(state, iccid=iccid, roaming=roaming) for iccid in (ICCID, OTHER_ICCID, "unknown") for roaming in (-1, 0, 1)
    ]
    assert sum(parts, NOTHING) == crossed
    assert of(state, iccid=ICCID, roaming=1, country="AT", technology="5gnr").tx_bytes > 0
    assert of(state, iccid=OTHER_ICCID, roaming=0, network="262-01").tx_bytes > 0
    assert of(state, iccid="unknown").tx_bytes > 0
    for by in ("profile", "network", "country", "technology", "app"):
        lines = report(lab, state, by)
        assert sum(line["tx_bytes"] for line in lines) == crossed.tx_bytes
    assert {"232-01 A1", "262-01 Home"} <= {line["network"] for line in report(lab, state, "network")}
    with closing(connect(state)) as db:
        happened = [kind for (kind,) in db.execute("SELECT type FROM event WHERE type LIKE 'roaming.%' ORDER BY id")]
    assert happened == ["roaming.started", "roaming.ended"]


def test_a_quota_for_roaming_holds_abroad_and_counts_nothing_at_home(
    lab: Lab, tmp_path: Path, unique: Path, bus: PrivateBus, modem: FakeModem
) -> None:
    state, packet = tmp_path / "state", SIZE + HEADER
    limit = 100_000
    passing = -(-limit // packet)
    words = ("--app", "limited", "--limit", str(limit), "--per", "once", "--when", "roaming", "--do", "block")
    with daemon(lab, state, environment=environment(bus)) as process:
        command(lab, "--state-dir", str(state), "quota", "add", "abroad", *words)
        said(process, "was read anew")
        sender = Puppet.start(lab.device, str(unique), "-IS", PUPPET).udp()
        to = [lab.link.network_ip, 9]
        before = lab.link.crossed()
        sender.do("send_datagrams", to, [SIZE] * 3 * passing)
        assert (lab.link.crossed() - before).tx_packets == 3 * passing
        modem.register(ROAMING, "23201", "A1", LTE)
        said(process, "roaming in AT")
        before = lab.link.crossed()
        with pytest.raises(OSError, match="not permitted"):
            sender.do("send_datagrams", to, [SIZE] * 3 * passing)
        assert (lab.link.crossed() - before).tx_packets == passing
        said(process, "quota abroad: the limit is reached")
        modem.register(HOME, "26201", "Home", LTE)
        said(process, "at home")
        before = lab.link.crossed()
        sender.do("send_datagrams", to, [SIZE] * 3)
        assert (lab.link.crossed() - before).tx_packets == 3
        modem.register(ROAMING, "23201", "A1", LTE)
        said(process, "roaming in AT")
        with pytest.raises(OSError, match="not permitted"):
            sender.do("send_datagrams", to, [SIZE])
        end(process)
    shown = command(lab, "--state-dir", str(state), "quota", "show", "abroad", "--json").stdout
    assert json.loads(shown)["used_bytes"] == passing * packet == of(state, roaming=1).tx_bytes


def test_a_saver_mode_for_roaming_begins_and_ends_with_it(
    lab: Lab, tmp_path: Path, unique: Path, bus: PrivateBus, modem: FakeModem
) -> None:
    state, to = tmp_path / "state", [lab.link.network_ip, 9]
    with daemon(lab, state, environment=environment(bus)) as process:
        command(lab, "--state-dir", str(state), "saver", "on", "--allow", "limited", "--when", "roaming")
        said(process, "was read anew")
        allowed, other = Puppet.start(lab.device, str(unique), "-IS", PUPPET).udp(), Puppet.start(lab.device).udp()
        before = lab.link.crossed()
        other.do("send_datagrams", to, [SIZE] * 3)
        modem.register(ROAMING, "23201", "A1", LTE)
        said(process, "roaming in AT")
        with pytest.raises(OSError, match="not permitted"):
            other.do("send_datagrams", to, [SIZE])
        allowed.do("send_datagrams", to, [SIZE] * 5)
        modem.register(HOME, "26201", "Home", LTE)
        said(process, "at home")
        other.do("send_datagrams", to, [SIZE] * 7)
        assert (lab.link.crossed() - before).tx_packets == 3 + 5 + 7
        end(process)


def test_each_profile_is_told_with_whether_it_is_active_and_what_it_has_moved_at_home_and_abroad(
    lab: Lab,
    tmp_path: Path,
    bus: PrivateBus,
    service: FakeModemManager,
    modem: FakeModem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, packet = tmp_path / "state", SIZE + HEADER
    monkeypatch.setitem(ENVIRONMENT, "DBUS_SYSTEM_BUS_ADDRESS", bus.address)

    before = lab.link.crossed()

    def profiles() -> dict[str, dict[str, Any]]:
        words = ("--state-dir", str(state), "profiles", "--json", "--show-ids")
        return {line["profile"]: line for line in map(json.loads, command(lab, *words).stdout.splitlines())}

    with daemon(lab, state, environment=environment(bus)) as process:
        sender, to = Puppet.start(lab.device).udp(), [lab.link.network_ip, 9]
        sender.do("send_datagrams", to, [SIZE] * 3)
        modem.register(ROAMING, "23201", "A1", LTE)
        said(process, "roaming in AT")
        sender.do("send_datagrams", to, [SIZE] * 5)
        modem.switch_profile(OTHER_ICCID, eid="89049032000000000000000000000001")
        said(process, "8943")
        sender.do("send_datagrams", to, [SIZE] * 7)
        modem.register(HOME, "26201", "Home", LTE)
        told = profiles()
        service.stop()
        said(process, "not known")
        end(process)
    here, other = told[ICCID], told[OTHER_ICCID]
    assert (here["home_bytes"], here["roaming_bytes"]) == tuple(
        of(state, iccid=ICCID, roaming=roaming).total_bytes for roaming in (0, 1)
    )
    assert here["home_bytes"] >= 3 * packet
    assert here["roaming_bytes"] >= 5 * packet
    assert other["roaming_bytes"] >= 7 * packet
    crossed = (lab.link.crossed() - before).total_bytes
    last = profiles().values()
    assert sum(line[f"{where}_bytes"] for line in last for where in ("home", "roaming", "unknown")) == crossed
    assert (here["active"], here["links"], here["esim"]) == (False, [], None)
    assert (other["active"], other["links"], other["esim"]) == (True, ["wwan0"], True)
    assert here["operator"] == {"plmn": "262-01", "name": "Home"}
    assert {line["active"] for line in last} == {None}
