"""`esimbpf report`: what the ledger says."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Final

import typer

from esimbpf import config
from esimbpf.attribution import Namer
from esimbpf.cli.options import Common, ShowIds
from esimbpf.errors import EsimbpfError, NoSuchLink, UsageError
from esimbpf.exclusive import holder
from esimbpf.ledger import plans
from esimbpf.ledger.database import FILE_NAME, connect, empty, said
from esimbpf.ledger.fold import DAY_S, KEEP_QUARTERS_S, Folding, note_downtime
from esimbpf.ledger.profiles import known as known_profiles
from esimbpf.ledger.query import ReportBy, Usage, bounds, grain_s, undone, usage
from esimbpf.model import NOTHING
from esimbpf.plan import Plan
from esimbpf.profiles import ProfileNames
from esimbpf.spans import Cycle, Once, Per, Span, day_at, first_instant, local_zone, spans, whole_at, zone_named
from esimbpf.text import printable
from esimbpf.units import Units, bytes_text

_DEFAULT_DAYS: Final = 30
_DEFAULT_DAYS_OF_LONG: Final = 365
_MOST_SPANS: Final = 2000
_AGO: Final = re.compile(r"(\d{1,5})\s*(h|d|w)")
_AGO_HOURS: Final = {"h": 1, "d": 24, "w": 168}


def report(
    context: typer.Context,
    links: Annotated[
        list[str] | None, typer.Argument(metavar="LINK", help="Only of these.", show_default="all that were counted")
    ] = None,
    per: Annotated[
        Per | None,
        typer.Option(
            metavar="SPAN", help="A row for each hour, day, week, month, or cycle of the plan.", show_default=False
        ),
    ] = None,
    by: Annotated[
        ReportBy, typer.Option(metavar="WHAT", help="app, user, link, profile, network, country or technology.")
    ] = ReportBy.APP,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="From: 2026-11-01, 2026-11-01T12:00, today, yesterday, or 36h, 7d, 4w ago.",
            show_default=f"{_DEFAULT_DAYS} days ago; a year for weeks, months, cycles",
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to, not included.", show_default="now")] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="Only the N largest; with --per, of each span.", show_default="all")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", metavar="", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON lines.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw a picture.")] = None,
    show_ids: ShowIds = False,
    units: Annotated[Units, typer.Option(help="Decimal or binary prefixes.")] = Units.SI,
) -> None:
    """Who used how much, when: what the daemon has written down, and what is counted since.

    Times are of the plan's time zone, or of this machine's. Gaps, in which nothing was counted, are told.

    [dim]By day, for the last week:[/dim]     esimbpf report --per day --since 7d
    [dim]As JSON lines, by user:[/dim]     esimbpf report --by user --json
    [dim]A picture, by cycle:[/dim]        esimbpf report --per cycle --svg cycles.svg
    """
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other", "choose one")
    if top is not None and top < 1:
        raise UsageError(f"--top {top} is no number of rows", "give 1 or more, or leave it out")
    now, names = datetime.now(UTC), tuple(map(printable, links or ()))
    days: list[tuple[Span, list[Usage]]] = []
    with open_ledger(context.obj) as db:
        _check_links(db, names)
        known, agreed = bounds(db), _plans_of(db, names)
        profiles = ProfileNames(known_profiles(db), show_ids)
        cycle = _cycle(db, agreed, names, profiles) if per is Per.CYCLE else None
        zone = _zone_of(agreed)
        begin = _moment(since, now, zone) if since else _default_begin(now, zone, known, per)
        end = _moment(until, now, zone) if until else now
        if begin >= end:
            raise UsageError("the report would end before it begins", "check --since and --until")
        whole = _on_the_grain(Span(begin, end), now)
        cut = [whole] if per is None else list(spans(per, whole.begin, whole.end, zone, cycle))
        if len(cut) > _MOST_SPANS:
            raise UsageError(f"{len(cut)} rows are more than anybody reads", "choose a longer span or a later --since")
        told = _by_span(db, cut, by, names, profiles)
        if per is None and (svg is not None or not (as_csv or as_json)):
            days = _by_span(db, list(spans(Per.DAY, whole.begin, whole.end, zone)), by, names, profiles)
        ahead = _ahead(db, whole.end, zone, units, names)
    begun = whole_at(per, whole.begin, zone, cycle).begin if per else whole.begin
    note = f"times are of {zone}, the plan's zone" if str(zone) != str(local_zone()) else ""
    if whole.begin.timestamp() < now.timestamp() - KEEP_QUARTERS_S:
        note += ("; " if note else "") + f"what is older than {KEEP_QUARTERS_S // DAY_S} days is told by days of UTC"
    if as_json or as_csv:
        _print_lines(told, top, as_csv, ahead)
    else:
        _print_table(told if per else days, per, by, zone, units, top, begun, note, ahead)
    if svg is not None:
        from esimbpf.sinks.picture import picture
        from esimbpf.sinks.report import cut_text

        cut_off = f"the first {per} is {cut_text(cut[0], zone)}" if begun < whole.begin else ""
        notes = [one for one in (cut_off, note, ahead) if one]
        _write_whole(svg, picture(told if per else days, per, by, zone, units, top, notes))


def _by_span(
    db: sqlite3.Connection, cut: list[Span], by: ReportBy, names: tuple[str, ...], profiles: ProfileNames
) -> list[tuple[Span, list[Usage]]]:
    rows: dict[Span, list[Usage]] = {span: [] for span in cut}
    for row in usage(db, cut, by, names):
        name = profiles.named(row.name) if by is ReportBy.PROFILE else row.name
        rows[row.span].append(replace(row, profile=profiles.number(row.profile), name=name))
    return list(rows.items())


def _ahead(db: sqlite3.Connection, end: datetime, zone: tzinfo, units: Units, names: tuple[str, ...]) -> str:
    """That something stands after now and after the report's end, and how to see it; empty if nothing does."""
    # Asked for again: what has been counted up to here is no future.
    now, known = datetime.now(UTC), bounds(db)
    begin = max(end, _on_the_grain(Span(now, now), now).end)
    if known is None or known.end <= begin:
        return ""
    total = sum((row.counters for row in usage(db, [Span(begin, known.end)], ReportBy.LINK, names)), NOTHING)
    if not total:
        return ""
    last = known.end.astimezone(zone)
    return (
        f"{bytes_text(total.total_bytes, units)} stand after now, since the clock was ahead when they were counted: "
        f"--until {last:%Y-%m-%dT%H:%M} shows them, too"
    )


