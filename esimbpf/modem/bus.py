"""One connection to a D-Bus, by jeepney: calls with time limits, and signals in the order in which they were sent.

Nothing here waits without a limit, or reads on when it is told to stop. A message that cannot be understood ends the
connection. ModemManager is never started by a call (D-Bus's NO_AUTO_START): whether it runs is not ours to decide.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from jeepney import AuthenticationError, DBusAddress, HeaderFields, Message, MessageFlag, MessageType, Parser
from jeepney import new_method_call as method_call
from jeepney.auth import BEGIN, Authenticator
from jeepney.bus import get_connectable_addresses

from esimbpf.errors import ModemError
from esimbpf.text import printable

__all__ = [
    "ADDRESS_VARIABLE",
    "BUS_NAME",
    "BUS_PATH",
    "Bus",
    "BusLost",
    "CallFailed",
    "Signal",
    "Stopped",
    "TimedOut",
    "plain",
]

ADDRESS_VARIABLE: Final = "DBUS_SYSTEM_BUS_ADDRESS"
_USUAL_ADDRESS: Final = "unix:path=/run/dbus/system_bus_socket"
_CONNECT_S: Final = 5.0
_READ_BYTES: Final = 1 << 16

BUS_NAME: Final = "org.freedesktop.DBus"
BUS_PATH: Final = "/org/freedesktop/DBus"


class BusLost(ModemError):
    """There is no bus at that address, or the connection has ended."""


class TimedOut(ModemError):
    """No answer came in time; the connection can be used on."""


class Stopped(Exception):
    """The descriptor that says when to stop became readable."""


class CallFailed(ModemError):
    """The other side answered with an error: `name` is D-Bus's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name


class Signal:
    """A signal: who sent it, from which object, and what it says (variants and all)."""

    __slots__ = ("body", "interface", "member", "path", "sender", "signature")

    def __init__(self, message: Message) -> None:
        fields = message.header.fields
        self.sender: str = fields.get(HeaderFields.sender, "")
        self.path: str = fields.get(HeaderFields.path, "")
        self.interface: str = fields.get(HeaderFields.interface, "")
        self.member: str = fields.get(HeaderFields.member, "")
        self.signature: str = fields.get(HeaderFields.signature, "")
        """Of the body: what has it, has the types that it says."""
        self.body: tuple[Any, ...] = message.body


