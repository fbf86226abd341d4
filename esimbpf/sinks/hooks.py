"""Hooks and events for people: which there are, and what has become of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from esimbpf.hooks import Hook
from esimbpf.ledger.outbox import Posted
from esimbpf.profiles import ProfileNames

__all__ = ["events_table", "hooks_table"]


def hooks_table(hooks: Sequence[tuple[Hook, str]]) -> Table:
    """The hooks, each with the reason why it cannot be run, if there is one."""
    table = _table("hook", "events", "user", "time limit", "runs")
    for hook, problem in hooks:
        table.add_row(
            Text(hook.name),
            Text("\n".join(hook.events)),
            Text(hook.user),
            Text(f"{hook.timeout_s:g} s"),
            Text(f"no: {problem}", style="red") if problem else Text("yes", style="green"),
        )
    return table


def events_table(events: Sequence[Posted], zone: tzinfo | None, names: ProfileNames) -> Table:
    """Events, the last one below, with what has become of each hook."""
    table = _table("time", "event", "", "hooks")
    for posted in events:
        table.add_row(
            Text(f"{posted.event.time.astimezone(zone):%Y-%m-%d %H:%M:%S}"),
            Text(posted.event.type.value),
            Text(posted.event.named(names).message),
            Text("\n".join(_told(*hook) for hook in posted.hooks)),
        )
    return table


def _told(hook: str, state: str, attempts: int, why: str | None) -> str:
    tries = f", {attempts} attempts" if attempts > 1 else ""
    return f"{hook}: {state}{tries}{f' ({why})' if why else ''}"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
