"""Counting that outlives every command: programs, links and maps that are kept by their names on bpffs.

    /sys/fs/bpf/esimbpf/v1/            v and the version of bpf/abi.h
        about                          map: what was attached, when and to what, and how to read it, as JSON
        maps/NAME  programs/NAME  hooks/NAME  hooks/link-INDEX-egress  hooks/link-INDEX-ingress

What is pinned counts with no process running, until its pins are removed or the machine is shut down. A later version
finds what it takes over by these names, and reads the maps by the layout in `about` (succession.py).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TextIO

import orjson

from esimbpf.errors import CannotError, EsimbpfError, KernelLacks, NoSuchLink, NotPermitted
from esimbpf.exclusive import Held, exclusive
from esimbpf.kernel import abi, libbpf
from esimbpf.kernel.engine import Engine, Lost, header_bytes
from esimbpf.kernel.mounts import cgroup2_root, mount_points
from esimbpf.kernel.netns import cookie
from esimbpf.kernel.programs import PROGRAMS, Hook, Program
from esimbpf.snapshot import FIRST_PROCESS_SLOT
from esimbpf.text import printable

if TYPE_CHECKING:
    from esimbpf.kernel.clsact import Filter
    from esimbpf.kernel.links import FoundLink

__all__ = [
    "PINS_VARIABLE",
    "SIDES",
    "About",
    "PinnedEngine",
    "attach",
    "boot_id",
    "changing",
    "exchange",
    "exchange_on_link",
    "foreign",
    "hook_of",
    "link_hook_of",
    "pinned_here",
    "place",
    "remove",
]

PINS_VARIABLE: Final = "ESIMBPF_PINS"
"""Environment variable naming the folder on bpffs; for tests, which keep out of the machine's own."""

SIDES: Final = {Hook.TC_EGRESS: "egress", Hook.TC_INGRESS: "ingress"}
"""What the names of links' hooks end with."""

_MAKING: Final = "making"
_REMOVING: Final = "removing"

_BPFFS: Final = "/sys/fs/bpf"
_ABOUT_BYTES: Final = 4096
_LOCK: Final = Path("/run/esimbpf.lock")
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class About:
    """What was pinned; it is kept beside the pins."""

    attach_id: str
    """Of this attachment alone, so that its counters are told from those of any other."""
    boot_id: str
    netns_cookie: int
    started_boottime_ns: int
    started_awake_ns: int
    """Without the time in which the machine slept."""
    started_wall_ns: int
    processes: int
    """Room for so many at once."""
    links: tuple[str, ...]
    """The names of the links by their number."""
    sees_all: bool
    """See Difference."""
    lost: tuple[tuple[str, str], ...]
    """Optional programs that are not attached, and why."""
    version: str
    layout: abi.Layout
    state_dir: str = ""
    """Where the daemon that has kept it last writes it down; empty if none has."""

    def packed(self) -> bytes:
        """As it is kept."""
        raw = orjson.dumps(asdict(self))
        if len(raw) >= _ABOUT_BYTES:
            raise EsimbpfError("too much is to be kept about what is attached", "name fewer links")
        return raw.ljust(_ABOUT_BYTES, b"\0")

    @classmethod
    def unpacked(cls, raw: bytes) -> Self:
        """What was kept; ValueError, TypeError or KeyError if something is missing, more is passed over."""
        kept = orjson.loads(raw.rstrip(b"\0"))
        values = {one.name: kept[one.name] for one in fields(cls) if one.name in kept or one.default is MISSING}
        values["links"] = tuple(values["links"])
        values["lost"] = tuple((name, reason) for name, reason in values["lost"])
        values["layout"] = abi.Layout.unpacked(values["layout"])
        return cls(**values)

    @classmethod
    def of(cls, path: Path) -> Self:
        """What was pinned in a folder: the map as it was written, by whichever version.

        OSError with ENOENT if nothing is pinned; NotPermitted; EsimbpfError if it cannot be understood.
        """
        try:
            path.stat()
            fd = libbpf.pinned(path / "about")
        except PermissionError as error:
            raise NotPermitted("may not see what is attached", "run as root") from error
        except FileNotFoundError as error:
            if path.exists():
                raise _incomplete(path) from error
            raise
        try:
            return cls.unpacked(libbpf.opened("about", fd).lookup(0))
        except (ValueError, TypeError, KeyError) as error:
            raise _incomplete(path) from error
        finally:
            os.close(fd)


def _incomplete(path: Path) -> EsimbpfError:
    return EsimbpfError(
        f"what is pinned in {path} is not what this version of esimbpf can read",
        "esimbpf detach --discard removes it, with what it has counted",
    )


