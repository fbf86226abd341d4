"""The numbers by which the kernel knows quotas: used again, and nothing of the one before is the next one's."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esimbpf.enforcement import Enforcer
from esimbpf.errors import EsimbpfError
from esimbpf.kernel.pins import PINS_VARIABLE, PinnedEngine
from esimbpf.kernel.quotas import KernelQuotas
from esimbpf.ledger.database import connect
from esimbpf.quota import NEVER, Action, Kept, Quota, QuotaPer, Standing, Then, User
from esimbpf.spans import Span
from tests.live.attached import PINS, daemon, end, said
from tests.live.limited import PUPPET, Limited
from tests.live.netlab import Lab
from tests.live.test_quotas import HEADER, SIZE, quota, send_until_refused, told
from tests.live.traffic import Puppet

pytestmark = pytest.mark.usefixtures("own_pins")

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def numbers_in_use() -> set[int]:
    with PinnedEngine() as engine, KernelQuotas(engine) as quotas:
        return set(quotas.known())


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("whom", ["--app", "--exe"])
def test_a_quota_that_takes_anothers_number_begins_with_nothing_used(
    lab: Lab, tmp_path: Path, unique: Path, monkeypatch: pytest.MonkeyPatch, whom: str, killed: bool
) -> None:
    monkeypatch.setenv(PINS_VARIABLE, str(PINS))
    state, named = tmp_path / "state", "limited" if whom == "--app" else str(unique)
    limited = Puppet.start(lab.device, str(unique), "-IS", PUPPET)
    with daemon(lab, state) as process:
        for limit, passing in (("30007B", 25), ("61001B", 50)):
            quota(lab, state, "add", "a", whom, named, "--limit", limit, "--per", "once", "--do", "block")
            said(process, "was read anew")
            assert numbers_in_use() == {1}
            if killed and passing == 50:
                process.kill()
                break
            assert send_until_refused(limited, lab) == passing
            process.send_signal(signal.SIGHUP)
            said(process, "was read anew")
            assert told(lab, state, "a")["used_bytes"] == passing * (SIZE + HEADER)
            quota(lab, state, "remove", "a")
            said(process, "was read anew")
            assert numbers_in_use() == set()
        else:
            end(process)
    if killed:
        with daemon(lab, state) as process:
            assert send_until_refused(limited, lab) == passing
            end(process)
        assert told(lab, state, "a")["used_bytes"] == passing * (SIZE + HEADER)


def standing(number: int, later: int) -> Standing:
    terms = Quota(f"q{number}", User(number), "1GB", QuotaPer.ONCE, Action(Then.BLOCK))
    added = NOW + timedelta(seconds=later)
    return Standing(Kept(terms, added), added, UTC, Span(added, NEVER))


def enforce(enforcer: Enforcer, db: sqlite3.Connection, users: Iterable[int], later: int) -> None:
    standings = [standing(user, later) for user in users]
    enforcer.number(db, standings)
    enforcer.recall(db)
    enforcer.apply(standings, {}, {})


def test_there_is_no_end_of_numbers(limited: Limited, tmp_path: Path) -> None:
    """Of quotas that come and go more can be than there are numbers, but not at once."""
    enforcer = Enforcer(limited.engine)
    with closing(connect(tmp_path)) as db, closing(enforcer):
        for later in range(4):
            enforce(enforcer, db, range(1, 2001), later)
            assert len(limited.quotas.known()) == 2000
        with pytest.raises(EsimbpfError, match="the kernel knows 2000 quotas, and some of them until others hold"):
            enforce(enforcer, db, range(5000, 5000 + 2095), 9)
        enforce(enforcer, db, (), 9)
        enforce(enforcer, db, range(5000, 5000 + 4094), 10)
        assert limited.quotas.known() == frozenset(range(1, 4095))
        enforce(enforcer, db, (), 11)
        assert limited.quotas.known() == frozenset()
