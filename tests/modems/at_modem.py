"""A modem that answers AT commands on UNIX sockets, for the real ModemManager to find.

It is written after the specifications, and knows what a plain LTE modem with a SIM has to know:

    ITU-T V.250        the command line, result codes, echo, ATD, ATH, ATZ, AT&F, identification
    3GPP TS 27.007     +CFUN, +CPIN, +CIMI, +CRSM, +CREG, +CGREG, +CEREG, +COPS, +CSQ, +CESQ, +CUSD, +CGDCONT, +CGACT, …
    3GPP TS 31.102     the SIM's files (section 4.2): EF_ICCID, EF_AD, EF_SPN
    3GPP TS 23.038     character sets of USSD strings

    with AtModem(iccid="8949…") as modem:
        … modem.ports …                      # as ModemManager's Test interface takes them: abstract:NAME
        modem.register(ROAMING, "23201", "A1")
        modem.ussd("Your bundle ends")       # the network says something of itself
        modem.reset()                        # gone from its ports, and back
"""

from __future__ import annotations

import os
import re
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from tests.modems.at_work import AtWork

__all__ = ["HOME", "ROAMING", "AtModem", "Menu"]

# <stat> of +CREG, 27.007 section 7.2
HOME, SEARCHING, ROAMING = 1, 2, 5
# <AcT> of +COPS, 27.007 section 7.3
E_UTRAN: Final = 7

# File identifiers, 31.102 section 4.2 and annex D (in decimal, as +CRSM takes them), and READ BINARY, 102 221.
EF_ICCID, EF_AD, EF_SPN = 0x2FE2, 0x6FAD, 0x6F46
READ_BINARY = 176

_serial = count()


