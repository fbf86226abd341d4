"""Runs `esimbpf watch` and holds every line that it prints to the specification.

`Report` checks, on each line of each run, what must be true whatever the traffic was: valid by the schema that ships in
the package, each interval's usage lines add up to its link's line in all eight counters, nothing is negative, no total
goes back, the intervals add up to the totals, and the last interval has every row.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from types import TracebackType
from typing import Any, Self

import jsonschema

from esimbpf.model import NOTHING, Counters
from tests.live.netlab import Lab

__all__ = ["Report", "Row", "Watch", "esimbpf", "schema"]

PATIENCE_S = 20.0
COUNTERS = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
BLOCKED = ("blocked_rx_bytes", "blocked_tx_bytes")

Line = dict[str, Any]


def esimbpf(*arguments: str) -> list[str]:
    """The command line of the program under test."""
    return [sys.executable, "-m", "esimbpf", *arguments]


@cache
def schema() -> jsonschema.Draft202012Validator:
    """The validator of the schema that ships in the package."""
    shipped = resources.files("esimbpf").joinpath("sinks", "jsonlines.schema.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(shipped))


@dataclass(frozen=True, slots=True)
class Row:
    """The last word on one row: its line, its totals, and what its intervals add up to."""

    line: Line
    total: Counters
    blocked: Counters

    @property
    def kind(self) -> str:
        """What the row stands for."""
        return str(self.line["kind"])

    @property
    def name(self) -> str:
        """What a reader sees."""
        return str(self.line["name"])


def counters(line: Line, suffix: str = "") -> Counters:
    """The four counters of a line."""
    return Counters(*(line[name + suffix] for name in COUNTERS))


def blocked(line: Line, suffix: str = "") -> Counters:
    """What of a line quotas have blocked; how many packets those were is not told."""
    return Counters(*(line[name + suffix] for name in BLOCKED))


def within(small: Counters, large: Counters) -> bool:
    """Whether no counter is larger."""
    return all(getattr(small, name) <= getattr(large, name) for name in COUNTERS)


class Report:
    """What one run of `watch` has printed, found right in everything that does not depend on the traffic."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.lines = [self._valid(line) for line in lines]
        assert [line["type"] for line in self.lines[:1]] == ["start"], "the first line is the start"
        self.start, *body = self.lines
        assert [line["type"] for line in body[-1:]] == ["end"], "the last line is the end"
        self.end = body.pop()
        self._rows: dict[str, dict[tuple[str, str], Row]] = defaultdict(dict)
        self._links: dict[str, Line] = {}
        self._last_interval: set[tuple[str, str, str]] = set()
        self.warnings: list[str] = []
        pending: dict[str, list[Line]] = defaultdict(list)
        for line in body:
            match line["type"]:
                case "usage":
                    self._check_usage(line)
                    pending[line["link"]].append(line)
                case "link":
                    self._check_link(line, pending.pop(line["link"], []))
                case "warning":
                    self.warnings.append(line["message"])
                case other:
                    raise AssertionError(f"a second line of type {other}")
        assert not pending, "usage lines that no link's line closes"
        self._check_last_interval()
        times = [line["time"] for line in self.lines]
        assert times == sorted(times), "time goes back"

    @staticmethod
    def _valid(raw: bytes) -> Line:
        text = raw.decode("utf-8")
        assert text.endswith("\n"), f"a line that is cut off: {text!r}"
        assert text[:-1].isprintable(), f"a control character: {text!r}"
        line: Line = json.loads(text)
        schema().validate(line)
        return line

    def _check_usage(self, line: Line) -> None:
        rows, key = self._rows[line["link"]], (line["kind"], line["id"])
        delta, total = counters(line), counters(line, "_total")
        assert within(NOTHING, delta), f"negative: {line}"
        before = rows[key].total if key in rows else NOTHING
        assert before + delta == total, f"{before} and {delta} make another total: {line}"
        stopped = rows[key].blocked if key in rows else NOTHING
        assert stopped + blocked(line) == blocked(line, "_total"), f"another total of what was blocked: {line}"
        assert blocked(line).rx_bytes <= delta.rx_bytes, f"what was received in vain was not paid for: {line}"
        rows[key] = Row(line, total, blocked(line, "_total"))

    def _check_link(self, line: Line, usages: Sequence[Line]) -> None:
        name = line["link"]
        keys = [(usage["kind"], usage["id"]) for usage in usages]
        assert len(set(keys)) == len(keys), f"a row twice in one interval: {keys}"
        delta, total = counters(line), counters(line, "_total")
        assert within(NOTHING, delta), f"negative: {line}"
        before = counters(self._links[name], "_total") if name in self._links else NOTHING
        assert before + delta == total, f"{before} and {delta} make another total: {line}"
        assert sum(map(counters, usages), NOTHING) == delta, f"the interval is not closed: {line}"
        assert sum(map(blocked, usages), NOTHING) == blocked(line), f"what was blocked is not closed: {line}"
        rows = self._rows[name].values()
        assert sum((row.blocked for row in rows), NOTHING) == blocked(line, "_total"), f"nor in all: {line}"
        assert sum((row.total for row in rows), NOTHING) == total, f"the totals are not closed: {line}"
        self._links[name] = line
        self._last_interval = {entry for entry in self._last_interval if entry[0] != name}
        self._last_interval |= {(name, *key) for key in keys}

    def _check_last_interval(self) -> None:
        every = {(name, *key) for name, rows in self._rows.items() for key in rows}
        assert every == self._last_interval, "the last interval has every row"
        assert set(self._links) >= {link["link"] for link in self.start["links"]}, "a link without a line"

    def link(self, name: str = "wwan0") -> Counters:
        """The link's totals."""
        return counters(self._links[name], "_total")

    def rows(self, kind: str, link: str = "wwan0") -> list[Row]:
        """The rows of a kind at the end of the run."""
        return [row for (of, _), row in self._rows[link].items() if of == kind]

    def total(self, kind: str, link: str = "wwan0") -> Counters:
        """What the rows of a kind have moved together."""
        return sum((row.total for row in self.rows(kind, link)), NOTHING)

    def processes(self, pid: int, link: str = "wwan0") -> list[Row]:
        """The rows of processes that had this pid."""
        return [row for row in self.rows("process", link) if row.line["pid"] == pid]

    def process(self, pid: int, link: str = "wwan0") -> Counters:
        """What the process with this pid has moved; nothing if it has no row."""
        return sum((row.total for row in self.processes(pid, link)), NOTHING)

    def names(self) -> dict[int, str]:
        """The name of each process row by its pid."""
        return {row.line["pid"]: row.name for row in self.rows("process")}


