"""Hooks as they are run: real processes of real users, and what each kind of bad one comes to."""

from __future__ import annotations

import json
import os
import pwd
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from esimbpf import dispatch
from esimbpf.config import Config
from esimbpf.dispatch import RUNS, Dispatcher
from esimbpf.events import Event, EventType, example, link_up
from esimbpf.hook_keeper import KILL_AFTER_S, MOST_LINES, MOST_OUTPUT_BYTES, Outcome
from esimbpf.hook_runner import Runner
from esimbpf.hooks import Hook
from esimbpf.ledger import outbox
from esimbpf.ledger.database import connect, transaction
from esimbpf.ledger.outbox import MOST_AT_ONCE, MOST_OF_ONE_HOOK, RETRY_AFTER_S
from esimbpf.profiles import ProfileNames
from esimbpf.text import original, printable
from tests.live import attached
from tests.live.booted import Booted
from tests.live.limited import PUPPET
from tests.live.netlab import Lab
from tests.live.traffic import Puppet, tcp, udp
from tests.live.watching import esimbpf

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOBODY = pwd.getpwnam("nobody")
PATIENCE_S = 20.0
KILLS = 100
TOP = Path(__file__).parents[2]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter, as hooks' own has to be; pytest's are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="esimbpf-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def exceeded(quota: str = "video", **changed: Any) -> Event:
    return replace(example(EventType.QUOTA_EXCEEDED, NOW), quota=quota, **changed)


def outcome(place: Path, hook: Hook, event: Event | None = None) -> Outcome:
    """How a hook ends."""
    with closing(Runner(place / "runs")) as runner:
        runner.start("one", dispatch.order_of(hook, event or exceeded()))
        assert select.select(runner.filenos(), (), (), PATIENCE_S)[0]
        [told] = runner.turn().values()
        runner.forget("one")
    assert os.listdir(place / "runs") == []
    return told


def of_script(place: Path, text: str, timeout_s: float = PATIENCE_S, user: str = "nobody") -> Outcome:
    """How a hook ends that is a shell script."""
    path = script(place / "hook", text)
    return outcome(place, Hook("hook", (str(path), "an argument; $HOME"), user=user, timeout_s=timeout_s))


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


# --- what a hook finds ---------------------------------------------------------------------------------------------


