"""`esimbpf links`: which interfaces are cellular, and how that is known."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from esimbpf.cli.options import ShowIds


def links(
    json: Annotated[bool, typer.Option("--json", metavar="", help="One JSON object instead of the table.")] = False,
    show_ids: ShowIds = False,
) -> None:
    """List the interfaces: which are cellular, and how that is known.

    Those that are counted when no link is named have an asterisk. Where
    ModemManager runs, it is told which modem, operator and SIM profile stand
    behind a link. Needs no root.

    [dim]The names of all cellular links:[/dim]
    esimbpf links --json | jq -r '.links[] | select(.cellular == "yes") | .link'
    """
    from rich.console import Console

    from esimbpf.kernel.links import cellular_links, list_links
    from esimbpf.modem.client import survey
    from esimbpf.modem.identity import link_statuses
    from esimbpf.modem.ppp import ppp_interface
    from esimbpf.sinks.links import links_json, links_table

    found = list_links()
    counted = cellular_links(found)
    modems = {modem.path: modem for modem in survey().modems}
    statuses = link_statuses(modems.values(), ppp_interface)
    owned = {name: (modems[status.modem], status) for name, status in statuses.items()}
    if json:
        sys.stdout.buffer.write(links_json(found, counted, owned, show_ids))
        return
    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(highlight=False, width=120)
    console.print(links_table(found, counted, console.width, owned, show_ids))
