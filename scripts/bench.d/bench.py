"""What the tracer costs, as ratios within one run, on a veth pair between two network namespaces.

Prints a table, and with --json FILE the figures. Nothing is left behind, and kernel.bpf_stats_enabled is restored.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import history
from rich.console import Console
from rich.table import Table

from esimbpf.attribution import Namer
from esimbpf.kernel import libbpf
from esimbpf.kernel.engine import Engine, header_bytes
from esimbpf.kernel.mounts import cgroup2_root, device_of
from esimbpf.kernel.netns import cookie, enter
from esimbpf.kernel.pins import PINS_VARIABLE, PinnedEngine
from esimbpf.kernel.programs import PROGRAMS, Hook
from esimbpf.kernel.quotas import Action, Exe, KernelQuotas, Rule, Some, Whom
from esimbpf.ledger.database import FILE_NAME, connect
from esimbpf.ledger.fold import Attachment, Folding
from esimbpf.ledger.query import ReportBy, usage
from esimbpf.model import NOTHING, Counters, Process
from esimbpf.snapshot import FIRST_PROCESS_SLOT, LinkReading, ReservedSlot, Snapshot
from esimbpf.spans import Per, spans

HERE = Path(__file__).parent
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
OURS, PEER = "10.79.0.1", "10.79.0.2"
LINK = "wwan0"
PARTS = ("start", "throughput", "crowds", "hooks", "quotas", "ledger")
ETHERNET = 1
TICKS = os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class BenchError(Exception):
    """The figures would be wrong; what was seen, and what to do."""


class Bench:
    """Two namespaces, the programs that make traffic, and the figures."""

    def __init__(self, quick: bool, folder: Path) -> None:
        self.quick = quick
        self.folder = folder
        self.device, self.peer = (f"esimbpf-bench-{os.getpid()}-{side}" for side in ("device", "peer"))
        self.traffic = str(folder / "traffic")
        self.figures: dict[str, Any] = {}
        self.rows: list[tuple[str, str, str, str]] = []

    def run(self, *words: str) -> str:
        try:
            return subprocess.run(words, check=True, capture_output=True, text=True).stdout
        except subprocess.CalledProcessError as error:
            raise BenchError(f"{' '.join(words)} failed", error.stderr.strip().replace("\n", "\n  ")) from error

    @contextlib.contextmanager
    def lab(self) -> Iterator[None]:
        """The namespaces and the compiled helpers, for as long as the `with`."""
        include = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
        self.run("gcc", "-O2", "-Wall", "-Werror", "-o", self.traffic, str(HERE / "traffic.c"))
        self.run(
            *("clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", f"-I/usr/include/{include}"),
            *("-c", str(HERE / "hooks.bpf.c"), "-o", str(self.folder / "hooks.bpf.o")),
        )
        before = STATS.read_text()
        self._remove_stale()
        try:
            for name in (self.device, self.peer):
                self.run("ip", "netns", "add", name)
            # The peer stands for another machine: an index of its own keeps its packets apart at first sight.
            self.run(
                *("ip", "-n", self.device, "link", "add", LINK, "type", "veth"),
                *("peer", "name", "p0", "index", "1000", "netns", self.peer),
            )
            for name, link, address in ((self.device, LINK, OURS), (self.peer, "p0", PEER)):
                self.run("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
                self.run("ip", "-n", name, "link", "set", link, "up")
            yield
        finally:
            STATS.write_text(before)
            for name in (self.device, self.peer):
                subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def _remove_stale(self) -> None:
        """The namespaces of runs that were killed."""
        for path in Path("/run/netns").glob("esimbpf-bench-*"):
            if not Path("/proc", path.name.split("-")[2]).exists():
                subprocess.run(["ip", "netns", "delete", path.name], check=False, capture_output=True)

    def inside(self, name: str, *words: str, cpu: int | None = None) -> list[str]:
        pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
        return ["nsenter", f"--net=/run/netns/{name}", *pinned, *words]

    @contextlib.contextmanager
    def running(
        self, command: list[str], wait_for: str = "", stdout: int = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[str]]:
        """A program for as long as the `with`, once it has printed a line with `wait_for`."""
        with subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL, text=True) as program:
            try:
                while wait_for and program.stdout and wait_for not in (line := program.stdout.readline()):
                    if not line:
                        raise RuntimeError(f"{command} ended")
                yield program
            finally:
                program.kill()

    @contextlib.contextmanager
    def watching(self) -> Iterator[subprocess.Popen[str]]:
        """`watch` at work, since its start line."""
        # To a file, so that nobody has to read a pipe.
        lines = self.folder / "lines"
        lines.write_bytes(b"")
        with lines.open("wb") as output, self.running(self.watch(), stdout=output.fileno()) as program:
            while b"\n" not in lines.read_bytes():
                time.sleep(0.002)
            yield program

    @contextlib.contextmanager
    def yardsticks(self) -> Iterator[Callable[[str], int]]:
        """Gives the descriptors of the benchmark's own programs by name, as long as the `with`."""
        lib = libbpf.library()
        loaded = lib.bpf_object__open_file(os.fsencode(self.folder / "hooks.bpf.o"), None)
        libbpf.check(lib.bpf_object__load(loaded), "loading the benchmark's programs")
        try:
            yield lambda name: int(lib.bpf_program__fd(libbpf.find_program(loaded, name)))
        finally:
            lib.bpf_object__close(loaded)

    @contextlib.contextmanager
    def empty_programs(self) -> Iterator[None]:
        """Programs that do nothing on the three hooks that counting needs: what these take by themselves."""
        enter(f"/run/netns/{self.device}")
        ifindex = socket.if_nametoindex(LINK)
        with contextlib.ExitStack() as stack:
            fd = stack.enter_context(self.yardsticks())
            directory = os.open(cgroup2_root(), os.O_RDONLY)
            stack.callback(os.close, directory)
            for place in (libbpf.TCX_EGRESS, libbpf.TCX_INGRESS):
                stack.callback(os.close, libbpf.tcx_create(fd("tc_empty"), ifindex, place, "tcx"))
            delivered = libbpf.link_create(fd("cgroup_empty"), directory, libbpf.CGROUP_INET_INGRESS, "cgroup")
            stack.callback(os.close, delivered)
            yield

    def watch(self) -> list[str]:
        # It must not outlive a killed benchmark.
        tied = ["setpriv", "--pdeathsig", "KILL"]
        return [*tied, sys.executable, "-m", "esimbpf", "--netns", self.device, "watch", LINK]

    def report(self, name: str, value: str, target: str = "", met: bool | None = None) -> None:
        verdict = "" if met is None else "met" if met else "not met"
        self.rows.append((name, value, target, verdict))
        say(f"  {name}: {value} {target} {verdict}")

    # -- (a) -------------------------------------------------------------------

    def hooks(self) -> None:
        """Nanoseconds per packet of each hook, one program at a time on the link, in rounds of random order."""
        say("(a) nanoseconds per packet of each hook")
        STATS.write_text("1")
        lib = libbpf.library()
        enter(f"/run/netns/{self.device}")
        ifindex = socket.if_nametoindex(LINK)
        places = {
            "sent": ("tc", libbpf.TCX_EGRESS, self.device, PEER),
            "received": ("tc", libbpf.TCX_INGRESS, self.peer, OURS),
            "delivered": ("cgroup", libbpf.CGROUP_INET_INGRESS, self.peer, OURS),
        }
        packets, rounds = (20_000, 6) if self.quick else (60_000, 12)
        costs: dict[str, dict[str, list[float]]] = {hook: {} for hook in places}
        with contextlib.ExitStack() as stack:
            fd = stack.enter_context(self.yardsticks())
            engine = stack.enter_context(Engine(1024, 1))
            directory = os.open(cgroup2_root(), os.O_RDONLY)
            stack.callback(os.close, directory)
            engine.set_namespace(cookie() or 0)
            engine.watch_link(0, ifindex, header_bytes(ETHERNET))
            # All that notes owners is attached; of what counts, one program at a time.
            for program in PROGRAMS:
                descriptor = engine.program_fd(program.name)
                if descriptor is None:
                    continue
                if program.hook is Hook.CGROUP_SOCK_CREATE:
                    kind = libbpf.CGROUP_INET_SOCK_CREATE
                    stack.callback(os.close, libbpf.link_create(descriptor, directory, kind, "sock_create"))
                elif program.hook is Hook.TRACEPOINT:
                    stack.callback(os.close, libbpf.check(lib.bpf_raw_tracepoint_open(None, descriptor), program.name))
            for name in (self.peer, self.device):
                stack.enter_context(self.running(self.inside(name, self.traffic, "sink")))
            time.sleep(0.3)
            trials = [(hook, variant) for hook in places for variant in ("empty", "lone", "storage", "call", "ours")]
            for number in range(rounds):
                say(f"  round {number + 1} of {rounds}")
                random.shuffle(trials)
                for hook, variant in trials:
                    kind_name, place, source, to = places[hook]
                    own = engine.program_fd(hook)
                    descriptor = own if variant == "ours" else fd(f"{kind_name}_{variant}")
                    assert descriptor is not None
                    if kind_name == "tc":
                        link = libbpf.tcx_create(descriptor, ifindex, place, variant)
                    else:
                        link = libbpf.link_create(descriptor, directory, place, variant)
                    costs[hook].setdefault(variant, []).append(self._cost(descriptor, source, to, packets))
                    os.close(link)
        # Noise only ever adds: the least of the rounds is nearest to what the program itself takes.
        added = {hook: {v: min(c) - min(of["empty"]) for v, c in of.items()} for hook, of in costs.items()}
        self.figures["ns_per_packet"] = {
            hook: {v: {"median": statistics.median(c), "min": min(c), "added": added[hook][v]} for v, c in of.items()}
            for hook, of in costs.items()
        }
        for hook in places:
            parts = ", ".join(f"{v} {added[hook][v]:+.1f}" for v in ("lone", "call", "storage", "ours"))
            self.report(f"{hook}: over an empty program ({min(costs[hook]['empty']):.0f} ns)", f"{parts} ns")
        for name, ours, lone, most in (
            ("tc egress to a lone increment", added["sent"]["ours"], added["sent"]["lone"], 1.6),
            (
                "received path (both hooks) to a lone increment",
                added["received"]["ours"] + added["delivered"]["ours"],
                added["delivered"]["lone"],
                3.0,
            ),
        ):
            ratio = f"{ours / lone:.1f} times" if lone > 0 else "the increment is lost in the noise"
            self.report(name, f"{ours:.1f} ns to {lone:.1f} ns: {ratio}", f"<= {most}", 0 < ours <= most * lone)
        for hook in ("sent", "delivered"):
            lone, call, storage, ours = (added[hook][v] for v in ("lone", "call", "storage", "ours"))
            self.report(
                f"{hook}: where its time goes",
                f"the socket's owner {storage - lone:.1f} ns, a counter {lone:.1f} ns, the rest {ours - storage:.1f} ns"
                f"; a bare helper call would take {call - lone:.1f} ns",
            )

    def _cost(self, program: int, source: str, to: str, packets: int) -> float:
        before = _run_statistics(program)
        subprocess.run(self.inside(source, self.traffic, "flood", to, str(packets)), check=True, capture_output=True)
        after = _run_statistics(program)
        # Whoever turns the machine-wide statistics off meanwhile would make everything cost nothing.
        if after[1] - before[1] < packets or STATS.read_text().strip() != "1":
            raise BenchError(
                f"the kernel counted {after[1] - before[1]} of {packets} runs of a program: something else on this "
                f"machine has changed {STATS}",
                "end other benchmarks and profilers of BPF, and run it again",
            )
        return (after[0] - before[0]) / (after[1] - before[1])

    # -- (b), (c) --------------------------------------------------------------

    def throughput(self) -> None:
        """What is kept of throughput while traced, by us and by nethogs, alternating with untraced."""
        say("(b), (c) throughput kept")
        STATS.write_text("0")
        pairs = 4 if self.quick else 8
        tracers: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
            "esimbpf": self.watching,
            "empty programs on its hooks": self.empty_programs,
        }
        if shutil.which("nethogs"):
            nethogs = self.inside(self.device, "nethogs", "-t", "-d", "1", LINK)
            tracers["nethogs"] = lambda: self.running(nethogs, "Refreshing")
        for tracer, tracing in tracers.items():
            for what, measure, sink in (("200-byte UDP", self._flood, "sink"), ("bulk TCP", self._push, "pull")):
                traced, untraced = [], []
                with self.running(self.inside(self.peer, self.traffic, sink, cpu=1)):
                    time.sleep(0.2)
                    for _ in range(pairs):
                        untraced.append(measure())
                        with tracing():
                            traced.append(measure())
                kept = statistics.median(traced) / statistics.median(untraced)
                spread = [t / u for t, u in zip(traced, untraced, strict=True)]
                self.figures[f"kept_{tracer}_{what}"] = {"kept": kept, "pairs": spread}
                goal = tracer == "esimbpf" and what == "200-byte UDP"
                self.report(
                    f"{tracer}: {what} kept",
                    f"{kept:.3f} (pairs {min(spread):.2f} to {max(spread):.2f})",
                    ">= 0.95" if goal else "",
                    kept >= 0.95 if goal else None,
                )

    def _flood(self) -> float:
        count = 200_000 if self.quick else 400_000
        command = self.inside(self.device, self.traffic, "flood", PEER, str(count), cpu=0)
        return count * 1e9 / float(self.run(*command))

    def _push(self) -> float:
        return float(self.run(*self.inside(self.device, self.traffic, "push", PEER, "1", cpu=0)))

    # -- (d) -------------------------------------------------------------------

    def start(self) -> None:
        """From the command to the `start` line."""
        say("(d) time to the start line")
        times = []
        for _ in range(4 if self.quick else 10):
            begun = time.monotonic()
            with self.watching():
                times.append(time.monotonic() - begun)
        self.figures["start_s"] = times
        most = max(times)
        self.report(
            "from command to `start` line",
            f"median {statistics.median(times):.2f} s, most {most:.2f} s",
            "<= 0.6 s",
            most <= 0.6,
        )

    # -- (e) -------------------------------------------------------------------

    def quotas(self) -> None:
        """Nanoseconds per packet of each hook of what is attached, with no quota and with 1,000 of them."""
        say("(e) nanoseconds per packet with 1,000 quotas")
        STATS.write_text("1")
        os.environ[PINS_VARIABLE] = str(Path("/sys/fs/bpf", f"esimbpf-bench-{os.getpid()}"))
        attach = [sys.executable, "-m", "esimbpf", "--netns", self.device]
        packets, rounds = (20_000, 6) if self.quick else (60_000, 12)
        costs: dict[str, dict[str, list[float]]] = {hook: {} for hook in ("sent", "received", "delivered")}
        enter(f"/run/netns/{self.device}")
        self.run(*attach, "attach", LINK)
        try:
            with contextlib.ExitStack() as stack:
                engine = stack.enter_context(PinnedEngine())
                kernel = stack.enter_context(KernelQuotas(engine))
                ours = os.stat(self.traffic)
                flood = Exe(device_of(self.traffic), ours.st_ino)
                others = {number: Whom(Some(exes=frozenset({Exe(1, number)}))) for number in range(1, 1001)}
                named = {**others, 1: Whom(Some(exes=frozenset({flood})))}
                states: dict[str, dict[int, Whom]] = {"none": {}, "of others": others, "one of them its own": named}
                for number in others:
                    kernel.write(number, Rule(10**18, 1, action=Action.BLOCK))
                for name in (self.peer, self.device):
                    stack.enter_context(self.running(self.inside(name, self.traffic, "sink")))
                time.sleep(0.3)
                for number in range(rounds):
                    say(f"  round {number + 1} of {rounds}")
                    # Nobody has ever said anything of quotas in the first round's first.
                    for state in sorted(states, key=lambda _: random.random()) if number else states:
                        kernel.name(states[state])
                        for hook, of in costs.items():
                            descriptor = engine.program_fd(hook)
                            assert descriptor is not None
                            way = (self.device, PEER) if hook == "sent" else (self.peer, OURS)
                            of.setdefault(state, []).append(self._cost(descriptor, *way, packets))
        finally:
            subprocess.run([*attach, "detach"], check=False, capture_output=True)
        least = {hook: {state: min(c) for state, c in of.items()} for hook, of in costs.items()}
        self.figures["ns_per_packet_with_quotas"] = least
        for hook, of in least.items():
            for state in ("of others", "one of them its own"):
                added = of[state] - of["none"]
                self.report(
                    f"{hook}: 1,000 quotas, {state}, over none ({of['none']:.0f} ns)",
                    f"{added:+.1f} ns",
                    "<= 10 ns",
                    added <= 10,
                )

    # -- (f) -------------------------------------------------------------------

    def crowds(self) -> None:
        """Memory and CPU with many processes that own sockets and have sent while watched."""
        say("(f) memory and CPU with many processes")
        seconds = 8 if self.quick else 20
        for count in (10, 1_000, 10_000):
            with (
                self.running(self.inside(self.peer, self.traffic, "sink")),
                self.watching() as watch,
                self.running(self.inside(self.device, self.traffic, "many", PEER, str(count), "50"), "ready"),
            ):
                time.sleep(3)
                used = _cpu_s(watch.pid)
                time.sleep(seconds)
                share = (_cpu_s(watch.pid) - used) / seconds
                rss, peak = (_status_mb(watch.pid, field) for field in ("VmRSS", "VmHWM"))
            goal = count == 10_000
            self.figures[f"processes_{count}"] = {"cpu": share, "rss_mb": rss, "peak_mb": peak}
            self.report(
                f"{count:,} processes",
                f"{share:.1%} of a core, {rss:.0f} MB (peak {peak:.0f} MB)",
                "<= 3 %, 60 MB" if goal else "",
                share <= 0.03 and rss <= 60 if goal else None,
            )

    # -- (g) -------------------------------------------------------------------

    def ledger(self) -> None:
        """A ledger of 30 days and 200 apps: time of a report, size of the file, cost of a fold, and how both grow."""
        say("(g) the ledger")
        # What is attached on this machine belongs to another ledger.
        os.environ[PINS_VARIABLE] = str(self.folder / "pins")
        everyday, crowded = ({days: self._ledger(days, worst) for days in (10, 20, 30)} for worst in (False, True))
        for name, of_days in (("as apps are used", everyday), ("every app in every minute", crowded)):
            self.figures[f"ledger_{name}"] = of_days
            last = of_days[30]
            self.report(
                f"30 days, 200 apps, {name}: report --per day",
                f"median {last['report_s']:.2f} s, most {last['most_s']:.2f} s",
                "< 1 s",
                last["most_s"] < 1,
            )
            self.report(
                f"30 days, 200 apps, {name}: the file",
                f"{last['size_mb']:.1f} MB: {last['minute_rows']:,} minutes, {last['quarter_rows']:,} quarter hours "
                f"({last['row_bytes']:.0f} bytes a row)",
            )
            for what, unit in (("size_mb", "MB"), ("query_s", "s")):
                ten, twenty, thirty = (of_days[days][what] for days in (10, 20, 30))
                # Minutes are kept for a week: they are the same in all three.
                ratio = (thirty - twenty) / (twenty - ten)
                self.report(
                    f"10, 20, 30 days, {name}: {'size' if unit == 'MB' else 'time of the sums'}",
                    f"{ten:.3g}, {twenty:.3g}, {thirty:.3g} {unit}: the last ten take {ratio:.2f} of the ten before",
                    "0.5 to 1.5",
                    0.5 <= ratio <= 1.5,
                )
        for active in (200, 10_000):
            times = self._folds(active)
            self.figures[f"fold_{active}_s"] = times
            self.report(
                f"one fold with {active:,} processes that have moved something",
                f"median {statistics.median(times) * 1000:.1f} ms, most {max(times) * 1000:.1f} ms",
            )

    def _ledger(self, days: int, crowded: bool) -> dict[str, float]:
        folder = self.folder / f"ledger-{days}-{crowded}"
        with contextlib.closing(connect(folder)) as db:
            history.fill(db, days, 200, time.time(), crowded)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            rows = {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("minute", "quarter")}
            now = datetime.now(UTC)
            cut = list(spans(Per.DAY, now - timedelta(days=days), now, UTC))
            queries = []
            for _ in range(3 if self.quick else 7):
                begun = time.monotonic()
                assert sum(1 for _ in usage(db, cut, ReportBy.APP))
                queries.append(time.monotonic() - begun)
        times = []
        words = [sys.executable, "-m", "esimbpf", "--state-dir", str(folder), "report", "--per", "day"]
        for _ in range(4 if self.quick else 10):
            begun = time.monotonic()
            self.run(*words)
            times.append(time.monotonic() - begun)
        size = (folder / FILE_NAME).stat().st_size
        shutil.rmtree(folder)
        return {
            "report_s": statistics.median(times),
            "most_s": max(times),
            "query_s": min(queries),
            "size_mb": size / 1e6,
            "row_bytes": size / sum(rows.values()),
            "minute_rows": rows["minute"],
            "quarter_rows": rows["quarter"],
        }

    def _folds(self, active: int) -> list[float]:
        """Seconds of taking and committing snapshots in which so many processes, of 200 apps, have moved something."""
        processes = {
            FIRST_PROCESS_SLOT + number: Process(
                *(number, number, 1000, f"app-{number % 200}", f"/usr/bin/app-{number % 200}", (), "/")
            )
            for number in range(active)
        }
        reserved = dict.fromkeys(ReservedSlot, NOTHING)
        moved = dict.fromkeys(processes, Counters(0, 1200, 0, 1))
        times = []
        with contextlib.closing(connect(self.folder / f"folds-{active}")) as db:
            folding = Folding(db, Attachment("bench", "bench", 1.8e9, 0, 0, (LINK,), True), Namer())
            for number in range(1, 5 if self.quick else 15):
                ns = number * 10 * 10**9
                snapshot = Snapshot(ns, ns, ns + 18 * 10**17, (LinkReading(reserved, moved),), processes, ())
                begun = time.monotonic()
                folding.take(snapshot)
                folding.commit()
                times.append(time.monotonic() - begun)
        return times


