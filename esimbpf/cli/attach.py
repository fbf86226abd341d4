"""`esimbpf attach`, `detach` and `status`: counting that outlives the command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from esimbpf import __version__
from esimbpf.cli.options import Common, Links, MaxProcesses, checked_max_processes
from esimbpf.errors import CannotError, UsageError
from esimbpf.ledger.fold import Attachment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esimbpf.kernel.links import FoundLink
    from esimbpf.kernel.pins import About, PinnedEngine


def attach(
    context: typer.Context,
    links: Links = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", metavar="", help="Put this version's programs in the place of those that are attached."
        ),
    ] = False,
    max_processes: MaxProcesses = 16384,
) -> None:
    """Count from now on, with no command running, until `detach` or the next start of the machine.

    Twice is harmless; a further LINK is added to those that are counted. `top`, `watch` and `run` then read what is
    counted instead of attaching anew. Nothing is written to disk: that is done by `daemon`.
    """
    from esimbpf.kernel.links import choose, list_links

    checked_max_processes(max_processes)
    common: Common = context.obj
    _only_whole(common)
    chosen = choose(links or (), list_links())
    fresh = keep_attached(chosen, max_processes, replace)
    names = ", ".join(found.link.name for found in chosen)
    done = "replaced" if replace and not fresh else "attached" if fresh else "attached already"
    print(f"{done}: {names} is counted with no command running; see esimbpf status", file=sys.stderr)


def keep_attached(chosen: Sequence[FoundLink], max_processes: int, replace: bool = False) -> bool:
    """Attach for good what is not attached yet; whether nothing was. Raises the engine's errors."""
    from esimbpf.kernel import pins
    from esimbpf.kernel.abi import MAX_LINKS
    from esimbpf.kernel.engine import Engine
    from esimbpf.session import attach_all

    if len(chosen) > MAX_LINKS:
        raise UsageError(f"{len(chosen)} links are more than can be counted at once", f"name at most {MAX_LINKS}")
    with pins.changing():
        strangers = pins.foreign()
        if strangers and not replace:
            raise CannotError(
                f"another version of esimbpf is attached: {', '.join(map(str, strangers))}",
                "take it off with that version's `esimbpf detach`; or `esimbpf attach --replace`, which loses what it "
                "has counted and no daemon has written down",
            )
        fresh = not pins.place().exists()
        if fresh:
            with Engine(max_processes, MAX_LINKS, follow=True) as engine:
                pins.attach(engine, (), attach_all(engine), __version__)
        with open_attached() as pinned:
            if replace and not fresh:
                pinned.relieve(__version__)
            numbers = [pinned.add(found.link.name) for found in chosen]
        for path in strangers:
            pins.remove(path)
    with open_attached() as pinned:
        for number, found in zip(numbers, chosen, strict=True):
            pinned.attach_found(number, found)
    return fresh


def open_attached() -> PinnedEngine:
    """What is pinned; CannotError if it is not for this network namespace."""
    from esimbpf.kernel.netns import cookie
    from esimbpf.kernel.pins import PinnedEngine

    engine = PinnedEngine()
    if engine.about.netns_cookie != (cookie() or 0):
        engine.close()
        raise CannotError(
            "what is attached counts in another network namespace", "take it off there first: esimbpf detach"
        )
    return engine


def attachment_of(about: About) -> Attachment:
    """What the ledger wants to know of what is attached."""
    return Attachment(
        about.attach_id,
        about.boot_id,
        about.started_wall_ns / 1e9,
        about.started_boottime_ns,
        about.links,
        about.sees_all,
    )


def _only_whole(common: Common) -> None:
    if common.cgroup:
        raise UsageError("counting that outlives a command looks at all processes", "leave --cgroup out")


def detach() -> None:
    """Count no longer with no command running: take off what `attach` or the daemon has put on.

    What is counted and not yet in the ledger is written down first, if there is a ledger.
    """
    from esimbpf.kernel import pins

    with pins.changing():
        strangers = pins.foreign()
        try:
            engine = pins.PinnedEngine()
        except FileNotFoundError:
            engine = None
        if engine:
            with engine:
                engine.detach_all()
        removed = pins.remove(pins.place())
    if removed:
        print("detached", file=sys.stderr)
    elif strangers:
        raise CannotError(
            f"another version of esimbpf is attached: {', '.join(map(str, strangers))}",
            "take it off with that version, or put this one in its place: esimbpf attach --replace",
        )
    else:
        print("nothing was attached", file=sys.stderr)


def status(
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object instead of the lines.")
    ] = False,
) -> None:
    """Say what counts with no command running, since when, and whether it has room."""
    from rich.console import Console

    from esimbpf.kernel.health import health
    from esimbpf.sinks.status import status_json, status_text

    found = health()
    if as_json:
        sys.stdout.buffer.write(status_json(found))
    else:
        Console(highlight=False, soft_wrap=True).print(status_text(found))
