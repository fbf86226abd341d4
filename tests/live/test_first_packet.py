"""Quotas hold from the first packet of a new process on: the kernel knows apps by names, not by asking the daemon.

In all that follows the daemon is stopped when the process comes whose packets are counted by the peer, or had no time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esimbpf.kernel.mounts import cgroup2_root
from esimbpf.kernel.pins import PINS_VARIABLE, PinnedEngine
from esimbpf.kernel.quotas import KernelQuotas
from esimbpf.model import Counters
from esimbpf.pinned import reader_of
from tests.live.attached import PINS, command, daemon, end, ledger, said
from tests.live.limited import PUPPET
from tests.live.netlab import Lab
from tests.live.test_quotas import HEADER, SIZE, passes, quota, send_until_refused, told
from tests.live.traffic import PATIENCE_S, Puppet

pytestmark = pytest.mark.usefixtures("own_pins")

PYTHON = os.path.realpath(sys.executable)


class Place:
    """Cgroups and executables of a test's own."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.root = Path(cgroup2_root(), f"esimbpf-first-{os.getpid()}")

    def cgroup(self, name: str) -> Path:
        made = self.root / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def program(self, name: str) -> Path:
        """An executable that is a new file, in the place of the one before."""
        made = self.folder / f"{name}.new"
        shutil.copy(PYTHON, made)
        return made.rename(self.folder / name)

    def script(self, name: str) -> Path:
        return Path(shutil.copy(PUPPET, self.folder / name))

    def start(self, program: Path | str, *args: str, cgroup: Path | None = None) -> Puppet:
        """A process that has been in its cgroup before it was this program."""
        words = (str(program), "-IS", *(args or (PUPPET,)))
        if cgroup is None:
            return Puppet.start(self.lab.device, *words)
        return Puppet.start(self.lab.device, "sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(cgroup), *words)

    def close(self) -> None:
        self.lab.end_programs()
        for folder, _, _ in sorted(os.walk(self.root), reverse=True):
            os.rmdir(folder)


@pytest.fixture
def place(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv(PINS_VARIABLE, str(PINS))
    made = Place(lab, tmp_path)
    yield made
    made.close()


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """Within, the daemon does nothing."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def sends_nothing(lab: Lab, puppet: Puppet) -> None:
    before = lab.link.crossed()
    assert not passes(puppet.udp(), [lab.link.network_ip, 9])
    with pytest.raises(OSError, match="refused"):
        puppet.tcp().do("connect", [lab.link.network_ip, 9])
    puppet.exit()
    assert lab.link.crossed() - before == Counters()


def desktop_app(place: Place, launch: int) -> Puppet:
    return place.start(PYTHON, cgroup=place.cgroup(f"app-gnome-org.example.Mail-{1001 + launch}.scope"))


def service(place: Place, launch: int) -> Puppet:
    """Its cgroup goes when it ends, and has another id when it comes back."""
    cgroup = place.cgroup("backup-of-mine.service")
    if launch:
        cgroup.rmdir()
    return place.start(PYTHON, cgroup=place.cgroup(cgroup.name))


def upgraded(place: Place, launch: int) -> Puppet:
    return place.start(place.program("limited"))


def script(place: Place, launch: int) -> Puppet:
    return place.start(PYTHON, str(place.script("sync-of-mine.py")))


@pytest.mark.parametrize("seen", [True, False], ids=["seen before", "never seen"])
@pytest.mark.parametrize(
    ("start", "whom"),
    [
        (desktop_app, ("--app", "org.example.Mail")),
        (service, ("--app", "backup-of-mine")),
        (service, ("--cgroup", "backup-of-mine.service")),
        (service, ("--cgroup", "{cgroup}/backup-of-mine.service")),
        (upgraded, ("--app", "limited")),
        (upgraded, ("--exe", "{folder}/limited")),
        (script, ("--app", "sync-of-mine.py")),
    ],
)
def test_a_new_process_of_a_blocked_app_sends_nothing(
    place: Place, start: Callable[[Place, int], Puppet], whom: tuple[str, str], seen: bool
) -> None:
    lab, state = place.lab, place.folder / "state"
    named = whom[1].format(cgroup=f"/{place.root.name}", folder=place.folder)
    with daemon(lab, state) as process:
        quota(lab, state, "add", "small", whom[0], named, "--limit", "30007B", "--per", "once", "--do", "block")
        said(process, "was read anew")
        if seen:
            first = start(place, 0)
            assert send_until_refused(first, lab) == -(-30_007 // (SIZE + HEADER))
            first.exit()
            said(process, "quota small: the limit is reached")
        else:
            quota(lab, state, "add", "none", whom[0], named, "--limit", "0B", "--per", "once", "--do", "block")
            said(process, "was read anew")
        with stopped(process):
            for launch in (1, 2):
                sends_nothing(lab, start(place, launch))
        end(process)
    # Without a daemon as well.
    sends_nothing(lab, start(place, 3))


def test_others_that_share_a_blocked_apps_executable_are_neither_blocked_nor_charged(place: Place) -> None:
    """The same file, run by a service and by another name: each is its own app, and what each has used is right."""
    lab, state = place.lab, place.folder / "state"
    program = place.program("limited")
    link = place.folder / "linked"
    os.link(program, link)
    with daemon(lab, state) as process:
        for app in ("limited", "nightly", "linked"):
            limit = "30007B" if app == "limited" else "1GB"
            quota(lab, state, "add", app, "--app", app, "--limit", limit, "--per", "once", "--do", "block")
            said(process, "was read anew")
        sent = {"limited": send_until_refused(place.start(program), lab), "nightly": 5, "linked": 7}
        said(process, "quota limited: the limit is reached")
        before = lab.link.crossed()
        with stopped(process):
            nightly, linked = place.start(program, cgroup=place.cgroup("nightly.service")), place.start(link)
            nightly.udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * sent["nightly"])
            linked.udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * sent["linked"])
            assert (lab.link.crossed() - before).tx_packets == sent["nightly"] + sent["linked"]
            sends_nothing(lab, place.start(program))
        end(process)
    for app, packets in sent.items():
        where = f"kind = 'app' AND app_id = (SELECT id FROM app WHERE name = '{app}')"
        assert told(lab, state, app)["used_bytes"] == ledger(state, where=where).tx_bytes == packets * (SIZE + HEADER)
    assert kernel_has_used() == {packets * (SIZE + HEADER) for packets in sent.values()}


def kernel_has_used() -> set[int]:
    """By quota."""
    with PinnedEngine() as engine, KernelQuotas(engine) as quotas:
        return {quotas.used_bytes(number) for number in quotas.rules()}


def test_what_the_kernel_takes_for_another_app_it_is_told_soon(place: Place) -> None:
    """A rule that goes by arguments: one of the app is limited, and one that only seems to be of it is not."""
    lab, state, rules = place.lab, place.folder / "state", place.folder / "config.toml"
    program = place.program("limited")
    rules.write_text(
        '[[app]]\nname = "mine"\nargs = "*mine.py*"\n[[app]]\nname = "other"\nargs = "*other.py*"\n'
        + "".join(
            f'[[quota]]\nname = "{app}"\napp = "{app}"\nlimit = "0B"\nper = "once"\ndo = "block"\n'
            for app in ("mine", "limited")
        )
    )
    with daemon(lab, state, "--config", str(rules)) as process:
        mine, other = (place.start(program, str(place.script(f"{app}.py"))) for app in ("mine", "other"))
        socks = mine.udp(), other.udp()
        deadline = time.monotonic() + PATIENCE_S
        while [passes(sock, [lab.link.network_ip, 9]) for sock in socks] != [False, True]:
            assert time.monotonic() < deadline
        # And so it stays when the configuration is read anew.
        process.send_signal(signal.SIGHUP)
        said(process, "was read anew")
        with stopped(process):
            assert [passes(sock, [lab.link.network_ip, 9]) for sock in socks] == [False, True]
        end(process)


def test_what_a_rule_makes_of_an_executable_holds_for_its_next_processes(place: Place) -> None:
    """One without wildcards for the first as well; one with, once the executable was seen, by a daemon before too."""
    lab, state, rules = place.lab, place.folder / "state", place.folder / "config.toml"
    program = place.program("limited")
    exact, wide = (f'[[app]]\nname = "mine"\nexe = "{exe}"\n' for exe in (program, f"{place.folder}/*"))
    blocked = '[[quota]]\nname = "mine"\napp = "mine"\nlimit = "0B"\nper = "once"\ndo = "block"\n'
    for text, starts in ((exact + blocked, True), (wide, False), (wide + blocked, True)):
        rules.write_text(text)
        with daemon(lab, state, "--config", str(rules)) as process, stopped(process):
            if starts:
                sends_nothing(lab, place.start(program))
            else:
                place.start(program).udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE])
            process.send_signal(signal.SIGTERM)


def test_an_idle_app_stays_blocked_when_the_configuration_is_read_anew(place: Place) -> None:
    """One that the kernel cannot name, and that has moved nothing since the daemon is at work."""
    lab, state = place.lab, place.folder / "state"
    cgroup = place.cgroup(f"docker-{64 * 'b'}.scope")
    idle = place.start(PYTHON, cgroup=cgroup).udp()
    with daemon(lab, state) as process:
        quota(lab, state, "add", "a", "--app", f"docker:{12 * 'b'}", "--limit", "0B", "--per", "once", "--do", "block")
        said(process, "was read anew")
        for _ in range(2):
            before = lab.link.crossed()
            with stopped(process):
                assert not passes(idle, [lab.link.network_ip, 9])
                # So is the next one there.
                sends_nothing(lab, place.start(PYTHON, cgroup=cgroup))
            assert lab.link.crossed() - before == Counters()
            process.send_signal(signal.SIGHUP)
            said(process, "was read anew")
        end(process)


def test_a_running_program_stays_limited_when_its_file_is_replaced_or_removed(place: Place) -> None:
    """By its path, and, started by another path to the same file, by the file."""
    lab, state = place.lab, place.folder / "state"
    program, link = place.program("limited"), place.folder / "linked"
    os.link(program, link)
    running = [place.start(path).udp() for path in (program, link)]
    words = ("--exe", str(program), "--limit", "0B", "--per", "once", "--do", "block")
    with daemon(lab, state) as process:
        quota(lab, state, "add", "a", *words)
        said(process, "was read anew")
        before = lab.link.crossed()
        for change in (lambda: None, lambda: place.program("limited"), program.unlink):
            change()
            process.send_signal(signal.SIGHUP)
            said(process, "was read anew")
            assert [passes(sock, [lab.link.network_ip, 9]) for sock in running] == [False, False]
        assert lab.link.crossed() - before == Counters()
        end(process)


@pytest.mark.parametrize("words", [(), ("--link", "wwan1")], ids=["any link", "that link"])
def test_a_quota_holds_on_a_link_that_comes_later_from_its_first_packet_on(
    fresh_lab: Lab, tmp_path: Path, unique: Path, words: tuple[str, ...]
) -> None:
    lab, state = fresh_lab, tmp_path / "state"
    limited = Puppet.start(lab.device, str(unique), "-IS", PUPPET).udp()
    with daemon(lab, state, links=("wwan0", "wwan1")) as process:
        quota(lab, state, "add", "a", "--app", "limited", "--limit", "0B", "--per", "once", "--do", "block", *words)
        said(process, "was read anew")
        link = lab.add_link()
        said(process, "wwan1 is counted")
        with stopped(process):
            assert not passes(limited, [link.network_ip, 9])
        end(process)


FLOOD = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(flush=True)
while True:
    try:
        sock.sendto(bytes(1000), (sys.argv[1], 9))
    except PermissionError:
        pass
"""


def test_a_quota_holds_from_the_first_packet_that_is_counted(
    fresh_lab: Lab, tmp_path: Path, unique: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an app that sends all the time while the daemon begins."""
    monkeypatch.setenv(PINS_VARIABLE, str(PINS))
    lab, state = fresh_lab, tmp_path / "state"
    with daemon(lab, state) as process:
        quota(lab, state, "add", "a", "--app", "limited", "--limit", "0B", "--per", "once", "--do", "block")
        said(process, "was read anew")
        end(process)
    command(lab, "detach")
    with lab.device.start(str(unique), "-ISc", FLOOD, lab.link.network_ip, stdout=subprocess.PIPE) as flood:
        assert flood.stdout
        flood.stdout.readline()
        with daemon(lab, state):
            flood.kill()
    with PinnedEngine() as engine:
        [link] = reader_of(engine, owns_slots=False).read().links
    assert sum(counters.tx_bytes for counters in link.blocked.values()) > 0
    assert sum(counters.tx_bytes for counters in link.processes.values()) == 0