def test_it_runs_as_the_named_user_with_a_clean_environment_and_nothing_inherited(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD_OF_OURS", "secret")
    leaking = os.open("/etc/shadow", os.O_RDONLY)
    os.set_inheritable(leaking, True)
    program = place / "hook"
    program.write_text(
        f"#!{sys.executable} -I\n"
        "import json, os, resource, signal, sys\n"
        "fds = [fd for fd in range(3, 256) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines())\n"
        "print(json.dumps({'argv': sys.argv, 'env': dict(os.environ), 'line': json.loads(sys.stdin.read()),\n"
        "  'ids': [os.getresuid(), os.getresgid(), os.getgroups()], 'cwd': os.getcwd(), 'fds': fds,\n"
        "  'session': os.getsid(0) == os.getpid() == os.getpgid(0), 'core': resource.getrlimit(resource.RLIMIT_CORE),\n"
        "  'no_new_privs': status['NoNewPrivs'], 'ignored': int(status['SigIgn'], 16),\n"
        "  'blocked': int(status['SigBlk'], 16), 'umask': status['Umask']}))\n"
    )
    program.chmod(0o755)
    event = exceeded(app='it\'s \\x1b[31m$(id) "app"')
    told = outcome(place, Hook("hook", (str(program), "an argument; $HOME")), event)
    os.close(leaking)
    assert told.why is None, told
    found = json.loads(original("".join(told.output)))
    assert found["argv"] == [str(program), "an argument; $HOME"]
    shown = event.named(ProfileNames())
    assert found["line"] == shown.to_json()
    variables = shown.variables() | {"ESIMBPF_HOOK": "hook", "ESIMBPF_ATTEMPT": "1"}
    assert found["env"] == variables | {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": NOBODY.pw_dir,
    }
    assert found["ids"] == [[NOBODY.pw_uid] * 3, [NOBODY.pw_gid] * 3, [NOBODY.pw_gid]]
    assert (found["cwd"], found["fds"], found["session"], found["core"]) == ("/", [], True, [0, 0])
    # Python itself ignores SIGPIPE and SIGXFSZ.
    ignored = found["ignored"] & ~(1 << signal.SIGPIPE - 1) & ~(1 << signal.SIGXFSZ - 1)
    assert (found["no_new_privs"], ignored, found["blocked"], found["umask"]) == ("1", 0, 0, "0022")


def test_root_is_root_only_if_that_is_said(place: Path) -> None:
    assert of_script(place, "id -u", user="root").output == ("0",)
    assert of_script(place, "id -u").output == (str(NOBODY.pw_uid),)


# --- bad hooks -----------------------------------------------------------------------------------------------------


def test_one_that_fails_says_how(place: Path) -> None:
    told = of_script(place, "echo on stdout; echo on stderr >&2; exit 3")
    assert (told.why, told.output) == ("it ended with status 3", ("on stdout", "on stderr"))
    assert of_script(place, "kill -SEGV $$").why == "it was ended by SIGSEGV"


def test_one_that_is_slow_is_ended_in_time(place: Path) -> None:
    told = of_script(place, "trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done", timeout_s=0.3)
    assert told.why == "it took longer than 0.3 s"
    assert told.output[-1] == "asked"
    assert 0.3 <= told.seconds < KILL_AFTER_S


def test_one_that_ignores_sigterm_is_killed_with_all_that_it_has_started(place: Path) -> None:
    text = "trap '' TERM; sleep 4711 & echo $!; setsid sleep 4711 & echo $!; echo $$; while :; do sleep 1; done"
    told = of_script(place, text, timeout_s=0.5)
    assert told.why == "it took longer than 0.5 s"
    assert 0.5 + KILL_AFTER_S <= told.seconds < 0.5 + 2 * KILL_AFTER_S
    assert len(told.output) == 3
    assert not any(map(alive, map(int, told.output)))


def test_what_one_leaves_behind_is_ended_whatever_session_it_went_to(place: Path) -> None:
    text = "sleep 4711 & echo $!; setsid sh -c 'sleep 4711 & echo $!; wait' & sleep 0.3; setsid -f sleep 4711"
    told = of_script(place, text)
    assert (told.why, told.left) == (None, True)
    assert told.seconds < 2
    assert len(told.output) == 2
    assert not any(map(alive, map(int, told.output)))
    sleeping = subprocess.run(
        ["pgrep", "-u", "nobody", "-f", "sleep 4711"], check=False, capture_output=True, text=True
    )
    assert sleeping.stdout == ""


def test_one_that_floods_is_cut_off_and_still_ended(place: Path) -> None:
    told = of_script(place, "yes a-long-line-of-output", timeout_s=0.5)
    assert told.why == "it took longer than 0.5 s"
    assert len(told.output) == MOST_LINES + 1
    assert re.fullmatch(r"\(cut off: 100 lines of \d{6,} bytes are kept\)", told.output[-1])
    told = of_script(place, "head -c 50000000 /dev/zero")
    assert told.why is None
    assert len(told.output) == 2
    assert told.output[0] == "\\x00" * MOST_OUTPUT_BYTES


def test_what_one_says_is_safe_to_print(place: Path) -> None:
    told = of_script(place, r"printf '\033]0;owned\007\377\n<3>error\r\n\342\200\256x\n'")
    assert told.output == ("\\x1b]0;owned\\x07\\xff", "<3>error", "\\u202ex")


def test_one_that_does_not_read_or_closes_everything_is_no_matter(place: Path) -> None:
    large = exceeded(pids=tuple(range(1, 200_000)))
    for text in ("exit 0", "exec <&-; sleep 0.1; exit 0", "exec <&- >&- 2>&-; sleep 0.1; exit 0"):
        assert outcome(place, Hook("hook", (str(script(place / "hook", text)),)), large).why is None
    told = outcome(place, Hook("hook", (str(script(place / "hook", "wc -c")),)), large)
    assert int(told.output[0]) > 1_000_000


@pytest.mark.parametrize("text", ["exec <&- >&- 2>&-; sleep 1", "sleep 1"])
def test_waiting_takes_no_time_of_the_processor(place: Path, text: str) -> None:
    before = os.times()
    assert of_script(place, text).why is None
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.6


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda path: path.unlink(), "there is no", id="missing"),
        pytest.param(lambda path: path.chmod(0o644), "is not executable", id="not executable"),
        pytest.param(lambda path: path.chmod(0o757), "is not trusted", id="world-writable"),
        pytest.param(lambda path: path.chmod(0o775), "is not trusted", id="group-writable"),
        pytest.param(lambda path: path.parent.chmod(0o777), "is not trusted", id="world-writable folder"),
        pytest.param(lambda path: os.chown(path, NOBODY.pw_uid, 0), "is not trusted", id="another's"),
        pytest.param(lambda path: os.chown(path.parent, NOBODY.pw_uid, 0), "is not trusted", id="another's folder"),
        pytest.param(lambda path: path.chmod(0o700), "cannot be run as nobody: Permission denied", id="only root's"),
        pytest.param(
            lambda path: path.write_text("no program"), "cannot be run as nobody: Exec format error", id="no program"
        ),
        pytest.param(
            lambda path: path.write_text("#!/no/such/shell\n"),
            "cannot be run as nobody: No such file or directory",
            id="no interpreter",
        ),
    ],
)
def test_one_that_must_not_or_cannot_be_run_is_not(place: Path, spoil: Callable[[Path], object], said: str) -> None:
    folder = place / "folder"
    folder.mkdir(mode=0o755)
    path = script(folder / "hook", f"touch {place}/ran")
    spoil(path)
    told = outcome(place, Hook("hook", (str(path),)))
    assert said in (told.why or "")
    assert str(path) in (told.why or "")
    assert not (place / "ran").exists()


def test_a_user_who_is_not_there_is_told(place: Path) -> None:
    assert "there is no user no-such-user" in (of_script(place, "", user="no-such-user").why or "")


