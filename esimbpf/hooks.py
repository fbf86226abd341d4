"""Which hooks there are: programs that are run when something has happened (esimbpf/events.py).

Executables in /etc/esimbpf/hooks.d, and in the configuration:

[[hook]]
command = ["/usr/local/bin/tell-me", "--quietly"]   # no shell: a program by its whole path, and its arguments
name = "tell-me"              # in the log; the program's own name if it is left out
events = ["quota.*", "plan.exhausted"]              # shell globs; all events if it is left out
user = "ann"                  # as whom it runs; nobody if it is left out
timeout_s = 10                # 30 if it is left out

[[hook]]
file = "freeze-app"           # of hooks.d: in the place of what is said above without a [[hook]]
events = ["quota.exceeded", "quota.reset"]
user = "root"
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from esimbpf.errors import CannotError, UsageError
from esimbpf.events import EventType
from esimbpf.fields import as_given
from esimbpf.text import printable
from esimbpf.trust import changeable

__all__ = [
    "HOOKS_DIR",
    "Hook",
    "account",
    "checked",
    "found",
    "parse_hook",
    "parse_hooks_dir",
    "parse_unique",
    "passed_over",
    "trusted_program",
    "why_not_run",
]

HOOKS_DIR: Final = Path("/etc/esimbpf/hooks.d")

DEFAULT_USER: Final = "nobody"
DEFAULT_TIMEOUT_S: Final = 30.0
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 600.0

_KEYS: Final = frozenset({"command", "file", "name", "events", "user", "timeout_s"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,99}")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?")
_IN_FOLDER: Final = "hooks.d/"
"""What the names of hooks in the folder begin with, so that they are not mistaken for those of commands."""

# What packages and editors leave beside a file (run-parts(8), rpm(8)).
_LEFTOVERS: Final = ("~", ".bak", ".swp", ".dpkg-dist", ".dpkg-new", ".dpkg-old", ".rpmnew", ".rpmorig", ".rpmsave")


@dataclass(frozen=True, slots=True)
class Hook:
    """A program, and when and how it is run."""

    name: str
    """`NAME` of a command, `hooks.d/NAME` of a file."""
    command: tuple[str, ...] = ()
    """Empty for what the configuration says of a file in hooks.d."""
    events: tuple[str, ...] = ("*",)
    user: str = DEFAULT_USER
    timeout_s: float = DEFAULT_TIMEOUT_S

    def wants(self, kind: EventType) -> bool:
        """Whether it is run on events of this type."""
        return any(fnmatchcase(kind.value, pattern) for pattern in self.events)


def parse_hook(entry: Mapping[str, Any], where: str) -> Hook:
    """The hook that a table of the configuration describes; UsageError names the field, what was given and allowed."""
    for key in entry:
        if key not in _KEYS:
            raise UsageError(f"{where} has an unknown key: {printable(key)}", f"known are: {', '.join(sorted(_KEYS))}")
    if ("command" in entry) == ("file" in entry):
        given = "both" if "file" in entry else "neither"
        raise UsageError(
            f"{where} must have one of command and file, and has {given}",
            'command = ["/path/of/program"] is a hook of its own; file = "NAME" is about one in hooks.d',
        )
    settings: dict[str, Any] = {}
    if "command" in entry:
        settings["command"] = _command(entry["command"], where)
        settings["name"] = _name(entry.get("name", Path(settings["command"][0]).name), where, "name")
    else:
        if "name" in entry:
            raise UsageError(f"name of {where} is not for a file", "a file in hooks.d is known by its own name")
        settings["name"] = _IN_FOLDER + _name(entry["file"], where, "file")
    if "events" in entry:
        settings["events"] = _events(entry["events"], where)
    if "user" in entry:
        settings["user"] = _user(entry["user"], where)
    if "timeout_s" in entry:
        settings["timeout_s"] = _timeout_s(entry["timeout_s"], where)
    return Hook(**settings)


def parse_unique(hooks: Sequence[Hook]) -> tuple[Hook, ...]:
    """The hooks; UsageError if two of them have one name, by which it is remembered what each has been told."""
    seen: set[str] = set()
    for number, hook in enumerate(hooks, 1):
        if hook.name in seen:
            raise UsageError(
                f"name of [[hook]] number {number} is {hook.name!r}, as that of one before it",
                'give each a name of its own: name = "…"; a file in hooks.d has one [[hook]]',
            )
        seen.add(hook.name)
    return tuple(hooks)


def parse_hooks_dir(value: object) -> Path:
    """The folder in the place of /etc/esimbpf/hooks.d; UsageError if it is no whole path."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise UsageError(
            f"hooks_dir is {as_given(value)}, and no whole path", f'for example: hooks_dir = "{HOOKS_DIR}"'
        )
    return Path(value)