class Bus:
    """A connection, from its making until it is closed.

    `address` is in D-Bus's form, the system bus's if it is empty. `on_signal` is called with each signal as it is read,
    also while an answer is waited for: it must not call. When `stop_fd` becomes readable, every wait raises Stopped.
    Raises BusLost.
    """

    def __init__(
        self, address: str = "", on_signal: Callable[[Signal], None] = lambda _: None, stop_fd: int | None = None
    ) -> None:
        self._on_signal = on_signal
        self._stop_fd = stop_fd
        self._serials = count(1)
        self._parser = Parser()
        self._socket = self._connected(address)
        try:
            self._authenticate()
            self.call(BUS_NAME, BUS_PATH, BUS_NAME, "Hello", answer="s", limit_s=_CONNECT_S)
        except BaseException as error:
            self._socket.close()
            if isinstance(error, (TimedOut, CallFailed)):
                raise BusLost(f"the D-Bus does not let us in: {error.message}", _hint()) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_to_the_end(self) -> None:
        """Be told to stop no longer: what is called now has its time limit only."""
        self._stop_fd = None

    def close(self) -> None:
        """End the connection; twice is harmless."""
        self._socket.close()

    def call(
        self,
        name: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        *,
        answer: str = "",
        limit_s: float,
    ) -> tuple[Any, ...]:
        """Call a method and return its answer, whose signature is `answer`; signals that come before are handed on.

        Raises TimedOut, CallFailed (for an answer of another signature too), BusLost, Stopped.
        """
        message = method_call(DBusAddress(path, name, interface), member, signature or None, body)
        message.header.flags |= MessageFlag.no_auto_start
        serial = next(self._serials)
        deadline_s = time.monotonic() + limit_s
        self._send(message.serialise(serial), deadline_s)
        for reply in self._messages(deadline_s):
            fields = reply.header.fields
            if fields.get(HeaderFields.reply_serial) != serial:
                continue
            if reply.header.message_type is MessageType.error:
                said = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
                raise CallFailed(fields.get(HeaderFields.error_name, ""), printable(said))
            if fields.get(HeaderFields.signature, "") != answer:
                raise CallFailed("", f"the answer to {member} is of another form than it should be")
            return tuple(reply.body)
        raise TimedOut(f"no answer to {member} within {limit_s:g} seconds", "try again later")

    def subscribe(self, rule: str, *, limit_s: float) -> None:
        """Have the signals that fit a match rule (D-Bus specification, "Match Rules") sent. Raises as `call` does."""
        self.call(BUS_NAME, BUS_PATH, BUS_NAME, "AddMatch", "s", (rule,), limit_s=limit_s)

    def listen(self, limit_s: float | None) -> None:
        """Hand on one signal, or what came with it; return when the time is over. Raises BusLost, Stopped."""
        deadline_s = None if limit_s is None else time.monotonic() + limit_s
        next(self._messages(deadline_s), None)

    # -- the socket --------------------------------------------------------------

    def _connected(self, address: str) -> socket.socket:
        wanted = address or os.environ.get(ADDRESS_VARIABLE) or _USUAL_ADDRESS
        shown = printable(wanted)
        try:
            places = list(get_connectable_addresses(wanted))
        except (RuntimeError, ValueError) as error:
            raise BusLost(f"{shown} is no D-Bus address that can be used", f"see {ADDRESS_VARIABLE}") from error
        words = ""
        for place in places:
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                one.settimeout(_CONNECT_S)
                one.connect(place)
                one.setblocking(False)
            except OSError as error:
                one.close()
                words = error.strerror or str(error)
            else:
                return one
        raise BusLost(f"there is no D-Bus at {shown}: {words}", _hint())

    def _authenticate(self) -> None:
        deadline_s = time.monotonic() + _CONNECT_S
        authenticator = Authenticator()
        try:
            for line in authenticator:
                self._send(line, deadline_s)
                authenticator.feed(self._received(deadline_s))
            self._send(BEGIN, deadline_s)
        except AuthenticationError as error:
            raise BusLost("the D-Bus does not let this user in", _hint()) from error

    def _messages(self, deadline_s: float | None) -> Iterator[Message]:
        """What comes until the time is over; signals are handed on first."""
        while True:
            try:
                message = self._parser.get_next_message()
            # Whatever jeepney stumbles over: a type or an encoding that the specification has not.
            except (AssertionError, LookupError, TypeError, ValueError, struct.error) as error:
                raise BusLost(f"the D-Bus sent what cannot be understood: {type(error).__name__}") from error
            if message is None:
                try:
                    self._parser.add_data(self._received(deadline_s))
                except TimedOut:
                    return
                continue
            if message.header.message_type is MessageType.signal:
                self._on_signal(Signal(message))
            yield message

    def _received(self, deadline_s: float | None) -> bytes:
        self._wait(select.POLLIN, deadline_s)
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise BusLost(f"the D-Bus was lost: {error.strerror}", _hint()) from error
        if not data:
            raise BusLost("the D-Bus has gone", _hint())
        return data

    def _send(self, data: bytes, deadline_s: float) -> None:
        while data:
            try:
                self._wait(select.POLLOUT, deadline_s)
                data = data[self._socket.send(data, socket.MSG_NOSIGNAL) :]
            except TimedOut as error:  # with half a message sent, nothing can be said any more
                raise BusLost("the D-Bus takes no messages", _hint()) from error
            except OSError as error:
                raise BusLost(f"the D-Bus was lost: {error.strerror}", _hint()) from error

    def _wait(self, event: int, deadline_s: float | None) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if self._stop_fd is not None:
            poll.register(self._stop_fd, select.POLLIN)
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        ready = [fd for fd, _ in poll.poll(None if left_s is None else left_s * 1000)]
        if self._stop_fd in ready:
            raise Stopped
        if not ready:
            raise TimedOut("the D-Bus did not answer in time", "try again later")


def plain(properties: Mapping[str, tuple[str, Any]]) -> dict[str, object]:
    """Properties (a{sv}) without their variants, in dictionaries within them as well."""
    return {name: plain(value) if signature == "a{sv}" else value for name, (signature, value) in properties.items()}


def _hint() -> str:
    return "start it (systemctl start dbus), or see what forbids it; ModemManager is asked over it"