def _run_statistics(program: int) -> tuple[int, int]:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{program}").read_text().splitlines() if ":" in line
    )
    return int(fields["run_time_ns"]), int(fields["run_cnt"])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _status_mb(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: about four minutes")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--only", choices=PARTS, help="one part")
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("scripts/bench: needs root\n  run: sudo scripts/bench")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        # Opened first: what has taken minutes to measure must not be lost to a mistyped path.
        output = open(options.json, "w") if options.json else contextlib.nullcontext()  # noqa: SIM115
    except OSError as error:
        sys.exit(f"scripts/bench: cannot write {options.json}: {error.strerror}\n  name a file that can be written")
    say(f"about {'four' if options.quick else 'eight'} minutes, on a machine that should be idle")
    try:
        with output as file, tempfile.TemporaryDirectory() as folder:
            bench = Bench(options.quick, Path(folder))
            with bench.lab() if options.only != "ledger" else contextlib.nullcontext():
                for part in PARTS:
                    if options.only in (None, part):
                        getattr(bench, part)()
            table = Table("figure", "value", "target", "", box=None, pad_edge=False)
            for row in bench.rows:
                table.add_row(*row)
            Console(width=None if sys.stdout.isatty() else 160).print(table)
            if file:
                file.write(json.dumps(bench.figures, indent=1) + "\n")
    except KeyboardInterrupt:
        sys.exit("scripts/bench: interrupted; what it made is removed")
    except BenchError as error:
        sys.exit("scripts/bench: {}\n  {}".format(*error.args))


def _end(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
