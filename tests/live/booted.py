"""A machine in which the real systemd runs, for what is a service there.

Systemd is process 1 of namespaces of its own: in a lab's device, below a cgroup of its own, with its own /run, bpffs
and /etc/systemd/system, which begin empty, and what it changes in /var/lib and /tmp kept apart. The kernel, the root of
all cgroups and all other files are the machine's. Of the distribution's units only the journal is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from esimbpf.kernel.mounts import cgroup2_root
from tests.live.netlab import Lab
from tests.live.watching import PATIENCE_S

__all__ = ["Booted"]

# The targets that services stand between, without what a whole machine does for them.
TARGETS = {
    "sysinit": "Wants=systemd-journald.service\nAfter=systemd-journald.service\n",
    "basic": "Requires=sysinit.target\nAfter=sysinit.target\n",
    "multi-user": "Requires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
    "shutdown": "",
}
JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")

BOOT = """
set -e
echo 0 > "$1/cgroup.procs"
mount --make-rprivate /
mount -t proc proc /proc
for point in $(awk '$2 ~ "^/(run|sys)(/|$)" { print $2 }' /proc/self/mounts | tac); do
    umount "$point"
done
mount -t sysfs sysfs /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
mount -t tmpfs -o mode=0755 none /run
mount -t tmpfs -o mode=0755 none /etc/systemd/system
for folder in /var/lib /var/tmp /tmp; do
    changes=/run/changes$folder
    mkdir -p $changes/upper $changes/work
    chmod --reference=$folder $changes/upper
    mount -t overlay -o lowerdir=$folder,upperdir=$changes/upper,workdir=$changes/work none $folder
done
rm -rf /var/lib/esimbpf
exec env -i PATH="$PATH" container=other SYSTEMD_UNIT_PATH="/etc/systemd/system:$2" \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
"""


class Booted:
    """Systemd at work, until the `with` ends, with other units of the distribution as far as they are named."""

    def __init__(self, lab: Lab, folder: Path, units: Sequence[str] = ()) -> None:
        self._lab = lab
        self._units = folder / "units"
        self._units.mkdir()
        for target, wants in TARGETS.items():
            (self._units / f"{target}.target").write_text(f"[Unit]\nDefaultDependencies=no\n{wants}")
        for unit in (*JOURNAL, *units):
            (self._units / unit).symlink_to(f"/lib/systemd/system/{unit}")
        self._cgroup = Path(cgroup2_root()) / f"esimbpf-test-{os.getpid()}-booted"

    def __enter__(self) -> Self:
        self._cgroup.mkdir()
        namespaces = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL")
        self._above = subprocess.Popen(
            self._lab.device.command(*namespaces, "sh", "-c", BOOT, "sh", str(self._cgroup), str(self._units)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self._await_boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _await_boot(self) -> None:
        """Return when systemd has started all that it is to start."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self._above.poll() is None, self._above.stderr and self._above.stderr.read()
            if self._first() and self.run("systemctl", "is-system-running", "--wait", status=None) == "running":
                return
            assert time.monotonic() < deadline, "systemd does not come up"
            time.sleep(0.05)

    def _first(self) -> int:
        """The pid of its process 1, seen from here; 0 as long as there is none."""
        return int(Path(f"/proc/{self._above.pid}/task/{self._above.pid}/children").read_text().strip() or 0)

    def _end(self) -> None:
        if first := self._first():
            os.kill(first, signal.SIGKILL)
        self._above.wait(PATIENCE_S)
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            os.rmdir(folder)

    def command(self, *argv: str) -> list[str]:
        """The command line that runs another one inside, as a user's shell there would."""
        return ["nsenter", f"--target={self._first()}", "--mount", "--net", "--pid", "--ipc", "--uts", *argv]

    def run(self, *argv: str, status: int | None = 0) -> str:
        """Run a command inside to its end and return what it says; None for any status."""
        done = subprocess.run(
            self.command(*argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S * 3,
            check=False,
        )
        assert status is None or done.returncode == status, f"{argv}: {done.returncode}: {done.stdout}"
        return done.stdout.strip()

    def property(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit)

    def outside(self, path: str) -> Path:
        """Where a file inside is seen from here."""
        return Path(f"/proc/{self._first()}/root{path}")
