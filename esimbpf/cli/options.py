"""Options that several commands share, and how a command gets its session from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from esimbpf.errors import UsageError
from esimbpf.ledger.database import DEFAULT_STATE_DIR
from esimbpf.model import GroupBy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esimbpf.session import Session

SHORTEST_INTERVAL_S: Final = 0.1
LONGEST_INTERVAL_S: Final = 3600.0
FEWEST_PROCESSES: Final = 1
MOST_PROCESSES: Final = 1_000_000


class EngineName(StrEnum):
    """How the programs get into the kernel."""

    AUTO = "auto"
    LIBBPF = "libbpf"


@dataclass(frozen=True, slots=True)
class Common:
    """The options that stand before the command."""

    netns: str | None
    engine: EngineName
    cgroup: str | None
    config: Path | None = None
    """None for the default file, which need not be there."""
    state_dir: Path = DEFAULT_STATE_DIR
    """Where the ledger is."""
    command: tuple[str, ...] = ()
    """What stands behind `--`."""


Links = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="LINK",
        help="Interfaces to count, by name. Without any: every cellular link found.",
        show_default=False,
    ),
]
By = Annotated[
    GroupBy, typer.Option("--by", metavar="WHAT", help="What a row stands for: app, process, user or cgroup.")
]
Interval = Annotated[
    float,
    typer.Option(
        "--interval",
        metavar="S",
        help=f"Seconds between two readings, {SHORTEST_INTERVAL_S:g} to {LONGEST_INTERVAL_S:g}.",
    ),
]
MaxProcesses = Annotated[
    int,
    typer.Option(
        "--max-processes",
        metavar="N",
        help="Processes with sockets that can be told apart at once; what more there are count under `overflow`. "
        "Each takes about 1 kB of kernel memory.",
    ),
]

ShowIds = Annotated[
    bool, typer.Option("--show-ids", metavar="", help="Show SIM profiles' numbers (ICCIDs) in full, not masked.")
]


def checked_interval(interval_s: float) -> float:
    """The interval, in seconds; UsageError if it makes no sense."""
    if not math.isfinite(interval_s) or not SHORTEST_INTERVAL_S <= interval_s <= LONGEST_INTERVAL_S:
        raise UsageError(
            f"--interval {interval_s:g} is not between {SHORTEST_INTERVAL_S:g} and {LONGEST_INTERVAL_S:g} seconds",
            "for example: --interval 1, --interval 0.5, --interval 60",
        )
    return interval_s


def checked_max_processes(number: int) -> int:
    """The number of processes; UsageError if it makes no sense."""
    if not FEWEST_PROCESSES <= number <= MOST_PROCESSES:
        raise UsageError(
            f"--max-processes {number} is not between {FEWEST_PROCESSES} and {MOST_PROCESSES}",
            "the default, 16384, takes about 16 MB of kernel memory",
        )
    return number


def open_session(
    common: Common,
    names: Sequence[str],
    interval_s: float,
    groupings: Sequence[GroupBy],
    max_processes: int,
    follow: bool = False,
) -> AbstractContextManager[Session]:
    """Find the links, attach, and begin to count; all is detached when the `with` ends."""
    checked_interval(interval_s)
    checked_max_processes(max_processes)
    return _session(common, names, interval_s, groupings, max_processes, follow)


@contextmanager
def _session(
    common: Common,
    names: Sequence[str],
    interval_s: float,
    groupings: Sequence[GroupBy],
    max_processes: int,
    follow: bool,
) -> Iterator[Session]:
    from esimbpf import config
    from esimbpf.kernel.links import LinkMonitor, choose, list_links
    from esimbpf.session import Session

    rules = config.read(common.config).apps
    with LinkMonitor() as monitor:
        chosen = choose(names, list_links())
        with Session(chosen, monitor, interval_s, groupings, max_processes, common.cgroup, rules, follow) as session:
            yield session
