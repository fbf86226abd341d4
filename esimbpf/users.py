"""User names for user ids."""

from __future__ import annotations

import pwd
from functools import cache

from esimbpf.text import printable

__all__ = ["user_name"]


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
