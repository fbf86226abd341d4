"""Where the kernel's file systems are mounted, by /proc/self/mounts."""

from __future__ import annotations

import os
from pathlib import Path

from esimbpf.errors import KernelLacks

MOUNTS = Path("/proc/self/mounts")


def mount_points(fs_type: str, mounts: Path = MOUNTS) -> tuple[str, ...]:
    """Every place where a file system of this type is mounted, in the order of mounting.

    The kernel writes blanks, tabs, newlines and backslashes in a path as octal escapes (fs/proc_namespace.c).
    """
    points = []
    for line in os.fsencode(mounts.read_text(errors="surrogateescape")).splitlines():
        _device, point, kind, *_ = line.split(b" ")
        if kind == fs_type.encode():
            points.append(os.fsdecode(point.decode("unicode_escape").encode("latin-1")))
    return tuple(points)


def cgroup2_root(chosen: str | None = None) -> str:
    """The root of the cgroup v2 hierarchy, hybrid layouts included; KernelLacks if there is none.

    A `chosen` directory must lie in a cgroup v2 hierarchy; it limits counting to the processes below it.
    """
    points = mount_points("cgroup2")
    if chosen is None:
        if points:
            return points[0]
        raise KernelLacks(
            "no cgroup v2 hierarchy is mounted",
            "mount one: mount -t cgroup2 none /sys/fs/cgroup/unified (make the directory first)",
        )
    path = os.path.realpath(chosen)
    if os.path.isfile(os.path.join(path, "cgroup.procs")) and any(
        os.path.commonpath((path, point)) == point for point in points
    ):
        return path
    raise KernelLacks(
        f"{chosen} is no directory of a cgroup v2 hierarchy",
        f"cgroup v2 is mounted at {', '.join(points) or 'no place'}",
    )
