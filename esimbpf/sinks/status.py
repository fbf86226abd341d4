"""What counts and limits with no command running: as lines for people and as JSON for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import orjson
from rich.text import Text

from esimbpf.health import Health
from esimbpf.limits import Limit, Limits, Pending
from esimbpf.model import Counters
from esimbpf.quota import State, Then
from esimbpf.spans import rfc3339
from esimbpf.units import bytes_text

__all__ = ["status_json", "status_text"]

_INDENT: Final = " " * 14

_SHOWN: Final = 12
"""So many quotas are told of one by one."""

_UNKNOWN: Final = "which limits were agreed is not known"

_WITHOUT_A_DAEMON: Final = (
    "limits hold as they were set last, for new processes too; but no period begins, no snooze ends,",
    "nothing is told, no hook runs, and new processes are of the app that their names say",
    "begin one: systemctl start esimbpf, or esimbpf daemon",
)


def status_text(health: Health, limits: Limits) -> Text:
    """Some lines."""
    text = Text()
    if not health.attached and not health.strangers:
        text.append("nothing is attached: only commands that run count; esimbpf attach changes that\n")
        if limits.quotas or limits.saver:
            text.append("no limit holds: nothing enforces quotas before esimbpf daemon\n", "yellow")
        if limits.trouble:
            text.append(f"{_UNKNOWN}: {limits.trouble}\n", "yellow")
    elif health.attached:
        since = datetime.fromtimestamp(health.since_s).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        text.append("counting", "bold green")
        text.append(f" since {since} ({_duration(health.uptime_s)}), by esimbpf {health.version}, {health.engine}\n")
        if health.elsewhere:
            text.append("  in another network namespace: see it there (--netns)\n", "yellow")
        for link in health.links:
            text.append(f"  {link.name:<12}", "bold cyan")
            if health.elsewhere:
                text.append("counted there")
            elif link.counted:
                text.append(f"counted, interface {link.ifindex}")
            else:
                text.append(f"not counted{' and not limited' * bool(limits.enforced)}", "yellow")
                text.append(": its interface is gone, or another", "yellow")
            text.append(f"; ↓ {bytes_text(link.total.rx_bytes)} ↑ {bytes_text(link.total.tx_bytes)} since then\n")
            for what, counters in (("overflow", link.overflow), ("blocked", link.blocked_overflow)):
                if counters:
                    text.append(f"{_INDENT}{what}: {bytes_text(counters.total_bytes)} without a name\n", "yellow")
        text.append("  daemon      ")
        if health.daemon:
            text.append(f"at work{f' (pid {health.daemon_pid})' if health.daemon_pid else ''}\n")
        else:
            text.append("not at work: what is counted is kept in the kernel, until it is shut down\n", "yellow")
            if limits.quotas or limits.saver:
                text.append("".join(f"{_INDENT}{line}\n" for line in _WITHOUT_A_DAEMON), "yellow")
        _append_limits(text, limits, health.daemon)
        scarce = health.slots_used >= health.slots * 7 // 8
        text.append("  processes   ")
        text.append(
            f"{health.slots_used} of {health.slots} places used, {health.slots_ended} by ended ones",
            "yellow" if scarce else "",
        )
        text.append("; the daemon frees them" if scarce else "")
        text.append("; limits of apps do not reach who finds none\n" if scarce and limits.enforced else "\n")
        for program in health.programs:
            if not program.attached:
                text.append(f"  without {program.name}: {program.lost or 'not attached'}\n", "yellow")
    for stranger in health.strangers:
        text.append(f"another version is attached: {stranger}; esimbpf attach --replace takes over\n", "yellow")
    text.rstrip()
    return text


def _append_limits(text: Text, limits: Limits, daemon: bool) -> None:
    text.append("  limits      ")
    enforced, exceeded = len(limits.enforced), len(limits.exceeded)
    text.append(f"{enforced} enforced by the kernel, {exceeded} used up\n" if enforced else "none is enforced\n")
    if limits.trouble:
        text.append(f"{_INDENT}{_UNKNOWN}: {limits.trouble}\n", "yellow")
    told = [one for one in limits.quotas if one.state is State.EXCEEDED or one.pending or not (daemon or one.reaches)]
    for one in told[:_SHOWN]:
        name = one.name or f"number {one.number}"
        text.append(f"{_INDENT}{name}: {_state(one, daemon)}\n", "yellow" if one.pending else "")
    if len(told) > _SHOWN:
        text.append(f"{_INDENT}and {len(told) - _SHOWN} more: esimbpf status --json\n")
    text.append("  saver mode  ")
    saver = limits.saver
    text.append("on" if saver and saver.state is State.EXCEEDED else "off")
    if saver and saver.state is State.EXCEEDED and limits.services_open:
        text.append(f", but for {', '.join(service.upper() for service in limits.services_open)}")
    if saver and saver.pending:
        text.append(f"; {_PENDING[saver.pending]}", "yellow")
    text.append("\n")


_PENDING: Final = {
    Pending.ADDED: "added, which the kernel does not know yet",
    Pending.REMOVED: "removed, which the kernel does not know yet",
    Pending.HELD: "no longer in force, which the kernel does not know yet",
    Pending.RESUMED: "in force again, which the kernel does not know yet",
}


def _state(one: Limit, daemon: bool) -> str:
    """What is done, and what is to change."""
    words = []
    if one.state is State.EXCEEDED:
        words.append(f"used up, {_DONE[one.then]}{f' to {one.rate}' * bool(one.rate)}")
    elif one.remaining_bytes is not None:
        words.append(f"{bytes_text(one.remaining_bytes)} left")
    if one.period_end:
        end = one.period_end.astimezone().strftime("%d %b %H:%M")
        words.append(
            f"its period ended {end}, and the next has not begun"
            if one.pending is Pending.RESET
            else f"its period ends {end}"
        )
    if one.pending in _PENDING:
        words.append(_PENDING[one.pending])
    if not daemon and one.number and not one.reaches:
        words.append("nobody whom it is for is known to the kernel")
    return "; ".join(words)


_DONE: Final = {Then.NOTIFY: "which is only told", Then.BLOCK: "blocked", Then.THROTTLE: "throttled"}


def status_json(health: Health, limits: Limits, now: datetime) -> bytes:
    """One JSON object and a newline: type `status`, version 1; what is of an attachment is only there if one is."""
    document: dict[str, object] = {"type": "status", "v": 1, "time": rfc3339(now), "attached": health.attached}
    if health.attached:
        document |= {
            "attach_id": health.attach_id,
            "version": health.version,
            "engine": health.engine,
            "since": rfc3339(datetime.fromtimestamp(health.since_s, UTC)),
            "uptime_s": round(health.uptime_s, 3),
            "elsewhere": health.elsewhere,
            "programs": [
                {"name": program.name, "attached": program.attached, "lost": program.lost or None}
                for program in health.programs
            ],
            "links": [
                {
                    "link": link.name,
                    "ifindex": link.ifindex or None,
                    "counted": link.counted,
                    **{f"{name}_total": count for name, count in _counters(link.total).items()},
                    "overflow": _counters(link.overflow),
                    "blocked_overflow": _counters(link.blocked_overflow),
                }
                for link in health.links
            ],
            "daemon": {"pid": health.daemon_pid} if health.daemon else None,
            "slots": {"size": health.slots, "used": health.slots_used, "ended": health.slots_ended},
        }
    document["limits"] = {
        "enforced": len(limits.enforced),
        "exceeded": len(limits.exceeded),
        "quotas": [{"name": one.name, **_limit(one)} for one in limits.quotas],
        "saver": _limit(limits.saver) | {"services": limits.services_open} if limits.saver else None,
        "trouble": limits.trouble or None,
    }
    document["strangers"] = health.strangers
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _limit(one: Limit) -> dict[str, object]:
    return {
        "number": one.number,
        "state": one.state,
        "do": one.then,
        "rate_bytes_per_s": one.bytes_per_s or None,
        "remaining_bytes": one.remaining_bytes,
        "reaches": one.reaches,
        "period_end": rfc3339(one.period_end) if one.period_end else None,
        "pending": one.pending,
    }


def _counters(counters: Counters) -> dict[str, int]:
    return {
        "rx_bytes": counters.rx_bytes,
        "tx_bytes": counters.tx_bytes,
        "rx_packets": counters.rx_packets,
        "tx_packets": counters.tx_packets,
    }


def _duration(seconds: float) -> str:
    minutes, _ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else "just now"
