"""`esimbpf plan`: the allowance, and whether it will last."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from esimbpf.cli.options import Common, ShowIds
from esimbpf.cli.profiles import chosen_profile
from esimbpf.cli.report import open_ledger
from esimbpf.errors import CannotError, UsageError
from esimbpf.fields import naming
from esimbpf.ledger import plans, profiles
from esimbpf.ledger.database import FILE_NAME, connect, said
from esimbpf.plan import MOST_PERCENT, Plan, parse_cycle, parse_end
from esimbpf.profiles import ProfileNames
from esimbpf.quota import checked_link, parse_levels
from esimbpf.spans import local_zone
from esimbpf.text import printable
from esimbpf.units import Units, parse_size

plan = typer.Typer(
    no_args_is_help=True,
    help="The data plan: what was agreed, what is used of it, and whether it will last.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Link = Annotated[
    str | None,
    typer.Argument(metavar="LINK", help="The link; without, the cellular one that is there.", show_default=False),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="PROFILE",
        help="The SIM profile that it is for, instead of a link: its ICCID, label or last digits.",
        show_default=False,
    ),
]


@plan.command("set")
def set_plan(
    context: typer.Context,
    allowance: Annotated[str, typer.Option(metavar="SIZE", help="Of a cycle, as the carrier writes it: 10GB, 5GiB.")],
    cycle: Annotated[
        str,
        typer.Option(
            metavar="CYCLE",
            help="monthly:15 (from the 15th), 30d:2026-11-01 (every 30 days from then), once:7d (7 days from the first "
            "use).",
        ),
    ],
    link: Link = None,
    profile: Profile = None,
    used: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Used of this cycle by now, as the carrier says.", show_default="what was counted"
        ),
    ] = None,
    rollover: Annotated[
        bool, typer.Option("--rollover", metavar="", help="What is left goes to the next cycle.")
    ] = False,
    then: Annotated[
        str, typer.Option(metavar="END", help="At the end: cut, throttled:64kbit or billed:0.01EUR/MB.")
    ] = "cut",
    zone: Annotated[
        str | None,
        typer.Option(
            metavar="ZONE", help="In which the carrier's days begin: Europe/Berlin.", show_default="this machine's"
        ),
    ] = None,
    warn: Annotated[str, typer.Option(metavar="PERCENT,…|none", help="Levels at which to warn.")] = "80,95",
) -> None:
    """Say what was agreed with the carrier; in the place of what was said before.

    [dim]10 GB a month from the 15th:[/dim]   esimbpf plan set --allowance 10GB --cycle monthly:15
    [dim]A travel eSIM:[/dim]                 esimbpf plan set --allowance 3GB --cycle once:7d --then billed:0.02EUR/MB
    """
    from esimbpf.kernel.links import list_links

    common: Common = context.obj
    if zone is None:
        local = local_zone()
        zone = local.key if isinstance(local, ZoneInfo) and local.key else "UTC"
    for field, size in (("allowance", allowance), ("used", used)):
        if size is not None:
            with naming(field):
                parse_size(size)
    made = Plan(
        target=_target(common, link, profile),
        allowance=allowance,
        cycle=parse_cycle(cycle),
        zone=zone,
        since=datetime.now(UTC),
        used=used,
        rollover=rollover,
        warn=parse_levels(warn, MOST_PERCENT),
        **parse_end(then),
    )
    path = common.state_dir / FILE_NAME
    with said(path), closing(connect(common.state_dir)) as db:
        if used is not None:
            with open_ledger(common) as read:
                made = replace(made, counted_bytes=plans.counted(read, made))
        plans.keep(db, made)
        names = ProfileNames(profiles.known(db))
    print(f"kept for {printable(names.target(made.target))}; see esimbpf plan show", file=sys.stderr)
    if link and not any(link in (one.link.name, *one.altnames) for one in list_links()):
        print(f"there is no link named {printable(link)} at the moment: esimbpf links", file=sys.stderr)


@plan.command("show")
def show_plan(
    context: typer.Context,
    link: Annotated[
        str | None, typer.Argument(metavar="LINK", help="Only this link's plan.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="PROFILE", help="Only this SIM profile's plan.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON lines, one for each plan.")] = False,
    show_ids: ShowIds = False,
    units: Annotated[Units, typer.Option(help="Decimal or binary prefixes.")] = Units.SI,
) -> None:
    """Say how a plan stands: used, remaining, will it last, what is safe today, what it costs, who is to blame."""
    import orjson
    from rich.console import Console

    from esimbpf.sinks.plan import plan_fields, plan_screen

    now = datetime.now(UTC)
    chosen = _target(context.obj, link, profile) if link is not None or profile is not None else None
    with open_ledger(context.obj) as db:
        names = ProfileNames(profiles.known(db), show_ids)
        told = [(one, plans.judged(db, one, now)) for one in plans.kept(db) if chosen in (None, one.target)]
    if not told and chosen:
        raise _no_plan(names, chosen)
    if not told:
        raise CannotError(
            "no plan is known", "say what was agreed: esimbpf plan set --allowance 10GB --cycle monthly:1"
        )
    if as_json:
        for one, assessment in told:
            sys.stdout.buffer.write(
                orjson.dumps(plan_fields(one, assessment, names.target(one.target)), option=orjson.OPT_APPEND_NEWLINE)
            )
        return
    console = Console(highlight=False)
    ascii_only = not console.encoding.lower().startswith("utf")
    for number, (one, assessment) in enumerate(told):
        if number:
            console.print()
        console.print(plan_screen(one, assessment, units, ascii_only, _called(names, one)))


@plan.command("remove")
def remove_plan(context: typer.Context, link: Link = None, profile: Profile = None) -> None:
    """Forget a plan; what was counted stays."""
    common: Common = context.obj
    target = _target(common, link, profile)
    with said(common.state_dir / FILE_NAME), closing(connect(common.state_dir)) as db:
        names = ProfileNames(profiles.known(db))
        removed = plans.remove(db, target)
    if not removed:
        raise _no_plan(names, target)
    print(f"forgotten: {printable(names.target(target))}", file=sys.stderr)


def _called(names: ProfileNames, one: Plan) -> str:
    """For people, what a plan is for."""
    kind, _, name = one.target.partition(":")
    return names.named(name) if kind == "profile" else name


def _no_plan(names: ProfileNames, target: str) -> CannotError:
    return CannotError(
        f"no plan is known for {printable(names.target(target))}", "see which there are: esimbpf plan show"
    )


def _target(common: Common, link: str | None, profile: str | None) -> str:
    """Whom a plan is for; the one cellular link that is there if nothing is said."""
    if link is not None and profile is not None:
        raise UsageError(
            f"a plan is for a link or for a profile, and link {printable(link)!r} and profile "
            f"{printable(ProfileNames().number(profile))!r} "
            "were given",
            "leave one of them out",
        )
    if profile is not None:
        return f"profile:{chosen_profile(common, profile)}"
    if link is not None:
        return f"link:{checked_link(link)}"
    from esimbpf.kernel.links import choose, list_links

    found = choose((), list_links())
    if len(found) > 1:
        names = ", ".join(one.link.name for one in found)
        raise UsageError(f"there are several cellular links: {names}", "name the one that the plan is for")
    return f"link:{found[0].link.name}"
