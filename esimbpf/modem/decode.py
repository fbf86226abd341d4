"""What D-Bus properties of ModemManager's objects say, as the model's values.

The numbers are those of ModemManager-enums.h (1.20), whose documentation is the interfaces' own. A number that is not
known here, and a property that is missing or of another type than the interface says, is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from esimbpf.modem.model import (
    Bearer,
    BearerStatistics,
    Modem,
    ModemState,
    Operator,
    Port,
    Registration,
    Signal,
    Sim,
)
from esimbpf.modem.numbering import Plmn, normal_eid, normal_iccid
from esimbpf.text import printable

__all__ = ["BEARER", "MODEM", "MODEM_3GPP", "SIGNAL", "SIM", "SIMPLE", "USSD", "Properties", "bearer", "modem", "sim"]

MODEM: Final = "org.freedesktop.ModemManager1.Modem"
MODEM_3GPP: Final = f"{MODEM}.Modem3gpp"
USSD: Final = f"{MODEM_3GPP}.Ussd"
SIGNAL: Final = f"{MODEM}.Signal"
SIMPLE: Final = f"{MODEM}.Simple"
SIM: Final = "org.freedesktop.ModemManager1.Sim"
BEARER: Final = "org.freedesktop.ModemManager1.Bearer"

Properties = Mapping[str, object]
"""An interface's properties by name, without their variants."""

_Meaning = TypeVar("_Meaning")

# MMModemState
_STATES: Final = {
    -1: ModemState.FAILED,
    1: ModemState.INITIALIZING,
    2: ModemState.LOCKED,
    3: ModemState.DISABLED,
    4: ModemState.DISABLING,
    5: ModemState.ENABLING,
    6: ModemState.ENABLED,
    7: ModemState.SEARCHING,
    8: ModemState.REGISTERED,
    9: ModemState.DISCONNECTING,
    10: ModemState.CONNECTING,
    11: ModemState.CONNECTED,
}

# MMModemStateFailedReason
_FAILURES: Final = {
    2: "the SIM is missing",
    3: "the SIM cannot be used",
    4: "its capabilities are unknown",
    5: "its eSIM has no profile",
}

# MMModem3gppRegistrationState, which continues the <stat> of 3GPP TS 27.007, section 10.1.22 (+CEREG).
_REGISTRATIONS: Final = {
    0: Registration.IDLE,
    1: Registration.HOME,
    2: Registration.SEARCHING,
    3: Registration.DENIED,
    5: Registration.ROAMING,
    6: Registration.HOME,  # for SMS only
    7: Registration.ROAMING,  # for SMS only
    8: Registration.LIMITED,  # emergency calls only
    9: Registration.HOME,  # CSFB not preferred
    10: Registration.ROAMING,  # CSFB not preferred
    11: Registration.LIMITED,  # restricted local operator services
}

# MMModemAccessTechnology: bits by name, the strongest first.
_TECHNOLOGIES: Final = {
    "5gnr": 15,
    "lte": 14,
    "lte-cat-m": 16,
    "lte-nb-iot": 17,
    "hspa-plus": 9,
    "hspa": 8,
    "hsupa": 7,
    "hsdpa": 6,
    "umts": 5,
    "evdob": 13,
    "evdoa": 12,
    "evdo0": 11,
    "1xrtt": 10,
    "edge": 4,
    "gprs": 3,
    "gsm-compact": 2,
    "gsm": 1,
    "pots": 0,
}
_ANY_TECHNOLOGY: Final = 0xFFFFFFFF

# The properties of the Signal interface by the technology that they tell of, the strongest first.
_MEASURED: Final = {"5gnr": "Nr5g", "lte": "Lte", "umts": "Umts", "gsm": "Gsm"}

# MMModemPortType
_PORT_KINDS: Final = {2: "net", 3: "at", 4: "qcdm", 5: "gps", 6: "qmi", 7: "mbim", 8: "audio", 9: "ignored"}

# MMSimType
_ESIM: Final = {1: False, 2: True}

# MMBearerIpFamily
_IP_TYPES: Final = {1: "ipv4", 2: "ipv6", 4: "ipv4v6", 8: "non-ip"}


def modem(
    path: str, interfaces: Mapping[str, Properties], sims: Mapping[str, Sim], bearers: Mapping[str, Bearer]
) -> Modem:
    """A modem of its object's interfaces; SIMs and bearers by their objects' paths, as far as they are known."""
    of, in_3gpp = interfaces.get(MODEM, {}), interfaces.get(MODEM_3GPP, {})
    measured = interfaces.get(SIGNAL, {})
    state = _meaning(_STATES, of, "State") or ModemState.UNKNOWN
    return Modem(
        path=path,
        state=state,
        failure=_meaning(_FAILURES, of, "StateFailedReason") or "for a reason that is not known"
        if state is ModemState.FAILED
        else "",
        manufacturer=_text(of, "Manufacturer"),
        model=_text(of, "Model"),
        revision=_text(of, "Revision"),
        device=_text(of, "Device"),
        equipment=_text(of, "EquipmentIdentifier"),
        drivers=tuple(printable(one) for one in _list(of, "Drivers") if isinstance(one, str)),
        plugin=_text(of, "Plugin"),
        ports=_ports(_list(of, "Ports")),
        sim=sims.get(_text(of, "Sim")),
        slots=tuple(sims.get(one) if isinstance(one, str) else None for one in _list(of, "SimSlots")),
        primary_slot=_number(of, "PrimarySimSlot") or None,
        registration=_meaning(_REGISTRATIONS, in_3gpp, "RegistrationState") or Registration.UNKNOWN,
        operator=_operator(_text(in_3gpp, "OperatorCode"), _text(in_3gpp, "OperatorName")),
        technologies=_technologies(_number(of, "AccessTechnologies")),
        signal=_signal(of, measured),
        signal_rate_s=_number(measured, "Rate"),
        bearers=tuple(bearers[one] for one in _list(of, "Bearers") if isinstance(one, str) and one in bearers),
    )


