"""`esimbpf doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer

from esimbpf import __version__
from esimbpf.cli.options import Common


def doctor(
    context: typer.Context,
    links: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LINK", help="Links to look at. Without any: every cellular link found.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object instead of the table.")
    ] = False,
) -> None:
    """Check what this machine has of what counting takes, and say what to do.

    Each program is really loaded, and attached for an instant where it
    touches nobody; then packets of known sizes are sent over a link of
    throwaway network namespaces and counted. Most of that needs root; the
    rest is shown without.

    Exit status: 0 if counting works here, even with something optional lost;
    3 if it does not.

    --json prints one object: `counting`, true or false, and `findings`, each
    with `id` (stable), `group`, `title`, `state` (works, lost: optional,
    missing: required, unknown: not checked), `detail`, `lost`, `remedy`.

    Not to be found by looking: what AF_XDP sends, and packet sockets with
    PACKET_QDISC_BYPASS, passes by all that counts.

    [dim]What is not as it should be:[/dim]
    esimbpf doctor --json | jq '.findings[] | select(.state != "works")'
    """
    from esimbpf.doctor import can_count, diagnose, worth_testing
    from esimbpf.kernel.probe import probe
    from esimbpf.modem.client import modem_manager
    from esimbpf.sinks.findings import findings_json, findings_table

    common: Common = context.obj
    machine = probe(links or (), common.cgroup, common.state_dir, common.config)
    if worth_testing(machine):
        from esimbpf.selftest import self_test

        machine = replace(machine, self_test=self_test())
    machine = replace(machine, modem_manager=modem_manager())
    findings = diagnose(machine)
    if as_json:
        sys.stdout.buffer.write(findings_json(findings, __version__, machine.kernel.release, machine.kernel.machine))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        ascii_only = not console.encoding.lower().startswith("utf")
        console.print(findings_table(findings, ascii_only, console.width))
    if not can_count(findings):
        raise typer.Exit(3)
