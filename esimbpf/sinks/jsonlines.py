"""JSON lines, version 1: one object a line, for other programs.

    start     counting has begun
    warning   what a user should know; once until it goes away
    usage     one row of a link's ledger in one interval
    link      closes the interval of one link: the sums of its usage lines
    event     something has happened that the daemon wrote down (esimbpf/events.py)
    end       nothing more follows

`schema` gives the JSON Schema of every line. Fields and kinds of lines are added within version 1, never changed:
readers pass over what they do not know. A value that is unknown is null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from esimbpf.events import Event
from esimbpf.model import Kind, LinkTick, Row, Start, Tick
from esimbpf.profiles import ProfileNames
from esimbpf.spans import rfc3339
from esimbpf.users import user_name

__all__ = ["VERSION", "EndReason", "JsonLines", "schema"]

VERSION = 1

EndReason = Literal["count", "signal", "link-gone"]

_NS_PER_MS = 1_000_000
_PART_BYTES = 1 << 18
_DESCRIPTIONS_KEPT = 2048

_Descriptions = dict[str, tuple[tuple[object, ...], bytes]]
"""By a row's id: what its description was made of, and the description."""


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a line, whatever its type."""
    from importlib.resources import files

    document = files("esimbpf").joinpath("sinks", "jsonlines.schema.json").read_bytes()
    loaded: dict[str, Any] = orjson.loads(document)
    return loaded


class JsonLines:
    """Turns ticks into lines and hands the lines of each interval to `write` together.

    Together, so that a reader of a pipe sees whole intervals and a tick costs one system call; only an interval of
    many hundred rows is handed over in several parts. What `write` raises (BrokenPipeError) passes through.
    """

    def __init__(
        self,
        start: Start,
        write: Callable[[bytes], object],
        show_all: bool = False,
        names: ProfileNames | None = None,
    ) -> None:
        self._names = names or ProfileNames()
        self._start = start
        self._write = write
        self._show_all = show_all
        self._warned: frozenset[str] = frozenset()
        self._described: dict[str, _Descriptions] = {}

    def start(self) -> None:
        """Write the `start` line: traffic after it is counted."""
        start = self._start
        line = {
            "type": "start",
            "v": VERSION,
            "time": rfc3339(start.time),
            "host": start.host,
            "boot_id": start.boot_id,
            "engine": start.engine,
            "interval_s": start.interval_s,
            "by": start.by,
            "links": [{"link": link.name, "ifindex": link.ifindex, "kind": link.kind} for link in start.links],
        }
        self._write(_dumped(line))

    def tick(self, tick: Tick, final: bool = False) -> None:
        """Write one interval.

        Rows in which nothing moved are left out, unless all were asked for or the interval is the `final` one,
        which has every row for its totals.
        """
        time = rfc3339(tick.time)
        part = bytearray(b"".join(_dumped(line) for line in self._new_warnings(tick, time)))
        for link_tick in tick.links:
            for piece in self._usage(link_tick, time, everything=final or self._show_all):
                part += piece
                if len(part) >= _PART_BYTES:
                    self._write(bytes(part))
                    part.clear()
            part += _dumped(_link(link_tick, time, tick.interval_s))
        if part:
            self._write(bytes(part))

    def events(self, events: Iterable[Event]) -> None:
        """Write `event` lines."""
        for event in events:
            self._write(_dumped(event.named(self._names).to_json()))

    def end(self, time: datetime, reason: EndReason) -> None:
        """Write the `end` line."""
        self._write(_dumped({"type": "end", "v": VERSION, "time": rfc3339(time), "reason": reason}))

    def _new_warnings(self, tick: Tick, time: str) -> Iterator[dict[str, object]]:
        for message in dict.fromkeys(tick.warnings):
            if message not in self._warned:
                yield {"type": "warning", "v": VERSION, "time": time, "message": message}
        self._warned = frozenset(tick.warnings)

    def _usage(self, link_tick: LinkTick, time: str, *, everything: bool) -> Iterator[bytes]:
        """Usage lines, each in three pieces: what the interval's lines share, the description, the counters.

        A description changes seldom and costs the most, so it is kept while its row is written in each interval.
        """
        link = link_tick.link.name
        shared = _opened({"type": "usage", "v": VERSION, "time": time, "link": link})
        before = self._described.get(link, {})
        described: _Descriptions = {}
        for row in link_tick.rows:
            if not (everything or row.delta or row.blocked):
                continue
            what = (row.kind, row.name, row.app, row.processes)
            known = before.get(row.id)
            if known is None or known[0] != what:
                known = (what, _opened(self._description(row))[1:])
            if len(described) < _DESCRIPTIONS_KEPT:
                described[row.id] = known
            yield shared
            yield known[1]
            yield orjson.dumps(_counters(row), option=orjson.OPT_APPEND_NEWLINE)[1:]
        self._described[link] = described

    def _description(self, row: Row) -> dict[str, object]:
        return {"kind": row.kind, "id": row.id, "name": row.name, **self._named(row)}

    def _named(self, row: Row) -> dict[str, object]:
        """What a row of this kind says of the processes behind it."""
        if row.kind is Kind.PROCESS:
            process = row.processes[0]
            return {
                "app": row.app,
                "pid": process.pid,
                "start_time": _rfc3339_of_ns(self._start.boot_time_ns + process.start_ns),
                "uid": process.uid,
                "user": user_name(process.uid),
                "exe": process.exe or None,
                "cgroup": process.cgroup or None,
                "alive": not process.exited,
            }
        if row.kind not in (Kind.APP, Kind.USER, Kind.CGROUP):
            return {}
        named: dict[str, object] = {}
        # All processes may have ended since the row last moved; its id still says whose it is.
        anyone = row.processes[0] if row.processes else None
        if row.kind is Kind.USER:
            uid = anyone.uid if anyone else int(row.id) if row.id.isdecimal() else None
            named["uid"] = uid
            named["user"] = None if uid is None else user_name(uid)
        elif row.kind is Kind.CGROUP:
            named["cgroup"] = (anyone.cgroup if anyone else row.id) or None
        named["pids"] = sorted({process.pid for process in row.processes})
        named["alive"] = any(not process.exited for process in row.processes)
        return named


def _link(link_tick: LinkTick, time: str, interval_s: float) -> dict[str, object]:
    other = link_tick.other
    return {
        "type": "link",
        "v": VERSION,
        "time": time,
        "link": link_tick.link.name,
        "interval_s": round(interval_s, 6),
        **_counters(link_tick),
        "present": link_tick.present,
        "other_rx_bytes_total": other.rx_bytes,
        "other_tx_bytes_total": other.tx_bytes,
        "other_rx_packets_total": other.rx_packets,
        "other_tx_packets_total": other.tx_packets,
    }


def _counters(of: Row | LinkTick) -> dict[str, int]:
    delta, total, blocked, total_blocked = of.delta, of.total, of.blocked, of.total_blocked
    return {
        "rx_bytes": delta.rx_bytes,
        "tx_bytes": delta.tx_bytes,
        "rx_packets": delta.rx_packets,
        "tx_packets": delta.tx_packets,
        "rx_bytes_total": total.rx_bytes,
        "tx_bytes_total": total.tx_bytes,
        "rx_packets_total": total.rx_packets,
        "tx_packets_total": total.tx_packets,
        "blocked_rx_bytes": blocked.rx_bytes,
        "blocked_tx_bytes": blocked.tx_bytes,
        "blocked_rx_bytes_total": total_blocked.rx_bytes,
        "blocked_tx_bytes_total": total_blocked.tx_bytes,
    }


def _opened(members: dict[str, object]) -> bytes:
    """Members of an object, which others follow."""
    return orjson.dumps(members)[:-1] + b","


def _dumped(line: dict[str, object]) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _rfc3339_of_ns(ns: int) -> str:
    """RFC 3339 of nanoseconds since the epoch; whole numbers, because a float has no room for them."""
    seconds, ms = divmod(ns // _NS_PER_MS, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix('+00:00')}.{ms:03d}Z"
