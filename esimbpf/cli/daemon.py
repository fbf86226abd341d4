"""`esimbpf daemon`: the ledger."""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from typing import Annotated, Final

import typer

from esimbpf import config
from esimbpf.cli.options import Common, Links, MaxProcesses, checked_max_processes
from esimbpf.errors import UsageError

_SHORTEST_FOLD_S: Final = 1.0
_LONGEST_FOLD_S: Final = 60.0


def daemon(
    context: typer.Context,
    links: Links = None,
    fold_every: Annotated[
        float,
        typer.Option(
            metavar="S",
            help=f"Seconds between two foldings into the ledger, {_SHORTEST_FOLD_S:g} to {_LONGEST_FOLD_S:g}.",
        ),
    ] = 10.0,
    max_processes: MaxProcesses = 16384,
) -> None:
    """Keep the ledger: attach for good, follow the links, and write down what is counted, until SIGTERM or Ctrl-C.

    With no LINK, every cellular link is counted, those that come later too. What counts goes on when the daemon ends,
    and is written down by the next one; `detach` ends it. SIGHUP reads the configuration anew. The ledger is in
    /var/lib/esimbpf, or where --state-dir says.
    """
    from esimbpf.daemon import Daemon

    if not _SHORTEST_FOLD_S <= fold_every <= _LONGEST_FOLD_S:
        raise UsageError(
            f"--fold-every {fold_every:g} is not between {_SHORTEST_FOLD_S:g} and {_LONGEST_FOLD_S:g} seconds",
            "for example: --fold-every 10",
        )
    # Before it counts there is nothing to write down, and nothing to read anew.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    checked_max_processes(max_processes)
    common: Common = context.obj
    if common.cgroup:
        raise UsageError("the ledger is of all processes", "leave --cgroup out")
    with closing(Daemon(links or (), common.state_dir, max_processes, lambda: config.read(common.config))) as work:
        work.run(fold_every)