def sim(path: str, properties: Properties) -> Sim:
    """A SIM of its properties."""
    eid = _text(properties, "Eid")
    return Sim(
        path=path,
        iccid=normal_iccid(_text(properties, "SimIdentifier")),
        eid=normal_eid(eid),
        # Few modems tell the type; an EID is told of eSIMs only.
        esim=True if eid else _meaning(_ESIM, properties, "SimType"),
        active=_truth(properties, "Active"),
        issuer=_operator(_text(properties, "OperatorIdentifier"), _text(properties, "OperatorName")),
    )


def bearer(path: str, properties: Properties) -> Bearer:
    """A bearer of its properties."""
    settings = _dictionary(properties, "Properties")
    return Bearer(
        path=path,
        connected=_truth(properties, "Connected"),
        interface=_text(properties, "Interface"),
        multiplexed=_truth(properties, "Multiplexed"),
        suspended=_truth(properties, "Suspended"),
        ip_type=_meaning(_IP_TYPES, settings, "ip-type"),
        apn=_text(settings, "apn"),
        statistics=_statistics(_dictionary(properties, "Stats"), properties.get("ReloadStatsSupported") is True),
    )


def _statistics(stats: Properties, live: bool) -> BearerStatistics:
    """Bytes only if they are live: else they are those of the connection's beginning, or of nothing."""
    counted = stats if live else {}
    started_s = _number(stats, "start-date")
    return BearerStatistics(
        rx_bytes=_number(counted, "rx-bytes"),
        tx_bytes=_number(counted, "tx-bytes"),
        total_rx_bytes=_number(counted, "total-rx-bytes"),
        total_tx_bytes=_number(counted, "total-tx-bytes"),
        started=_date(started_s) if started_s else None,
        duration_s=_number(stats, "duration"),
        total_duration_s=_number(stats, "total-duration"),
        attempts=_number(stats, "attempts"),
        failed_attempts=_number(stats, "failed-attempts"),
    )


def _date(epoch_s: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(epoch_s, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _operator(code: str, name: str) -> Operator | None:
    plmn = Plmn.of(code)
    return Operator(plmn, name) if plmn or name else None


def _technologies(bits: int | None) -> tuple[str, ...]:
    if bits is None or bits == _ANY_TECHNOLOGY:
        return ()
    return tuple(name for name, bit in _TECHNOLOGIES.items() if bits >> bit & 1)


def _signal(of: Properties, measured: Properties) -> Signal:
    quality, recent = None, False
    match of.get("SignalQuality"):
        # (0, false) is what stands there before anything was measured.
        case (int(percent), bool(new)) if new or percent:
            quality, recent = percent, new
    for technology, name in _MEASURED.items():
        values = _dictionary(measured, name)
        if values:
            return Signal(
                quality_percent=quality,
                recent=recent,
                technology=technology,
                rssi_dbm=_level(values, "rssi"),
                rsrp_dbm=_level(values, "rsrp"),
                rsrq_db=_level(values, "rsrq"),
                snr_db=_level(values, "snr"),
            )
    return Signal(quality, recent)


def _level(values: Properties, name: str) -> float | None:
    """In dB or dBm; drivers mark what they do not know by numbers that nothing can have."""
    value = values.get(name)
    return value if isinstance(value, float) and math.isfinite(value) and abs(value) < 1000 else None


def _ports(ports: Sequence[object]) -> tuple[Port, ...]:
    found = []
    for port in ports:
        match port:
            case (str(name), int(kind)):
                found.append(Port(printable(name), _PORT_KINDS.get(kind, "unknown")))
    return tuple(found)


# -- properties by type ------------------------------------------------------------------


def _text(properties: Properties, name: str) -> str:
    value = properties.get(name)
    return printable(value) if isinstance(value, str) else ""


def _number(properties: Properties, name: str) -> int | None:
    value = properties.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _meaning(meanings: Mapping[int, _Meaning], properties: Properties, name: str) -> _Meaning | None:
    number = _number(properties, name)
    return None if number is None else meanings.get(number)


def _truth(properties: Properties, name: str) -> bool | None:
    value = properties.get(name)
    return value if isinstance(value, bool) else None


def _list(properties: Properties, name: str) -> Sequence[object]:
    value = properties.get(name)
    return value if isinstance(value, list) else ()


def _dictionary(properties: Properties, name: str) -> Properties:
    value = properties.get(name)
    return value if isinstance(value, dict) else {}
