"""`esimbpf report`: what the ledger says."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Final

import typer

from esimbpf import config
from esimbpf.attribution import Namer
from esimbpf.cli.options import Common, Links
from esimbpf.errors import EsimbpfError, UsageError
from esimbpf.ledger.database import FILE_NAME, connect, said
from esimbpf.ledger.fold import Folding
from esimbpf.ledger.query import ReportBy, Usage, bounds, grain_s, undone, usage
from esimbpf.spans import Per, Span, day_at, first_instant, local_zone, spans
from esimbpf.text import printable
from esimbpf.units import Units

_DEFAULT_DAYS: Final = 30
_MOST_SPANS: Final = 2000
_AGO: Final = re.compile(r"(\d{1,5})\s*(h|d|w)")
_AGO_HOURS: Final = {"h": 1, "d": 24, "w": 168}


def report(
    context: typer.Context,
    links: Links = None,
    per: Annotated[
        Per | None,
        typer.Option(metavar="SPAN", help="A row for each hour, day, week or month.", show_default=False),
    ] = None,
    by: Annotated[ReportBy, typer.Option(metavar="WHAT", help="Who: app, user, link or profile.")] = ReportBy.APP,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="From: 2026-11-01, 2026-11-01T12:00, today, yesterday, or 36h, 7d, 4w ago.",
            show_default=f"{_DEFAULT_DAYS} days ago",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to, not included.", show_default="now")] = None,
    top: Annotated[int | None, typer.Option(metavar="N", help="Only the N largest.", show_default="all")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", metavar="", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON lines.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the table as a picture.")] = None,
    units: Annotated[Units, typer.Option(help="Decimal or binary prefixes.")] = Units.SI,
) -> None:
    """Who used how much, when: what the daemon has written down, and what is counted since.

    Times are of this machine's time zone. Gaps, in which nothing was counted or nobody looked, are told.

    [dim]By day, for the last week:[/dim]     esimbpf report --per day --since 7d
    [dim]As JSON lines, by user:[/dim]     esimbpf report --by user --json
    """
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other", "choose one")
    if top is not None and top < 1:
        raise UsageError(f"--top {top} is no number of rows", "give 1 or more, or leave it out")
    common: Common = context.obj
    zone, now = local_zone(), datetime.now(UTC)
    with open_ledger(common) as db:
        known = bounds(db)
        begin = _moment(since, now, zone) if since else _default_begin(now, zone, known)
        end = _moment(until, now, zone) if until else now
        if begin >= end:
            raise UsageError("the report would end before it begins", "check --since and --until")
        whole = _on_the_grain(Span(begin, end), now)
        cut = [whole] if per is None else list(spans(per, whole.begin, whole.end, zone))
        if len(cut) > _MOST_SPANS:
            raise UsageError(f"{len(cut)} rows are more than anybody reads", "choose a longer span or a later --since")
        names = tuple(map(printable, links or ()))
        rows = [list(usage(db, [span], by, names, now.timestamp())) for span in cut]
        days: list[list[Usage]] = []
        if per is None and not (as_csv or as_json):
            daily = list(spans(Per.DAY, whole.begin, whole.end, zone))[-60:]
            days = [list(usage(db, [day], by, names, now.timestamp())) for day in daily]
    everything = [row for of_span in rows for row in (of_span[:top] if per is None else of_span)]
    if as_json:
        from esimbpf.sinks.report import report_json

        sys.stdout.buffer.write(report_json(everything))
    elif as_csv:
        from esimbpf.sinks.report import report_csv

        sys.stdout.write(report_csv(everything))
    if svg is not None or not (as_csv or as_json):
        _show(rows, days, cut, per, by, zone, units, top, svg, quiet=as_csv or as_json)


def _show(
    rows: list[list[Usage]],
    days: list[list[Usage]],
    cut: list[Span],
    per: Per | None,
    by: ReportBy,
    zone: tzinfo,
    units: Units,
    top: int | None,
    svg: Path | None,
    quiet: bool,
) -> None:
    from rich.console import Console

    from esimbpf.sinks.report import by_heading, by_span

    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(highlight=False, width=120)
    ascii_only = not console.encoding.lower().startswith("utf")
    whole = Span(cut[0].begin, cut[-1].end)
    made = (
        by_heading(rows[0], days, whole, by, zone, units, top, ascii_only)
        if per is None
        else by_span(list(zip(cut, rows, strict=True)), per, zone, units, ascii_only)
    )
    if not quiet:
        console.print(made)
    if svg is not None:
        drawn = Console(record=True, width=100, file=open(os.devnull, "w"), highlight=False)  # noqa: SIM115
        drawn.print(made)
        try:
            drawn.save_svg(str(svg), title="esimbpf report")
        except OSError as error:
            raise EsimbpfError(f"cannot write {printable(str(svg))}: {error.strerror}", "name another file") from error


@contextmanager
def open_ledger(common: Common) -> Iterator[sqlite3.Connection]:
    """The ledger, with what the kernel has counted and no daemon has folded yet, where this user may read that."""
    from esimbpf.attachment import attachment_of, reader_of
    from esimbpf.kernel.pins import pinned_here

    path = common.state_dir / FILE_NAME
    engine = pinned_here() if path.exists() and os.access(path, os.W_OK) else None
    db = connect(common.state_dir, read_only=engine is None)
    try:
        with said(path):
            if engine is None:
                yield db
                return
            with engine, undone(db):
                namer = Namer(config.read(common.config).apps)
                folding = Folding(db, attachment_of(engine.about), namer)
                if not folding.followed:
                    folding.take(reader_of(engine, owns_slots=False).read())
                    folding.commit()
                yield db
    finally:
        db.close()


def _default_begin(now: datetime, zone: tzinfo, known: Span | None) -> datetime:
    begin = first_instant((now.astimezone(zone) - timedelta(days=_DEFAULT_DAYS - 1)).date(), zone)
    return max(begin, known.begin) if known else begin


def _moment(text: str, now: datetime, zone: tzinfo) -> datetime:
    """A time as a person writes it; UsageError if it is none."""
    today = day_at(now, zone)
    if text in ("now", "today"):
        return now if text == "now" else today.begin
    if text == "yesterday":
        return day_at(today.begin - timedelta(seconds=1), zone).begin
    ago = _AGO.fullmatch(text)
    if ago:
        return now - timedelta(hours=int(ago[1]) * _AGO_HOURS[ago[2]])
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{printable(text)!r} is no time",
            "write it as 2026-11-01, 2026-11-01T12:00, today, yesterday, 36h, 7d or 4w",
        ) from error


def _on_the_grain(span: Span, now: datetime) -> Span:
    """The span, widened to what the ledger still tells apart."""
    grain = grain_s(span.begin.timestamp(), time.time())
    begin_s = span.begin.timestamp() // grain * grain
    end_s = -(-span.end.timestamp() // grain) * grain
    return Span(datetime.fromtimestamp(begin_s, UTC), datetime.fromtimestamp(end_s, UTC))
