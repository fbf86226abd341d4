"""What a command cost: `run`'s block for people, and its object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from esimbpf.model import NOTHING, Counters, Process
from esimbpf.spans import rfc3339
from esimbpf.units import Units, bytes_text, rate_text

__all__ = ["Cost", "Summary", "summary_json", "summary_text"]

_SHOWN: Final = 10
_NAME_WIDTH: Final = 24


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process of the command moved."""

    process: Process
    name: str
    app: str
    counters: Counters


@dataclass(frozen=True, slots=True)
class Summary:
    """What a command and all of its descendants moved over the links."""

    command: tuple[str, ...]
    status: int
    links: tuple[str, ...]
    started: datetime
    duration_s: float
    peak_rx_bytes_per_s: float
    """Of the busiest interval."""
    peak_tx_bytes_per_s: float
    costs: tuple[Cost, ...]
    still_running: int
    """Descendants that outlived the command; what they move later is not in the summary."""
    unattributed: Counters
    """What could not be attributed to any process in that time: some of it may be the command's."""

    @property
    def total(self) -> Counters:
        """Of all processes."""
        return sum((cost.counters for cost in self.costs), start=NOTHING)


def summary_json(summary: Summary) -> bytes:
    """One JSON object and a newline: type `run`, version 1; bytes and packets are those of IP."""
    total = summary.total
    document = {
        "type": "run",
        "v": 1,
        "command": summary.command,
        "status": summary.status,
        "links": summary.links,
        "time": rfc3339(summary.started),
        "duration_s": round(summary.duration_s, 3),
        **_fields(total),
        "peak_rx_bytes_per_s": round(summary.peak_rx_bytes_per_s),
        "peak_tx_bytes_per_s": round(summary.peak_tx_bytes_per_s),
        "still_running": summary.still_running,
        "unattributed": _fields(summary.unattributed),
        "processes": [
            {
                "pid": cost.process.pid,
                "name": cost.name,
                "app": cost.app,
                "exe": cost.process.exe or None,
                "uid": cost.process.uid,
                **_fields(cost.counters),
            }
            for cost in _ordered(summary.costs)
        ],
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def summary_text(summary: Summary, units: Units = Units.SI, ascii_only: bool = False) -> Text:
    """A block of lines for stderr."""
    total = summary.total
    down, up, cut = ("down", "up  ", "~") if ascii_only else ("↓", "↑", "…")
    text = Text()
    text.append("esimbpf run ", "dim")
    text.append(" ".join(summary.command)[:100], "bold")
    text.append(f"  {_duration(summary.duration_s)}, status {summary.status}, over {', '.join(summary.links)}\n", "dim")
    text.append(f"  {down} {bytes_text(total.rx_bytes, units):<10}", "bold green")
    text.append(f"{total.rx_bytes:>16,} B {total.rx_packets:>11,} packets", "")
    text.append(f"   peak {rate_text(summary.peak_rx_bytes_per_s, units)}\n", "dim")
    text.append(f"  {up} {bytes_text(total.tx_bytes, units):<10}", "bold magenta")
    text.append(f"{total.tx_bytes:>16,} B {total.tx_packets:>11,} packets", "")
    text.append(f"   peak {rate_text(summary.peak_tx_bytes_per_s, units)}\n", "dim")
    ordered = _ordered(summary.costs)
    if len(ordered) > 1:
        for cost in ordered[:_SHOWN]:
            name = cost.name if cell_len(cost.name) <= _NAME_WIDTH else set_cell_size(cost.name, _NAME_WIDTH - 1) + cut
            text.append(f"    {set_cell_size(name, _NAME_WIDTH)} {cost.process.pid:>8}", "")
            text.append(f"  {down} {bytes_text(cost.counters.rx_bytes, units):>8}", "green")
            text.append(f"  {up} {bytes_text(cost.counters.tx_bytes, units):>8}\n", "magenta")
        if len(ordered) > _SHOWN:
            text.append(f"    and {len(ordered) - _SHOWN} more processes\n", "dim")
    if summary.still_running:
        text.append(
            f"  {summary.still_running} of its processes still run: what they move from now on is not counted here\n",
            "yellow",
        )
    if summary.unattributed:
        text.append(
            f"  {bytes_text(summary.unattributed.total_bytes, units)} could not be attributed to any process in that "
            "time; some of it may be the command's\n",
            "yellow",
        )
    return text


def _ordered(costs: Sequence[Cost]) -> list[Cost]:
    return sorted(costs, key=lambda cost: (-cost.counters.total_bytes, cost.process.pid, cost.process.start_ns))


def _fields(counters: Counters) -> dict[str, int]:
    return {
        "rx_bytes": counters.rx_bytes,
        "tx_bytes": counters.tx_bytes,
        "rx_packets": counters.rx_packets,
        "tx_packets": counters.tx_packets,
    }


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
