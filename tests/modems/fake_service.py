"""A ModemManager that does what a test says, on a bus of the test's own: for what no modem at hand can do.

    with PrivateBus(folder) as bus, FakeModemManager(bus.address) as service:
        modem = service.add_modem(net="wwan0", iccid="8949…", eid="8904…")
        modem.register(HOME, "26201", "Home", LTE)
        modem.connect("wwan0")
        modem.register(ROAMING, "23201", "A1", LTE)      # roaming begins
        modem.switch_profile("8943…", eid="8904…")       # another profile of the eSIM, another SIM object
        modem.reset()                                    # all objects come back under other paths
        service.stop(); service.start()                  # ModemManager restarts, and knows of no modem
        bus.stop(); bus.start(); service.start()

Its properties have the names and types of ModemManager's own (`PROPERTIES`), which a test holds against the interfaces
that Debian installs. Signals go out in the order of the calls, before the call returns.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from tests.modems.at_work import AtWork

__all__ = [
    "BEARER",
    "HOME",
    "LTE",
    "MODEM",
    "MODEM_3GPP",
    "NR",
    "PROPERTIES",
    "ROAMING",
    "SIGNAL",
    "SIM",
    "USSD",
    "FakeModem",
    "FakeModemManager",
]

NAME: Final = "org.freedesktop.ModemManager1"
PATH: Final = "/org/freedesktop/ModemManager1"

# MMModem3gppRegistrationState, MMModemAccessTechnology
HOME, ROAMING = 1, 5
LTE, NR = 1 << 14, 1 << 15

MODEM: Final = f"{NAME}.Modem"
MODEM_3GPP: Final = f"{MODEM}.Modem3gpp"
USSD: Final = f"{MODEM_3GPP}.Ussd"
SIGNAL: Final = f"{MODEM}.Signal"
SIM: Final = f"{NAME}.Sim"
BEARER: Final = f"{NAME}.Bearer"

PROPERTIES: Final[dict[str, dict[str, str]]] = {
    NAME: {"Version": "s"},
    MODEM: {
        "AccessTechnologies": "u",
        "Bearers": "ao",
        "Device": "s",
        "Drivers": "as",
        "EquipmentIdentifier": "s",
        "Manufacturer": "s",
        "Model": "s",
        "Plugin": "s",
        "Ports": "a(su)",
        "PrimaryPort": "s",
        "PrimarySimSlot": "u",
        "Revision": "s",
        "SignalQuality": "(ub)",
        "Sim": "o",
        "SimSlots": "ao",
        "State": "i",
        "StateFailedReason": "u",
    },
    MODEM_3GPP: {"OperatorCode": "s", "OperatorName": "s", "RegistrationState": "u"},
    USSD: {"NetworkNotification": "s", "NetworkRequest": "s", "State": "u"},
    SIGNAL: {"Gsm": "a{sv}", "Lte": "a{sv}", "Nr5g": "a{sv}", "Rate": "u", "Umts": "a{sv}"},
    SIM: {
        "Active": "b",
        "Eid": "s",
        "OperatorIdentifier": "s",
        "OperatorName": "s",
        "SimIdentifier": "s",
        "SimType": "u",
    },
    BEARER: {
        "Connected": "b",
        "Interface": "s",
        "Multiplexed": "b",
        "Properties": "a{sv}",
        "ReloadStatsSupported": "b",
        "Stats": "a{sv}",
        "Suspended": "b",
    },
}
"""The D-Bus type of each property, by interface."""

Interfaces = dict[str, dict[str, Any]]


class FakeModemManager(AtWork):
    """The service, at work within `with`, but for the times between `stop` and `start`, and while it hangs."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._numbers = count()
        self._lock = threading.RLock()
        self._connection: DBusConnection | None = None
        self.objects: dict[str, Interfaces] = {}
        """Everything, by path and interface; SIMs and bearers too, which the object manager does not list."""
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []
        """What was asked beside properties: path, `Interface.Method` without the common beginning, arguments."""
        self.denied = False
        """Whether to refuse every call, as D-Bus does for users who may not."""
        self._awake = threading.Event()
        self._awake.set()

    def start(self) -> None:
        """Appear on the bus, without any modem."""
        self.objects = {PATH: {NAME: {"Version": "1.20.4"}}}
        self._connection = open_dbus_connection(self._address)
        self._thread = threading.Thread(target=self._serve, args=(self._connection,), daemon=True)
        self._thread.start()
        # The answer to this is read, and left alone, by the thread.
        self._send(new_method_call(_BUS, "RequestName", "su", (NAME, 0)))

    def stop(self) -> None:
        """Disappear from the bus, as a crash does; the bus may have gone before."""
        self.resume()
        if self._connection:
            self._connection.sock.shutdown(2)
            self._thread.join()
            self._connection.close()
            self._connection = None

    def hang(self) -> None:
        """Answer nothing until `resume`; what is asked meanwhile is answered then."""
        self._awake.clear()

    def resume(self) -> None:
        """Answer again."""
        self._awake.set()

    def add_modem(
        self,
        *,
        net: str = "wwan0",
        iccid: str = "8949020000001234567",
        eid: str = "",
        sim_type: int = 0,
        slots: int = 0,
        manufacturer: str = "Fake",
        model: str = "M1",
        ports: tuple[tuple[str, int], ...] = (),
    ) -> FakeModem:
        """A modem that is enabled and not registered; with `slots`, its SIM is in the first of so many."""
        modem = FakeModem(self, net, manufacturer, model, ports or ((net, 2), ("cdc-wdm0", 6)), slots)
        modem.come(self.new_sim(iccid, eid, sim_type))
        return modem

    def new_sim(self, iccid: str, eid: str = "", sim_type: int = 0, issuer: tuple[str, str] = ("26201", "Home")) -> str:
        """A SIM object of no modem yet; its path."""
        path = self.new_path("SIM")
        self.objects[path] = {
            SIM: {
                "Active": True,
                "Eid": eid,
                "OperatorIdentifier": issuer[0],
                "OperatorName": issuer[1],
                "SimIdentifier": iccid,
                "SimType": sim_type,
            }
        }
        return path

    def new_path(self, kind: str) -> str:
        """A path that no object has had."""
        return f"{PATH}/{kind}/{next(self._numbers)}"

    def set(self, path: str, interface: str, **values: Any) -> None:
        """Change properties of an object, and say so."""
        with self._lock:
            self.objects[path][interface].update(values)
            said: tuple[str, dict[str, Any], list[str]] = (interface, _variants(interface, values), [])
            self.emit(path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", said)

    def emit(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> None:
        """Send a signal."""
        self._send(new_signal(DBusAddress(path, interface=interface), member, signature, body))

    def managed(self, path: str) -> Mapping[str, Mapping[str, tuple[str, Any]]]:
        """An object as the object manager tells of it."""
        return {interface: _variants(interface, values) for interface, values in self.objects[path].items()}

    def _send(self, message: Message) -> None:
        with self._lock:
            if self._connection:
                self._connection.send(message)

    def _serve(self, connection: DBusConnection) -> None:
        while True:
            try:
                message = connection.receive()
            except OSError:
                return
            self._awake.wait()
            if message.header.message_type is MessageType.method_call:
                try:
                    self._send(self._answer(message))
                except OSError:
                    return

    def _answer(self, call: Message) -> Message:
        fields = call.header.fields
        path, interface, member = (
            fields[field] for field in (HeaderFields.path, HeaderFields.interface, HeaderFields.member)
        )
        if self.denied:
            return new_error(call, "org.freedesktop.DBus.Error.AccessDenied", "s", ("not you",))
        with self._lock:
            there = self.objects.get(path)
            match interface.removeprefix("org.freedesktop."), member:
                case "DBus.ObjectManager", "GetManagedObjects":
                    modems = {path: self.managed(path) for path, one in self.objects.items() if MODEM in one}
                    return new_method_return(call, "a{oa{sa{sv}}}", (modems,))
                case "DBus.Properties", "Get" if there:
                    wanted, name = call.body
                    return new_method_return(call, "v", (_variants(wanted, there[wanted])[name],))
                case "DBus.Properties", "GetAll" if there:
                    [wanted] = call.body
                    return new_method_return(call, "a{sv}", (_variants(wanted, there[wanted]),))
            self.calls.append((path, f"{interface.rpartition('.')[2]}.{member}", call.body))
            if (interface, member) == (SIGNAL, "Setup") and there:
                self.set(path, SIGNAL, Rate=call.body[0])
                return new_method_return(call)
        return new_error(call, "org.freedesktop.DBus.Error.UnknownMethod", "s", (f"no {member} at {path}",))


class FakeModem:
    """One modem of the service; what is done to it is told on the bus as ModemManager tells it."""

    def __init__(
        self,
        service: FakeModemManager,
        net: str,
        manufacturer: str,
        model: str,
        ports: tuple[tuple[str, int], ...],
        slots: int,
    ) -> None:
        self._service = service
        self._net = net
        self._of = {"Manufacturer": manufacturer, "Model": model, "Ports": list(ports)}
        self._slots = slots
        self.path = ""
        self.sim = ""

    def come(self, sim: str) -> None:
        """Appear, under a path of its own, with this SIM."""
        self.sim = sim
        self.path = self._service.new_path("Modem")
        self._service.objects[self.path] = {
            MODEM: {
                **self._of,
                "AccessTechnologies": 0,
                "Bearers": [],
                "Device": f"/sys/devices/{self._net}",
                "Drivers": ["qmi_wwan"],
                "EquipmentIdentifier": "350000000000017",
                "Plugin": "generic",
                "PrimaryPort": "cdc-wdm0",
                "PrimarySimSlot": 1 if self._slots else 0,
                "Revision": "1.0",
                "SignalQuality": (0, False),
                "Sim": sim,
                "SimSlots": [sim, *["/"] * (self._slots - 1)] if self._slots else [],
                "State": 6,
                "StateFailedReason": 0,
            },
            MODEM_3GPP: {"OperatorCode": "", "OperatorName": "", "RegistrationState": 0},
            USSD: {"NetworkNotification": "", "NetworkRequest": "", "State": 1},
            SIGNAL: {"Gsm": {}, "Lte": {}, "Nr5g": {}, "Rate": 0, "Umts": {}},
        }
        body = (self.path, self._service.managed(self.path))
        self._service.emit(PATH, _OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}", body)

    def go(self) -> None:
        """Disappear, with all that belongs to it."""
        interfaces = list(self._service.objects[self.path])
        del self._service.objects[self.path]
        self._service.emit(PATH, _OBJECT_MANAGER, "InterfacesRemoved", "oas", (self.path, interfaces))

    def reset(self) -> None:
        """Disappear, and come back under another path, with the same SIM under another path, not registered."""
        told = self._service.objects[self.sim][SIM]
        self.go()
        self.come(self._service.new_sim(told["SimIdentifier"], told["Eid"], told["SimType"]))

    def set(self, interface: str = MODEM, **values: Any) -> None:
        """Change properties of the modem."""
        self._service.set(self.path, interface, **values)

    def register(self, state: int, operator: str = "", name: str = "", technology: int = 0) -> None:
        """Register with a network, or lose it."""
        self.set(MODEM_3GPP, RegistrationState=state, OperatorCode=operator, OperatorName=name)
        self.set(AccessTechnologies=technology)

    def switch_profile(self, iccid: str, eid: str = "") -> None:
        """Another profile becomes the active one: another SIM object in the place of the first."""
        self.sim = self._service.new_sim(iccid, eid)
        slots = [self.sim, *["/"] * (self._slots - 1)] if self._slots else []
        self.set(Sim=self.sim, SimSlots=slots)

    def connect(self, interface: str = "", *, multiplexed: bool = False, apn: str = "internet") -> str:
        """Connect a new bearer over an interface, its own network port by default; the bearer's path."""
        path = self._service.new_path("Bearer")
        self._service.objects[path] = {
            BEARER: {
                "Connected": False,
                "Interface": "",
                "Multiplexed": False,
                "Properties": {"apn": ("s", apn), "ip-type": ("u", 4)},
                "ReloadStatsSupported": False,
                "Stats": {},
                "Suspended": False,
            }
        }
        self.set(Bearers=[*self._service.objects[self.path][MODEM]["Bearers"], path])
        self._service.set(path, BEARER, Connected=True, Interface=interface or self._net, Multiplexed=multiplexed)
        return path

    def disconnect(self, bearer: str) -> None:
        """The bearer stays, and is not connected."""
        self._service.set(bearer, BEARER, Connected=False, Interface="")

    def reconnect(self, bearer: str) -> None:
        """Connect a bearer once more."""
        self._service.set(bearer, BEARER, Connected=True, Interface=self._net)


_BUS: Final = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"


def _variants(interface: str, values: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    return {name: (PROPERTIES[interface][name], value) for name, value in values.items()}
