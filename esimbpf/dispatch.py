"""Runs the hooks for what stands in the ledger's outbox: in order, once, and again if that failed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from typing import Final

from esimbpf.config import Config
from esimbpf.errors import CannotError, EsimbpfError, LedgerError
from esimbpf.events import Event
from esimbpf.hook_keeper import Order, Outcome
from esimbpf.hook_runner import Runner
from esimbpf.hooks import Hook, checked, found
from esimbpf.journal import log
from esimbpf.ledger import outbox
from esimbpf.ledger.database import FILE_NAME, connect, said
from esimbpf.ledger.outbox import Delivery
from esimbpf.profiles import ProfileNames

__all__ = ["RUNS", "Dispatcher", "order_of"]

RUNS: Final = "hooks"
"""The folder of the runs, in the state folder."""

_THIN_EVERY_S: Final = 3600.0


class Dispatcher:
    """Hands out the events of a state folder's ledger; there is one, for as long as it holds the ledger's lock.

    It never waits for a hook. What is wrong with the ledger or with a hook is logged, not raised.
    """

    def __init__(self, state_dir: Path, config: Config) -> None:
        self._state_dir = state_dir
        self._runner = Runner(state_dir / RUNS)
        self._under_way: dict[str, Delivery] = {}
        """By run."""
        self._took_over = False
        self._thinned_s = 0.0
        self._trouble = ""
        self.reload(config)

    def close(self) -> None:
        """Let go; what runs goes on within its limits, and the next Dispatcher notes how it has ended."""
        with suppress(LedgerError), self._ledger() as db:
            self._take_outcomes(db)
        self._runner.close()

    def reload(self, config: Config) -> None:
        """Take over a configuration, and say which hooks would not be run as things are."""
        self._config = config
        with suppress(CannotError):
            for hook in found(config.hooks, config.hooks_dir):
                try:
                    checked(hook)
                except CannotError as error:
                    log(f"hook {hook.name} cannot be run: {error.message} ({error.hint})", "warning")

    def filenos(self) -> list[int]:
        """Descriptors of which one is readable when there is something to do before the next interval."""
        return self._runner.filenos()

    def turn(self) -> None:
        """Note which hooks have ended, and begin those that are due. To be called when events may have been posted."""
        try:
            with self._ledger() as db:
                self._take_over(db)
                self._take_outcomes(db)
                self._begin_due(db, self._hooks())
                now_s = time.time()
                if abs(now_s - self._thinned_s) >= _THIN_EVERY_S:
                    outbox.thin(db, now_s)
                    self._thinned_s = now_s
        except EsimbpfError as error:
            if error.message != self._trouble:
                log(f"hooks wait: {error.message} ({error.hint})", "error")
            self._trouble = error.message
        else:
            self._trouble = ""

    @contextmanager
    def _ledger(self) -> Iterator[Connection]:
        """Opened for each turn: the file may be moved away or replaced while nobody looks."""
        with said(self._state_dir / FILE_NAME), closing(connect(self._state_dir)) as db:
            # What a hook is run for stays written down, with the use that caused it, even if the power is cut now.
            db.execute("PRAGMA synchronous = FULL")
            yield db

    def _hooks(self) -> Mapping[str, Hook]:
        """As they are now; a file that is put into hooks.d is one from then on."""
        return {hook.name: hook for hook in found(self._config.hooks, self._config.hooks_dir)}

    def _take_over(self, db: Connection) -> None:
        """Once: the runs that an earlier process has begun."""
        if self._took_over:
            return
        known = {delivery.run: delivery for delivery in outbox.running(db) if delivery.run}
        for run in self._runner.adopt(known):
            outbox.never_begun(db, known.pop(run))
        self._under_way = known
        self._took_over = True

    def _take_outcomes(self, db: Connection) -> None:
        for run, outcome in self._runner.turn().items():
            delivery = self._under_way[run]
            _log_output(delivery, outcome)
            self._note(db, delivery, outcome.why, outcome.seconds)
            self._runner.forget(run)
            del self._under_way[run]

    def _note(self, db: Connection, delivery: Delivery, why: str | None, seconds: float = 0.0) -> None:
        what = f"hook {delivery.hook}, {delivery.event.type} of {delivery.event.named(ProfileNames()).subject}"
        if why is None:
            outbox.done(db, delivery)
            log(f"{what}: done in {seconds:.1f} s")
            return
        again_s = outbox.failed(db, delivery, why, time.time())
        if again_s is None:
            log(f"{what}: {why}; given up after {delivery.attempts} attempts", "error")
        else:
            log(f"{what}: {why}; again in {again_s:.0f} s", "warning")

    def _begin_due(self, db: Connection, hooks: Mapping[str, Hook]) -> None:
        now_s = time.time()
        outbox.hand_out(db, lambda kind: [hook.name for hook in hooks.values() if hook.wants(kind)], now_s)
        for waiting in outbox.due(db, now_s, outbox.MOST_AT_ONCE - len(self._under_way)):
            run = secrets.token_hex(16)
            delivery = outbox.begin(db, waiting, run)
            hook = hooks.get(delivery.hook)
            if hook is None:
                self._note(db, delivery, "there is no such hook any more")
                continue
            try:
                self._runner.start(run, order_of(hook, delivery.event, delivery.attempts))
            except OSError as error:
                self._note(db, delivery, f"cannot be started: {error.strerror}")
                continue
            self._under_way[run] = delivery


def order_of(hook: Hook, event: Event, attempt: int = 1) -> Order:
    """What a hook is to do for an event; it is not told the numbers of SIM profiles in full."""
    event = event.named(ProfileNames())
    return Order(
        command=hook.command,
        user=hook.user,
        timeout_s=hook.timeout_s,
        variables=event.variables() | {"ESIMBPF_HOOK": hook.name, "ESIMBPF_ATTEMPT": str(attempt)},
        line=json.dumps(event.to_json(), ensure_ascii=False, separators=(",", ":")),
    )


def _log_output(delivery: Delivery, outcome: Outcome) -> None:
    for line in outcome.output:
        log(f"hook {delivery.hook}: {line}")
    if outcome.left:
        log(f"hook {delivery.hook}: it left processes behind, which were ended", "warning")
