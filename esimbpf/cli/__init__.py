"""The command line: it parses, calls and prints."""

from __future__ import annotations

import os
import sys

from esimbpf.errors import EsimbpfError
from esimbpf.text import printable

__all__ = ["main"]


def main() -> None:
    """Run the command, and turn what goes wrong into two lines and an exit status."""
    from esimbpf.cli.app import app

    words, command = _split(sys.argv[1:])
    try:
        status = app(args=words, obj=command, standalone_mode=False)
        sys.stdout.flush()
    except EsimbpfError as error:
        status = _say(error)
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python must not complain when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        status = _say_of_library(error)
    sys.exit(status if isinstance(status, int) else 0)


def _split(words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """What is for esimbpf, and the command behind the first `--`, which keeps its own options."""
    if "--" not in words:
        return words, ()
    at = words.index("--")
    return words[:at], tuple(words[at + 1 :])


def _say(error: EsimbpfError) -> int:
    print(f"esimbpf: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    return error.exit_status


def _say_of_library(error: Exception) -> int:
    """Errors that are not of this program's tree: of the argument parser, of the system, or a defect.

    The last net, so that no traceback reaches a user; ESIMBPF_DEBUG=1 shows it to a developer.
    """
    import typer

    if os.environ.get("ESIMBPF_DEBUG"):
        raise error
    if isinstance(error, typer.TyperException):
        print(f"esimbpf: {printable(error.format_message())}", file=sys.stderr)
        print("  try: esimbpf --help", file=sys.stderr)
        return 2
    if isinstance(error, OSError):
        print(f"esimbpf: {printable(str(error))}", file=sys.stderr)
        print("  esimbpf doctor checks what this machine has", file=sys.stderr)
        return 1
    print(f"esimbpf: an error in esimbpf itself: {type(error).__name__}: {printable(str(error))}", file=sys.stderr)
    print("  run again with ESIMBPF_DEBUG=1 and report what it shows", file=sys.stderr)
    return 1
