"""Which hooks there are, who may be run, and what wrong input is told."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from esimbpf import config, hooks
from esimbpf.errors import CannotError, UsageError
from esimbpf.events import EventType
from esimbpf.hooks import HOOKS_DIR, Hook, found, passed_over, trusted_program, why_not_run

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "hooks.d"
    made.mkdir()
    tmp_path.chmod(0o755)
    made.chmod(0o755)
    return made


def program(path: Path, mode: int = 0o755) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_command_is_read_with_all_that_is_said_of_it() -> None:
    told = config.parse(
        """
        hooks_dir = "/srv/hooks"
        [[hook]]
        command = ["/usr/bin/logger", "-t", "it is $HOME"]
        name = "tell"
        events = ["quota.*", "link.up"]
        user = "ann"
        timeout_s = 2.5
        [[hook]]
        command = ["/usr/bin/true"]
        [[hook]]
        file = "freeze-app"
        user = "root"
        """
    )
    tell, true, freeze = told.hooks
    assert tell == Hook("tell", ("/usr/bin/logger", "-t", "it is $HOME"), ("quota.*", "link.up"), "ann", 2.5)
    assert true == Hook("true", ("/usr/bin/true",), ("*",), "nobody", 30.0)
    assert freeze == Hook("hooks.d/freeze-app", (), ("*",), "root", 30.0)
    assert told.hooks_dir == Path("/srv/hooks")
    assert config.parse("").hooks_dir == HOOKS_DIR
    assert [kind for kind in EventType if tell.wants(kind)] == [
        "quota.warning",
        "quota.exceeded",
        "quota.reset",
        "link.up",
    ]


def test_the_example_in_the_docstring_is_one() -> None:
    example = (hooks.__doc__ or "").split("\n\n", 2)[2]
    assert [hook.name for hook in config.parse(example).hooks] == ["tell-me", "hooks.d/freeze-app"]


COMMAND = 'command = ["/bin/true"]\n'


@pytest.mark.parametrize(
    ("text", "said", "allowed"),
    [
        ("x = 1\n" + COMMAND, "unknown key: x", "command, events, file, name, timeout_s, user"),
        ("", "must have one of command and file, and has neither", "command = "),
        (COMMAND + 'file = "x"\n', "must have one of command and file, and has both", "file = "),
        ('command = "/bin/true"\n', "command of .* is '/bin/true', and no list of words", "without a shell"),
        ("command = []\n", r"command of .* is \[\], and no list", "without a shell"),
        ('command = ["/bin/true", 3]\n', r"command of .* is \['/bin/true', 3\]", "without a shell"),
        ('command = ["/bin/a\\u0000b"]\n', "command of .* no list of words", "without a shell"),
        ('command = ["true"]\n', "command of .* begins with 'true', and not with a whole path", "/usr/local/bin/"),
        ('command = ["/bin/é"]\n', "name of .* is 'é', and no usable name", "letters, digits"),
        (COMMAND + 'name = "a b"\n', "name of .* is 'a b', and no usable name", "letters, digits"),
        (COMMAND + "name = 3\n", "name of .* is 3, and no usable name", "letters, digits"),
        ('file = "../x"\n', "file of .* is '../x', and no usable name", "letters, digits"),
        ('file = "x"\nname = "y"\n', "name of .* is not for a file", "its own name"),
        (COMMAND + 'events = "quota.*"\n', r"events of .* is 'quota.\*', and no list of events", "quota.warning, "),
        (COMMAND + "events = []\n", r"events of .* is \[\], and no list of events", "tracer.gap"),
        (COMMAND + "events = [1]\n", r"events of .* is \[1\], and no list of events", "tracer.gap"),
        (COMMAND + 'events = ["quota"]\n', "events of .* has 'quota', which no event fits", "quota.reset"),
        (COMMAND + "user = 0\n", "user of .* is 0, and no user's name", 'user = "nobody"'),
        (COMMAND + 'user = ""\n', "user of .* is '', and no user's name", 'user = "nobody"'),
        (COMMAND + 'user = "a\\u001b[0m"\n', "user of .* and no user's name", 'user = "nobody"'),
        (
            COMMAND + "timeout_s = 0\n",
            "timeout_s of .* is 0, and no number of seconds from 0.1 to 600",
            "timeout_s = 30",
        ),
        (COMMAND + "timeout_s = 601\n", "timeout_s of .* is 601, ", "timeout_s = 30"),
        (COMMAND + "timeout_s = nan\n", "timeout_s of .* is nan, ", "timeout_s = 30"),
        (COMMAND + "timeout_s = true\n", "timeout_s of .* is true, ", "timeout_s = 30"),
        (COMMAND + 'timeout_s = "30"\n', "timeout_s of .* is '30', ", "timeout_s = 30"),
        (
            COMMAND + "[[hook]]\n" + COMMAND,
            r"name of \[\[hook\]\] number 2 is 'true', as that of one before",
            "name = ",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_was_given_and_what_is_allowed(text: str, said: str, allowed: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        config.parse("[[hook]]\n" + text)
    assert "[[hook]] number" in refused.value.message
    assert allowed in refused.value.hint
    assert "\x1b" not in refused.value.message


@pytest.mark.parametrize("value", ["3", "'hooks.d'", "['/x']"])
def test_a_folder_of_hooks_is_a_whole_path(value: str) -> None:
    with pytest.raises(UsageError, match=r"hooks_dir is .*, and no whole path"):
        config.parse(f"hooks_dir = {value}\n")


def test_hooks_are_a_list_of_tables() -> None:
    with pytest.raises(UsageError, match="`hook` must be a list of tables"):
        config.parse("[hook]\nfile = 'x'\n")


def test_the_folders_files_are_hooks_by_name_but_for_leftovers(folder: Path) -> None:
    for name in ("b", "a.sh", "c~", ".d", "e.rpmnew", "f.dpkg-old", "g.bak"):
        program(folder / name)
    (folder / "sub").mkdir()
    told = config.parse(
        '[[hook]]\nfile = "b"\nuser = "root"\n[[hook]]\nfile = "gone"\n[[hook]]\ncommand = ["/bin/z"]\n'
    )
    assert found(told.hooks, folder) == [
        Hook("hooks.d/a.sh", (str(folder / "a.sh"),)),
        Hook("hooks.d/b", (str(folder / "b"),), user="root"),
        Hook("hooks.d/gone", (str(folder / "gone"),)),
        Hook("hooks.d/sub", (str(folder / "sub"),)),
        Hook("z", ("/bin/z",)),
    ]
    assert passed_over(folder) == [".d", "c~", "e.rpmnew", "f.dpkg-old", "g.bak"]
    assert passed_over(folder / "none") == []


def test_the_folder_need_not_be_there_but_has_to_be_one(tmp_path: Path) -> None:
    assert found((), tmp_path / "none") == []
    with pytest.raises(CannotError, match="cannot read the folder of hooks"):
        found((), program(tmp_path / "file"))


def test_a_program_is_trusted_behind_links_that_are_trusted(folder: Path) -> None:
    real = program(folder / "real")
    (folder / "link").symlink_to("real")
    (folder / "round").symlink_to("../hooks.d/link")
    for name in ("real", "link", "round"):
        assert trusted_program(str(folder / name)) == str(real)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_program_that_others_can_change_is_refused(folder: Path, mode: int) -> None:
    path = program(folder / "x", mode)
    with pytest.raises(CannotError, match="is not trusted: others than root can change") as refused:
        trusted_program(str(path))
    assert refused.value.hint == f"chown root {path}; chmod go-w {path}"


def test_a_program_in_a_folder_that_others_can_change_is_refused(folder: Path) -> None:
    path = program(folder / "x")
    folder.chmod(0o777)
    with pytest.raises(CannotError, match=f"others than root can change {folder}$"):
        trusted_program(str(path))
    folder.chmod(0o1777)
    assert trusted_program(str(path))


def test_a_link_in_a_folder_that_others_can_change_is_refused_wherever_it_leads(folder: Path, tmp_path: Path) -> None:
    program(folder / "x")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (theirs / "to-file").symlink_to(folder / "x")
    (theirs / "to-folder").symlink_to(folder)
    (folder / "far").symlink_to(theirs / "to-file")
    for path in (theirs / "to-file", theirs / "to-folder" / "x", folder / "far"):
        with pytest.raises(CannotError, match=f"others than root can change {theirs}$"):
            trusted_program(str(path))


def test_what_is_no_program_is_refused(folder: Path) -> None:
    loop = folder / "loop"
    loop.symlink_to(loop)
    os.mkfifo(folder / "fifo", 0o755)
    program(folder / "plain", 0o644)
    for name, said in {
        "none": "there is no",
        "loop": "cannot open",
        "fifo": "is no file",
        ".": "is no file",
        "plain": "is not executable",
        "plain/x": "cannot open",
    }.items():
        with pytest.raises(CannotError, match=said) as refused:
            trusted_program(str(folder / name))
        assert refused.value.hint


def test_a_hook_of_nobody_who_is_there_is_refused(folder: Path) -> None:
    path = str(program(folder / "x"))
    assert hooks.checked(Hook("x", (path,), user=ME)) == path
    with pytest.raises(CannotError, match="there is no user no-such-user"):
        hooks.checked(Hook("x", (path,), user="no-such-user"))
    assert why_not_run(Hook("x", (path,), user=ME)) is None
    assert why_not_run(Hook("x", (path,), user="no-such-user")) == (
        "there is no user no-such-user",
        "name one that there is: user = …",
    )