def found(configured: Sequence[Hook], folder: Path) -> list[Hook]:
    """The hooks of the configuration and of the folder, by name; whether they may be run is another matter.

    A file that the configuration names and that is not in the folder is among them. Raises CannotError if there is a
    folder that cannot be read.
    """
    by_name = {hook.name: hook for hook in configured}
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise CannotError(
            f"cannot read the folder of hooks {printable(str(folder))}: {error.strerror}", "check hooks_dir"
        ) from error
    paths = {_IN_FOLDER + printable(name): folder / name for name in names if _is_hook(name)}
    for name in paths.keys() | {hook.name for hook in configured if not hook.command}:
        path = paths.get(name, folder / name.removeprefix(_IN_FOLDER))
        by_name[name] = replace(by_name.get(name, Hook(name)), command=(str(path),))
    return [by_name[name] for name in sorted(by_name)]


def passed_over(folder: Path) -> list[str]:
    """The files of the folder that are no hooks, for they look like what packages and editors leave behind."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [printable(name) for name in names if not _is_hook(name)]


def _is_hook(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(_LEFTOVERS)


def checked(hook: Hook) -> str:
    """The path by which a hook's program can be run now, without symbolic links; CannotError if it must not be run.

    Nobody but root (or the caller) can change what the path leads to: see esimbpf.trust.
    """
    account(hook.user)
    return trusted_program(hook.command[0])


def why_not_run(hook: Hook) -> tuple[str, str] | None:
    """Why a hook would not be run as things are, and how to mend it; None if it would, as far as this user can see."""
    try:
        path, entry = checked(hook), account(hook.user)
    except CannotError as error:
        return error.message, error.hint
    if os.geteuid() == 0 and not _may_run(path, entry):
        shown = printable(path)
        return (
            f"{hook.user} may not run {shown}",
            f"chmod a+rx {shown}, let {hook.user} enter the folders above it, or name another user: user = …",
        )
    return None


def _may_run(path: str, entry: pwd.struct_passwd) -> bool:
    """Whether the kernel lets an account run a file, and read it if it is a script; only root can ask."""
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    try:
        with open(path, "rb") as file:
            is_script = file.read(2) == b"#!"
        asked = ("test", "-x", path, *(("-a", "-r", path) if is_script else ()))
        done = subprocess.run(asked, user=entry.pw_uid, group=entry.pw_gid, extra_groups=groups, check=False)
    except OSError:
        # Some of root's rights were taken away: it shows when the hook is run.
        return True
    return done.returncode == 0


def trusted_program(program: str) -> str:
    """`checked`, of a program alone."""
    path, shown = Path(program), printable(program)
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CannotError(f"there is no {shown}", "put it there, or take the hook away") from error
    except OSError as error:
        raise CannotError(f"cannot open {shown}: {error.strerror}", "check the path") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CannotError(f"{shown} is no file", "a hook is a program")
        if not status.st_mode & 0o111:
            raise CannotError(f"{shown} is not executable", f"chmod a+rx {shown}")
        others_can = changeable(descriptor, path)
    except OSError as error:
        raise CannotError(f"cannot check {shown}: {error.strerror}", "check the path") from error
    finally:
        os.close(descriptor)
    if others_can:
        place = printable(str(others_can))
        raise CannotError(
            f"{shown} is not trusted: others than root can change {place}", f"chown root {place}; chmod go-w {place}"
        )
    return str(path.resolve())


def account(user: str) -> pwd.struct_passwd:
    """The account as which a hook is run; CannotError if there is none."""
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise CannotError(f"there is no user {printable(user)}", "name one that there is: user = …") from error


# -- fields ----------------------------------------------------------------------------------------------------


def _command(value: object, where: str) -> tuple[str, ...]:
    words = value if isinstance(value, list) else []
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise UsageError(
            f"command of {where} is {as_given(value)}, and no list of words",
            'the program and its arguments, without a shell: command = ["/usr/local/bin/tell-me", "--quietly"]',
        )
    if not words[0].startswith("/"):
        raise UsageError(
            f"command of {where} begins with {as_given(words[0])}, and not with a whole path",
            'for example: command = ["/usr/local/bin/tell-me"]',
        )
    return tuple(words)


def _name(value: object, where: str, key: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UsageError(
            f"{key} of {where} is {as_given(value)}, and no usable name",
            "up to 100 letters, digits and _ . @ + -, the first one a letter or digit",
        )
    return value


def _events(value: object, where: str) -> tuple[str, ...]:
    allowed = f"the events are {', '.join(EventType)}; * stands for anything"
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UsageError(f"events of {where} is {as_given(value)}, and no list of events", allowed)
    for pattern in value:
        if not any(fnmatchcase(kind.value, pattern) for kind in EventType):
            raise UsageError(f"events of {where} has {as_given(pattern)}, which no event fits", allowed)
    return tuple(value)


def _user(value: object, where: str) -> str:
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise UsageError(
            f"user of {where} is {as_given(value)}, and no user's name",
            f'one that `getent passwd` has, for example: user = "{DEFAULT_USER}"',
        )
    return value


def _timeout_s(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _SHORTEST_S <= value <= _LONGEST_S:
        raise UsageError(
            f"timeout_s of {where} is {as_given(value)}, and no number of seconds "
            f"from {_SHORTEST_S:g} to {_LONGEST_S:g}",
            f"for example: timeout_s = {DEFAULT_TIMEOUT_S:g}",
        )
    return float(value)
