"""`esimbpf top`: the live table."""

from __future__ import annotations

from typing import Annotated

import typer

from esimbpf.cli.options import By, Interval, Links, MaxProcesses, open_session
from esimbpf.model import GroupBy
from esimbpf.units import Units


def top(
    context: typer.Context,
    links: Links = None,
    by: By = GroupBy.APP,
    interval: Interval = 1.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            metavar="",
            help="Print one plain table after one interval, as when stdout is no terminal.",
        ),
    ] = False,
    units: Annotated[
        Units, typer.Option(help="Decimal (1 kB = 1000 B) or binary (1 KiB = 1024 B) prefixes.")
    ] = Units.SI,
    max_processes: MaxProcesses = 16384,
) -> None:
    """Show who uses the link, live.

    Rows for kernel, forwarded and unattributed are always there: with them the rows add up to the link exactly.

    Keys: q quit, s and arrow keys sort and scroll, b app/process/user/cgroup, p pause, / filter, ? help.
    """
    from esimbpf.sinks import live

    groupings = [by, *(other for other in GroupBy if other is not by)]
    with open_session(context.obj, links or (), interval, groupings, max_processes) as session:
        live.top(session, interval, by, units, once)
