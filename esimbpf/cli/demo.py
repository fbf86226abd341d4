"""`esimbpf demo`: the tracer at work on a link that is emulated, with programs of different habits."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esimbpf.cli.options import By, Interval, open_session
from esimbpf.errors import EsimbpfError
from esimbpf.model import GroupBy
from esimbpf.units import Units

if TYPE_CHECKING:
    from esimbpf.kernel.emulation import Names

_PR_SET_PDEATHSIG: Final = 1
_PROGRAMS: Final = (
    ("video-stream.py", "phone", "fetches a piece of a film every two seconds"),
    ("photo-backup.py", "phone", "uploads 300 kB a second"),
    ("voice-call.py", "phone", "sends and receives 50 small datagrams a second"),
    ("mail-check.py", "phone", "starts ten processes a second that live for milliseconds"),
    ("tethered-laptop.py", "laptop", "uses the phone's link: `forwarded`"),
)


def demo(
    context: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", metavar="", help="Print one plain table after four seconds, and end.")
    ] = False,
    by: By = GroupBy.APP,
    interval: Interval = 1.0,
    units: Annotated[Units, typer.Option(help="Decimal or binary prefixes.")] = Units.SI,
) -> None:
    """Show the live table on an emulated cellular link, with real packets.

    Makes network namespaces for a phone, its carrier and a tethered laptop, joined by wwan0 and usb0, and runs small
    programs in them. The carrier pings the phone too, which its kernel answers: `kernel`. Needs root and no modem;
    nothing is left behind.
    """
    from esimbpf.kernel.emulation import EmulatedLink
    from esimbpf.kernel.netns import enter
    from esimbpf.sinks import live

    groupings = [by, *(other for other in GroupBy if other is not by)]
    # A signal that comes while namespaces are made or removed must not leave half of them.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _interrupt)
    with EmulatedLink() as emulated:
        print("An emulated cellular link, wwan0, with real packets of these programs:", file=sys.stderr)
        for script, _, habit in _PROGRAMS:
            print(f"  {script:<20}{habit}", file=sys.stderr)
        enter(emulated.names.phone)
        with open_session(context.obj, ["wwan0"], interval, groupings, 4096) as session, _programs(emulated.names):
            live.top(session, 4.0 if once else interval, by, units, once)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _start(script: str, namespace: str, *words: str) -> subprocess.Popen[bytes]:
    """Run a script in a namespace; it ends with this process, however that ends."""
    from esimbpf.kernel.netns import enter

    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        enter(namespace)

    return subprocess.Popen(
        [sys.executable, "-I", script, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if os.environ.get("ESIMBPF_DEBUG") else subprocess.DEVNULL,
        preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
        start_new_session=True,
    )


@contextmanager
def _programs(names: Names) -> Iterator[None]:
    """Run the programs, each in its namespace, until the `with` ends."""
    from esimbpf.kernel.emulation import CARRIER_ADDRESS, PHONE_ADDRESS

    running: list[subprocess.Popen[bytes]] = []
    with as_file(files("esimbpf") / "demo") as folder:
        try:
            carrier = _start(str(folder / "carrier.py"), names.carrier, CARRIER_ADDRESS, PHONE_ADDRESS)
            running.append(carrier)
            assert carrier.stdout is not None
            if not carrier.stdout.readline():
                raise EsimbpfError("the emulated carrier has ended at once", "run again with ESIMBPF_DEBUG=1")
            for script, place, _ in _PROGRAMS:
                running.append(_start(str(folder / script), getattr(names, place), CARRIER_ADDRESS))
            yield
        finally:
            for program in running:
                with suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
            for program in running:
                program.wait()
                if program.stdout:
                    program.stdout.close()
