"""The configuration file: what people have decided about this machine, in TOML.

[[app]]                       # a rule that names an app; the first one that fits a process wins
name = "Backup"
exe = "/usr/bin/restic"       # shell globs, in which * also matches /; those given must all fit:
# cgroup = "*/backup.service"
# comm = "restic"             # the command name, as ps shows it
# args = "*--repo sftp:*"     # all arguments, joined by one space each

[[quota]]                     # a quota, as `esimbpf quota add` takes it
name = "backup"
app = "Backup"                # or exe, cgroup, user; or all = true, then also except = ["ssh"]
limit = "1GB"
per = "day"                   # hour, day, week, month, cycle, once
do = "block"                  # notify, block, throttle:128kbit
# direction = "up"            # both, down, up
# link = "wwan0"
# profile = "8949020000001234567"
# when = "roaming"            # or home
# warn = [80, 95]             # percent of the limit

[[hook]]                      # a program that is run when something has happened; see esimbpf/hooks.py
command = ["/usr/local/bin/tell-me", "--quietly"]
events = ["quota.*", "plan.exhausted"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from esimbpf.apps import Rule
from esimbpf.errors import CannotError, UsageError
from esimbpf.fields import as_given, naming
from esimbpf.hooks import HOOKS_DIR, Hook, parse_hook, parse_hooks_dir, parse_unique
from esimbpf.quota import FIELDS, Quota, check_room, parse_quota
from esimbpf.text import printable
from esimbpf.trust import changeable

__all__ = ["DEFAULT_PATH", "Config", "parse", "read"]

DEFAULT_PATH: Final = Path("/etc/esimbpf/config.toml")

_LARGEST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """All that the file says."""

    apps: tuple[Rule, ...] = ()
    quotas: tuple[Quota, ...] = ()
    hooks: tuple[Hook, ...] = ()
    hooks_dir: Path = HOOKS_DIR


def read(path: Path | None = None) -> Config:
    """What the file says; without a path the default one, which need not exist.

    A file that anyone but root and the caller can change is refused, for what it says is done as root: its owner
    and permissions count, and those of all folders above it. Raises CannotError, and UsageError for its content.
    """
    try:
        with open(path or DEFAULT_PATH, "rb") as file:
            others_can = changeable(file.fileno(), path or DEFAULT_PATH)
            content = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        if path is None:
            return Config()
        raise CannotError(f"there is no configuration file {_shown(path)}", "check --config") from error
    except OSError as error:
        raise CannotError(
            f"cannot read the configuration file {_shown(path or DEFAULT_PATH)}: {error.strerror}",
            "check its permissions, or name another one with --config",
        ) from error
    path = path or DEFAULT_PATH
    if others_can:
        raise CannotError(
            f"the configuration file {_shown(path)} is not trusted: others than root can change {_shown(others_can)}",
            f"chown root {_shown(others_can)}; chmod go-w {_shown(others_can)}",
        )
    if len(content) > _LARGEST_BYTES:
        raise UsageError(f"the configuration file {_shown(path)} is larger than 1 MiB", "it holds rules, not data")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{_shown(path)} is not UTF-8 text", "TOML files are; see the README") from error
    with naming(f"{_shown(path)}:"):
        said = parse(text)
    return replace(said, quotas=tuple(replace(one, place=f"{one.place} of {_shown(path)}") for one in said.quotas))


def parse(text: str) -> Config:
    """The configuration in a TOML text; UsageError if it is none, or says what nobody understands."""
    try:
        content = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and what int() says of thousands of digits
        raise UsageError(f"this is not TOML: {printable(str(error))}", "see the README for an example") from error
    _only_known(content, frozenset({"app", "hook", "hooks_dir", "quota"}), "the file")
    hooks = [parse_hook(entry, f"[[hook]] number {number}") for number, entry in enumerate(_tables(content, "hook"), 1)]
    return Config(
        apps=tuple(_rule(entry, number) for number, entry in enumerate(_tables(content, "app"), 1)),
        quotas=_quotas(_tables(content, "quota")),
        hooks=parse_unique(hooks),
        hooks_dir=parse_hooks_dir(content["hooks_dir"]) if "hooks_dir" in content else HOOKS_DIR,
    )


def _tables(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    entries = content.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"`{key}` must be a list of tables", f"write each one under a line [[{key}]]")
    return entries


def _rule(entry: Mapping[str, Any], number: int) -> Rule:
    where = f"[[app]] number {number}"
    known = frozenset(field.name for field in fields(Rule))
    _only_known(entry, known, where)
    for key, value in entry.items():
        if not isinstance(value, str):
            raise UsageError(
                f"{key} of {where} is {as_given(value)}, and no text", f'write it in quotation marks: {key} = "…"'
            )
    with naming(f"{where}:"):
        return Rule(**({"name": ""} | dict(entry)))


def _quotas(entries: Sequence[Mapping[str, Any]]) -> tuple[Quota, ...]:
    places: dict[str, str] = {}
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"[[quota]] number {number}"
        _only_known(entry, FIELDS, where)
        with naming(f"{where}:"):
            quota = parse_quota(entry, where)
        if quota.name in places:
            raise UsageError(f"{where}: name {quota.name!r} is taken by {places[quota.name]}", "give another name")
        places[quota.name] = where
        found.append(quota)
    check_room(found)
    return tuple(found)


def _only_known(table: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where} has an unknown key: {printable(key)}", f"known are: {', '.join(sorted(known))}")


def _shown(path: Path) -> str:
    return printable(str(path))
