"""The real ModemManager, as the distribution has it, on a bus of the test's own and with modems of the test's own."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, Final

from esimbpf.modem.bus import Bus
from tests.modems.at_modem import AtModem
from tests.modems.at_work import AtWork
from tests.modems.private_bus import PATIENCE_S, PrivateBus

__all__ = ["NAME", "PATH", "RealModemManager"]

NAME: Final = "org.freedesktop.ModemManager1"
PATH: Final = "/org/freedesktop/ModemManager1"

OPTIONS: Final = (
    "--test-session",
    "--test-enable",
    "--test-no-udev",
    "--test-no-suspend-resume",
    "--test-no-qrtr",
    "--no-auto-scan",
    "--debug",
)


class RealModemManager(AtWork):
    """ModemManager, at work within `with`, but for the times between `stop` and `start`; `log` is what it says."""

    def __init__(self, bus: PrivateBus, folder: Path) -> None:
        self._bus = bus
        self.log = folder / "ModemManager.log"

    def start(self) -> None:
        """Start it, and return when it can be asked."""
        heard: list[str] = []
        with Bus(self._bus.address, lambda signal: heard.append(signal.member)) as bus, open(self.log, "a") as log:
            bus.subscribe(f"type='signal',member='NameOwnerChanged',arg0='{NAME}'", limit_s=PATIENCE_S)
            self._process = subprocess.Popen(
                ["ModemManager", *OPTIONS],
                env=self._bus.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            deadline_s = time.monotonic() + PATIENCE_S
            while "NameOwnerChanged" not in heard:
                assert time.monotonic() < deadline_s, self.log.read_text()
                bus.listen(1)

    def stop(self) -> None:
        """End it as a crash does, without a word."""
        self._process.kill()
        self._process.wait(PATIENCE_S)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def plug_in(self, modem: AtModem) -> None:
        """Show it a modem, which it then probes and takes hold of."""
        self.call(PATH, f"{NAME}.Test", "SetProfile", "ssas", ("esimbpf", "generic", modem.ports))

    def call(
        self, path: str, interface: str, member: str, signature: str = "", body: tuple[Any, ...] = (), answer: str = ""
    ) -> tuple[Any, ...]:
        """Call a method of one of its objects."""
        with Bus(self._bus.address) as bus:
            return bus.call(NAME, path, interface, member, signature, body, answer=answer, limit_s=PATIENCE_S)
