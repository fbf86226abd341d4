"""`esimbpf quota`: how much somebody may use, and what then happens."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from esimbpf import config
from esimbpf.cli.options import Common
from esimbpf.cli.report import open_ledger
from esimbpf.errors import EsimbpfError, UsageError
from esimbpf.exclusive import holder
from esimbpf.fields import naming
from esimbpf.ledger import quotas
from esimbpf.ledger.database import FILE_NAME, connect, empty, said, transaction
from esimbpf.quota import App, Exe, Quota, QuotaPer, Standing, parse_duration, parse_quota
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


@quota.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.", show_default=False)],
    app: Annotated[
        str | None, typer.Option(metavar="APP", help="For an app, by the name that top shows.", show_default=False)
    ] = None,
    exe: Annotated[str | None, typer.Option(metavar="PATH", help="For an executable file.", show_default=False)] = None,
    cgroup: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="For a cgroup and all below it, or a systemd unit.", show_default=False),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="For a user, by name or id.", show_default=False)
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", metavar="", help="For all that crosses.")] = False,
    spared: Annotated[
        list[str] | None,
        typer.Option("--except", metavar="APP", help="With --all: but for this app. Repeatable.", show_default=False),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="For each period: 500MB, 1.5GiB. With block, 0 too.", show_default=False),
    ] = None,
    direction: Annotated[str, typer.Option(metavar="both|down|up", help="Which bytes count.")] = "both",
    per: Annotated[
        str | None,
        typer.Option(
            metavar="hour|day|week|month|cycle|once",
            help="The period, in the zone of the link's plan or of this machine. cycle: the plan's; once: for ever.",
            show_default=False,
        ),
    ] = None,
    link: Annotated[
        str | None, typer.Option(metavar="LINK", help="Only on this link.", show_default="every link")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="ICCID", help="Only with this SIM profile.", show_default="every profile")
    ] = None,
    when: Annotated[
        str | None, typer.Option(metavar="roaming|home", help="Only there.", show_default="everywhere")
    ] = None,
    warn: Annotated[str, typer.Option(metavar="PERCENT,…|none", help="Levels at which to warn.")] = "80,95",
    do: Annotated[
        str | None,
        typer.Option(metavar="notify|block|throttle:RATE", help="What happens at the limit.", show_default=False),
    ] = None,
    used: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What was used of this period by now.",
            show_default="what was counted of it for an app, a user or all; else 0",
        ),
    ] = None,
) -> None:
    """Add a quota.

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
    fields = {
        "name": name,
        "app": app,
        "exe": exe,
        "cgroup": cgroup,
        "user": user,
        "all": everybody,
        "except": spared or None,
        "limit": limit,
        "direction": direction,
        "per": per,
        "link": link,
        "profile": profile,
        "when": when,
        "warn": warn,
        "do": do,
    }
    new = parse_quota(fields)
    said_bytes = _used(used)
    configured = config.read(common.config).quotas
    for one in configured:
        if one.name == new.name:
            raise UsageError(f"name {name!r} is taken: {one.place}", "give another name, or change it there")
    now, zone = datetime.now(UTC), local_zone()
    with written(common) as db:
        # With what the kernel has counted and nobody has folded yet.
        with _ledger(common) as read:
            kept = quotas.added(read, new, now, said_bytes, zone)
            seen = not isinstance(new.whom, App) or quotas.app_seen(read, new.whom.name)
        quotas.keep(db, kept, configured)
    with _ledger(common) as read:
        [told] = [one for one in quotas.standings(read, configured, now, zone) if one.kept.quota.name == new.name]
    _say_added(told, used is not None)
    if isinstance(new.whom, App) and not seen:
        _note(f"no app {new.whom.name!r} was counted yet; esimbpf report shows the names")
    if isinstance(new.whom, Exe) and not Path(new.whom.path).exists():
        _note(f"there is no file {new.whom.path}")
    reach_daemon(common.state_dir)


def _used(text: str | None) -> int | None:
    if text is None:
        return None
    with naming("used"):
        return parse_size(text)


def _say_added(told: Standing, was_said: bool) -> None:
    from esimbpf.sinks.quota import quota_sentence, used_sentence

    sentence = used_sentence(told)
    if told.period and not was_said:
        known = quotas.ledger_knows(told.kept.quota) and told.kept.quota.per is not QuotaPer.ONCE
        sentence = f"{sentence[:-1]}, {'as was counted' if known else 'counted from now on'}."
    print(f"{quota_sentence(told.kept.quota)}. {sentence}")


@quota.command("list")
def list_quotas(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print JSON lines, one for each quota.")] = False,
    units: UnitsOption = Units.SI,
) -> None:
    """Show all quotas, of the configuration and of the command line: used, left, when they begin anew."""
    from rich.console import Console

    from esimbpf.sinks.quota import quotas_table, saver_sentence

    common: Common = context.obj
    with _standings(common) as (db, told, overruled):
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
    units: UnitsOption = Units.SI,
) -> None:
    """Show all about one quota."""
    from rich.console import Console

    from esimbpf.sinks.quota import quota_screen

    common: Common = context.obj
    with _standings(common) as (_, all_told, overruled):
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
def _ledger(common: Common) -> Iterator[sqlite3.Connection]:
    """What is known, for reading; where there is no ledger, nothing is."""
    path = common.state_dir / FILE_NAME
    with said(path):
        there = path.exists()
    with open_ledger(common) if there else closing(empty()) as db:
        yield db


@contextmanager
def _standings(common: Common) -> Iterator[tuple[sqlite3.Connection, list[Standing], Mapping[str, str]]]:
    """How all quotas stand, and what is to be said of those that are overruled."""
    configured = config.read(common.config).quotas
    with _ledger(common) as db:
        told = quotas.standings(db, configured, datetime.now(UTC), local_zone())
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
    path = common.state_dir / FILE_NAME
    with said(path):
        if not path.exists():
            # No ledger is made for what is not there.
            for name in names:
                if name not in {one.name for one in configured}:
                    raise quotas.unknown(name)
    with written(common) as db, transaction(db):
        yield db, configured


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
