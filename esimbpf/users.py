"""User names for user ids, and the other way round."""

from __future__ import annotations

import pwd
from contextlib import suppress
from functools import cache
from typing import Final

from esimbpf.errors import UsageError
from esimbpf.text import printable

__all__ = ["user_id", "user_name"]

_MOST: Final = 2**32 - 2
"""The greatest user id; the number after it stands for none (chown(2))."""


@cache
def user_name(uid: int) -> str:
    """Name of the user `uid`, or the number where nobody has it.

    Both answers are kept for the life of the program: the user database may be on the network (SSSD, LDAP),
    and asking it again at each interval would itself be traffic.
    """
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def user_id(text: str) -> int:
    """The id of a user who is named, or given by the id itself; UsageError if there is none."""
    if text.isascii() and text.isdecimal():
        if int(text) <= _MOST:
            return int(text)
    else:
        with suppress(KeyError, ValueError):
            return pwd.getpwnam(text).pw_uid
    raise UsageError(
        f"there is no user {printable(text)!r}", f"give a name that `getent passwd` has, or an id from 0 to {_MOST}"
    )
