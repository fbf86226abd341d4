"""`esimbpf watch`: JSON lines."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from esimbpf.cli.options import By, Common, Interval, Links, MaxProcesses, ShowIds, open_session
from esimbpf.cli.streams import give_up
from esimbpf.errors import UsageError
from esimbpf.model import GroupBy
from esimbpf.pace import Pace
from esimbpf.profiles import ProfileNames

if TYPE_CHECKING:
    from esimbpf.ledger.outbox import Follower
    from esimbpf.session import Session
    from esimbpf.sinks.jsonlines import EndReason, JsonLines


def watch(
    context: typer.Context,
    links: Links = None,
    by: By = GroupBy.PROCESS,
    interval: Interval = 1.0,
    count: Annotated[
        int | None, typer.Option(metavar="N", help="End after this many intervals.", show_default="until interrupted")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", metavar="", help="Print rows that moved nothing in an interval too.")
    ] = False,
    end_when_gone: Annotated[
        bool,
        typer.Option(
            "--end-when-gone", metavar="", help="End when the links are gone, instead of waiting for their return."
        ),
    ] = False,
    max_processes: MaxProcesses = 16384,
    show_ids: ShowIds = False,
) -> None:
    """Print what every process moves as JSON lines, one object a line.

    Lines of an interval: `usage` for each row, then `link`, which is their sum; after it an `event` for each thing that
    the daemon has written down meanwhile: a quota's warning, a link that is gone. Counting has begun when `start` is
    printed. Ctrl-C, SIGTERM and --count end with one interval more that holds every row with its totals, then `end`.

    [dim]Bytes of each app in ten seconds:[/dim]
    esimbpf watch --interval 10 --count 1 --by app | jq -r 'select(.kind=="app") | [.rx_bytes+.tx_bytes, .name] | @tsv'
    """
    from esimbpf.ledger.outbox import Follower
    from esimbpf.sinks.jsonlines import JsonLines

    common: Common = context.obj
    if count is not None and count < 1:
        raise UsageError(f"--count {count} is no number of intervals", "give 1 or more, or leave it out")
    with (
        open_session(common, links or (), interval, [by], max_processes) as session,
        Pace(interval, end_on=(signal.SIGINT, signal.SIGTERM)) as pace,
    ):
        lines = JsonLines(session.start, _write, everything, ProfileNames(show_ids=show_ids))
        try:
            events = Follower(common.state_dir)
            lines.start()
            reason = _intervals(session, pace, lines, events, count, end_when_gone, everything)
            if reason is None:
                return
            lines.tick(session.tick(final=True), final=True)
            lines.events(events.new())
            lines.end(datetime.now(UTC), reason)
        except BrokenPipeError:
            give_up(sys.stdout.fileno())  # the reader has seen enough


def _intervals(
    session: Session,
    pace: Pace,
    lines: JsonLines,
    events: Follower,
    count: int | None,
    end_when_gone: bool,
    everything: bool,
) -> EndReason | None:
    """Print intervals up to the last but one; why the last is due, or None if nobody reads any more."""
    done = 0
    stdout = sys.stdout.fileno()
    while not pace.ended:
        ready = pace.wait(readable=(session.fileno(),), closing=(stdout,))
        if stdout in ready:
            return None
        if ready:
            session.follow_links()
            continue
        if end_when_gone and session.all_gone:
            return "link-gone"
        done += 1
        if pace.ended:
            break
        if done == count:
            return "count"
        lines.tick(session.tick(everything=everything))
        lines.events(events.new())
    return "signal"


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
