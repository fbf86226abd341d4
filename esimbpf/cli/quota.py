"""`esimbpf quota`: how much somebody may use, and what then happens."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from esimbpf import config
from esimbpf.apps import is_container
from esimbpf.cli.options import Common, ShowIds
from esimbpf.cli.profiles import chosen_profile
from esimbpf.cli.report import ledger_if_any
from esimbpf.errors import EsimbpfError, UsageError
from esimbpf.exclusive import holder
from esimbpf.fields import naming
from esimbpf.ledger import profiles, quotas
from esimbpf.ledger.database import FILE_NAME, connect, said, transaction
from esimbpf.profiles import ProfileNames
from esimbpf.quota import (
    FIELDS,
    App,
    Exe,
    Kept,
    Quota,
    QuotaPer,
    Standing,
    parse_duration,
    parse_quota,
    with_changes,
)
from esimbpf.spans import local_zone
from esimbpf.text import printable
from esimbpf.units import Units, parse_size

__all__ = ["quota", "reach_daemon", "say_without_daemon", "written"]

quota = typer.Typer(
    no_args_is_help=True,
    help="Quotas: how much an app, a user or everybody may use, and what happens then.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UNTIL_RESET = "until-reset"

Names = Annotated[list[str], typer.Argument(metavar="NAME…", help="The quotas.", show_default=False)]
UnitsOption = Annotated[Units, typer.Option("--units", help="Decimal or binary prefixes.")]


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What it is called.", show_default=False)]
AppOption = Annotated[
    str | None, typer.Option(metavar="APP", help="For an app, by the name that top shows.", show_default=False)
]
ExeOption = Annotated[str | None, typer.Option(metavar="PATH", help="For an executable file.", show_default=False)]
CgroupOption = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="For a cgroup and all below it, or a systemd unit.", show_default=False),
]
UserOption = Annotated[str | None, typer.Option(metavar="USER", help="For a user, by name or id.", show_default=False)]
AllOption = Annotated[bool, typer.Option("--all", metavar="", help="For all that crosses.")]
ExceptOption = Annotated[
    list[str] | None,
    typer.Option("--except", metavar="APP", help="With --all: but for this app. Repeatable.", show_default=False),
]
LimitOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="For each period: 500MB, 1.5GiB. With block, 0 too.", show_default=False),
]
DirectionOption = Annotated[
    str | None, typer.Option(metavar="both|down|up", help="Which bytes count.", show_default=False)
]
PerOption = Annotated[
    str | None,
    typer.Option(
        metavar="hour|day|week|month|cycle|once",
        help="The period, in the zone of the link's plan or of this machine. cycle: the plan's; once: for ever.",
        show_default=False,
    ),
]
LinkOption = Annotated[str | None, typer.Option(metavar="LINK", help="Only on this link.", show_default=False)]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="PROFILE", help="Only with this SIM profile: its ICCID, label or last digits.", show_default=False
    ),
]
WhenOption = Annotated[str | None, typer.Option(metavar="roaming|home", help="Only there.", show_default=False)]
WarnOption = Annotated[
    str | None, typer.Option(metavar="PERCENT,…|none", help="Levels at which to warn.", show_default=False)
]
DoOption = Annotated[
    str | None,
    typer.Option(metavar="notify|block|throttle:RATE", help="What happens at the limit.", show_default=False),
]
UsedOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="What was used of this period by now.", show_default=False)
]


@quota.command("add")
def add(
    context: typer.Context,
    name: NameArgument,
    app: AppOption = None,
    exe: ExeOption = None,
    cgroup: CgroupOption = None,
    user: UserOption = None,
    everybody: AllOption = False,
    spared: ExceptOption = None,
    limit: LimitOption = None,
    direction: DirectionOption = None,
    per: PerOption = None,
    link: LinkOption = None,
    profile: ProfileOption = None,
    when: WhenOption = None,
    warn: WarnOption = None,
    do: DoOption = None,
    used: UsedOption = None,
) -> None:
    """Add a quota. If nothing else is said, it counts both directions, holds everywhere, and warns at 80 and 95 %.

    What was already used in the running period counts as far as the ledger knows
    it: for an app, a user and all; not for an executable or a cgroup, and not
    with --per once. --used says otherwise.

    [dim]1 GB a day for the backup:[/dim]
    esimbpf quota add backup --app restic --limit 1GB --per day --do block
    [dim]Slowly abroad, from 200 MB a day on:[/dim]
    esimbpf quota add abroad --all --limit 200MB --per day --when roaming
        --do throttle:128kbit
    """
    common: Common = context.obj
    new = parse_quota({**_given(context), "name": name})
    said_bytes = _used(used)
    configured = config.read(common.config).quotas
    for one in configured:
        if one.name == new.name:
            raise UsageError(f"name {name!r} is taken: {one.place}", "give another name, or change it there")
    now, zone = datetime.now(UTC), local_zone()
    with written(common) as db:
        # With what the kernel has counted and nobody has folded yet.
        with ledger_if_any(common) as read:
            kept = quotas.added(read, new, now, said_bytes, zone)
        quotas.keep(db, kept, configured)
    _say_what_holds(common, kept, "" if used is not None else _how_counted(new))


@quota.command("set")
def change(
    context: typer.Context,
    name: NameArgument,
    app: AppOption = None,
    exe: ExeOption = None,
    cgroup: CgroupOption = None,
    user: UserOption = None,
    everybody: AllOption = False,
    spared: ExceptOption = None,
    limit: LimitOption = None,
    direction: DirectionOption = None,
    per: PerOption = None,
    link: LinkOption = None,
    profile: ProfileOption = None,
    when: WhenOption = None,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", metavar="", help="Without --link, --profile and --when as they were.")
    ] = False,
    warn: WarnOption = None,
    do: DoOption = None,
    used: UsedOption = None,
) -> None:
    """Change a quota in one step: what is given is new, all else stays.

    The old limit holds until the new one does. What was used of the running period
    stays, and so does what was told of it, when only --limit, --do or --warn is
    new. When another thing is, or --used is given, it counts like one that is
    added now. One that is paused stays so.

    [dim]500 MB more today:[/dim] esimbpf quota set backup --limit 1.5GB
    """
    common: Common = context.obj
    changes = _given(context)
    if not changes and used is None and not anywhere:
        raise UsageError("nothing is given that is to change", "for example: --limit 2GB; see esimbpf quota set --help")
    if anywhere:
        changes = {"link": None, "profile": None, "when": None, **changes}
    said_bytes = _used(used)
    configured = config.read(common.config).quotas
    _see_that_there_are(common, [name], configured)
    now, zone = datetime.now(UTC), local_zone()
    with written(common) as db:
        [old] = quotas.chosen(db, [name], configured, now, zone)
        if old.kept.quota.place:
            raise quotas.of_configuration(old.kept.quota, "change it there")
        new = with_changes(old.kept.quota, changes)
        with ledger_if_any(common) as read:
            kept = quotas.changed(read, old.kept, new, now, said_bytes, zone)
        quotas.put(db, old.kept, kept, configured)
    stays = "" if used is not None else _how_counted(new) if kept.key != old.kept.key else "as before"
    _say_what_holds(common, kept, stays)


def _given(context: typer.Context) -> dict[str, Any]:
    """The fields of a quota whose options were given, as they were."""
    options = context.params | {"all": context.params["everybody"], "except": context.params["spared"]}
    if options["profile"] is not None:
        options["profile"] = chosen_profile(context.obj, options["profile"])
    return {field: options[field] for field in FIELDS - {"name"} if options[field] not in (None, False, ())}


def _used(text: str | None) -> int | None:
    if text is None:
        return None
    with naming("used"):
        return parse_size(text)


def _how_counted(new: Quota) -> str:
    known = quotas.ledger_knows(new) and new.per is not QuotaPer.ONCE
    return "as was counted" if known else "counted from now on"


def _say_what_holds(common: Common, kept: Kept, how: str) -> None:
    """Say what was agreed, how much of it is used, how that is known, and what is odd; have the daemon look at it."""
    from esimbpf.sinks.quota import named, quota_sentence, used_sentence

    whom = kept.quota.whom
    with ledger_if_any(common) as db:
        told = quotas.standing(db, kept, datetime.now(UTC), local_zone())
        about = named(kept.quota, ProfileNames(profiles.known(db)).named)
        seen = not isinstance(whom, App) or quotas.app_seen(db, whom.name)
    sentence = used_sentence(told)
    if told.period and how:
        sentence = f"{sentence[:-1]}, {how}."
    held = f" It is {told.state}." if told.held else ""
    print(f"{quota_sentence(about)}. {sentence}{held}")
    if isinstance(whom, App) and not seen:
        _note(f"no app {whom.name!r} was counted yet; esimbpf report shows the names")
        if is_container(whom.name):
            _note("a container with a network of its own counts as forwarded, which only a quota for --all sees")
    if isinstance(whom, Exe) and not Path(whom.path).exists():
        _note(f"there is no file {whom.path}")
    reach_daemon(common.state_dir)


@quota.command("list")
def list_quotas(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON lines, one for each quota.")] = False,
    show_ids: ShowIds = False,
    units: UnitsOption = Units.SI,
) -> None:
    """Show all quotas, of the configuration and of the command line: used, left, when they begin anew."""
    from rich.console import Console

    from esimbpf.sinks.quota import quotas_table, saver_sentence

    common: Common = context.obj
    with _standings(common, show_ids, as_json) as (db, told, overruled):
        saver = quotas.saver(db)
    for words in overruled.values():
        _note(words)
    if as_json:
        _print_json(told)
        return
    console = Console(highlight=False)
    if told:
        console.print(quotas_table(told, console.width, units, _ascii_only(console.encoding)))
    else:
        _note("there is no quota; see esimbpf quota add --help")
    if saver:
        console.print(saver_sentence(saver), markup=False)
    if told or saver:
        say_without_daemon(common.state_dir)


@quota.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The quota.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False,
    show_ids: ShowIds = False,
    units: UnitsOption = Units.SI,
) -> None:
    """Show all about one quota."""
    from rich.console import Console

    from esimbpf.sinks.quota import quota_screen

    common: Common = context.obj
    with _standings(common, show_ids, as_json) as (_, all_told, overruled):
        told = [one for one in all_told if one.kept.quota.name == name]
    if not told:
        raise quotas.unknown(name)
    if name in overruled:
        _note(overruled[name])
    if as_json:
        _print_json(told)
        return
    console = Console(highlight=False)
    console.print(quota_screen(told[0], units, _ascii_only(console.encoding)))
    say_without_daemon(common.state_dir)


@quota.command("remove")
def remove(context: typer.Context, names: Names) -> None:
    """Forget quotas; what was counted stays."""
    common: Common = context.obj
    with _changed(common, names) as (db, configured):
        quotas.remove(db, names, configured)
    _done("removed", names)
    reach_daemon(common.state_dir)


@quota.command("pause")
def pause(context: typer.Context, names: Names) -> None:
    """Let quotas count, and do nothing else, until they are resumed: nothing is blocked, throttled or told."""
    common: Common = context.obj
    with _changed(common, names) as (db, configured):
        for one in quotas.chosen(db, names, configured, datetime.now(UTC), local_zone()):
            quotas.hold(db, one.kept, None)
    _done("paused", names)
    reach_daemon(common.state_dir)


@quota.command("resume")
def resume(context: typer.Context, names: Names) -> None:
    """End what `pause` or `snooze` has begun."""
    common: Common = context.obj
    with _changed(common, names) as (db, configured):
        for one in quotas.chosen(db, names, configured, datetime.now(UTC), local_zone()):
            quotas.resume(db, one.kept)
    _done("resumed", names)
    reach_daemon(common.state_dir)


@quota.command("snooze")
def snooze(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The quota.", show_default=False)],
    how_long: Annotated[str, typer.Argument(metavar="30m|2h|1d|until-reset", help="For how long.", show_default=False)],
) -> None:
    """Pause a quota for some time, or until its next period begins. The limit stays, and what is used counts."""
    common: Common = context.obj
    now, zone = datetime.now(UTC), local_zone()
    duration = None if how_long == _UNTIL_RESET else parse_duration(how_long)
    with _changed(common, [name]) as (db, configured):
        [one] = quotas.chosen(db, [name], configured, now, zone)
        until = now + duration if duration else one.resets
        if until is None:
            raise UsageError(
                f"the quota {name!r} does not begin anew, as far as is known", "give a duration, or pause it"
            )
        quotas.hold(db, one.kept, until)
    print(f"snoozed until {until.astimezone(one.zone):%a %Y-%m-%d %H:%M}: {name}", file=sys.stderr)
    reach_daemon(common.state_dir)


def _print_json(told: Sequence[Standing]) -> None:
    import orjson

    from esimbpf.sinks.quota import quota_fields

    for one in told:
        sys.stdout.buffer.write(orjson.dumps(quota_fields(one), option=orjson.OPT_APPEND_NEWLINE))


def _ascii_only(encoding: str) -> bool:
    return not encoding.lower().startswith("utf")


def _done(what: str, names: Sequence[str]) -> None:
    print(f"{what}: {', '.join(dict.fromkeys(names))}", file=sys.stderr)


def _note(text: str) -> None:
    print(f"esimbpf: {text}", file=sys.stderr)


# -- the state folder --------------------------------------------------------------------


@contextmanager
def _standings(
    common: Common, show_ids: bool, as_json: bool
) -> Iterator[tuple[sqlite3.Connection, list[Standing], Mapping[str, str]]]:
    """How all quotas stand, with their profiles as they are shown, and what is to be said of those that are
    overruled."""
    from esimbpf.sinks.quota import named

    configured = config.read(common.config).quotas
    with ledger_if_any(common) as db:
        names = ProfileNames(profiles.known(db), show_ids)
        told = [
            replace(one, kept=replace(one.kept, quota=named(one.kept.quota, names.number if as_json else names.named)))
            for one in quotas.standings(db, configured, datetime.now(UTC), local_zone())
        ]
        yield db, told, quotas.overruled(db, configured)


@contextmanager
def written(common: Common) -> Iterator[sqlite3.Connection]:
    """The ledger, for writing, made if need be. Raises LedgerError."""
    with said(common.state_dir / FILE_NAME), closing(connect(common.state_dir)) as db:
        yield db


@contextmanager
def _changed(common: Common, names: Sequence[str]) -> Iterator[tuple[sqlite3.Connection, Sequence[Quota]]]:
    """The ledger, in which all that is done happens or none of it, and the quotas of the configuration."""
    configured = config.read(common.config).quotas
    _see_that_there_are(common, names, configured)
    with written(common) as db, transaction(db):
        yield db, configured


def _see_that_there_are(common: Common, names: Sequence[str], configured: Sequence[Quota]) -> None:
    """Raises CannotError if there is no ledger, and none is to be made for what is not there."""
    path = common.state_dir / FILE_NAME
    with said(path):
        if path.exists():
            return
    for name in names:
        if name not in {one.name for one in configured}:
            raise quotas.unknown(name)


def reach_daemon(state_dir: Path) -> None:
    """Let the daemon of a state folder look at once what has changed; say so if there is none."""
    keeper = holder(state_dir)
    if keeper is None:
        _note(_without_daemon(state_dir, changed=True))
    elif keeper.pid and _catches_hangup(keeper.pid):
        with suppress(OSError):
            os.kill(keeper.pid, signal.SIGHUP)


def say_without_daemon(state_dir: Path) -> None:
    """Say what holds if a state folder has no daemon."""
    if holder(state_dir) is None:
        _note(_without_daemon(state_dir))


def _without_daemon(state_dir: Path, changed: bool = False) -> str:
    """What holds while a state folder has no daemon: what the kernel was told last, whatever has `changed` since."""
    from esimbpf.kernel import pins

    kept_in = ""
    try:
        kept_in = pins.About.of(pins.place()).state_dir
    except FileNotFoundError:
        if not pins.foreign():
            return "no daemon is at work, and nothing is attached: nothing enforces quotas before `esimbpf daemon` runs"
    except EsimbpfError:
        # It is not for this user to see, or of a version that is not understood: there it is.
        pass
    if kept_in and Path(kept_in) != state_dir.absolute():
        here, there = printable(str(state_dir)), printable(kept_in)
        return f"no daemon is at work for {here}: nothing of it is enforced; what is attached belongs to {there}"
    stays = "what is enforced stays as esimbpf status tells"
    if changed:
        return (
            f"no daemon is at work: {stays}, without this change, until `esimbpf daemon` runs; "
            "esimbpf detach ends all of it"
        )
    return f"no daemon is at work: {stays} until `esimbpf daemon` runs"


def _catches_hangup(pid: int) -> bool:
    """Whether SIGHUP does not end a process: other commands hold the folder, too, while they work (proc(5), SigCgt)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGHUP - 1))
