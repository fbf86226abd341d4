"""The commands and the options before them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esimbpf import __version__
from esimbpf.cli.attach import attach, detach, status
from esimbpf.cli.daemon import daemon
from esimbpf.cli.demo import demo
from esimbpf.cli.doctor import doctor
from esimbpf.cli.hook import hook
from esimbpf.cli.links import links
from esimbpf.cli.options import Common, EngineName
from esimbpf.cli.plan import plan
from esimbpf.cli.profiles import profiles
from esimbpf.cli.quota import quota
from esimbpf.cli.report import report
from esimbpf.cli.run import run
from esimbpf.cli.saver import saver
from esimbpf.cli.top import top
from esimbpf.cli.watch import watch
from esimbpf.config import DEFAULT_PATH
from esimbpf.errors import UsageError
from esimbpf.ledger.database import DEFAULT_STATE_DIR

app = typer.Typer(
    name="esimbpf",
    help="Who used my data? Counts, in the kernel, what every process moves over a cellular link.",
    epilog="With no LINK, every cellular link found is counted. Try it without a modem: sudo esimbpf demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"esimbpf {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    netns: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Work in this network namespace (a name of `ip netns`, or a path)."),
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="How the programs get into the kernel.")] = EngineName.AUTO,
    cgroup: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Attribute only processes below this cgroup v2 directory."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Rules that name apps, in TOML. Default: {DEFAULT_PATH}, if it is there.",
            show_default=False,
        ),
    ] = None,
    state_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the daemon keeps the ledger.")
    ] = DEFAULT_STATE_DIR,
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and end."),
    ] = False,
) -> None:
    """Remember the options that stand before the command."""
    command: tuple[str, ...] = context.obj or ()
    if command and context.invoked_subcommand != "run":
        raise UsageError("only `run` takes a command behind --", "for example: esimbpf run -- curl -O …")
    context.obj = Common(netns, engine, cgroup, config, state_dir, command)
    if netns is not None:
        from esimbpf.kernel.netns import enter

        enter(netns)


app.command()(top)
app.command()(watch)
app.command()(run)
app.command()(links)
app.command()(attach)
app.command()(detach)
app.command()(status)
app.command()(daemon)
app.command()(report)
app.add_typer(plan, name="plan")
app.add_typer(profiles, name="profiles")
app.add_typer(quota, name="quota")
app.add_typer(saver, name="saver")
app.add_typer(hook, name="hook")
app.command()(demo)
app.command()(doctor)
