"""A D-Bus of a test's own, on which anybody may do anything; it can be ended and started again at the same address."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.modems.at_work import AtWork

__all__ = ["PATIENCE_S", "PrivateBus"]

PATIENCE_S = 30

CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""

SERVICE = """\
[D-BUS Service]
Name=org.freedesktop.ModemManager1
Exec=/bin/touch {trace}
"""


class PrivateBus(AtWork):
    """The real dbus-daemon, at work within `with`, but for the times between `stop` and `start`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "bus.conf"
        self.address = f"unix:path={folder / 'bus'}"
        self._activated = folder / "activated"
        services = folder / "services"
        services.mkdir(exist_ok=True)
        (services / "ModemManager.service").write_text(SERVICE.format(trace=self._activated))
        self._config.write_text(CONFIG.format(address=self.address, services=services))
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def activated(self) -> bool:
        """Whether somebody had D-Bus start ModemManager."""
        return self._activated.exists()

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to take it for the system's bus and the session's."""
        names = ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS")
        return {**os.environ, **dict.fromkeys(names, self.address)}

    def start(self) -> None:
        """Start it, and return when it can be connected to."""
        reading, writing = os.pipe()
        self._daemon = subprocess.Popen(
            ["dbus-daemon", "--nofork", f"--config-file={self._config}", f"--print-address={writing}"],
            stdin=subprocess.DEVNULL,
            pass_fds=(writing,),
        )
        os.close(writing)
        with open(reading) as said:
            assert said.readline(), "dbus-daemon does not start"

    def stop(self) -> None:
        """End it, and with it every connection."""
        if self._daemon:
            self._daemon.kill()
            self._daemon.wait(PATIENCE_S)
            self._daemon = None