class Watch:
    """A run of `esimbpf watch` over a lab's links, from the `start` line to the `end` line.

    `truth` is what really crossed a link in between, counted elsewhere.
    """

    def __init__(
        self,
        lab: Lab,
        *options: str,
        links: Sequence[str] = ("wwan0",),
        interval: str = "0.2",
        before: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._lab = lab
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 -- closed at the end of the run
        self.process = subprocess.Popen(
            esimbpf("--netns", lab.device.name, *before, "watch", *links, "--interval", interval, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment,
        )
        self._arriving: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._lines: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._marks: dict[str, Counters] = {}
        self._truth: dict[str, Counters] = {}

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._arriving.put(line)
        self._arriving.put(b"")

    def __enter__(self) -> Self:
        try:
            self._marks = {link.name: link.crossed() for link in self._lab.links}
            self.await_start()
        except BaseException:
            self.close()
            raise
        return self

    def await_start(self) -> None:
        """Return when counting has begun."""
        self.wait_for(lambda line: line["type"] == "start", "the start line")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._truth = {link.name: link.crossed() - self._marks[link.name] for link in self._lab.links}
                self.end()
        finally:
            self.close()

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the run in order, unless it has ended by itself."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.wait(PATIENCE_S) == 0, self.complaints
        assert "Traceback" not in self.complaints
        assert self.report.end

    def close(self) -> None:
        """End the run at once if it still goes on."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE_S)
        if self.process.stdout:
            self.process.stdout.close()
        self._stderr = self.complaints
        self._complaints.close()

    _stderr = ""

    @property
    def complaints(self) -> str:
        """What the run has said on stderr."""
        if self._complaints.closed:
            return self._stderr
        self._complaints.seek(0)
        return self._complaints.read().decode(errors="replace")

    def wait_for(self, wanted: Callable[[Line], bool], what: str = "a line") -> Line:
        """The first line, from here on, that is wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                raw = self._arriving.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{what} does not come: {self.complaints}") from None
            if not raw:
                raise EOFError(f"watch ended before {what}: {self.complaints}")
            self._lines.append(raw)
            line: Line = json.loads(raw)
            if wanted(line):
                return line

    def next_interval(self, link: str = "wwan0") -> Line:
        """Wait until an interval that begins from here on has been closed."""
        self._drain()
        for _ in range(2):
            line = self.wait_for(lambda line: line["type"] == "link" and line["link"] == link, "an interval")
        return line

    def _drain(self) -> None:
        while not self._arriving.empty():
            raw = self._arriving.get()
            if raw:
                self._lines.append(raw)

    @cached_property
    def report(self) -> Report:
        """All that was printed; only when the run has ended."""
        self._reader.join(PATIENCE_S)
        self._drain()
        return Report(self._lines)

    def mark(self, link: str = "wwan0") -> Counters:
        """What had crossed the link when the run began."""
        return self._marks[link]

    def truth(self, link: str = "wwan0") -> Counters:
        """What crossed the link during the run, counted outside the tracer."""
        return self._truth[link]
