"""What live tests share: labs that stay up for the session, one of each kind of link."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from esimbpf.kernel.pins import PINS_VARIABLE, PinnedEngine
from esimbpf.kernel.quotas import KernelQuotas
from tests.live import other_version
from tests.live.attached import PINS, command
from tests.live.limited import Limited
from tests.live.netlab import Lab, Wire, run
from tests.modems.private_bus import PrivateBus

TOOLS = (
    "ModemManager",
    "bpftool",
    "cc",
    "dbus-daemon",
    "ethtool",
    "ip",
    "nft",
    "nsenter",
    "ping",
    "setpriv",
    "sysctl",
    "systemctl",
    "tc",
)


@pytest.fixture(scope="session", autouse=True)
def able_machine() -> None:
    """Live tests are never skipped: a machine that cannot run them fails."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if os.geteuid() or missing:
        pytest.exit(f"live tests need root and these programs: {', '.join(TOOLS)}; missing: {missing}", returncode=1)


@pytest.fixture(scope="session", autouse=True)
def orderly_end() -> Iterator[None]:
    """SIGTERM ends the tests as Ctrl-C does, so that no namespace and no program is left behind."""

    def end(number: int, _: object) -> None:
        pytest.exit(f"signal {number}", returncode=128 + number)

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def standing_labs() -> Iterator[Callable[[Wire], Lab]]:
    """A lab of each kind, made when it is first asked for."""
    with ExitStack() as stack:
        labs: dict[Wire, Lab] = {}

        def of(wire: Wire) -> Lab:
            if wire not in labs:
                labs[wire] = stack.enter_context(Lab.made_of(wire))
            return labs[wire]

        yield of


@pytest.fixture(scope="session")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that sends and ends (sender.c)."""
    program = tmp_path_factory.mktemp("programs") / "sender"
    source = Path(__file__).parent / "sender.c"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", str(program), str(source)], check=True)
    return program


@pytest.fixture(scope="session")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """The environment of programs for which the machine has slept for so many seconds (ahead.c)."""
    library = tmp_path_factory.mktemp("libraries") / "ahead.so"
    source = Path(__file__).parent / "ahead.c"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return lambda seconds: {"LD_PRELOAD": str(library), "ESIMBPF_TEST_AHEAD_S": str(seconds)}


@pytest.fixture
def unique(tmp_path: Path) -> Path:
    """An executable of which there is but this one."""
    program = tmp_path / "limited"
    shutil.copy(os.path.realpath(sys.executable), program)
    return program


@pytest.fixture
def lab(request: pytest.FixtureRequest, standing_labs: Callable[[Wire], Lab]) -> Iterator[Lab]:
    """A lab with one link, an Ethernet one if the test does not choose; no program is left running in it."""
    chosen = standing_labs(getattr(request, "param", Wire.PLAIN))
    yield chosen
    chosen.end_programs()


@pytest.fixture
def fresh_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of the test's own, whose links it may take away."""
    with Lab.made_of(getattr(request, "param", Wire.PLAIN)) as made:
        yield made


@pytest.fixture
def own_pins() -> Iterator[None]:
    """A folder of pins of the test's own, and nothing left in it."""
    if not os.path.ismount("/sys/fs/bpf"):
        run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    yield
    shutil.rmtree(PINS, ignore_errors=True)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of another version."""
    return other_version.make(tmp_path_factory.mktemp("other"))


@pytest.fixture
def limited(lab: Lab, own_pins: None, unique: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Limited]:
    """A link that is counted, and an executable to be limited."""
    monkeypatch.setenv(PINS_VARIABLE, str(PINS))
    command(lab, "attach", "wwan0")
    with PinnedEngine() as engine, KernelQuotas(engine) as quotas:
        yield Limited(lab, engine, quotas, unique)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[PrivateBus]:
    """A D-Bus of the test's own, with nobody on it."""
    with PrivateBus(tmp_path / "bus") as started:
        yield started