class Refused(Exception):
    """The command's result is an error, by its <err> of 27.007 section 9.2."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


NOT_SUPPORTED, NO_SIM = 4, 10


@dataclass
class Menu:
    """What the network answers to a USSD string: a text, and what may be chosen then; it ends where nothing may."""

    text: str
    choices: dict[str, Menu] = field(default_factory=dict)


def swapped(digits: str) -> str:
    """Digits as EF_ICCID has them: two to a byte, the first in the low half, filled with F (31.102 section 4.2.2)."""
    filled = digits.ljust(20, "F")
    return "".join(filled[n + 1] + filled[n] for n in range(0, 20, 2))


class AtModem(AtWork):
    """The modem, listening within `with`; what it is told is told to ModemManager, unasked where it asked for that."""

    def __init__(
        self, iccid: str = "8949020000001234567", imsi: str = "262011234567890", ports: int = 2, issuer: str = "Home"
    ) -> None:
        self.iccid = iccid
        """Of the SIM; empty if there is none."""
        self.imsi = imsi
        self.issuer = issuer
        self.menus: dict[str, Menu] = {}
        """By the string that is dialled."""
        self.afterwards = ""
        """What the network sends of itself after it has answered a USSD string."""
        self.mute = False
        """Whether it answers nothing at all, as a modem that hangs."""
        self.spoken: list[str] = []
        """Every command line that it got."""
        self._stat, self._plmn, self._operator, self._act = SEARCHING, "", "", E_UTRAN
        self.signal = (20, 60)
        """<rsrq> and <rsrp> of +CESQ (27.007, section 8.69)."""
        self.strength = 17
        """<rssi> of +CSQ (27.007, section 8.5)."""
        self._contexts: dict[int, tuple[str, str]] = {}
        self._active: set[int] = set()
        self._menu: Menu | None = None
        self._charset = "GSM"
        self.ports = [f"abstract:esimbpf-test-{os.getpid()}-{next(_serial)}" for _ in range(ports)]
        """As the Test interface takes them."""
        self._lines: list[_Line] = []
        self._lock = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)

    def stop(self) -> None:
        """Be gone."""
        self._silence()
        os.close(self._wake)

    def start(self) -> None:
        """Be there, on its ports."""
        self._listeners = []
        for name in self.ports:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            # The whole of what the port is called is the socket's name.
            listener.bind(f"\0{name}")
            listener.listen()
            self._listeners.append(listener)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _silence(self) -> None:
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.eventfd_read(self._wake)
        for listener in self._listeners:
            listener.close()
        for line in self._lines:
            line.socket.close()
        self._lines.clear()

    # -- what happens to it --------------------------------------------------------

    def register(self, stat: int, plmn: str = "", operator: str = "", act: int = E_UTRAN) -> None:
        """The network changes, or what it says of the registration."""
        with self._lock:
            self._stat, self._plmn, self._operator, self._act = stat, plmn, operator, act
            for line in self._lines:
                for command, mode in line.reports.items():
                    if mode:
                        line.say(f"{command}: {self._registration(mode)}")

    def ussd(self, text: str, *, answer: bool = False) -> None:
        """The network sends a string of itself, to which an answer may be wanted."""
        with self._lock:
            self._menu = Menu(text) if answer else None
            for line in self._lines:
                line.say(f"+CUSD: {self._ussd(text, answer)}")

    def reset(self) -> None:
        """Drop off its ports, and be there again, with nothing set up and nothing registered."""
        self._silence()
        with self._lock:
            self._stat, self._contexts, self._menu = SEARCHING, {}, None
            self._active.clear()
        self.start()

    # -- its lines -----------------------------------------------------------------

    def _serve(self) -> None:
        listeners = {listener.fileno(): listener for listener in self._listeners}
        while True:
            lines = {line.socket.fileno(): line for line in self._lines}
            ready, _, _ = select.select([self._wake, *listeners, *lines], [], [])
            if self._wake in ready:
                return
            for fd in ready:
                if fd in listeners:
                    with self._lock:
                        self._lines.append(_Line(listeners[fd].accept()[0]))
                else:
                    self._hear(lines[fd])

    def _hear(self, line: _Line) -> None:
        try:
            data = line.socket.recv(4096)
        except ConnectionResetError:
            data = b""
        with self._lock:
            if not data:
                self._lines.remove(line)
                line.socket.close()
                return
            if self.mute:
                return
            line.buffer += data.decode("latin-1")
            # V.250, 5.2.1: the prefix is found anywhere; what stands before it is passed over. Escapes end data (2.3).
            if line.data and "+++" in line.buffer:
                line.buffer, line.data = "", False
                line.say("OK")
            while "\r" in line.buffer and not line.data:
                command, _, line.buffer = line.buffer.partition("\r")
                if line.echo:
                    line.send(command + "\r")
                start = command.upper().find("AT")
                if start >= 0:
                    self._obey(line, command[start + 2 :].strip())

    def _obey(self, line: _Line, command: str) -> None:
        self.spoken.append(command)
        result = "OK"
        try:
            for one in split(command):
                result = self._do(line, one) or "OK"
        except Refused as refused:
            result = {0: "ERROR", 1: f"+CME ERROR: {refused.number}"}.get(line.errors, "ERROR")
        line.say(result)
        line.data = result.startswith("CONNECT")

    def _do(self, line: _Line, command: str) -> str | None:
        """Do one command of a line, and say what it says; its result code if that is not OK."""
        name, mark, given = re.fullmatch(r"(\+[A-Z0-9]+|&?[A-Z])(=\?|\?|=?)(.*)", command, re.DOTALL).groups()  # type: ignore[union-attr]
        if name[0] != "+":
            return self._basic(line, name, given)
        known: Callable[[_Line, str, list[str]], None] | None = getattr(self, f"_{name[1:].lower()}", None)
        if known is None:
            raise Refused(NOT_SUPPORTED)
        known(line, mark, arguments(given))
        return None

    def _basic(self, line: _Line, name: str, given: str) -> str | None:
        """V.250, sections 6.2 and 6.3."""
        match name, given:
            case "E", _:
                line.echo = given != "0"
            case "I", _:
                line.say("Fake LTE modem")
            case "D", number if match := re.match(r"T?\*99(?:\*\*\*(\d+))?#", number):
                # A packet data connection of the context that is named, 27.007 section 10.2.1.1.
                context = int(match[1] or 1)
                if context not in self._contexts or self._stat not in (HOME, ROAMING):
                    return "NO CARRIER"
                self._active.add(context)
                return "CONNECT"
            case "D", _:
                return "NO CARRIER"
            case "H", _:
                self._active.clear()
                for one in self._lines:
                    one.data = False
            case (("Z" | "&F"), _):
                line.reports.clear()
            case (("V" | "X" | "Q" | "S" | "&C" | "&D"), _):
                pass
            case _:
                raise Refused(NOT_SUPPORTED)
        return None

    # -- identification and state: 27.007 sections 5 and 8 -------------------------

    def _gcap(self, line: _Line, mark: str, given: list[str]) -> None:
        line.say("+GCAP: +CGSM")

    def _cgmi(self, line: _Line, mark: str, given: list[str]) -> None:
        line.say("Fake")

    def _cgmm(self, line: _Line, mark: str, given: list[str]) -> None:
        line.say("AT1")

    def _cgmr(self, line: _Line, mark: str, given: list[str]) -> None:
        line.say("1.0")

    def _cgsn(self, line: _Line, mark: str, given: list[str]) -> None:
        line.say("350000000000017")

    _gmi, _gmm, _gmr, _gsn = _cgmi, _cgmm, _cgmr, _cgsn

    def _cmee(self, line: _Line, mark: str, given: list[str]) -> None:
        line.errors = int(given[0]) if mark == "=" else line.errors

    def _cfun(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "?":
            line.say("+CFUN: 1")

    def _cpin(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "?":
            if not self.iccid:
                raise Refused(NO_SIM)
            line.say("+CPIN: READY")

    def _clck(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "=?":
            line.say('+CLCK: ("SC")')
        elif given[1:] == ["2"]:
            line.say("+CLCK: 0")

    def _csq(self, line: _Line, mark: str, given: list[str]) -> None:
        line.say(f"+CSQ: {self.strength},99" if mark != "=?" else "+CSQ: (0-31,99),(0-7,99)")

    def _cesq(self, line: _Line, mark: str, given: list[str]) -> None:
        rsrq, rsrp = self.signal
        line.say(
            f"+CESQ: 99,99,255,255,{rsrq},{rsrp}"
            if mark != "=?"
            else "+CESQ: (0-63,99),(0-7,99),(0-96,255),(0-49,255),(0-34,255),(0-97,255)"
        )

    def _cscs(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "=?":
            line.say('+CSCS: ("IRA","GSM","UCS2")')
        elif mark == "?":
            line.say(f'+CSCS: "{self._charset}"')
        else:
            self._charset = given[0]

    # -- the SIM: 27.007 section 8.18, 31.102 --------------------------------------

    def _cimi(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark != "=?":
            line.say(self.imsi)

    def _crsm(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "=?":
            return
        files = {
            EF_ICCID: swapped(self.iccid),
            EF_AD: "00000002",  # the MNC has two digits
            EF_SPN: "00" + self.issuer.encode("ascii").hex().upper().ljust(32, "F"),
        }
        command, file = int(given[0]), int(given[1])
        if file not in files:
            line.say("+CRSM: 106,130")  # 6A82: file not found (ETSI TS 102 221, section 10.2.1)
        elif command == READ_BINARY:
            line.say(f'+CRSM: 144,0,"{files[file][: 2 * int(given[4]) or None]}"')
        else:
            raise Refused(NOT_SUPPORTED)

    # -- the network: 27.007 sections 7 and 10 -------------------------------------

    def _registration(self, mode: str, read: bool = False) -> str:
        registered = self._stat in (HOME, ROAMING)
        place = f',"00C3","0012D687",{self._act}' if mode == "2" and registered else ""
        return f"{mode},{self._stat}{place}" if read else f"{self._stat}{place}"

    def _reporting(self, command: str, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "=?":
            line.say(f"{command}: (0-2)")
        elif mark == "?":
            line.say(f"{command}: {self._registration(line.reports.get(command, '0'), read=True)}")
        else:
            line.reports[command] = given[0] if given[0] != "0" else ""

    def _creg(self, line: _Line, mark: str, given: list[str]) -> None:
        self._reporting("+CREG", line, mark, given)

    def _cgreg(self, line: _Line, mark: str, given: list[str]) -> None:
        self._reporting("+CGREG", line, mark, given)

    def _cereg(self, line: _Line, mark: str, given: list[str]) -> None:
        self._reporting("+CEREG", line, mark, given)

    def _cops(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "?":
            shown = {"0": self._operator, "1": self._operator, "2": self._plmn}[line.operator_format]
            registered = self._stat in (HOME, ROAMING)
            line.say(f'+COPS: 0,{line.operator_format},"{shown}",{self._act}' if registered else "+COPS: 0")
        elif mark == "=" and given[0] == "3":
            line.operator_format = given[1]

    def _cgatt(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "?":
            line.say(f"+CGATT: {int(self._stat in (HOME, ROAMING))}")

    def _cgdcont(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "=?":
            for kind in ("IP", "IPV6", "IPV4V6"):
                line.say(f'+CGDCONT: (1-8),"{kind}",,,(0),(0)')
        elif mark == "?":
            for number, (kind, apn) in sorted(self._contexts.items()):
                line.say(f'+CGDCONT: {number},"{kind}","{apn}","",0,0')
        else:
            self._contexts[int(given[0])] = (given[1] if len(given) > 1 else "IP", given[2] if len(given) > 2 else "")

    def _cgact(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "=?":
            line.say("+CGACT: (0,1)")
        elif mark == "?":
            for number in sorted(self._contexts):
                line.say(f"+CGACT: {number},{int(number in self._active)}")
        else:
            numbers = set(map(int, given[1:])) or set(self._contexts)
            self._active = self._active | numbers if given[0] == "1" else self._active - numbers

    # -- USSD: 27.007 section 7.15 -------------------------------------------------

    def _cusd(self, line: _Line, mark: str, given: list[str]) -> None:
        if mark == "=?":
            line.say("+CUSD: (0-2)")
        elif mark == "=" and given[0] == "2":
            self._menu = None
        elif mark == "=" and len(given) > 1:
            said = bytes.fromhex(given[1]).decode("utf-16-be") if self._charset == "UCS2" else given[1]
            menu = (self._menu.choices if self._menu else self.menus).get(said)
            line.later = f"+CUSD: {self._ussd(menu.text, bool(menu.choices)) if menu else '4'}"  # 4: not supported
            self._menu = menu if menu and menu.choices else None
            if self.afterwards:
                line.later += f"\r\n\r\n+CUSD: {self._ussd(self.afterwards, False)}"

    def _ussd(self, text: str, answer: bool) -> str:
        """The parameters of +CUSD: in the default alphabet (15), or in UCS2 (72), by 23.038 section 5."""
        if self._charset == "UCS2":
            return f'{int(answer)},"{text.encode("utf-16-be").hex().upper()}",72'
        return f'{int(answer)},"{text}",15'


class _Line:
    """One port, opened."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.buffer = ""
        self.echo = True
        self.errors = 0
        self.operator_format = "0"
        self.reports: dict[str, str] = {}
        self.data = False
        self.later = ""

    def say(self, text: str) -> None:
        """A response or result code, between line ends (V.250, 5.7.1); after a final one, what is to come of itself."""
        self.send(f"\r\n{text}\r\n")
        if text == "OK" and self.later:
            later, self.later = self.later, ""
            self.send(f"\r\n{later}\r\n")

    def send(self, text: str) -> None:
        try:
            self.socket.sendall(text.encode("latin-1"))
        except OSError:  # ModemManager has closed it, which reading will tell
            return


_COMMAND: Final = re.compile(
    r'\+[A-Z0-9]+(?:=\?|\?|=(?:"[^"]*"|[^;"])*)?|D[^;]*|S\d+(?:=\d+|\?)|&?[A-Z]\d*', re.IGNORECASE
)


def split(command: str) -> list[str]:
    """A command line's commands (V.250, 5.4.1): basic ones follow each other, extended ones end at a semicolon."""
    found = []
    rest = command
    while rest:
        match = _COMMAND.match(rest)
        if not match or not match[0]:
            raise Refused(NOT_SUPPORTED)
        name = match[0] if match[0][0] in "+dD" else match[0].upper()
        found.append(re.sub(r"^\+[a-zA-Z0-9]+", lambda one: one[0].upper(), name))
        rest = rest[match.end() :].lstrip("; ")
    return found


def arguments(given: str) -> list[str]:
    """Parameters of an extended command, without their quotes."""
    return [one.strip('"') for one in re.findall(r'"[^"]*"|[^,]+|(?<=,)(?=,)', given)]
