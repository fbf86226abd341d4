"""`esimbpf saver`: only what is named may use the link."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated

import typer

from esimbpf import config
from esimbpf.cli.options import Common
from esimbpf.cli.quota import reach_daemon, say_without_daemon, written
from esimbpf.ledger import quotas
from esimbpf.ledger.database import FILE_NAME, connect, said
from esimbpf.saver import Service, parse_saver

saver = typer.Typer(
    invoke_without_command=True,
    help="Saver mode: only what is named may use the link. Without a command: whether it is on.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@saver.callback()
def status(context: typer.Context) -> None:
    """Say whether it is on if nothing else is asked for."""
    if context.invoked_subcommand:
        return
    from esimbpf.sinks.quota import saver_sentence

    common: Common = context.obj
    path = common.state_dir / FILE_NAME
    with said(path):
        there = path.exists()
    now = None
    if there:
        with said(path), closing(connect(common.state_dir, read_only=True)) as db:
            now = quotas.saver(db)
    print(saver_sentence(now))
    if there:
        say_without_daemon(common.state_dir)


@saver.command("on")
def on(
    context: typer.Context,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="APP", help="An app that may. Repeatable.", show_default=False)
    ] = None,
    dns: Annotated[
        bool, typer.Option("--allow-dns", metavar="", help="Every app may ask for names (ports 53 and 853).")
    ] = False,
    dhcp: Annotated[
        bool, typer.Option("--allow-dhcp", metavar="", help="Every app may ask for addresses (67, 68, 546, 547).")
    ] = False,
    ntp: Annotated[
        bool, typer.Option("--allow-ntp", metavar="", help="Every app may ask for the time (port 123).")
    ] = False,
    link: Annotated[
        str | None, typer.Option(metavar="LINK", help="Only on this link.", show_default="every link")
    ] = None,
    when: Annotated[
        str | None, typer.Option(metavar="roaming|home", help="Only there, by itself.", show_default="everywhere")
    ] = None,
) -> None:
    """Turn it on, in the place of what was said before.

    [dim]Abroad, mail only:[/dim] esimbpf saver on --allow thunderbird --allow-dns --when roaming
    """
    from esimbpf.sinks.quota import saver_sentence

    common: Common = context.obj
    chosen = zip(Service, (dns, dhcp, ntp), strict=True)
    new = parse_saver(datetime.now(UTC), allow or (), [service for service, wanted in chosen if wanted], link, when)
    configured = config.read(common.config).quotas
    with written(common) as db:
        quotas.keep_saver(db, new, configured)
    print(saver_sentence(new))
    reach_daemon(common.state_dir)


@saver.command("off")
def off(context: typer.Context) -> None:
    """Turn it off."""
    common: Common = context.obj
    path = common.state_dir / FILE_NAME
    with said(path):
        there = path.exists()
    was_on = False
    if there:
        with written(common) as db:
            was_on = quotas.drop_saver(db)
    print("saver mode is off" if was_on else "saver mode was off already", file=sys.stderr)
    if was_on:
        reach_daemon(common.state_dir)
