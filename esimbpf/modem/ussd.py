"""Asks the network by USSD, as a person does who dials `*100#` and chooses from its menus."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from esimbpf.errors import ModemError, UsageError
from esimbpf.modem.bus import Bus, CallFailed, Signal, TimedOut, plain
from esimbpf.modem.client import MODEM_MANAGER, OBJECT_MANAGER, PATH, PROPERTIES
from esimbpf.modem.decode import MODEM, USSD
from esimbpf.text import printable

__all__ = ["UssdAnswer", "ask"]

_CODE: Final = re.compile(r"[*#][0-9*#]*#")
_LONGEST: Final = 182
"""Characters of a USSD string (3GPP TS 23.038, section 5: 160 octets of seven bits)."""
_END_S: Final = 5.0
_QUESTION_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class UssdAnswer:
    """What the network said; safe to print, lines are kept."""

    texts: tuple[str, ...]
    """To the code, then to each step."""
    notifications: tuple[str, ...] = ()
    """What it sent of itself meanwhile: some networks answer that the answer will come."""


def ask(
    code: str,
    steps: Sequence[str] = (),
    *,
    modem: str = "",
    limit_s: float = 60.0,
    notified_s: float = 0.0,
    address: str = "",
) -> UssdAnswer:
    """Dial a code, choose each of the steps from the menus that it leads to, and return all that is answered.

    It takes `limit_s` seconds at most, and a few more to end the session. Within them, after the last answer, a
    notification is waited for, up to `notified_s` seconds. `modem` is a D-Bus path; without it there must be one modem.

    Whatever happens, the session is ended: a menu that is left open would be in the way of the next one. (ModemManager
    1.20 hands on only the first end of its life to a modem that speaks AT: better give steps that lead to one.)

    It waits, on a connection of its own: it is not for the counting loop. It can cost money, and does not look where
    the modem is: whether to ask abroad is the caller's decision.

    Raises UsageError for a code or a step that is none; ModemError for a network or a modem that refuses or is silent.
    """
    _check(code, steps)
    deadline_s = time.monotonic() + limit_s
    notifications: list[str] = []

    def heard(signal: Signal) -> None:
        if (signal.member, signal.signature) == ("PropertiesChanged", "sa{sv}as") and signal.path == modem:
            interface, changed, _ = signal.body
            for name in ("NetworkNotification", "NetworkRequest"):
                text = plain(changed).get(name) if interface == USSD else None
                if isinstance(text, str) and text:
                    notifications.append(_lines(text))

    with Bus(address, heard) as bus:
        modem = modem or _only_modem(bus)
        rule = f"type='signal',sender='{MODEM_MANAGER}',path='{modem}',interface='{PROPERTIES}'"
        bus.subscribe(rule, limit_s=_QUESTION_S)
        try:
            texts = [_dial(bus, modem, code, steps[:number], deadline_s) for number in range(len(steps) + 1)]
            until_s = min(deadline_s, time.monotonic() + notified_s)
            while not notifications and (left_s := until_s - time.monotonic()) > 0:
                bus.listen(left_s)
        finally:
            # It refuses where there is no session.
            with suppress(ModemError):
                bus.call(MODEM_MANAGER, modem, USSD, "Cancel", limit_s=_END_S)
    return UssdAnswer(tuple(texts), tuple(notifications))


def _dial(bus: Bus, modem: str, code: str, done: Sequence[str], deadline_s: float) -> str:
    """The answer to the code, or to the last of the steps."""
    member, said = ("Respond", done[-1]) if done else ("Initiate", code)
    shown = " ".join((code, *done))
    left_s = deadline_s - time.monotonic()
    try:
        if left_s <= 0:
            raise TimedOut("")
        return _lines(bus.call(MODEM_MANAGER, modem, USSD, member, "s", (said,), answer="s", limit_s=left_s)[0])
    except TimedOut as error:
        raise ModemError(f"USSD {shown}: the network did not answer in time", "try again later") from error
    except CallFailed as error:
        raise ModemError(f"USSD {shown}: {error.message}", "see: mmcli -m any --3gpp-ussd-status") from error


def _only_modem(bus: Bus) -> str:
    try:
        objects = bus.call(
            MODEM_MANAGER, PATH, OBJECT_MANAGER, "GetManagedObjects", answer="a{oa{sa{sv}}}", limit_s=_QUESTION_S
        )[0]
    except CallFailed as error:
        raise ModemError(
            f"ModemManager cannot be asked: {error.message}", "see: systemctl status ModemManager"
        ) from error
    modems = [path for path, interfaces in objects.items() if MODEM in interfaces]
    if len(modems) != 1:
        shown = ", ".join(map(printable, modems)) or "none"
        raise ModemError(f"there is not one modem to dial with, but {shown}", "say which one; see: mmcli --list-modems")
    return str(modems[0])


def _check(code: str, steps: Sequence[str]) -> None:
    if not _CODE.fullmatch(code) or len(code) > _LONGEST:
        raise UsageError(
            f"{printable(code)!r} is no USSD code", "it begins with * or # and ends with #, as in *100# or *101*2#"
        )
    for step in steps:
        if not step or len(step) > _LONGEST or printable(step) != step:
            raise UsageError(
                f"step {printable(step)!r} is nothing that can be chosen", f"give 1 to {_LONGEST} characters, as in 1"
            )


def _lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