def _print_lines(told: list[tuple[Span, list[Usage]]], top: int | None, as_csv: bool, ahead: str) -> None:
    from esimbpf.sinks.report import largest, report_csv, report_json

    rows = [row for _, of_span in told for row in largest(of_span, top)]
    if as_csv:
        sys.stdout.write(report_csv(rows))
    else:
        sys.stdout.buffer.write(report_json(rows))
    left_out = sum(len(of_span) for _, of_span in told) - len(rows)
    if left_out:
        print(f"--top {top} has left out {left_out} smaller rows", file=sys.stderr)
    if not any(row.counters or row.blocked for row in rows):
        print(_NOTHING, file=sys.stderr)
    if ahead:
        print(ahead, file=sys.stderr)


_NOTHING: Final = "nothing was counted in this time; esimbpf status says what is counted now"


def _print_table(
    told: list[tuple[Span, list[Usage]]],
    per: Per | None,
    by: ReportBy,
    zone: tzinfo,
    units: Units,
    top: int | None,
    begun: datetime,
    note: str,
    ahead: str,
) -> None:
    from rich.console import Console
    from rich.text import Text

    from esimbpf.sinks.report import by_heading, by_span

    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(highlight=False, width=120)
    ascii_only = not console.encoding.lower().startswith("utf")
    if not any(rows for _, rows in told):
        console.print(_NOTHING)
    elif per is None:
        console.print(by_heading(told, by, zone, units, top, ascii_only, console.width))
    else:
        console.print(by_span(told, per, zone, units, top, ascii_only, console.width, begun))
    if note:
        console.print(Text(note, "dim"))
    if ahead:
        console.print(Text(ahead, "yellow"))


