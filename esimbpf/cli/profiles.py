"""`esimbpf profiles`: the SIM profiles that were ever seen, and what they are called."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esimbpf import lpac
from esimbpf.cli.options import Common, ShowIds
from esimbpf.cli.report import ledger_if_any
from esimbpf.errors import CannotError, UsageError
from esimbpf.ledger import profiles as known_profiles
from esimbpf.ledger.database import FILE_NAME, connect, said
from esimbpf.modem.numbering import normal_iccid
from esimbpf.profiles import KnownProfile, ProfileNames, checked_label, chosen
from esimbpf.spans import local_zone
from esimbpf.text import printable
from esimbpf.units import Units

if TYPE_CHECKING:
    from esimbpf.modem.model import Survey
    from esimbpf.sinks.profiles import Presence

__all__ = ["chosen_profile", "profiles"]

profiles = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@profiles.callback()
def show(
    context: typer.Context,
    lpac_output: Annotated[
        Path | None,
        typer.Option(
            "--lpac",
            metavar="FILE",
            help="Take labels from what `lpac profile list` has printed; - is standard input.",
            show_default=False,
        ),
    ] = None,
    run_lpac: Annotated[
        bool, typer.Option("--run-lpac", metavar="", help="Ask lpac now, which talks to the eSIM, and take its labels.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print JSON lines, one for each profile.")
    ] = False,
    show_ids: ShowIds = False,
    units: Annotated[Units, typer.Option(help="Decimal or binary prefixes.")] = Units.SI,
) -> None:
    """Show every SIM profile ever seen: what it has used in the cycle of its plan, or this month without one.

    A profile is called by your own label, else by what lpac has told of it, else by its operator.

    [dim]Call one by a name of your own:[/dim]        esimbpf profiles label 4567 Travel
    [dim]Take the names that the eSIM has:[/dim]      lpac profile list | esimbpf profiles --lpac -
    """
    if context.invoked_subcommand:
        return
    from rich.console import Console

    from esimbpf.modem.client import survey
    from esimbpf.sinks.profiles import profiles_json, profiles_table

    common: Common = context.obj
    installed = _installed(lpac_output, run_lpac)
    if installed:
        with said(common.state_dir / FILE_NAME), closing(connect(common.state_dir)) as db:
            known_profiles.note_lpac(db, {one.iccid: one.label for one in installed})
    present, now, zone = survey(), datetime.now(UTC), local_zone()
    with ledger_if_any(common) as db:
        uses = known_profiles.uses(db, _with_present(known_profiles.known(db), present), now, zone)
    # What has moved while no profile was known is told; that there is none such, is not.
    uses = [use for use in uses if use.profile.known or use.used.total_bytes]
    names = ProfileNames([use.profile for use in uses], show_ids)
    enabled = {one.iccid: one.enabled for one in installed}
    rows = [(use, _presence(use.profile, present, enabled)) for use in uses]
    if as_json:
        sys.stdout.buffer.write(profiles_json(rows, names, now))
        return
    console = Console(highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(highlight=False, width=120)
    if rows:
        console.print(profiles_table(rows, names, zone, units, console.width))
    else:
        print("no SIM profile was ever seen; esimbpf doctor says what tells of them", file=sys.stderr)


@profiles.command("label")
def label(
    context: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="PROFILE", help="Its ICCID, label or last digits.", show_default=False)
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="What to call it.", show_default=False)] = None,
    remove: Annotated[bool, typer.Option("--remove", metavar="", help="Forget the label that you gave it.")] = False,
) -> None:
    """Call a profile by a name of your own."""
    common: Common = context.obj
    if (name is None) is not remove:
        given = "both were" if remove else "neither was"
        raise UsageError(
            f"a NAME or --remove is to be given, and {given}", "for example: esimbpf profiles label 4567 Travel"
        )
    text = "" if name is None else checked_label(name)
    iccid = chosen_profile(common, which)
    with said(common.state_dir / FILE_NAME), closing(connect(common.state_dir)) as db:
        known_profiles.label(db, iccid, text)
        named = ProfileNames(known_profiles.known(db)).named(iccid)
    print(f"the label is forgotten; it is now {named}" if remove else f"labelled: {named}", file=sys.stderr)


def chosen_profile(common: Common, text: str) -> str:
    """The ICCID of the profile that is meant; UsageError if none is, or several."""
    found = normal_iccid(text)
    if found:
        return found
    with ledger_if_any(common) as db:
        return chosen(text, known_profiles.known(db))


# -- who tells what ----------------------------------------------------------------------


def _installed(path: Path | None, run: bool) -> Sequence[lpac.Installed]:
    """What lpac tells; nothing if it is not asked."""
    if path is not None and run:
        raise UsageError("--lpac and --run-lpac exclude each other", "choose one")
    if run:
        return lpac.ask()
    return () if path is None else lpac.parse(_read(path))


def _read(path: Path) -> bytes:
    """The file, or standard input; not much more than lpac may have printed."""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(lpac.LARGEST_BYTES + 1)
        with open(path, "rb") as file:
            return file.read(lpac.LARGEST_BYTES + 1)
    except OSError as error:
        raise CannotError(
            f"cannot read {printable(str(path))}: {error.strerror}", "give what `lpac profile list` prints"
        ) from error


def _with_present(known: Sequence[KnownProfile], told: Survey) -> list[KnownProfile]:
    """With those that are in modems now, and were never counted, before the one that is not known."""
    sims = {sim.iccid: sim for modem in told.modems for sim in (modem.sim, *modem.slots) if sim and sim.iccid}
    there = [
        replace(
            one,
            esim=sims[one.iccid].esim if one.esim is None else one.esim,
            operator=one.operator or sims[one.iccid].issuer,
        )
        if one.iccid in sims
        else one
        for one in known
    ]
    seen = {one.iccid for one in known}
    new = [KnownProfile(iccid, sim.esim, operator=sim.issuer) for iccid, sim in sims.items() if iccid not in seen]
    return [*(one for one in there if one.known), *new, *(one for one in there if not one.known)]


def _presence(profile: KnownProfile, told: Survey, enabled: Mapping[str, bool | None]) -> Presence:
    """By ModemManager, or where that does not answer, by lpac."""
    from esimbpf.modem.identity import link_statuses
    from esimbpf.modem.model import Service
    from esimbpf.modem.ppp import ppp_interface
    from esimbpf.sinks.profiles import Presence

    if not profile.known:
        return Presence(None)
    if told.service is not Service.RUNNING:
        return Presence(enabled.get(profile.iccid))
    statuses = link_statuses(told.modems, ppp_interface)
    links = sorted(name for name, status in statuses.items() if status.identity.profile == profile.iccid)
    return Presence(any(modem.sim and modem.sim.iccid == profile.iccid for modem in told.modems), tuple(links))
