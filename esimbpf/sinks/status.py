"""What counts with no command running: as lines for people and as JSON for programs."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from rich.text import Text

from esimbpf.health import Health
from esimbpf.model import Counters
from esimbpf.units import bytes_text

__all__ = ["status_json", "status_text"]


def status_text(health: Health) -> Text:
    """A few lines."""
    text = Text()
    if not health.attached and not health.strangers:
        text.append("nothing is attached: only commands that run count; esimbpf attach changes that\n")
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
                text.append("not counted: its interface is gone, or another", "yellow")
            text.append(f"; ↓ {bytes_text(link.total.rx_bytes)} ↑ {bytes_text(link.total.tx_bytes)} since then\n")
            if link.overflow:
                text.append(
                    f"              overflow: {bytes_text(link.overflow.total_bytes)} without a name\n", "yellow"
                )
        text.append("  daemon      ")
        if health.daemon:
            text.append(f"at work{f' (pid {health.daemon_pid})' if health.daemon_pid else ''}\n")
        else:
            text.append("not at work: what is counted is kept in the kernel, until it is shut down\n", "yellow")
        scarce = health.slots_used >= health.slots * 7 // 8
        text.append("  processes   ")
        text.append(
            f"{health.slots_used} of {health.slots} places used, {health.slots_ended} by ended ones",
            "yellow" if scarce else "",
        )
        text.append("; the daemon frees them\n" if scarce else "\n")
        for program in health.programs:
            if not program.attached:
                text.append(f"  without {program.name}: {program.lost or 'not attached'}\n", "yellow")
    for stranger in health.strangers:
        text.append(f"another version is attached: {stranger}; esimbpf attach --replace takes over\n", "yellow")
    text.rstrip()
    return text


def status_json(health: Health) -> bytes:
    """One JSON object and a newline: type `status`, version 1; null where nothing is attached."""
    document: dict[str, object] = {"type": "status", "v": 1, "attached": health.attached}
    if health.attached:
        since = datetime.fromtimestamp(health.since_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document |= {
            "attach_id": health.attach_id,
            "version": health.version,
            "engine": health.engine,
            "since": since,
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
                }
                for link in health.links
            ],
            "daemon": {"pid": health.daemon_pid} if health.daemon else None,
            "slots": {"size": health.slots, "used": health.slots_used, "ended": health.slots_ended},
        }
    document["strangers"] = health.strangers
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


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