def _write_whole(path: Path, content: bytes) -> None:
    """A file with all of it, or as it was before; what is no file, as /dev/stdout, is written to."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        target = path.resolve()
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(file.fileno(), 0o666 & ~mask)
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise EsimbpfError(f"cannot write {printable(str(path))}: {error.strerror}", "name another file") from error


# -- plans ---------------------------------------------------------------------


def _check_links(db: sqlite3.Connection, names: tuple[str, ...]) -> None:
    known = [name for (name,) in db.execute("SELECT name FROM link ORDER BY name")]
    for name in names:
        if name not in known:
            raise NoSuchLink(
                f"nothing was ever counted of a link named {name}",
                f"the ledger knows of: {', '.join(known)}" if known else "the ledger knows of none yet",
            )


def _plans_of(db: sqlite3.Connection, names: tuple[str, ...]) -> list[Plan]:
    """The plans that are for the links reported: all, or those named; with the profiles that were in these."""
    kept = list(plans.kept(db))
    if not names:
        return kept
    marks = ", ".join("?" * len(names))
    targets = {f"link:{name}" for name in names}
    for one in kept:
        kind, _, iccid = one.target.partition(":")
        query = (
            "SELECT 1 FROM quarter WHERE identity_id IN (SELECT identity.id FROM identity JOIN profile "
            "ON profile.id = profile_id WHERE iccid = ?) "
            f"AND link_id IN (SELECT id FROM link WHERE name IN ({marks})) LIMIT 1"
        )
        if kind == "profile" and db.execute(query, (iccid, *names)).fetchone():
            targets.add(one.target)
    return [one for one in kept if one.target in targets]


def _cycle(db: sqlite3.Connection, agreed: list[Plan], names: tuple[str, ...], profiles: ProfileNames) -> Cycle:
    """The cycle of the plan that is meant; UsageError if that cannot be known, or it was never used."""
    kept = list(plans.kept(db))
    if not kept:
        raise UsageError(
            "--per cycle needs a plan, and none is known",
            "say what was agreed: esimbpf plan set --allowance 10GB --cycle monthly:1",
        )
    own = [one for one in agreed if one.target.startswith("link:")] if names else agreed
    found = own or agreed
    if not found:
        raise UsageError(
            f"no plan is known for {', '.join(names)}",
            f"there are plans for: {', '.join(profiles.target(one.target) for one in kept)}",
        )
    if len(found) > 1:
        raise UsageError(
            f"there are several plans: {', '.join(profiles.target(one.target) for one in found)}",
            "name the link whose cycles are meant: esimbpf report LINK --per cycle",
        )
    cycle = plans.cycle_of(db, found[0])
    if isinstance(cycle, Once) and cycle.first is None:
        raise UsageError(
            f"the plan of {profiles.target(found[0].target)} is not in use yet: its only cycle begins with its first "
            "use",
            "see what was counted before: esimbpf report --per day",
        )
    return cycle


def _zone_of(agreed: list[Plan]) -> tzinfo:
    """The zone of the plans if all have the same one, else this machine's."""
    zones = {one.zone for one in agreed}
    return zone_named(zones.pop()) if len(zones) == 1 else local_zone()


@contextmanager
def open_ledger(common: Common) -> Iterator[sqlite3.Connection]:
    """The ledger, with what the kernel has counted and no daemon has folded yet, where this user may read that."""
    from esimbpf.kernel import pins
    from esimbpf.pinned import attachment_of, reader_of

    path = common.state_dir / FILE_NAME
    # Whoever may not write it may not ask the kernel either.
    may_write = os.access(path, os.W_OK)
    engine = pins.pinned_here() if may_write else None
    with said(path), closing(connect(common.state_dir, read_only=not may_write)) as db:
        if engine is None:
            with undone(db) if may_write else nullcontext():
                if may_write and not pins.place().exists() and not pins.foreign():
                    note_downtime(db, time.time())
                yield db
            return
        with engine, undone(db):
            namer = Namer(config.read(common.config).apps)
            folding = Folding(db, attachment_of(engine.about), namer)
            if not folding.followed:
                if holder(common.state_dir):
                    folding.go_by_the_last()
                folding.take(reader_of(engine, owns_slots=False).read())
                folding.commit()
            yield db


@contextmanager
def ledger_if_any(common: Common) -> Iterator[sqlite3.Connection]:
    """What is known, for reading; where there is no ledger, nothing is."""
    path = common.state_dir / FILE_NAME
    with said(path):
        there = path.exists()
    with open_ledger(common) if there else closing(empty()) as db:
        yield db


def _default_begin(now: datetime, zone: tzinfo, known: Span | None, per: Per | None) -> datetime:
    days = _DEFAULT_DAYS if per in (None, Per.HOUR, Per.DAY) else _DEFAULT_DAYS_OF_LONG
    begin = first_instant((now.astimezone(zone) - timedelta(days=days - 1)).date(), zone)
    return min(max(begin, known.begin), now - timedelta(minutes=1)) if known else begin


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
    begin_s, end_s = span.begin.timestamp(), span.end.timestamp()
    begin_grain, end_grain = grain_s(begin_s, now.timestamp()), grain_s(end_s, now.timestamp())
    return Span(
        datetime.fromtimestamp(begin_s // begin_grain * begin_grain, UTC),
        datetime.fromtimestamp(-(-end_s // end_grain) * end_grain, UTC),
    )
