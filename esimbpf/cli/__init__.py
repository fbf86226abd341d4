"""The command line: it parses, calls and prints."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from esimbpf.cli.streams import complain, give_up, open_standard_streams
from esimbpf.errors import EsimbpfError, UsageError
from esimbpf.text import printable

__all__ = ["main"]

_OUTPUT_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)


def main() -> None:
    """Run the command, and turn what goes wrong into two lines and an exit status."""
    open_standard_streams()
    from esimbpf.cli.app import app

    words, command = _split(sys.argv[1:])
    try:
        if command and not words:
            raise UsageError("there is no command before --", "for example: esimbpf run -- curl -O …")
        status = app(args=words, obj=command, standalone_mode=False)
        sys.stdout.flush()
    except EsimbpfError as error:
        status = _say(error)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        give_up(sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        status = 130
    except SystemExit:
        # Rich's way to say that nobody reads what it prints.
        give_up(sys.stdout.fileno())
        status = 0
    except Exception as error:
        status = _say_of_library(error, words)
    sys.exit(status if isinstance(status, int) else 0)


_WITH_NAMES: Final = ("quota", "plan")
"""Commands that take no other command: behind `--` are names, which may begin with a hyphen."""
_WITH_A_VALUE: Final = ("--netns", "--engine", "--cgroup", "--config", "--state-dir")
"""Options before the command, each of which has the word behind it."""


def _split(words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """What is for esimbpf, and the command behind the first `--`, which keeps its own options."""
    if "--" not in words or _command(words) in _WITH_NAMES:
        return words, ()
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


def _command(words: list[str]) -> str:
    """Which of esimbpf's commands is meant; empty if none is."""
    left = iter(words)
    for word in left:
        if word in _WITH_A_VALUE:
            next(left, None)
        elif not word.startswith("-") or word == "--":
            return word
    return ""


def _say(error: EsimbpfError) -> int:
    complain(f"esimbpf: {error.message}", *([error.hint] if error.hint else []))
    return error.exit_status


def _help_for(error: Exception, words: Sequence[str]) -> str:
    """How to get the help of the command whose words were wrong."""
    context: Any = getattr(error, "ctx", None)
    names = [] if context else _commands_in(words)
    while context and context.parent:
        names.insert(0, context.info_name or "")
        context = context.parent
    return " ".join(("esimbpf", *names, "--help"))


def _commands_in(words: Sequence[str]) -> list[str]:
    """The commands that words name; the parser does not say at which it was when an option's value is missing."""
    from typer.main import get_command

    from esimbpf.cli.app import app

    names, below = [], getattr(get_command(app), "commands", {})
    for word in words:
        if word in below:
            names.append(word)
            below = getattr(below[word], "commands", {})
    return names


def _say_of_library(error: Exception, words: Sequence[str]) -> int:
    """Errors that are not of this program's tree: of the argument parser, of the system, or a defect.

    The last net, so that no traceback reaches a user; ESIMBPF_DEBUG=1 shows it to a developer.
    """
    import typer

    if os.environ.get("ESIMBPF_DEBUG"):
        raise error
    if isinstance(error, typer.TyperException):
        # Help that was asked for by giving no word at all comes as an error without a message.
        message = printable(error.format_message()).replace("Value error, ", "")
        if message:
            complain(f"esimbpf: {message}", f"try: {_help_for(error, words)}")
        return 2
    if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS and error.filename is None:
        give_up(sys.stdout.fileno())
        complain(f"esimbpf: cannot write the output: {error.strerror}", "check where it goes")
        return 1
    if isinstance(error, OSError):
        complain(f"esimbpf: {printable(str(error))}", "esimbpf doctor checks what this machine has")
        return 1
    complain(
        f"esimbpf: an error in esimbpf itself: {type(error).__name__}: {printable(str(error))}",
        "run again with ESIMBPF_DEBUG=1 and report what it shows",
    )
    return 1
