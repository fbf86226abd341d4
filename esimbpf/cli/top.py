"""`esimbpf top`: the live table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from esimbpf import config
from esimbpf.attribution import Namer
from esimbpf.cli.options import By, Common, Interval, Links, MaxProcesses, open_session
from esimbpf.errors import EsimbpfError, LedgerError
from esimbpf.ledger.database import FILE_NAME, connect, said
from esimbpf.ledger.fold import Folding
from esimbpf.ledger.query import undone
from esimbpf.ledger.use import use_of_links
from esimbpf.model import GroupBy
from esimbpf.spans import local_zone
from esimbpf.text import printable
from esimbpf.units import Units
from esimbpf.use import LinkUse

if TYPE_CHECKING:
    from esimbpf.kernel.pins import About
    from esimbpf.session import Session


def top(
    context: typer.Context,
    links: Links = None,
    by: By = GroupBy.APP,
    interval: Interval = 1.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            metavar="",
            help="Print one plain table after one interval, as when stdout is no terminal.",
        ),
    ] = False,
    units: Annotated[
        Units, typer.Option(help="Decimal (1 kB = 1000 B) or binary (1 KiB = 1024 B) prefixes.")
    ] = Units.SI,
    max_processes: MaxProcesses = 16384,
) -> None:
    """Show who uses the link, live.

    Rows for kernel, forwarded and unattributed are always there: with them the rows add up to the link exactly.

    With the daemon: also what was used today and in the plan's cycle, by app and user, and how the plan stands.

    Keys: q quit, s and arrow keys sort and scroll, b app/process/user/cgroup, p pause, / filter, ? help.
    """
    from esimbpf.sinks import live

    common: Common = context.obj
    groupings = [by, *(other for other in GroupBy if other is not by)]
    with open_session(common, links or (), interval, groupings, max_processes) as session:
        uses, warning = _uses(common, session)
        live.top(session, interval, by, units, once, uses, warning)


def _uses(common: Common, session: Session) -> tuple[Mapping[str, LinkUse], str]:
    """By link, what the ledger and the kernel know of its use; where that cannot be told, why, or nothing to say."""
    try:
        if session.about is None:
            if common.cgroup is None and (common.state_dir / FILE_NAME).exists():
                raise LedgerError("the daemon does not count here", "esimbpf status")
            return {}, ""
        return _read_ledger(common, session, session.about)
    except EsimbpfError as error:
        return {}, f"without today's use and the plan: {error.message} ({error.hint})"


def _read_ledger(common: Common, session: Session, about: About) -> tuple[Mapping[str, LinkUse], str]:
    """Exactly what was used when the run begins; nobody can fold anything meanwhile. Raises LedgerError."""
    from esimbpf.pinned import attachment_of

    path = common.state_dir / FILE_NAME
    if not path.exists():
        raise LedgerError(f"there is no ledger in {printable(str(common.state_dir))}", "it is kept by: esimbpf daemon")
    namer = Namer(config.read(common.config).apps)
    db = connect(common.state_dir)
    try:
        with said(path), undone(db):
            before = session.begin_anew()
            attachment = attachment_of(about)
            folding = Folding(db, replace(attachment, links=attachment.links[: len(before.links)]), namer)
            if folding.followed:
                raise LedgerError("what is read here has just been replaced", "start top again")
            folded_s = folding.last_s
            folding.take(before)
            folding.commit()
            now, zone = datetime.fromtimestamp(before.wall_ns / 1e9, UTC), local_zone()
            uses = use_of_links(db, (link.name for link in session.start.links), now, zone)
            session.go_on_from(folding.standings)
    finally:
        db.close()
    if any(folded_s < use.today.span.begin.timestamp() for use in uses.values()):
        since = datetime.fromtimestamp(folded_s, zone)
        return uses, f"no daemon has counted by the day since {since:%a %d %b %H:%M}: all since then is in today's use"
    return uses, ""
