"""By what the kernel knows apps."""

from __future__ import annotations

from contextlib import closing

from esimbpf.apps import Rule
from esimbpf.attribution import Namer
from esimbpf.enforcement import Apps
from esimbpf.kernel.quotas import Exe, Some
from esimbpf.ledger.database import empty
from esimbpf.model import Process

PYTHON = "/usr/bin/python3.11"
SCRIPT = Process(7, 5_000, 1000, "python3", PYTHON, ("python3", "sync-of-mine.py"), "/", exe_device=1, exe_inode=2)
UNIT = "/system.slice/esimbpf-backup.service"
SERVICE = Process(8, 6_000, 0, "tool", "/opt/tool", ("tool",), UNIT, cgroup_id=77, exe_device=1, exe_inode=3)
PROGRAM = Process(9, 7_000, 1000, "player", "/opt/player", ("player",), "/", exe_device=1, exe_inode=4)


def test_what_was_seen_stays_known_when_the_names_change() -> None:
    apps = Apps(Namer(), ())
    apps.see((SCRIPT, SERVICE, PROGRAM), ())
    with closing(empty()) as db:
        for _ in range(2):
            assert apps.some(db, "sync-of-mine.py") == Some(processes=frozenset({(7, 5_000)}))
            assert apps.some(db, "esimbpf-backup") == Some(cgroups=frozenset({77}))
            assert apps.some(db, "player") == Some(exes=frozenset({Exe(1, 4)}))
            apps.rename(Namer(), ())
        rules = (Rule("Mine", args="*sync-of-mine.py*"), Rule("Copies", cgroup=UNIT))
        apps.rename(Namer(rules), rules)
        assert apps.some(db, "Mine").processes == {(7, 5_000)}
        assert apps.some(db, "Copies").cgroups == {77}
        assert apps.some(db, "sync-of-mine.py") == Some(names=frozenset({b"sync-of-mine.py"}))
        apps.see((), (SCRIPT,))
        assert not apps.some(db, "Mine").processes