def _top() -> Path:
    return Path(os.environ.get(PINS_VARIABLE) or f"{_BPFFS}/esimbpf")


def place() -> Path:
    """Where this version's pins are."""
    return _top() / f"v{abi.VERSION}"


def foreign() -> tuple[Path, ...]:
    """Pins of other versions of the programs, the earliest first."""
    with suppress(OSError):
        found = [path for path in _top().iterdir() if re.fullmatch(r"v\d+", path.name) and path != place()]
        return tuple(sorted(found, key=lambda path: int(path.name[1:])))
    return ()


@contextmanager
def changing() -> Iterator[None]:
    """Hold the lock under which pins are made, changed and removed. Waits for whoever has it."""
    try:
        lock = open(_LOCK, "a", encoding="ascii")  # noqa: SIM115 -- closed below
    except PermissionError as error:
        raise NotPermitted("may not attach or detach for good", "run as root") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait_for(lock)
        yield


def _wait_for(lock: TextIO) -> None:
    """Wait for whoever changes pins at the moment, but not for ever; CannotError."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        time.sleep(0.05)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    raise CannotError(
        f"another esimbpf attaches or detaches, for more than {_PATIENCE_S:.0f} s now", f"see who: fuser {_LOCK}"
    )


class PinnedEngine(Engine):
    """The pinned programs and maps, opened anew; closing it leaves them as they are.

    OSError with ENOENT if nothing is pinned.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or place()
        self.about = About.of(self._path)
        self._about_map = libbpf.opened("about", libbpf.pinned(self._path / "about"))
        self._prepare(self.about.processes, abi.MAX_LINKS)
        names = {program.name: program for program in PROGRAMS}
        self.lost = [Lost(names[name], reason) for name, reason in self.about.lost if name in names]
        self._object = None
        try:
            self._open(self._pinned_map, self._pinned_program)
        except FileNotFoundError as error:
            raise _incomplete(self._path) from error
        self._ifindexes = [self.watched_ifindex(index) for index in range(len(self.about.links))]

    def close(self) -> None:
        """Close the descriptors; what is pinned stays."""
        self._watched.close()
        self.state_memory.close()
        for fd in (self._about_map.fd, *self._maps.values(), *self._programs.values()):
            if fd is not None:
                os.close(fd)

    def _pinned_map(self, name: str) -> int:
        # bpffs takes no leading dot.
        return libbpf.pinned(self._path / "maps" / name.lstrip("."))

    def _pinned_program(self, name: str) -> int | None:
        try:
            return libbpf.pinned(self._path / "programs" / name)
        except FileNotFoundError:
            return None

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the right to free the slots of ended processes; CannotError if another process has it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self._path))
            except Held as held:
                raise CannotError(
                    f"another daemon keeps what is attached{held.words}", "one is enough: end that one first"
                ) from held
            yield

    def relieve(self, version: str) -> None:
        """Put this version's programs in the place of those that are attached; the maps, and so all counts, stay.

        Each hook changes between two packets, and whenever this is cut off, what is pinned counts and can be relieved
        again. To be called with the lock held; OSError, and the engine's errors.
        """
        with Engine(self.about.processes, abi.MAX_LINKS, follow=True, maps=self._maps) as fresh:
            for program in PROGRAMS:
                self._relieve(program, fresh.program_fd(program.name))
            lost = tuple((one.program.name, one.reason) for one in fresh.lost)
        self.about = replace(self.about, lost=lost, version=version)
        self._about_map.update(0, self.about.packed())

    def _relieve(self, program: Program, fd: int | None) -> None:
        """Put a program in the place of its forerunner; one that is no longer to be had goes."""
        pin, hook = self._path / "programs" / program.name, self.hook(program.name)
        if fd is None:
            hook.unlink(missing_ok=True)
            pin.unlink(missing_ok=True)
            return
        libbpf.repin(fd, pin)
        match program.hook:
            case Hook.TRACEPOINT:
                # The kernel exchanges no tracepoint's program. For a moment both are there, which does no harm: they
                # note the same, and of what they count they know in common maps what was counted already.
                self.attach_program(program.name, fd)
            case Hook.TC_EGRESS | Hook.TC_INGRESS:
                side = SIDES[program.hook]
                for index in range(len(self.about.links)):
                    exchange_on_link(self.link_hook(index, side), self.watched_ifindex(index), side, fd)
            case Hook.CGROUP_INGRESS | Hook.CGROUP_EGRESS | Hook.CGROUP_SOCK_CREATE:
                exchange(hook, fd)
            case Hook.ITERATOR:
                pass

    def kept_in(self, state_dir: str) -> None:
        """Note where what is counted is written down. To be called with the lock held."""
        if self.about.state_dir != state_dir:
            self.about = replace(self.about, state_dir=state_dir)
            self._about_map.update(0, self.about.packed())

    def mend(self) -> None:
        """Attach what knows no link and is not attached, though it was. To be called with the lock held; OSError."""
        for program in PROGRAMS:
            fd = self.program_fd(program.name)
            if fd is not None and not self.is_attached(program):
                self.attach_program(program.name, fd)

    def is_attached(self, program: Program) -> bool:
        """Whether a program that knows no link is attached; those that do, and the iterator, are passed over."""
        passed_over = program.on_demand or program.hook in (*SIDES, Hook.ITERATOR)
        return passed_over or self.hook(program.name).exists()

    def attach_program(self, name: str, fd: int) -> None:
        """Attach a program that knows no link, in the place of what is pinned as its attachment. OSError."""
        [program] = (program for program in PROGRAMS if program.name == name)
        directory = os.open(cgroup2_root(), os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._attach(program, fd, directory)
            attached = self._descriptors.pop(name)
            try:
                libbpf.repin(attached, self.hook(name))
            finally:
                os.close(attached)
        finally:
            os.close(directory)

    def hook(self, name: str) -> Path:
        """Where what attaches a program that knows no link is pinned."""
        return hook_of(self._path, name)

    def link_hook(self, index: int, side: str) -> Path:
        """Where what attaches to a link is pinned."""
        return link_hook_of(self._path, index, side)

    # -- links -------------------------------------------------------------------

    def number(self, name: str) -> int | None:
        """The number under which a link of this name is counted; None if it is not."""
        return self.about.links.index(name) if name in self.about.links else None

    def add(self, name: str) -> int:
        """The number of a link, given to it if it has none; EsimbpfError if all are taken.

        To be called with the lock held.
        """
        number = self.number(name)
        if number is None:
            if len(self.about.links) >= abi.MAX_LINKS:
                raise EsimbpfError(
                    f"{abi.MAX_LINKS} links are counted already, there is no room for {printable(name)}",
                    "begin anew with those that matter: esimbpf detach; esimbpf attach LINK…",
                )
            self.about = replace(self.about, links=(*self.about.links, name))
            self._about_map.update(0, self.about.packed())
            number = len(self.about.links) - 1
        return number

    def attached_to(self, index: int) -> int:
        """The ifindex on which a link's programs are; 0 if they are on none, because it is gone or has been."""
        if self.has_filters(index):
            return self.watched_ifindex(index)
        indexes = set()
        for side in SIDES.values():
            try:
                fd = libbpf.pinned(self.link_hook(index, side))
            except OSError:
                return 0
            try:
                indexes.add(libbpf.link_interface(fd))
            finally:
                os.close(fd)
        return indexes.pop() if len(indexes) == 1 else 0

    def has_filters(self, index: int) -> bool:
        """Whether a link's programs are tc filters, because there is no tcx."""
        if any(self.link_hook(index, side).exists() for side in SIDES.values()):
            return False
        ifindex = self.watched_ifindex(index)
        return ifindex != 0 and len(_filters(ifindex)) == len(SIDES)

    def attach_link(self, index: int, ifindex: int, header_len: int) -> None:
        """Attach to an interface for good, unless that is done already; OSError if it is gone.

        To be called with the lock held.
        """
        if self.attached_to(index) == ifindex and self.watched_ifindex(index) == ifindex:
            return
        super().attach_link(index, ifindex, header_len)
        self._pin_link(index)

    def attach_found(self, index: int, found: FoundLink) -> None:
        """`attach_link` for a link as it was found; NoSuchLink if it is gone. To be called with the lock held."""
        try:
            self.attach_link(index, found.link.ifindex, header_bytes(found.device_type))
        except OSError as error:
            raise NoSuchLink(
                f"{found.link.name} cannot be attached to: {error.strerror}", "see what is there: esimbpf links"
            ) from error

    def detach_all(self) -> None:
        """Take off tc filters, where the kernel has no tcx: they do not go with the pins."""
        for index, ifindex in enumerate(self._ifindexes):
            if ifindex and not self.link_hook(index, "egress").exists():
                self._filters[index] = ifindex
                super().detach_link(index)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing; go on as before if what is done within fails."""
        watched = bytes(self._watched[:])
        for index in range(len(self.about.links)):
            self.watch_link(index, 0, 0)
        try:
            yield
        except BaseException:
            self._watched[:] = watched
            raise

    def detach_link(self, index: int) -> None:
        """Stop counting a link that is to be attached anew, or is gone; what it counted stays."""
        self.watch_link(index, 0, 0)
        for side in SIDES.values():
            self.link_hook(index, side).unlink(missing_ok=True)

    def _pin_link(self, index: int) -> None:
        for side, fd in zip(SIDES.values(), self._link_descriptors.pop(index, ()), strict=False):
            libbpf.pin(fd, self.link_hook(index, side))
            os.close(fd)


def hook_of(path: Path, name: str) -> Path:
    """Where the pins in a folder have what attaches a program that knows no link."""
    return path / "hooks" / name


def link_hook_of(path: Path, index: int, side: str) -> Path:
    """Where the pins in a folder have what attaches to a link."""
    return path / "hooks" / f"link-{index}-{side}"


def exchange(pin: Path, fd: int) -> bool:
    """Give a pinned attachment another program, between two packets; False if there is none. OSError if refused."""
    try:
        link = libbpf.pinned(pin)
    except FileNotFoundError:
        return False
    try:
        libbpf.link_update(link, fd)
    except OSError as error:
        if error.errno == errno.ENOLINK:  # its interface is gone
            return False
        raise
    finally:
        os.close(link)
    return True


def exchange_on_link(pin: Path, ifindex: int, side: str, fd: int) -> bool:
    """`exchange` for a link's program, where there is no tcx that of the filter on the interface (0: on none)."""
    if pin.exists():
        return exchange(pin, fd)
    if not ifindex or not _filters(ifindex):
        return False
    from esimbpf.kernel import clsact

    clsact.attach(ifindex, fd, clsact.Direction[side.upper()])
    return True


def _filters(ifindex: int) -> tuple[Filter, ...]:
    """Our tc filters on an interface, where there is no tcx."""
    from esimbpf.kernel import clsact

    return clsact.stale(ifindex)


def pinned_here() -> PinnedEngine | None:
    """What is pinned for this network namespace; None if nothing is, or it may not be seen."""
    try:
        engine = PinnedEngine()
    except (OSError, EsimbpfError):
        return None
    if engine.about.netns_cookie == (cookie() or 0) and engine.about.boot_id == boot_id():
        return engine
    engine.close()
    return None


def boot_id() -> str:
    """The kernel's name for the time since it was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def attach(engine: Engine, links: Sequence[str], sees_all: bool, version: str) -> About:
    """Pin a loaded engine that has attached what knows no link. To be called with the lock held, and nothing pinned.

    Raises NotPermitted, KernelLacks if there is no bpffs, CannotError if the kernel refuses.
    """
    _provide_bpffs()
    about = About(
        attach_id=str(uuid.uuid4()),
        boot_id=boot_id(),
        netns_cookie=cookie() or 0,
        started_boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        started_awake_ns=time.monotonic_ns(),
        started_wall_ns=time.time_ns(),
        processes=engine.last_slot + 1 - FIRST_PROCESS_SLOT,
        links=tuple(links),
        sees_all=sees_all,
        lost=tuple((lost.program.name, lost.reason) for lost in engine.lost),
        version=version,
        layout=abi.Layout(engine.slots),
    )
    # Whole or not at all: what is being made has another name until it is complete.
    making = _top() / _MAKING
    try:
        _sweep()
        for folder in ("maps", "programs", "hooks"):
            (making / folder).mkdir(parents=True)
        about_map = libbpf.array_create("about", _ABOUT_BYTES)
        about_map.update(0, about.packed())
        libbpf.pin(about_map.fd, making / "about")
        os.close(about_map.fd)
        engine.pin(making)
        making.rename(place())
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotPermitted("may not pin anything on bpffs", "run as root") from error
        raise CannotError(
            f"cannot pin what counts in {_top()}: {error.strerror}", "esimbpf doctor checks bpffs"
        ) from error
    return about


def remove(path: Path) -> bool:
    """Remove pins, another version's too; False if there are none."""
    _sweep()
    if not path.exists():
        return False
    # Whole or not at all here too: wherever this is cut off, nobody takes what is left for pins.
    removing = _top() / _REMOVING
    path.rename(removing)
    _sweep()
    with suppress(OSError):
        _top().rmdir()
    return True


def _sweep() -> None:
    """Remove what was cut off while it was made or removed: first what attaches, then what it counts into."""
    for name in (_MAKING, _REMOVING):
        shutil.rmtree(_top() / name / "hooks", ignore_errors=True)
        shutil.rmtree(_top() / name, ignore_errors=True)


def _provide_bpffs() -> None:
    """Mount bpffs where it belongs, unless it is mounted."""
    if os.environ.get(PINS_VARIABLE) or _BPFFS in mount_points("bpf"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", _BPFFS.encode(), b"bpf", 0, b"mode=0700"):
        number = ctypes.get_errno()
        raise KernelLacks(
            f"bpffs cannot be mounted at {_BPFFS}: {os.strerror(number)}", f"mount -t bpf bpf {_BPFFS}, as root"
        )
