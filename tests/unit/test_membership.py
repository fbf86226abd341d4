"""Which app each process is, and what the kernel is told where it takes it for another."""

from __future__ import annotations

from dataclasses import replace

from esimbpf.apps import Rule
from esimbpf.attribution import Namer
from esimbpf.kernel.naming import name_hash
from esimbpf.kernel.quotas import Exe, Otherwise
from esimbpf.kernel.roster import Changes
from esimbpf.membership import Apps, Members
from esimbpf.model import Process
from esimbpf.quota import App, Cgroup, Everybody, User
from esimbpf.quota import Exe as ExePath

PYTHON = "/usr/bin/python3.11"
UNIT = "/system.slice/backup.service"
SESSION = "/user.slice/user-1000.slice/session-3.scope"
CONTAINER = f"/system.slice/docker-{64 * 'a'}.scope"
SCRIPT = Process(7, 5_000, 1000, "python3", PYTHON, ("python3", "-X", "dev", "sync.py"), SESSION, exe_inode=2)
SERVICE = Process(8, 6_000, 0, "tool", "/opt/tool", ("tool",), f"{UNIT}/inner", exe_inode=3)
PLAYER = Process(9, 7_000, 1000, "player", "/opt/player", ("player",), SESSION, exe_inode=4)
CONTAINED = Process(10, 8_000, 0, "player", "/opt/player", ("player",), CONTAINER, exe_inode=4)
ALL = (SCRIPT, SERVICE, PLAYER, CONTAINED)
NAMES = ("sync.py", "backup", "player", "docker:aaaaaaaaaaaa")


def taken_for(process: Process, app: str) -> Process:
    """As the kernel has recorded it."""
    return replace(process, app_hash=name_hash(app.encode()) if app else 0)


def there(*processes: Process) -> Changes:
    return Changes({16 + process.pid: process for process in processes})


def seen(*processes: Process, rules: tuple[Rule, ...] = (), exes: tuple[str, ...] = ()) -> Apps:
    apps = Apps()
    apps.rename(Namer(rules), rules, exes)
    apps.see(there(*processes))
    return apps


def test_of_what_the_kernel_knows_it_is_told_nothing() -> None:
    apps = seen(*(taken_for(process, app) for process, app in zip(ALL, NAMES, strict=True)))
    assert apps.otherwise(NAMES) == Otherwise()


def test_of_a_process_that_says_nothing_itself_the_kernel_is_told() -> None:
    apps = seen(taken_for(SCRIPT, ""), taken_for(PLAYER, "player"))
    assert apps.otherwise(["sync.py"]) == Otherwise({(7, 5_000): "sync.py"})
    # Not where it makes no difference.
    assert apps.otherwise(["player"]) == apps.otherwise([]) == Otherwise()


def test_of_a_stranger_that_is_taken_for_a_limited_app_the_kernel_is_told() -> None:
    apps = seen(taken_for(SCRIPT, "player"))
    assert apps.otherwise(["player"]) == Otherwise({(7, 5_000): "sync.py"})


def test_what_a_cgroup_says_holds_for_all_that_comes_to_it() -> None:
    apps = seen(taken_for(CONTAINED, ""))
    told = Otherwise(cgroups={CONTAINER: NAMES[3]})
    assert apps.otherwise(NAMES) == told
    apps.see(Changes(gone={16 + CONTAINED.pid}))
    apps.see(there(replace(CONTAINED, pid=11, start_ns=9_000)))
    assert apps.otherwise(NAMES) == told


def test_what_a_rule_says_of_an_executable_holds_for_all_that_run_it() -> None:
    rules = (Rule("Media", exe="/opt/*"), Rule("Sync", exe=PYTHON, args="*sync.py"))
    apps = seen(taken_for(PLAYER, "player"), taken_for(SCRIPT, ""), rules=rules)
    assert apps.otherwise(["Media", "Sync"]) == Otherwise({(7, 5_000): "Sync"}, {"/opt/player": "Media"})


def test_rules_without_wildcards_and_executables_that_are_known_are_told_before_anything_runs() -> None:
    rules = (Rule("Media", exe="/opt/*"), Rule("Python", exe=PYTHON), Rule("Backup", cgroup=UNIT))
    apps = seen(rules=rules, exes=("/opt/old", "/bin/cat"))
    exes = {"/opt/old": "Media", PYTHON: "Python"}
    assert apps.otherwise(["Media"]) == Otherwise({}, exes, {UNIT: "Backup"})


def test_what_is_an_exception_to_its_executable_or_cgroup_is_told_itself() -> None:
    rules = (Rule("Kiosk", exe="/opt/player", args="*--kiosk"), Rule("Media", exe="/opt/player"))
    kiosk = replace(PLAYER, pid=12, args=("player", "--kiosk"))
    apps = seen(taken_for(PLAYER, "player"), taken_for(kiosk, "player"), rules=rules)
    assert apps.otherwise(["Media"]).processes == {(12, 7_000): "Kiosk"}


def test_what_was_seen_stays_known_when_the_names_change() -> None:
    apps = seen(*(taken_for(process, app) for process, app in zip(ALL, NAMES, strict=True)))
    rules = (Rule("Mine", args="*sync.py*"), Rule("Copies", cgroup=f"{UNIT}/*"))
    apps.rename(Namer(rules), rules)
    assert apps.otherwise(["Mine"]).processes == {(7, 5_000): "Mine"}
    assert apps.otherwise(["Copies"]).cgroups == {f"{UNIT}/inner": "Copies"}
    apps.rename(Namer(), ())
    assert apps.otherwise(NAMES) == Otherwise()
    apps.see(Changes(gone={16 + SCRIPT.pid}))
    apps.rename(Namer(rules), rules)
    assert apps.otherwise(["Mine"]).processes == {}


def test_only_so_many_places_are_remembered() -> None:
    rules = (Rule("Media", exe="/opt/*"),)
    apps = seen(rules=rules, exes=tuple(f"/opt/{n}" for n in range(3000)))
    known = apps.otherwise(["Media"]).exes
    assert len(known) == 1024
    assert "/opt/2999" in known


def test_who_are_the_members_of_whom_a_quota_is_for() -> None:
    ended = replace(PLAYER, pid=13, exited=True)
    apps = seen(*ALL, ended)
    assert apps.members(App("backup")) == Members((UNIT,), (8,))
    assert apps.members(App("player")) == Members((), (9,))
    assert apps.members(App("sync.py")) == Members((), (7,))
    assert apps.members(App(NAMES[3])) == Members((CONTAINER,), (10,))
    assert apps.members(Cgroup("backup.service")) == Members((UNIT,), (8,))
    assert apps.members(Cgroup("/system.slice")) == Members(("/system.slice",), (8, 10))
    assert apps.members(Cgroup("up.service")) == apps.members(User(1000)) == apps.members(Everybody()) == Members()
    assert apps.members(ExePath("/opt/player")) == Members((), (9, 10))
    assert apps.exes_in_use() == {Exe(0, inode) for inode in (2, 3, 4)}


def test_the_cgroup_of_what_a_rule_names_is_not_its_own() -> None:
    apps = seen(SERVICE, rules=(Rule("Tools", exe="/opt/tool"),))
    assert apps.members(App("Tools")) == Members((), (8,))
