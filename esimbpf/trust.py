"""Who can change a file: what makes root do something must be root's alone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["changeable"]

_MOST_LINKS: Final = 40
"""As many as the kernel follows (path_resolution(7))."""


def changeable(descriptor: int, path: Path) -> Path | None:
    """The first place on the way to an open file, itself included, that others than root and the caller can change.

    `path` is where it was opened; the folders of symbolic links that lead to it count too. If there is no such place,
    the path leads to this file until root or the caller changes that: nobody else can put another one there between
    this check and what follows it. Raises OSError, also if the path leads to another file by now.
    """
    trusted = {0, os.geteuid()}
    last = (Path("/"), os.lstat("/"))
    for place, status in _way(path):
        last = (place, status)
        if status.st_uid not in trusted or (_others_write(status) and not _only_owners_replace(status)):
            return place
    if not os.path.samestat(last[1], os.fstat(descriptor)):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
    return None


def _others_write(status: os.stat_result) -> bool:
    return not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _only_owners_replace(status: os.stat_result) -> bool:
    """In a sticky folder, as /tmp is one, only the owner of a file can replace it."""
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All folders and links through which a path leads, from the root on, and what it leads to."""
    at = Path("/")
    yield at, os.lstat(at)
    ahead = list(reversed(path.absolute().parts[1:]))
    links = 0
    while ahead:
        part = ahead.pop()
        if part == "..":
            at = at.parent
            continue
        place = at / part
        status = os.lstat(place)
        yield place, status
        if not stat.S_ISLNK(status.st_mode):
            at = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path(os.readlink(place))
        if target.is_absolute():
            at = Path("/")
        ahead += reversed([one for one in target.parts if one != "/"])