def test_one_whose_keeper_is_ended_is_ended_and_has_failed(place: Path) -> None:
    with closing(Runner(place / "runs")) as runner:
        path = script(place / "hook", f"echo $$ > {place}/pid.new; mv {place}/pid.new {place}/pid; sleep 4711")
        runner.start("one", dispatch.order_of(Hook("hook", (str(path),), user="root"), exceeded()))
        pid = int(when(lambda: read(place / "pid")))
        os.kill(parent(pid), signal.SIGTERM)
        assert select.select(runner.filenos(), (), (), PATIENCE_S)[0]
        assert runner.turn()["one"].why == "esimbpf was ended before it had"
        assert not alive(pid)


# --- handed out ----------------------------------------------------------------------------------------------------


def when(true: Callable[[], Any]) -> Any:
    """What `true` says once it says something."""
    until_s = time.monotonic() + PATIENCE_S
    while not (told := true()):
        assert time.monotonic() < until_s
        time.sleep(0.005)
    return told


def read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text()
    return ""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def post(place: Path, *events: Event) -> None:
    with closing(connect(place)) as db, transaction(db):
        for event in events:
            outbox.post(db, event)


def states(place: Path) -> list[tuple[str, str, int]]:
    with closing(connect(place, read_only=True)) as db:
        return [(hook, state, tries) for posted in outbox.recent(db) for hook, state, tries, _ in posted.hooks]


def settle(dispatcher: Dispatcher) -> None:
    """Turn until nothing runs any more."""
    dispatcher.turn()
    while dispatcher.filenos():
        assert select.select(dispatcher.filenos(), (), (), PATIENCE_S)[0]
        dispatcher.turn()


@contextmanager
def dispatching(place: Path, *hooks: Hook) -> Iterator[Dispatcher]:
    folder = place / "hooks.d"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    with closing(Dispatcher(place, Config(hooks=hooks, hooks_dir=folder))) as dispatcher:
        yield dispatcher


def noting(place: Path, name: str, more: str = "") -> Hook:
    """A hook that writes down what it was run for, and when it began and ended."""
    note = f'"$ESIMBPF_EVENT_ID" >> {place}/notes'
    path = script(place / name, f"echo begin {name} {note}\n{more}\necho end {name} {note}")
    return Hook(name, (str(path),), user="root")


def notes(place: Path) -> list[str]:
    return read(place / "notes").splitlines()


