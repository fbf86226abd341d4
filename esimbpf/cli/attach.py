"""`esimbpf attach`, `detach` and `status`: counting that outlives the command."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esimbpf import config
from esimbpf.attribution import Namer
from esimbpf.cli.options import Common, Links, MaxProcesses, checked_max_processes
from esimbpf.errors import EsimbpfError, UsageError

if TYPE_CHECKING:
    from esimbpf.health import Health
    from esimbpf.limits import Limits


def attach(
    context: typer.Context,
    links: Links = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            metavar="",
            help="Put this version's programs in the place of those that are attached; nothing counted is lost.",
        ),
    ] = False,
    max_processes: MaxProcesses = 16384,
) -> None:
    """Count from now on, with no command running, until `detach` or the next start of the machine.

    Twice is harmless; a further LINK is added to those that are counted. `top`, `watch` and `run` then read what is
    counted instead of attaching anew. Nothing is written to disk: that is done by `daemon`.
    """
    from esimbpf import attachment
    from esimbpf.kernel.links import choose, list_links

    checked_max_processes(max_processes)
    common: Common = context.obj
    if common.cgroup:
        raise UsageError("counting that outlives a command looks at all processes", "leave --cgroup out")
    namer = Namer(config.read(common.config).apps)
    chosen = choose(links or (), list_links())
    if replace:
        begun = attachment.replace(chosen, max_processes, common.state_dir, namer)
    else:
        begun = attachment.keep_attached(chosen, max_processes).fresh
    names = ", ".join(found.link.name for found in chosen)
    done = "attached" if begun else "replaced" if replace else "attached already"
    print(f"{done}: {names}, counted with no command running; see esimbpf status", file=sys.stderr)


def detach(
    context: typer.Context,
    discard: Annotated[
        bool,
        typer.Option(
            "--discard", metavar="", help="Even if what was counted cannot be written down, or is another version's."
        ),
    ] = False,
) -> None:
    """Count no longer with no command running: take off what `attach` or the daemon has put on.

    What is counted and not yet in the ledger is written down first, if there is one: where the last daemon has kept
    it, or in --state-dir. A daemon that is at work attaches again: end it first.
    """
    from esimbpf import attachment
    from esimbpf.exclusive import holder

    common: Common = context.obj
    done = attachment.detach(common.state_dir, Namer(config.read(common.config).apps), discard)
    print("detached" if done.anything else "nothing was attached", file=sys.stderr)
    if done.lost:
        print("what was counted and in no ledger is gone", file=sys.stderr)
    keeper = holder(common.state_dir)
    if keeper:
        print(f"a daemon is at work{keeper.words}: it attaches again; end it first", file=sys.stderr)


def status(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object instead of the lines.")
    ] = False,
) -> None:
    """Say what counts and limits with no command running, since when, and whether it has room."""
    from rich.console import Console

    from esimbpf.kernel.health import health
    from esimbpf.sinks.status import status_json, status_text

    found, now = health(), datetime.now(UTC)
    limits = _limits(context.obj, found, now)
    if as_json:
        sys.stdout.buffer.write(status_json(found, limits, now))
    else:
        Console(highlight=False, soft_wrap=True).print(status_text(found, limits))


def _limits(common: Common, found: Health, now: datetime) -> Limits:
    """What the kernel enforces, by the names of the ledger where it was agreed; if that is to be had."""
    from esimbpf.ledger.agreed import agreed
    from esimbpf.ledger.database import FILE_NAME, connect, empty, said
    from esimbpf.limits import limits
    from esimbpf.spans import local_zone

    state_dir = Path(found.state_dir) if found.state_dir else common.state_dir
    path = state_dir / FILE_NAME
    try:
        configured = config.read(common.config).quotas
        with said(path), closing(connect(state_dir, read_only=True) if path.exists() else empty()) as db:
            return limits(found, agreed(db, found.attach_id, configured, now, local_zone()))
    except EsimbpfError as error:
        return limits(found, None, error.message)
