"""Counting that outlives its command, in a folder of pins of the tests' own: the commands, the daemon, the ledger.

A test that uses it asks for the fixture `own_pins`, which leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from esimbpf.kernel.pins import PINS_VARIABLE
from esimbpf.ledger.database import FILE_NAME
from esimbpf.model import Counters
from tests.live.netlab import Lab
from tests.live.watching import PATIENCE_S, esimbpf, schema

PINS = Path(f"/sys/fs/bpf/esimbpf-test-{os.getpid()}")
NOWHERE = Path(f"/nonexistent/esimbpf-test-{os.getpid()}")
ENVIRONMENT = {**os.environ, PINS_VARIABLE: str(PINS)}


def command(
    lab: Lab, *words: str, status: int = 0, environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run a command for the lab's device; the machine's own ledger is left alone, there is none unless it is named."""
    state_dir = () if "--state-dir" in words else ("--state-dir", str(NOWHERE))
    done = subprocess.run(
        esimbpf("--netns", lab.device.name, *state_dir, *words),
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def state(lab: Lab, *before: str, environment: Mapping[str, str] = ENVIRONMENT) -> dict[str, Any]:
    """What `status --json` tells, as the schema promises."""
    told: dict[str, Any] = json.loads(command(lab, *before, "status", "--json", environment=environment).stdout)
    schema().validate(told)
    return told


def total(line: dict[str, Any]) -> Counters:
    return Counters(*(line[f"{name}_total"] for name in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")))


@contextmanager
def daemon(
    lab: Lab,
    state_dir: Path,
    *options: str,
    links: Sequence[str] = ("wwan0",),
    awaits: Sequence[str] = ("ready",),
    environment: Mapping[str, str] = ENVIRONMENT,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A daemon that has said what is awaited, by default that it counts."""
    before = ("--netns", lab.device.name, "--state-dir", str(state_dir))
    with subprocess.Popen(
        esimbpf(*before, *options, "daemon", *links, "--fold-every", "1"),
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            for words in awaits:
                said(process, words)
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], wanted: str) -> str:
    """Read what the daemon says until this comes."""
    assert process.stderr
    for line in process.stderr:
        if wanted in line:
            return line
    raise AssertionError(f"the daemon ended without saying {wanted!r}")


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.stderr
    words = process.stderr.read()
    assert process.wait(PATIENCE_S) == 0, words
    assert "Traceback" not in words


def ledger(state_dir: Path, table: str = "minute", where: str = "1") -> Counters:
    """The sum of a table of the ledger."""
    with closing(sqlite3.connect(state_dir / FILE_NAME)) as db:
        sums = db.execute(
            f"SELECT total(rx_bytes), total(tx_bytes), total(rx_packets), total(tx_packets) FROM {table} WHERE {where}"
        ).fetchone()
    return Counters(*map(int, sums))
