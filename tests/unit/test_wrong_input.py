"""Wrong input for every field that people write, on the command line and in the configuration.

Each is told with the field's name, what was given and what is allowed; a field that is missing here is an error of the
tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from esimbpf import config, quota
from esimbpf.apps import Rule
from esimbpf.cli import main
from esimbpf.cli.app import app
from esimbpf.errors import UsageError
from esimbpf.events import EventType

HOSTILE = "\x1b[2J"
SIZE = "500MB, 1.5GiB or 1200B"
SEEN = "characters that can be seen"
PERIODS = "hour, day, week, month, cycle, once"
DONE = "notify, block, or throttle:RATE"
RATE = "128kbit, 1Mbit or 200kB/s"
CYCLE = "monthly:15"
END = "cut, throttled:64kbit or billed:0.01EUR/MB"
USER = "an id from 0 to 4294967294"
QUOTED = "in quotation marks"

Wrong = Mapping[str, Sequence[tuple[Any, str]]]
"""By field, what is wrong for it, and a part of what is said to be allowed."""

QUOTA: Wrong = {
    "name": [("", SEEN), (HOSTILE, SEEN), (" x", "no space before"), ("x" * 65, "1 to 64"), ("saver", "another name")],
    "app": [("", SEEN), (HOSTILE, SEEN), ("x" * 256, "1 to 255")],
    "exe": [
        ("", SEEN),
        (HOSTILE, SEEN),
        ("curl", "/usr/bin/restic"),
        ("/", "/usr/bin/restic"),
        ("/a/", "/usr/bin/restic"),
    ],
    "cgroup": [
        ("", SEEN),
        (HOSTILE, SEEN),
        ("/", "backup.service"),
        ("x", "backup.service"),
        ("/../x", "backup.service"),
    ],
    "user": [("", USER), (HOSTILE, USER), ("no-such-user", USER), ("-1", USER), ("4294967295", USER), ("\u0663", USER)],
    "all": [],
    "except": [("", SEEN), (HOSTILE, SEEN)],
    "limit": [
        *((wrong, SIZE) for wrong in ("", HOSTILE, "much", "-1", "1XB", "1e9", "\u0663MB")),
        ("99999999PB", "at most 9223372036854775807 bytes"),
    ],
    "direction": [(wrong, "both, down, up") for wrong in ("", HOSTILE, "sideways", "Up")],
    "per": [(wrong, PERIODS) for wrong in ("", HOSTILE, "year", "Day")],
    "link": [("", SEEN), (HOSTILE, SEEN), ("a/b", "esimbpf links"), ("a b", "esimbpf links"), ("x" * 128, "1 to 127")],
    "profile": [(wrong, "its 18 to 20 digits") for wrong in ("", HOSTILE, " ", "8" * 17, "8" * 21, "x" * 19)],
    "when": [(wrong, "roaming, home") for wrong in ("", HOSTILE, "abroad")],
    "warn": [
        (wrong, "1 to 99, for example 80,95, or none") for wrong in ("", HOSTILE, "x", "0", "100", "80,,95", "8.5")
    ],
    "do": [
        *((wrong, DONE) for wrong in ("", HOSTILE, "explode", "block:1", "throttle")),
        *((wrong, RATE) for wrong in ("throttle:", "throttle:fast", "throttle:0kbit")),
        *((wrong, "8kbit to 100Gbit") for wrong in ("throttle:1bit", "throttle:1Tbit")),
    ],
}
SAID: Wrong = {"used": [(wrong, SIZE) for wrong in ("", HOSTILE, "some", "-1")]}
PLAN: Wrong = {
    "link": QUOTA["link"],
    "profile": QUOTA["profile"],
    "allowance": [
        *((wrong, SIZE) for wrong in ("", HOSTILE, "ten", "-1")),
        ("0", "more than 0"),
        ("99999999PB", "at most 9223372036854775807 bytes"),
    ],
    "cycle": [
        *(
            (wrong, CYCLE)
            for wrong in ("", HOSTILE, "weekly", "monthly", "monthly:", "monthly:x", "30d", "x:2026-11-01")
        ),
        *(
            (wrong, CYCLE)
            for wrong in ("monthly:+1", "monthly:1_0", "monthly:\u0663", "once:7", "once:d", "once:7d:x:y")
        ),
        *((wrong, "1 to 31") for wrong in ("monthly:0", "monthly:32")),
        *((wrong, "1 to 3660") for wrong in ("0d:2026-11-01", "once:3661d")),
        *((wrong, "2026-11-20") for wrong in ("30d:2026-13-01", "once:7d:x")),
        ("30d:1999-12-31", "2000 to 2200"),
    ],
    "used": SAID["used"],
    "then": [
        *((wrong, END) for wrong in ("", HOSTILE, "free", "cut:", "cut:1", "billed", "billed:", "billed:x/MB")),
        *(
            (wrong, END)
            for wrong in ("billed:-1EUR/MB", "billed:1EUR", "billed:nan/MB", "billed:1e9EUR/MB", "billed:1EUR/")
        ),
        *((wrong, RATE) for wrong in ("throttled:", "throttled:slowly")),
        *((wrong, "MB, GiB or 100MB") for wrong in ("billed:1EUR/XB", "billed:1EUR/0MB", f"billed:1EUR/{HOSTILE}")),
    ],
    "zone": [
        (wrong, "Europe/Berlin") for wrong in ("", HOSTILE, "Mars/Base", "../etc/passwd", "Europe", "/etc/localtime")
    ],
    "warn": [
        (wrong, "1 to 1000, for example 80,95, or none") for wrong in ("", HOSTILE, "x", "0", "1001", "80;95", "-1")
    ],
}
SAVER: Wrong = {"allow": QUOTA["app"], "link": QUOTA["link"], "when": QUOTA["when"]}

# Flags, and what the parser of the command line itself refuses, with the command's help for a hint.
FLAGS = {"quota add": ["all"], "plan set": ["rollover"], "saver on": ["allow-dns", "allow-dhcp", "allow-ntp"]}
COMMANDS = {"quota add": {**QUOTA, **SAID}, "plan set": PLAN, "saver on": SAVER}
GIVEN: Mapping[str, Mapping[str, str]] = {
    "quota add": {"name": "x", "app": "x", "limit": "1GB", "per": "day", "do": "block"},
    "plan set": {"link": "wwan0", "allowance": "1GB", "cycle": "monthly:1"},
    "saver on": {},
}
INSTEAD = {"exe": "app", "cgroup": "app", "user": "app", "except": "app", "profile": "link"}
"""Fields that exclude one that is given otherwise."""


Told = Callable[..., list[str]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """The two lines that a command says which must be refused, and keep nothing."""
    empty, state = tmp_path / "config.toml", tmp_path / "state"
    empty.touch()

    def run(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["esimbpf", "--config", str(empty), "--state-dir", str(state), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capsys.readouterr().err.splitlines()
        assert (ended.value.code, len(lines)) == (2, 2), lines
        assert all(line.isprintable() for line in lines)
        assert not state.exists()
        return lines

    return run


def line_of(command: str, field: str, wrong: str) -> list[str]:
    """The words of a command that is right but for one field."""
    given = dict(GIVEN[command])
    if field in INSTEAD and field in COMMANDS[command]:
        given.pop(INSTEAD[field], None)
    given[field] = wrong
    positional = {"quota add": "name", "plan set": "link"}.get(command)
    words = [given.pop(positional)] if positional in given else []
    return [
        *command.split(),
        *(f"--{name}={value}" for name, value in given.items()),
        *(["--all"] if field == "except" else []),
        *words,
    ]


def tells(line: str, wrong: str) -> bool:
    """Whether a line has what was given: the beginning of it, safe to print, and in quotation marks."""
    shown = "'" + wrong.replace("\x1b", "\\x1b")
    return (shown[:100] if len(shown) > 100 else shown + "'") in line.replace("\\\\", "\\")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_tried(command: str) -> None:
    found: Any = get_command(app)
    for word in command.split():
        found = found.commands[word]
    names = {option.lstrip("-") for parameter in found.params for option in parameter.opts[-1:]} - {"help"}
    names = {{"spared": "except", "everybody": "all"}.get(name, name) for name in names}
    assert names == COMMANDS[command].keys() | set(FLAGS[command])


@pytest.mark.parametrize(
    ("command", "field", "wrong", "allowed"),
    [
        (command, field, wrong, allowed)
        for command, tried in COMMANDS.items()
        for field, several in tried.items()
        for wrong, allowed in several
    ],
)
def test_a_wrong_option_is_told_with_its_name_what_was_given_and_what_is_allowed(
    command: str,
    field: str,
    wrong: str,
    allowed: str,
    told: Told,
) -> None:
    first, second = told(*line_of(command, field, wrong))
    assert field in first.removeprefix("esimbpf: ").partition("'")[0].split()
    assert tells(first, wrong)
    assert allowed in second


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, flags in FLAGS.items() for flag in flags])
def test_a_flag_with_a_value_is_told(command: str, flag: str, told: Told) -> None:
    words = [*command.split(), *(["x"] if command != "saver on" else []), f"--{flag}=yes"]
    first, second = told(*words)
    assert f"'--{flag}' does not take a value" in first
    assert second == f"  try: esimbpf {command} --help"


@pytest.mark.parametrize(
    ("words", "named", "allowed"),
    [
        ("quota add", "'NAME'", "esimbpf quota add --help"),
        ("quota add x --limit 1GB --per day --do block", "whom it is for", "app, exe, cgroup, user, all"),
        ("quota add x --app x --per day --do block", "limit", SIZE),
        ("quota add x --app x --limit 1GB --do block", "per", PERIODS),
        ("quota add x --app x --limit 1GB --per day", "do", DONE),
        ("plan set wwan0 --cycle monthly:1", "'--allowance'", "esimbpf plan set --help"),
        ("plan set wwan0 --allowance 1GB", "'--cycle'", "esimbpf plan set --help"),
    ],
)
def test_what_is_missing_is_told(
    words: str,
    named: str,
    allowed: str,
    told: Told,
) -> None:
    first, second = told(*words.split())
    assert "missing" in first.lower()
    assert named in first
    assert allowed in second


@pytest.mark.parametrize(
    ("words", "said", "allowed"),
    [
        ("quota add x --app y --user root --limit 1GB --per day --do block", "2 times: app, user", "one of: app, exe"),
        ("quota add x --app y --except z --limit 1GB --per day --do block", "except goes with all, and app", "leave"),
        ("quota add x --app y --limit 0 --per day --do notify", "limit '0' leaves nothing to notify", "do block"),
        ("plan set wwan0 --profile 8 --allowance 1GB --cycle monthly:1", "link 'wwan0' and profile '8'", "leave one"),
    ],
)
def test_fields_that_exclude_each_other_are_told(
    words: str,
    said: str,
    allowed: str,
    told: Told,
) -> None:
    first, second = told(*words.split())
    assert said in first
    assert allowed in second


# --- the configuration --------------------------------------------------------------------------------------------

TYPES = {
    "7": "7",
    "-1": "-1",
    "1.5": "1.5",
    "true": "true",
    "[]": "[]",
    "[7]": "[7]",
    '["x", 7]': "['x', 7]",
    "{x = 1}": "{x = 1}",
    "2026-11-01": "2026-11-01",
    "2026-11-01T12:00:00Z": "2026-11-01T12:00:00+00:00",
}
"""Values of types, as TOML has them, and as they are told."""

NAMES = "letters, digits and _ . @ + -"
EVENTS = ", ".join(EventType)
HOOK: Wrong = {
    "command": [("", "without a shell"), (HOSTILE, "without a shell")],
    "file": [("", NAMES), (HOSTILE, NAMES), ("../x", NAMES)],
    "name": [("", NAMES), (HOSTILE, NAMES), ("a b", NAMES), ("x" * 101, NAMES)],
    "events": [("", EVENTS), (HOSTILE, EVENTS)],
    "user": [("", 'user = "nobody"'), (HOSTILE, 'user = "nobody"')],
    "timeout_s": [("", "timeout_s = 30"), (HOSTILE, "timeout_s = 30"), ("30", "timeout_s = 30")],
}
APP: Wrong = {"name": [("", "printable"), (HOSTILE, "printable")], "exe": [], "cgroup": [], "comm": [], "args": []}
SECTIONS: Mapping[str, Wrong] = {"quota": QUOTA, "hook": HOOK, "app": APP}
COMPLETE: Mapping[str, Mapping[str, str]] = {
    "quota": {name: f'"{value}"' for name, value in GIVEN["quota add"].items()},
    "hook": {"command": '["/bin/true"]'},
    "app": {"name": '"x"', "exe": '"/x"'},
}
FITS = {
    ("quota", "user"): ["7"],
    ("quota", "limit"): ["7"],
    ("quota", "all"): ["true"],
    ("quota", "except"): ["[]"],
    ("quota", "warn"): ["[]", "[7]"],
    ("hook", "timeout_s"): ["7", "1.5"],
}
"""Of those, the types that are right."""


def in_toml(text: str) -> str:
    return '"' + text.replace("\x1b", "\\u001b") + '"'


def refused(section: str, field: str, value: str) -> UsageError:
    """What is said of a section that is right but for one field."""
    table = dict(COMPLETE[section])
    if section == "quota" and (field in INSTEAD or field == "all") and field != "profile":
        table.pop("app")
    if field == "except":
        table["all"] = "true"
    if (section, field) == ("hook", "file"):
        table.pop("command")
    table[field] = value
    with pytest.raises(UsageError) as wrong:
        config.parse(f"[[{section}]]\n" + "".join(f"{name} = {one}\n" for name, one in table.items()))
    assert (wrong.value.message + wrong.value.hint).isprintable()
    assert f"[[{section}]] number 1" in wrong.value.message
    return wrong.value


def test_every_field_of_the_configuration_is_tried() -> None:
    assert QUOTA.keys() == quota.FIELDS
    assert APP.keys() == {one.name for one in fields(Rule)}
    with pytest.raises(UsageError) as wrong:
        config.parse("[[hook]]\nx = 1\n")
    assert wrong.value.hint == f"known are: {', '.join(sorted(HOOK))}"


@pytest.mark.parametrize(
    ("section", "field", "wrong", "allowed"),
    [
        (section, field, wrong, allowed)
        for section, tried in SECTIONS.items()
        for field, several in tried.items()
        for wrong, allowed in several
    ],
)
def test_a_wrong_text_in_the_configuration_is_told_with_its_field_what_was_given_and_what_is_allowed(
    section: str, field: str, wrong: str, allowed: str
) -> None:
    error = refused(section, field, in_toml(wrong))
    assert field in error.message.partition("'")[0].replace(":", " ").split()
    assert tells(error.message, wrong)
    assert allowed in error.hint


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (section, field, value)
        for section, tried in SECTIONS.items()
        for field in tried
        for value in TYPES
        if value not in FITS.get((section, field), [])
    ],
)
def test_a_value_of_a_wrong_type_in_the_configuration_is_told_with_its_field_and_as_it_was_given(
    section: str, field: str, value: str
) -> None:
    error = refused(section, field, value)
    assert field in error.message.split()
    assert TYPES[value] in error.message
    assert error.hint


@pytest.mark.parametrize(
    "text", ["[[plan]]\nallowance = '1GB'\n", "[plan]\n", "[saver]\nallow = ['x']\n", "plan = 3\n", "saver = true\n"]
)
def test_what_the_command_line_alone_keeps_is_no_part_of_the_configuration(text: str) -> None:
    with pytest.raises(UsageError) as wrong:
        config.parse(text)
    assert wrong.value.message.startswith("the file has an unknown key: ")
    assert wrong.value.message.split()[-1] in ("plan", "saver")
    assert wrong.value.hint == "known are: app, hook, hooks_dir, quota"


def test_a_number_that_is_too_long_to_be_one_is_told() -> None:
    with pytest.raises(UsageError, match="this is not TOML"):
        config.parse(f"[[quota]]\nlimit = {'9' * 5000}\n")
