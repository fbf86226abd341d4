"""What the command line says when it cannot do what was asked: two lines, a status, and never a traceback."""

import subprocess
import sys
from collections.abc import Mapping
from os import environ

import pytest


def esimbpf(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esimbpf", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**environ, **(env or {})},
    )


@pytest.mark.parametrize(
    "words",
    [
        ["watch", "--interval", "0"],
        ["watch", "--interval", "-1"],
        ["watch", "--interval", "1e9"],
        ["watch", "--interval", "nan"],
        ["watch", "--interval", "inf"],
        ["watch", "--interval", "abc"],
        ["watch", "--by", "nonsense"],
        ["watch", "--count", "0"],
        ["watch", "--count", "-3"],
        ["watch", "--max-processes", "0"],
        ["watch", "--max-processes", "99999999999"],
        ["watch", "--no-such-option"],
        ["--engine", "nonsense", "watch"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_is_told_in_two_lines_with_status_2(words: list[str]) -> None:
    done = esimbpf(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("esimbpf: ")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("no-such-command", "esimbpf"),
        ("--engine nonsense watch", "esimbpf"),
        ("watch --no-such-option", "esimbpf watch"),
        ("watch --count many", "esimbpf watch"),
        ("quota no-such-command", "esimbpf quota"),
        ("quota add", "esimbpf quota add"),
        ("quota add x --no-such-option", "esimbpf quota add"),
        ("quota add x --limit", "esimbpf quota add"),
        ("quota snooze x", "esimbpf quota snooze"),
        ("plan set", "esimbpf plan set"),
        ("plan set --allowance 1GB", "esimbpf plan set"),
        ("saver no-such-command", "esimbpf saver"),
        ("saver on --allow", "esimbpf saver on"),
        ("saver on --allow-dns=yes", "esimbpf saver on"),
        ("hook test no-such-event", "esimbpf hook test"),
        ("hook log --last 0", "esimbpf hook log"),
    ],
)
def test_the_hint_is_the_help_of_the_very_command(words: str, command: str) -> None:
    done = esimbpf(*words.split())
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [f"  try: {command} --help"]
    assert esimbpf(*command.split()[1:], "--help").returncode == 0


@pytest.mark.parametrize(
    "words", [["watch", "no-such-link"], ["--netns", "no-such-namespace", "watch"], ["watch", "\x1b[31mred"]]
)
def test_what_is_not_there_is_told_in_two_lines_with_status_3(words: list[str]) -> None:
    done = esimbpf(*words)
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert "\x1b" not in done.stderr


def test_a_kernel_without_type_information_is_told_with_status_3() -> None:
    done = esimbpf("watch", "lo", env={"ESIMBPF_BTF": "/nonexistent"})
    assert done.returncode == 3
    assert "BTF" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version_end_with_status_0() -> None:
    assert esimbpf("--help").returncode == 0
    assert esimbpf("watch", "--help").returncode == 0
    version = esimbpf("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("esimbpf ")


def in_shell(redirected: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it with its streams as a shell redirects them."""
    command = ["sh", "-c", f'"$@" {redirected}', "sh", sys.executable, "-m", "esimbpf", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("redirected", [">&-", "</dev/null >&-", ">/dev/full"])
@pytest.mark.parametrize("words", [["links"], ["links", "--json"], ["--help"], ["doctor", "--json"]])
def test_what_cannot_be_written_is_told_in_two_lines_with_status_1(redirected: str, words: list[str]) -> None:
    done = in_shell(redirected, *words)
    assert done.returncode == 1
    assert done.stderr.startswith("esimbpf: cannot write the output: ")
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_the_status_is_right_where_nothing_can_be_said(redirected: str) -> None:
    done = in_shell(redirected, "watch", "no-such-link")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_help_is_shown_in_any_encoding() -> None:
    shown = esimbpf("--help", env={"PYTHONIOENCODING": "ascii"})
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.isascii()


def test_without_stdin_it_works() -> None:
    done = in_shell("<&-", "links")
    assert (done.returncode, done.stderr) == (0, "")
