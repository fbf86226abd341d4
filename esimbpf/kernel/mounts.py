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


def device_of(path: str) -> int:
    """The device of the file system that has a file, major << 20 | minor, as the kernel's superblock has it; OSError.

    stat(2) tells another where subvolumes have devices of their own (btrfs); proc_pid_mountinfo(5) tells this one.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
        wanted = next(line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:"))
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            mount, _parent, device, *_ = line.split(" ")
            if mount == wanted:
                major, _, minor = device.partition(":")
                return int(major) << 20 | int(minor)
        number = os.fstat(fd).st_dev
        return os.major(number) << 20 | os.minor(number)
    finally:
        os.close(fd)
