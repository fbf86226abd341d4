"""What can go wrong, as one tree.

    EsimbpfError          1  the work failed
    ├── UsageError        2  wrong usage: an option's value, a combination of options
    └── CannotError       3  this machine or user cannot do it
        ├── NotPermitted      no root, or a capability is missing
        ├── NoSuchLink        the link named is not there, or none is cellular
        ├── KernelLacks       the kernel has no BPF, no BTF, no cgroup v2, …
        ├── LedgerError       the ledger cannot be read or written at the moment
        └── ModemError        ModemManager cannot be asked, or refuses

Each carries one line that says what is missing and one that says what to do.
The command line catches the tree once, in its entry, and prints both.
"""

from __future__ import annotations

__all__ = [
    "CannotError",
    "EsimbpfError",
    "KernelLacks",
    "LedgerError",
    "ModemError",
    "NoSuchLink",
    "NotPermitted",
    "UsageError",
]


class EsimbpfError(Exception):
    """The work failed; `hint` says what to do about it."""

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EsimbpfError):
    """An option or argument has a value that cannot be used."""

    exit_status = 2


class CannotError(EsimbpfError):
    """This machine or user cannot do what was asked."""

    exit_status = 3


class NotPermitted(CannotError):
    """Root, or a capability, is missing."""


class NoSuchLink(CannotError):
    """The link named does not exist, or none was found."""


class KernelLacks(CannotError):
    """The kernel lacks what the work needs."""


class LedgerError(CannotError):
    """The ledger cannot be read or written at the moment; nothing that was in it is lost.

    `passing` if it may be used on as it is when the cause has gone: it is locked, or the disk is full.
    """

    def __init__(self, message: str, hint: str = "", passing: bool = False) -> None:
        super().__init__(message, hint)
        self.passing = passing


class ModemError(CannotError):
    """ModemManager cannot be asked, does not answer, or refuses."""