def test_each_hook_is_run_once_for_what_it_wants(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wants, other = noting(place, "wants", "echo hello"), replace(noting(place, "other"), events=("link.*",))
    post(place, exceeded())
    with dispatching(place, wants, other) as dispatcher:
        script(place / "hooks.d" / "later", f"echo later >> {place}/notes2")
        settle(dispatcher)
        post(place, exceeded())
        settle(dispatcher)
    assert notes(place) == [f"begin wants {exceeded().id}", f"end wants {exceeded().id}"]
    assert states(place) == [("hooks.d/later", "pending", 1), ("wants", "done", 1)]
    told = capfd.readouterr().err
    assert "hook wants: hello\n" in told
    assert "hook wants, quota.exceeded of quota:video: done in " in told
    assert "hook hooks.d/later, quota.exceeded of quota:video: it ended with status 2; again in 10 s\n" in told
    assert os.listdir(place / RUNS) == []


def test_a_failing_one_is_tried_as_stated_and_given_up(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [NOW.timestamp()]
    monkeypatch.setattr("esimbpf.dispatch.time.time", lambda: clock[0])
    post(place, exceeded())
    with dispatching(place, noting(place, "bad", "exit 1")) as dispatcher:
        for after_s in (*RETRY_AFTER_S, 0.0):
            settle(dispatcher)
            clock[0] += after_s
        settle(dispatcher)
    assert notes(place) == [f"begin bad {exceeded().id}"] * 5
    assert states(place) == [("bad", "given up", 5)]
    told = capfd.readouterr().err
    assert [int(seconds) for seconds in re.findall(r"again in (\d+) s", told)] == [10, 60, 600, 3600]
    assert "error: hook bad, quota.exceeded of quota:video: it ended with status 1; given up after 5 attempts" in told


def test_of_one_quota_they_run_one_after_the_other_and_each_twice_at_once(place: Path) -> None:
    quotas = [f"q{number}" for number in range(6)]
    post(place, *(exceeded(quota, level_percent=level) for level in (90, 100) for quota in quotas))
    hooks = [noting(place, name, "sleep 0.3") for name in ("first", "second")]
    with dispatching(place, *hooks) as dispatcher:
        settle(dispatcher)
    running: dict[str, str] = {}
    most: Counter[str] = Counter()
    told: dict[tuple[str, str], list[str]] = {}
    for what, name, event_id in map(str.split, notes(place)):
        _, quota, _, level, *_ = event_id.split("/")
        if what == "begin":
            assert quota not in running
            running[quota] = name
            told.setdefault((quota, name), []).append(level)
        else:
            assert running.pop(quota) == name
        most |= Counter(running.values())
    assert most == Counter(dict.fromkeys(("first", "second"), MOST_OF_ONE_HOOK))
    assert told == {(f"quota:{quota}", name): ["90", "100"] for quota in quotas for name in ("first", "second")}


def test_one_that_hangs_does_not_hold_up_the_others(place: Path) -> None:
    """Not for other events; for the same one they come one after the other."""
    os.mkfifo(place / "gate")
    hangs = replace(noting(place, "hangs", f"cat {place}/gate"), events=("link.up",))
    fails = replace(noting(place, "fails", "exit 1"), events=("link.up",))
    quick = replace(noting(place, "quick"), events=("quota.*",))
    post(place, *(link_up(f"wwan{number}", NOW) for number in range(3 * MOST_AT_ONCE)))
    with dispatching(place, hangs, fails, quick) as dispatcher:

        def turned(hook: str, state: str) -> int:
            dispatcher.turn()
            return [one[:2] for one in states(place)].count((hook, state))

        when(lambda: turned("hangs", "running") == MOST_OF_ONE_HOOK)
        post(place, *(exceeded(level_percent=level) for level in (90, 100)))
        when(lambda: turned("quick", "done") == 2)
        assert turned("hangs", "running") == MOST_OF_ONE_HOOK
        assert turned("hangs", "done") == 0
        dispatcher.reload(Config(hooks_dir=place / "hooks.d"))
        # One that has not come to the gate yet finds none.
        (place / "gate").rename(place / "opened")
        os.close(os.open(place / "opened", os.O_RDWR))
        settle(dispatcher)


def test_what_is_in_the_way_is_logged_once_and_nothing_is_lost(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    post(place, exceeded())
    with dispatching(place, noting(place, "hook")) as dispatcher:
        (place / "hooks.d").rmdir()
        (place / "hooks.d").write_text("no folder")
        for _ in range(3):
            settle(dispatcher)
        (place / "hooks.d").unlink()
        (place / "ledger.db").rename(place / "away")
        (place / "ledger.db").write_text("no ledger" * 1000)
        for _ in range(3):
            settle(dispatcher)
        (place / "away").rename(place / "ledger.db")
        settle(dispatcher)
    told = capfd.readouterr().err
    assert told.count("hooks wait: ") == 2
    assert "cannot read the folder of hooks" in told
    assert states(place) == [("hook", "done", 1)]


def test_a_configuration_that_is_read_anew_counts_from_then_on(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with dispatching(place) as dispatcher:
        post(place, exceeded("before"))
        settle(dispatcher)
        bad = Hook("bad", ("/no/such/program",))
        dispatcher.reload(Config(hooks=(noting(place, "hook"), bad), hooks_dir=place / "hooks.d"))
        post(place, exceeded("after"))
        settle(dispatcher)
    assert [line.split()[:2] for line in notes(place)] == [["begin", "hook"], ["end", "hook"]]
    assert "hook bad cannot be run: there is no /no/such/program" in capfd.readouterr().err


# --- the end of the daemon -----------------------------------------------------------------------------------------


def test_one_that_runs_when_the_daemon_ends_is_noted_by_the_next_one_and_not_run_again(place: Path) -> None:
    os.mkfifo(place / "gate")
    hook = noting(place, "hook", f"cat {place}/gate")
    post(place, exceeded())
    with dispatching(place, hook) as dispatcher:
        dispatcher.turn()
        gate = os.open(place / "gate", os.O_WRONLY)
    with dispatching(place, hook) as dispatcher:
        dispatcher.turn()
        assert states(place) == [("hook", "running", 1)]
        os.close(gate)

        def noted() -> bool:
            dispatcher.turn()
            return states(place) == [("hook", "done", 1)]

        when(noted)
    assert [line.split()[0] for line in notes(place)] == ["begin", "end"]


DAEMON = """\
import select, sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from esimbpf import config
from esimbpf.dispatch import Dispatcher
from esimbpf.events import EventType, example
from esimbpf.journal import notify
from esimbpf.ledger import outbox
from esimbpf.ledger.database import connect, transaction

place = Path(sys.argv[1])
one = example(EventType.QUOTA_WARNING, datetime(2026, 11, 24, tzinfo=UTC))
dispatcher = Dispatcher(place, config.read(place / "config.toml"))
notify("READY=1")
while True:
    with closing(connect(place)) as db, transaction(db):
        number = db.execute("SELECT count(*) FROM event").fetchone()[0]
        if number < int(sys.argv[2]):
            outbox.post(db, replace(one, quota=f"q{number % 3}", level_percent=number))
    dispatcher.turn()
    select.select(dispatcher.filenos(), (), (), 0.02)
"""


def test_each_is_run_once_however_often_the_daemon_is_killed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = noting(place, "hook", "sleep 0.05")
    (place / "hooks.d").mkdir()
    (place / "config.toml").write_text(
        f'hooks_dir = "{place}/hooks.d"\n[[hook]]\ncommand = ["{place}/hook"]\nuser = "root"\n'
    )
    chance = random.Random(4711)
    for kill in range(KILLS):
        words = [sys.executable, "-c", DAEMON, str(place), str(5 * kill + 5)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as daemon:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(0.2 + 0.4 * chance.random())
                raise AssertionError(daemon.communicate()[1])
            daemon.kill()
    real = time.time
    skipped = [0.0]
    monkeypatch.setattr("esimbpf.dispatch.time.time", lambda: real() + skipped[0])
    with closing(Dispatcher(place, Config(hooks=(hook,), hooks_dir=place / "hooks.d"))) as dispatcher:
        # What was cut off before its process began has failed, and is waited for.
        while {state for _, state, _ in states(place)} != {"done"}:
            settle(dispatcher)
            skipped[0] += 1
    with closing(connect(place)) as db:
        wanted = [posted.event.id for posted in outbox.recent(db, most=100_000)]
    assert len(wanted) > KILLS
    begun = [line.split()[2] for line in notes(place) if line.startswith("begin")]
    assert sorted(begun) == sorted(wanted)
    for quota in ("q0", "q1", "q2"):
        levels = [int(one.rpartition("/")[2]) for one in begun if f":{quota}/" in one]
        assert levels == sorted(levels)


def test_under_systemd_it_runs_outside_of_what_shuts_the_daemon_in_and_outlives_it(lab: Lab, tmp_path: Path) -> None:
    unit = resources.files("esimbpf").joinpath("service", "esimbpf.service").read_text().replace("@folder@", str(TOP))
    command = f"ExecStart={sys.executable} /var/lib/esimbpf/daemon.py /var/lib/esimbpf 1"
    with Booted(lab, tmp_path, ("dbus.service", "dbus.socket")) as machine:
        machine.run("systemctl", "start", "dbus")
        place = machine.outside("/var/lib/esimbpf")
        (place / "hooks.d").mkdir(parents=True)
        (place / "daemon.py").write_text(DAEMON)
        (place / "config.toml").write_text(
            'hooks_dir = "/var/lib/esimbpf/hooks.d"\n[[hook]]\nfile = "hook"\nuser = "root"\n'
        )
        script(
            place / "hooks.d" / "hook",
            "echo begin >> /run/notes; grep CapEff /proc/self/status >> /run/notes\n"
            "touch /run/begun; until [ -e /run/gate ]; do sleep 0.05; done; echo end >> /run/notes",
        )
        settings = machine.outside("/etc/systemd/system/esimbpf.service")
        settings.write_text(re.sub("ExecStart=.*", command, unit).replace("RestartSec=30", "RestartSec=0"))
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "esimbpf")
        when(machine.outside("/run/begun").exists)
        first = machine.property("esimbpf", "MainPID")
        machine.run("systemctl", "kill", "--signal=KILL", "esimbpf")
        when(lambda: machine.property("esimbpf", "MainPID") not in ("0", first))
        machine.outside("/run/gate").touch()
        log = (sys.executable, "-m", "esimbpf", "hook", "log")
        when(lambda: "hooks.d/hook: done" in machine.run(*log, status=None))
        begin, capabilities, end = machine.outside("/run/notes").read_text().splitlines()
        assert (begin, end) == ("begin", "end")
        # More than the daemon has, as many as the machine has.
        assert int(capabilities.split()[1], 16) & (1 << 7)  # CAP_SETUID (linux/capability.h)
        assert "hook hooks.d/hook, quota.warning of quota:q0: done in " in machine.run("journalctl", "-u", "esimbpf")


# --- the command line ----------------------------------------------------------------------------------------------


def command(place: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        esimbpf("--config", str(place / "config.toml"), "--state-dir", str(place), "hook", *words),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_hooks_are_tried_and_shown_by_the_command(place: Path) -> None:
    (place / "hooks.d").mkdir()
    script(place / "hooks.d" / "good", 'echo "$ESIMBPF_EVENT of $ESIMBPF_APP"')
    script(place / "hooks.d" / "bad", "echo no; exit 7")
    script(place / "hooks.d" / "open", "", 0o777)
    (place / "config.toml").write_text(
        f'hooks_dir = "{place}/hooks.d"\n[[hook]]\nfile = "bad"\nevents = ["quota.*"]\n'
        '[[hook]]\nfile = "open"\nevents = ["link.up"]\n'
    )
    done = command(place, "test", "app.first-seen")
    assert re.fullmatch(r"hooks.d/good: app.first-seen of example-app\nhooks.d/good: done in 0.\d s\n", done.stdout)
    done = command(place, "test", "quota.exceeded", status=1)
    assert "hooks.d/bad: no\nhooks.d/bad: it ended with status 7\n" in done.stdout
    assert "hooks.d/good: quota.exceeded of example-app\n" in done.stdout
    assert "is not trusted" in command(place, "test", "link.up", status=1).stdout
    dry = command(place, "test", "quota.exceeded", "--dry-run").stdout
    assert f"hooks.d/bad: {place}/hooks.d/bad\n  as nobody, for 30 s at most\n" in dry
    assert json.loads(dry.splitlines()[-1])["event"] == "quota.exceeded"
    listed = command(place, "list").stdout
    assert re.search(r"hooks.d/bad +quota\.\* +nobody +30 s +yes", listed)
    assert re.search(r"hooks.d/open +link\.up +nobody +30 s +no: ", listed)
    refused = command(place, "test", "quota.nonsense", status=2).stderr
    assert "'quota.nonsense'" in refused
    assert "'tracer.gap'" in refused
    post(place, exceeded())
    with dispatching(place, replace(noting(place, "bad", "exit 1"), name="told")) as dispatcher:
        settle(dispatcher)
    assert "told: pending (it ended with status 1)" in " ".join(command(place, "log").stdout.split())
    assert json.loads(command(place, "log", "--json").stdout) == exceeded().named(ProfileNames()).to_json()


def test_watch_tells_the_same_events(lab: Lab, place: Path) -> None:
    post(place, exceeded("before"))
    words = esimbpf("--netns", lab.device.name, "--state-dir", str(place), "watch", "wwan0", "--interval", "0.2")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout
        assert json.loads(watch.stdout.readline())["type"] == "start"
        post(place, exceeded())
        for line in watch.stdout:
            if json.loads(line)["type"] == "event":
                watch.terminate()
                break
        assert json.loads(line) == exceeded().named(ProfileNames()).to_json()
        assert '"event"' not in watch.stdout.read()


# --- the examples --------------------------------------------------------------------------------------------------


def shipped(name: str) -> Path:
    path = Path(str(resources.files("esimbpf").joinpath("examples", "hooks", name)))
    assert path.stat().st_mode & 0o777 == 0o755
    return path


CGROUPS = next(
    Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line
)


@contextmanager
def sleeping_in(cgroup: str) -> Iterator[Path]:
    """A process in a cgroup of its own."""
    folder = CGROUPS / cgroup
    folder.mkdir()
    process = subprocess.Popen(["sleep", "4711"])
    (folder / "cgroup.procs").write_text(str(process.pid))
    try:
        yield folder
    finally:
        (folder / "cgroup.freeze").write_text("0")
        process.kill()
        process.wait()
        when(lambda: "populated 0" in (folder / "cgroup.events").read_text())
        folder.rmdir()


def frozen(folder: Path) -> bool:
    return "frozen 1" in (folder / "cgroup.events").read_text()


@pytest.fixture
def own_quotas() -> Iterator[list[str]]:
    """Names of quotas that nobody else has; what is remembered of them goes."""
    names = [f"esimbpf test/{os.getpid()} {number}" for number in range(2)]
    yield names
    for name in names:
        Path("/run/esimbpf-frozen", name.replace(" ", "%20").replace("/", "%2F")).unlink(missing_ok=True)


def test_freeze_app_freezes_the_apps_cgroup_until_no_quota_of_it_is_used_up(place: Path, own_quotas: list[str]) -> None:
    hook = Hook("freeze", (str(shipped("freeze-app")),), user="root")
    one, two = own_quotas

    def told(kind: EventType, quota: str, *cgroups: str) -> Outcome:
        return outcome(place, hook, replace(example(kind, NOW), quota=quota, cgroups=cgroups))

    with sleeping_in(f"esimbpf-test-\x1b-{os.getpid()}.scope") as folder:
        shown = f"/{printable(folder.name)}"
        assert "\\x1b" in shown
        assert told(EventType.QUOTA_WARNING, one, shown).why is None
        assert not frozen(folder)
        assert told(EventType.QUOTA_EXCEEDED, one, shown, "/esimbpf-test-gone").why is None
        assert frozen(folder)
        assert told(EventType.QUOTA_EXCEEDED, two, shown).why is None
        # The app's cgroups may be unknown by then.
        assert told(EventType.QUOTA_RESET, one).why is None
        assert frozen(folder)
        assert told(EventType.QUOTA_RESET, two).why is None
        assert not frozen(folder)


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """A process without a cgroup of its own."""
    process = subprocess.Popen(["sleep", "4711"])
    yield process
    process.kill()
    process.wait()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_freeze_app_stops_the_processes_of_an_app_that_has_no_cgroup_of_its_own(
    place: Path, own_quotas: list[str], sleeping: subprocess.Popen[bytes]
) -> None:
    hook = Hook("freeze", (str(shipped("freeze-app")),), user="root")
    one, two = own_quotas

    def told(kind: EventType, quota: str, *pids: int, cgroups: tuple[str, ...] = ()) -> str | None:
        event = replace(example(kind, datetime.now(UTC)), quota=quota, pids=pids, cgroups=cgroups)
        return outcome(place, hook, event).why

    with sleeping_in(f"esimbpf-test-{os.getpid()}.scope") as folder:
        [inside] = map(int, (folder / "cgroup.procs").read_text().split())
        pids = (sleeping.pid, inside)
        assert told(EventType.QUOTA_EXCEEDED, one, *pids, cgroups=(f"/{folder.name}",)) is None
        when(lambda: is_stopped(sleeping.pid))
        # What is in a cgroup that is frozen needs no signal, which programs could see.
        assert frozen(folder)
        assert not is_stopped(inside)
        assert told(EventType.QUOTA_EXCEEDED, two, *pids) is None
        assert told(EventType.QUOTA_RESET, one) is None
        assert is_stopped(sleeping.pid)
        assert told(EventType.QUOTA_RESET, two) is None
        when(lambda: not is_stopped(sleeping.pid))


def test_freeze_app_fails_where_nothing_can_be_frozen(
    place: Path, own_quotas: list[str], sleeping: subprocess.Popen[bytes]
) -> None:
    """Nothing is named; who has the pid now was not there yet; it is in what is left alone; esimbpf needs it."""
    hook = Hook("freeze", (str(shipped("freeze-app")),), user="root")

    def told(time: datetime, *pids: int, cgroups: tuple[str, ...] = ()) -> Outcome:
        event = replace(example(EventType.QUOTA_EXCEEDED, time), quota=own_quotas[0], pids=pids, cgroups=cgroups)
        return outcome(place, hook, event)

    now = datetime.now(UTC)
    with sleeping_in(f"esimbpf-test-{os.getpid()}.slice") as folder:
        [inside] = map(int, (folder / "cgroup.procs").read_text().split())
        for failed in (
            told(now),
            told(now - timedelta(hours=1), sleeping.pid),
            told(now, inside, cgroups=(f"/{folder.name}",)),
            told(now, 1),
            told(now, 4_194_304),
        ):
            assert failed.why == "it ended with status 1", failed
        assert not any(map(is_stopped, (sleeping.pid, inside)))


@pytest.mark.usefixtures("own_pins")
def test_freeze_app_freezes_the_app_that_a_quota_is_for(lab: Lab, place: Path, own_quotas: list[str]) -> None:
    """By its name, where it has a cgroup of its own and where it has none; and by a unit."""
    state, rules, unit = place / "state", place / "config.toml", f"esimbpf-test-{os.getpid()}.service"
    quotas = {
        f"{own_quotas[0]} alone": 'app = "alone"',
        f"{own_quotas[0]} app": f'app = "{unit.removesuffix(".service")}"',
        f"{own_quotas[0]} unit": f'cgroup = "{unit}"',
    }
    terms = 'limit = "1kB"\nper = "once"\ndo = "notify"\n'
    rules.write_text(
        "".join(f'[[quota]]\nname = "{name}"\n{whom}\n{terms}' for name, whom in quotas.items())
        + f'[[hook]]\ncommand = ["{shipped("freeze-app")}"]\nevents = ["quota.*"]\nuser = "root"\n'
    )
    program, folder = place / "alone", CGROUPS / unit
    shutil.copy(os.path.realpath(sys.executable), program)
    folder.mkdir()
    try:
        alone = Puppet.start(lab.device, str(program), "-IS", PUPPET)
        within = Puppet.start(lab.device)
        within.do("join_cgroup", str(folder))
        with attached.daemon(lab, state, "--config", str(rules)) as process:
            for puppet in (alone, within):
                puppet.udp().do("send_datagrams", [lab.link.network_ip, 9], [1201])
            when(lambda: is_stopped(alone.pid) and frozen(folder))
            assert not is_stopped(within.pid)
            attached.end(process)
    finally:
        (folder / "cgroup.freeze").write_text("0")
        lab.end_programs()
        when(lambda: "populated 0" in (folder / "cgroup.events").read_text())
        folder.rmdir()
        for name in quotas:
            Path("/run/esimbpf-frozen", quote(name, safe="")).unlink(missing_ok=True)


def test_freeze_app_leaves_alone_where_more_than_an_app_lives(place: Path, own_quotas: list[str]) -> None:
    hook = Hook("freeze", (str(shipped("freeze-app")),), user="root")
    own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].splitlines()[0]
    number = os.getpid()
    with sleeping_in(f"esimbpf-test-{number}.slice") as whole, sleeping_in(f"session-{number}.scope") as session:
        never = (
            "/",
            "",
            "/..",
            f"/x/../{whole.name}",
            own,
            f"{own}/",
            f"/{whole.name}",
            f"/{session.name}",
            whole.name,
        )
        for path in never:
            told = outcome(place, hook, exceeded(own_quotas[0], cgroups=(path,)))
            assert told.why == "it ended with status 1", (path, told)
            assert "is left alone" in told.output[0]
        assert not frozen(whole)
        assert not frozen(session)
    assert "only root can freeze" in outcome(place, replace(hook, user="nobody")).output[0]


def test_freeze_app_does_not_freeze_itself_nor_what_it_is_in(own_quotas: list[str]) -> None:
    with sleeping_in(f"esimbpf-test-{os.getpid()}.scope") as folder:
        inner = folder / "inner"
        inner.mkdir()
        for name in (f"/{folder.name}", f"/{folder.name}/inner", f"/{folder.name}//inner/"):
            done = subprocess.run(
                ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$1"', str(inner), str(shipped("freeze-app"))],
                input=json.dumps(exceeded(own_quotas[0], cgroups=(name,)).to_json()),
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert (done.returncode, done.stderr) == (1, "")
            assert "is left alone: esimbpf is in it" in done.stdout
        assert not frozen(folder)
        inner.rmdir()


@pytest.fixture
def session() -> Iterator[pwd.struct_passwd]:
    """A user with a session bus, as far as one can be found."""
    user = pwd.getpwnam("daemon")
    folder = Path("/run/user", str(user.pw_uid))
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(folder / "bus"))
        yield user
    (folder / "bus").unlink()
    folder.rmdir()


def notified(place: Path, kind: EventType, **changed: Any) -> subprocess.CompletedProcess[str]:
    """What notify-desktop does with a notify-send that writes down how it was called."""
    (place / "bin").mkdir(exist_ok=True)
    (place / "bin").chmod(0o755)
    script(place / "bin" / "notify-send", 'id -u; printf "%s\\n" "$DBUS_SESSION_BUS_ADDRESS" "$HOME" "$@"')
    return subprocess.run(
        [str(shipped("notify-desktop"))],
        input=json.dumps(replace(example(kind, NOW), **changed).to_json()),
        env={"PATH": f"{place}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_notify_desktop_tells_who_is_logged_in_as_that_user(place: Path, session: pwd.struct_passwd) -> None:
    done = notified(place, EventType.QUOTA_EXCEEDED, quota="<b>video</b> & more")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        str(session.pw_uid),
        f"unix:path=/run/user/{session.pw_uid}/bus",
        session.pw_dir,
        "--urgency=critical",
        "--app-name=esimbpf",
        "--",
        "esimbpf: quota.exceeded",
        "quota &lt;b&gt;video&lt;/b&gt; &amp; more: 1.00 GB of 1.00 GB used, the limit is reached",
        f"{session.pw_name} is told",
    ]


def test_notify_desktop_fails_where_nobody_is_logged_in(place: Path) -> None:
    done = notified(place, EventType.LINK_UP)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nobody is logged in to a desktop\n"


# --- with the daemon ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_pins")
def test_each_level_of_a_quota_is_told_once_whenever_the_daemon_is_killed(lab: Lab, place: Path) -> None:
    """While traffic goes on; the level is written down with the use that has reached it. Of each limit once."""
    seen, state = place / "seen", place / "state"
    told = '"$ESIMBPF_EVENT" "$ESIMBPF_LEVEL_PERCENT" "$ESIMBPF_LIMIT_BYTES"'
    hook = script(place / "hook", f'printf "%s %s %s\\n" {told} >> {seen}')
    rules = place / "config.toml"
    rules.write_text(f'[[hook]]\ncommand = ["{hook}"]\nevents = ["quota.*"]\nuser = "root"\n')
    words = ("--netns", lab.device.name, "--config", str(rules), "--state-dir", str(state), "daemon", "wwan0")

    def agree(*quota: str) -> None:
        with attached.daemon(lab, state, "--config", str(rules)) as process:
            attached.command(lab, "--state-dir", str(state), "quota", *quota)
            attached.end(process)

    terms = ("--all", "--per", "once", "--warn", "20,50,80", "--do", "notify")
    agree("add", "all", "--limit", "300kB", *terms)
    chance = random.Random(3)
    for number in range(KILLS):
        if number == 40:
            # 540 kB are used.
            agree("set", "all", "--limit", "1.2MB")
        with subprocess.Popen(
            esimbpf(*words, "--fold-every", "1"), env=attached.ENVIRONMENT, stderr=subprocess.DEVNULL
        ) as killed:
            udp(lab, up=5, down=6)
            time.sleep(chance.uniform(0.1, 0.6))
            killed.kill()
    with attached.daemon(lab, state, "--config", str(rules)) as process:
        deadline = time.monotonic() + PATIENCE_S
        while len(found := seen.read_text().splitlines() if seen.exists() else []) < 7:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        attached.end(process)
    assert seen.read_text().splitlines() == [
        *(f"quota.warning {level} 300000" for level in (20, 50, 80)),
        "quota.exceeded 100 300000",
        *(f"quota.warning {level} 1200000" for level in (50, 80)),
        "quota.exceeded 100 1200000",
    ]


@pytest.mark.usefixtures("own_pins")
def test_new_apps_plans_and_links_are_told(lab: Lab, place: Path) -> None:
    state = place / "state"
    plan = ("--allowance", "10kB", "--cycle", "monthly:1", "--warn", "50")
    attached.command(lab, "--state-dir", str(state), "plan", "set", "wwan0", *plan)
    for amount in (101_000_007, 3):
        with attached.daemon(lab, state) as process:
            tcp(lab, down=amount)
            attached.end(process)
    with closing(connect(state)) as db:
        told = [(posted.event.type.value, posted.event.subject) for posted in outbox.recent(db)]
    # Of rapid use is told once an hour, and an hour may have just begun.
    rapid = ("app.rapid-use", "app:puppet.py")
    once = [one for one in told if one != rapid]
    assert rapid in told
    assert sorted(once) == [
        ("app.first-seen", "app:puppet.py"),
        ("plan.exhausted", "plan:link:wwan0"),
        ("plan.warning", "plan:link:wwan0"),
    ]
