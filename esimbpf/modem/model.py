"""A modem, its SIMs and its bearers, as ModemManager tells of them at one moment.

None stands for what is not known. Every string is safe to print (see `text.printable`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from esimbpf.modem.numbering import Plmn

__all__ = [
    "Bearer",
    "BearerStatistics",
    "Modem",
    "ModemState",
    "Moment",
    "Operator",
    "Port",
    "Registration",
    "Service",
    "Signal",
    "Sim",
    "Survey",
]


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time, by both clocks."""

    boottime_ns: int
    """Nanoseconds since boot, sleep included (CLOCK_BOOTTIME); never goes back."""
    wall_ns: int
    """Nanoseconds since the Unix epoch."""

    @classmethod
    def now(cls) -> Moment:
        """This one."""
        return cls(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())

    @property
    def utc(self) -> datetime:
        """The wall time."""
        return datetime.fromtimestamp(self.wall_ns / 1e9, UTC)


class Service(StrEnum):
    """Whether ModemManager can be asked."""

    RUNNING = "running"
    NOT_RUNNING = "not running"
    """D-Bus is there, ModemManager is not."""
    SILENT = "silent"
    """It is there and does not answer in time."""
    REFUSED = "refused"
    """It does not answer this user."""
    NO_BUS = "no bus"
    """There is no D-Bus, or it has gone."""
    UNKNOWN = "unknown"
    """It has not been asked yet."""


class ModemState(StrEnum):
    """MMModemState."""

    FAILED = "failed"
    UNKNOWN = "unknown"
    INITIALIZING = "initializing"
    LOCKED = "locked"
    DISABLED = "disabled"
    DISABLING = "disabling"
    ENABLING = "enabling"
    ENABLED = "enabled"
    SEARCHING = "searching"
    REGISTERED = "registered"
    DISCONNECTING = "disconnecting"
    CONNECTING = "connecting"
    CONNECTED = "connected"


class Registration(StrEnum):
    """Whether, and where, a modem is registered with a network."""

    HOME = "home"
    ROAMING = "roaming"
    SEARCHING = "searching"
    DENIED = "denied"
    IDLE = "idle"
    """Not registered, and not searching."""
    LIMITED = "limited"
    """For emergency calls or restricted local services only."""
    UNKNOWN = "unknown"

    @property
    def roaming(self) -> bool | None:
        """Whether what is moved is moved abroad; None if it is not registered, or that is not known."""
        return {Registration.HOME: False, Registration.ROAMING: True}.get(self)


@dataclass(frozen=True, slots=True)
class Operator:
    """A network, or who has issued a SIM."""

    plmn: Plmn | None
    name: str = ""
    """Empty if it is not known."""

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.plmn or ""), self.name)))


@dataclass(frozen=True, slots=True)
class Sim:
    """A SIM, or the active profile of an eSIM."""

    path: str
    """Its D-Bus object."""
    iccid: str | None
    """In its normal form (`numbering.normal_iccid`)."""
    eid: str | None = None
    """The eUICC's number."""
    esim: bool | None = None
    """Whether it is an eSIM's profile."""
    active: bool | None = None
    issuer: Operator | None = None
    """Who has issued it; not who serves it while roaming."""


@dataclass(frozen=True, slots=True)
class Signal:
    """How well a modem hears its network."""

    quality_percent: int | None = None
    recent: bool = False
    """Whether that was measured just now."""
    technology: str | None = None
    """What the values below are of: `5gnr`, `lte`, `umts` or `gsm`."""
    rssi_dbm: float | None = None
    rsrp_dbm: float | None = None
    rsrq_db: float | None = None
    snr_db: float | None = None


@dataclass(frozen=True, slots=True)
class BearerStatistics:
    """What a modem has counted of a bearer; bytes only where it keeps counting them (`ReloadStatsSupported`)."""

    rx_bytes: int | None = None
    """Of the ongoing connection, or the last one."""
    tx_bytes: int | None = None
    total_rx_bytes: int | None = None
    """Of all connections of this bearer object."""
    total_tx_bytes: int | None = None
    started: datetime | None = None
    """When the ongoing connection began, by the machine's clock."""
    duration_s: int | None = None
    total_duration_s: int | None = None
    attempts: int | None = None
    failed_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Bearer:
    """A packet data connection (a PDP context, an EPS bearer, a PDU session)."""

    path: str
    connected: bool | None
    interface: str = ""
    """The network interface, of a multiplexed one the upper; under PPP, the TTY; empty if there is none."""
    multiplexed: bool | None = None
    suspended: bool | None = None
    ip_type: str | None = None
    """`ipv4`, `ipv6`, `ipv4v6` or `non-ip`, as it was asked for."""
    apn: str = ""
    statistics: BearerStatistics = BearerStatistics()


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a modem."""

    name: str
    """Of its device, as in `wwan0`, `ttyUSB2`, `cdc-wdm0`."""
    kind: str
    """`net`, `at`, `qmi`, `mbim`, …; `unknown`."""


@dataclass(frozen=True, slots=True)
class Modem:
    """A modem."""

    path: str
    """Its D-Bus object; another one after each reset."""
    state: ModemState
    failure: str = ""
    """Why it has failed, in words; empty if it has not."""
    manufacturer: str = ""
    model: str = ""
    revision: str = ""
    device: str = ""
    """The physical device's path in sysfs, or whatever else stands for it."""
    equipment: str = ""
    """The IMEI, ESN or MEID."""
    drivers: tuple[str, ...] = ()
    plugin: str = ""
    ports: tuple[Port, ...] = ()
    sim: Sim | None = None
    """The active one."""
    slots: tuple[Sim | None, ...] = ()
    """What is in each slot, in their order; nothing where the modem does not tell of slots."""
    primary_slot: int | None = None
    """The number of the active SIM's slot, from 1."""
    registration: Registration = Registration.UNKNOWN
    operator: Operator | None = None
    """The network that it is registered with."""
    technologies: tuple[str, ...] = ()
    """Access technologies in use, the strongest first, by ModemManager's names: `5gnr`, `lte`, `umts`, …"""
    signal: Signal = Signal()
    signal_rate_s: int | None = None
    """How often ModemManager asks it for the signal's values; 0 for never, None where it cannot."""
    bearers: tuple[Bearer, ...] = ()

    @property
    def technology(self) -> str | None:
        """The strongest access technology in use."""
        return self.technologies[0] if self.technologies else None

    @property
    def name(self) -> str:
        """Manufacturer and model, the manufacturer once; `modem` if neither is known."""
        if self.model.lower().startswith(self.manufacturer.lower()):
            return self.model or "modem"
        return f"{self.manufacturer} {self.model}".strip()


@dataclass(frozen=True, slots=True)
class Survey:
    """All modems at one moment."""

    service: Service
    words: str = ""
    """What is in the way, where something is."""
    version: str = ""
    """ModemManager's."""
    modems: tuple[Modem, ...] = ()
    at: Moment = Moment(0, 0)
    """When it became so."""
