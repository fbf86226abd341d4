"""The network namespace in which this process works: entering one, its identity, its part of sysfs."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from esimbpf.errors import CannotError, NotPermitted
from esimbpf.text import printable

__all__ = ["cookie", "enter", "names", "sysfs_net"]

# iproute2 keeps named namespaces here (NETNS_RUN_DIR); /var/run is a link to /run where systemd is.
_DIRECTORIES = ("/run/netns", "/var/run/netns")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, since 5.14

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6  # linux/mount.h
_MOUNT_ATTR_RDONLY = 0x1

# Since 5.2; the same on all architectures but alpha and mips, whose C libraries (glibc 2.36) have functions.
_SYSCALLS = {"fsopen": 430, "fsconfig": 431, "fsmount": 432}


def names() -> tuple[str, ...]:
    """The names under which network namespaces are kept, sorted; as they are, not made safe to print."""
    found: set[str] = set()
    for directory in _DIRECTORIES:
        with suppress(OSError):
            found.update(os.listdir(directory))
    return tuple(sorted(found))


def enter(name_or_path: str) -> None:
    """Move the calling thread, and all that it starts from then on, into a network namespace.

    A name is looked up in /run/netns and /var/run/netns; anything with a slash is a path, as of
    /proc/PID/ns/net. To be called while the process has one thread. Raises CannotError, NotPermitted.
    """
    shown = printable(name_or_path)
    descriptor = _open(name_or_path, shown)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) == 0:
            return
        error = ctypes.get_errno()
    finally:
        os.close(descriptor)
    if error == errno.EPERM:
        raise NotPermitted(f"may not enter the network namespace {shown}", "run it as root (CAP_SYS_ADMIN is needed)")
    if error == errno.EINVAL:
        raise CannotError(f"{shown} is no network namespace", _existing())
    raise CannotError(f"cannot enter the network namespace {shown}: {os.strerror(error)}", _existing())


def _open(name_or_path: str, shown: str) -> int:
    if name_or_path in ("", ".", "..") or "\0" in name_or_path:
        raise CannotError(f"there is no network namespace named '{shown}'", _existing())
    paths = (
        (name_or_path,)
        if "/" in name_or_path
        else tuple(os.path.join(directory, name_or_path) for directory in _DIRECTORIES)
    )
    for path in paths:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise NotPermitted(f"may not open the network namespace {shown}", "run it as root") from error
        except OSError as error:
            raise CannotError(f"cannot open the network namespace {shown}: {error.strerror}", _existing()) from error
    raise CannotError(f"there is no network namespace {shown}", _existing())


def _existing() -> str:
    """A hint that names what there is."""
    listed = names()
    if not listed:
        return "none is named here; give a path such as /proc/PID/ns/net of a process in it"
    return "network namespaces here: " + ", ".join(map(printable, listed))


def cookie() -> int | None:
    """The number that names this network namespace until the next boot; None before kernel 5.14."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            packed = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return None
    return int(struct.unpack("=Q", packed)[0]) if len(packed) == 8 else None


@contextmanager
def sysfs_net() -> Iterator[tuple[str, bool]]:
    """A path that shows /class/net of this network namespace, and whether that is certain.

    The sysfs mounted at /sys belongs to the namespace in which it was mounted, which after `enter`, or under
    `nsenter --net`, is another one. So a sysfs of our own is made for the time of the `with`, attached nowhere.
    Where that is refused (kernels before 5.2, no CAP_SYS_ADMIN), it is /sys/class/net, uncertain: its entries
    may be links of another namespace with the same names.
    """
    mount = _mount_sysfs()
    if mount is None:
        yield "/sys/class/net", False
        return
    try:
        yield f"/proc/self/fd/{mount}/class/net", True
    finally:
        os.close(mount)


def _mount_sysfs() -> int | None:
    """A descriptor of a detached, read-only sysfs mount of this network namespace; None where refused."""
    context = _call("fsopen", b"sysfs", _FSOPEN_CLOEXEC)
    if context < 0:
        return None
    try:
        if _call("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            return None
        mount = _call("fsmount", context, _FSMOUNT_CLOEXEC, _MOUNT_ATTR_RDONLY)
        return mount if mount >= 0 else None
    finally:
        os.close(context)


def _call(name: str, *arguments: int | bytes | None) -> int:
    """A system call by the C library's function, or by number where it has none (glibc before 2.36, musl)."""
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, name, None)
    if function is None:
        return int(libc.syscall(ctypes.c_long(_SYSCALLS[name]), *arguments))
    return int(function(*arguments))
