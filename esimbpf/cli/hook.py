"""`esimbpf hook`: the programs that are run when something has happened."""

from __future__ import annotations

import os
import select
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esimbpf import config
from esimbpf.cli.options import Common, ShowIds
from esimbpf.errors import NotPermitted
from esimbpf.events import Event, EventType, example
from esimbpf.hooks import Hook, found, why_not_run
from esimbpf.profiles import ProfileNames
from esimbpf.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from esimbpf.hook_keeper import Outcome

hook = typer.Typer(
    no_args_is_help=True,
    help="Programs that are run when something has happened: a quota, a plan, an app, a link.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@hook.command("list")
def list_hooks(context: typer.Context) -> None:
    """Show each hook: on which events, as whom and how long it runs, and, if it is not run, why not."""
    from esimbpf.sinks.hooks import hooks_table

    hooks = _hooks(context.obj)
    if not hooks:
        print("there is no hook; see [[hook]] in the README", file=sys.stderr)
        return
    _console().print(hooks_table([(one, _problem(one)) for one in hooks]))


@hook.command("test")
def try_hooks(
    context: typer.Context,
    event: Annotated[EventType, typer.Argument(metavar="EVENT", help=f"One of {', '.join(EventType)}.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only show what would be run, and what it would be given.")
    ] = False,
) -> None:
    """Run the hooks of an event now, for an example of it, as the daemon runs them; status 1 if one fails.

    Once, and written down nowhere. The example's app and cgroup do not exist.
    """
    common: Common = context.obj
    wanted = [one for one in _hooks(common) if one.wants(event)]
    if not wanted:
        print(f"no hook is run on {event}; see esimbpf hook list", file=sys.stderr)
        return
    happened = example(event, datetime.now(UTC))
    if dry_run:
        _show_orders(wanted, happened)
    elif os.geteuid():
        raise NotPermitted("only root can run hooks as their users", "sudo esimbpf hook test …, or add --dry-run")
    elif _failures(wanted, happened):
        raise typer.Exit(1)


@hook.command("log")
def show_log(
    context: typer.Context,
    most: Annotated[int, typer.Option("--last", metavar="N", min=1, max=100_000, help="So many events.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print the events as JSON lines.")] = False,
    show_ids: ShowIds = False,
) -> None:
    """Show the last events, and what has become of the hooks that were run."""
    import orjson

    from esimbpf.ledger import profiles
    from esimbpf.ledger.database import FILE_NAME, connect, said
    from esimbpf.ledger.outbox import recent
    from esimbpf.sinks.hooks import events_table

    common: Common = context.obj
    with said(common.state_dir / FILE_NAME), closing(connect(common.state_dir, read_only=True)) as db:
        events = recent(db, most=most)
        names = ProfileNames(profiles.known(db), show_ids)
    if as_json:
        for one in events:
            sys.stdout.buffer.write(orjson.dumps(one.event.named(names).to_json(), option=orjson.OPT_APPEND_NEWLINE))
    elif not events:
        print("nothing has happened yet", file=sys.stderr)
    else:
        _console().print(events_table(events, None, names))


def _hooks(common: Common) -> list[Hook]:
    told = config.read(common.config)
    return found(told.hooks, told.hooks_dir)


def _problem(one: Hook) -> str:
    problem = why_not_run(one)
    return "{} ({})".format(*problem) if problem else ""


def _show_orders(hooks: Sequence[Hook], event: Event) -> None:
    from esimbpf.dispatch import order_of

    for one in hooks:
        order = order_of(one, event)
        print(f"{one.name}: {printable(shlex.join(order.command))}")
        print(f"  as {one.user}, for {one.timeout_s:g} s at most")
        problem = _problem(one)
        if problem:
            print(f"  it would not be run: {problem}")
    print("each with these variables:")
    for name, value in order_of(hooks[0], event).variables.items():
        print(f"  {name}={value}")
    print(f"and on standard input:\n{order_of(hooks[0], event).line}")


def _failures(hooks: Sequence[Hook], event: Event) -> int:
    """Run them, as many at once as the daemon does, and show how each has ended; how many failed."""
    from esimbpf.dispatch import order_of
    from esimbpf.hook_runner import Runner
    from esimbpf.ledger.outbox import MOST_AT_ONCE

    waiting = list(reversed(hooks))
    failures = 0
    with tempfile.TemporaryDirectory(prefix="esimbpf-") as folder, closing(Runner(Path(folder))) as runner:
        under_way: dict[str, Hook] = {}
        while waiting or under_way:
            while waiting and len(under_way) < MOST_AT_ONCE:
                one = waiting.pop()
                run = str(len(waiting))
                runner.start(run, order_of(one, event))
                under_way[run] = one
            select.select(runner.filenos(), (), ())
            for run, outcome in runner.turn().items():
                _show_outcome(under_way.pop(run), outcome)
                failures += outcome.why is not None
                runner.forget(run)
    return failures


def _show_outcome(one: Hook, outcome: Outcome) -> None:
    for line in outcome.output:
        print(f"{one.name}: {line}")
    if outcome.left:
        print(f"{one.name}: it left processes behind, which were ended")
    print(f"{one.name}: {outcome.why or f'done in {outcome.seconds:.1f} s'}", flush=True)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(highlight=False, width=120)
    return console
