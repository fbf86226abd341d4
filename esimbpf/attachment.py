"""Counting that outlives every command: begun, changed and ended, with nothing lost of what has been counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esimbpf import __version__
from esimbpf.attribution import Namer
from esimbpf.errors import CannotError, EsimbpfError, LedgerError
from esimbpf.exclusive import Held, exclusive, holder
from esimbpf.kernel import pins, succession
from esimbpf.kernel.abi import MAX_LINKS
from esimbpf.kernel.engine import Engine
from esimbpf.kernel.links import FoundLink
from esimbpf.kernel.netns import cookie
from esimbpf.kernel.pins import About, PinnedEngine
from esimbpf.kernel.reader import wait_for_packets_under_way
from esimbpf.ledger.database import FILE_NAME, connect, said, transaction
from esimbpf.ledger.fold import Folding
from esimbpf.pinned import attachment_of, reader_of
from esimbpf.session import attach_all
from esimbpf.text import printable

__all__ = ["Detached", "Kept", "detach", "keep_attached", "keeping_the_ledger", "open_attached", "replace"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What keeping it attached has taken."""

    fresh: bool
    """Nothing was attached before."""
    missed: tuple[str, ...]
    """Links whose interface had come back since they were attached to, and was not counted."""


_DISCARD: Final = "esimbpf detach --discard"


def keep_attached(chosen: Sequence[FoundLink], max_processes: int) -> Kept:
    """Attach for good what is not attached yet. Raises the engine's errors, CannotError."""
    with pins.changing():
        strangers = pins.foreign()
        if strangers:
            raise CannotError(
                f"another version of esimbpf is attached: {', '.join(map(str, strangers))}",
                "put this one in its place, with all that it has counted: esimbpf attach --replace",
            )
        fresh = _begin(max_processes)
        return Kept(fresh, _attach_links(chosen))


def replace(chosen: Sequence[FoundLink], max_processes: int, state_dir: Path, namer: Namer) -> bool:
    """`keep_attached`, with this version's programs in the place of those that are attached.

    What programs of another version have counted is written into the ledger; counters of this one stay. Raises
    LedgerError, and nothing is lost, if that cannot be.
    """
    with pins.changing(), ExitStack() as stack:
        strangers = pins.foreign()
        if strangers:
            for path in strangers:
                _same_namespace(About.of(path))
            stack.enter_context(keeping_the_ledger(state_dir))
            # What cannot be written shall be known before anything is changed.
            connect(state_dir).close()
        fresh = _begin(max_processes, succession.TAKEN_OVER if strangers else frozenset())
        with open_attached() as engine:
            if not fresh and not strangers:
                engine.relieve(__version__)
            for path in reversed(strangers):
                _succeed(engine, path, state_dir, namer)
        _attach_links(chosen)
    return fresh and not strangers


def _begin(max_processes: int, without: frozenset[str] = frozenset()) -> bool:
    """Attach what knows no link, unless that is done; whether it was not."""
    if pins.place().exists():
        return False
    with Engine(max_processes, MAX_LINKS, follow=True) as engine:
        pins.attach(engine, (), attach_all(engine, without=without), __version__)
    return True


def _attach_links(chosen: Sequence[FoundLink]) -> tuple[str, ...]:
    """Attach to links; the names of those that were there before, and not counted."""
    missed = []
    with open_attached() as engine:
        engine.mend()
        for found in chosen:
            number = engine.number(found.link.name)
            if number is not None and engine.attached_to(number) != found.link.ifindex:
                missed.append(found.link.name)
            engine.attach_found(engine.add(found.link.name), found)
    return tuple(missed)


def _succeed(engine: PinnedEngine, path: Path, state_dir: Path, namer: Namer) -> None:
    """Take over from the pins of another version, and write down the last that they have counted."""
    before = About.of(path)
    succession.take_over(engine, path)
    with said(state_dir / FILE_NAME), closing(connect(state_dir)) as db, transaction(db):
        folding = Folding(db, attachment_of(before), namer)
        if not folding.followed:
            snapshot = succession.last_words(path)
            folding.take(snapshot)
            folding.commit()
            Folding(db, attachment_of(engine.about), namer, folding.debts(snapshot))
    pins.remove(path)


@dataclass(frozen=True, slots=True)
class Detached:
    """What detaching has ended."""

    anything: bool
    """False if nothing was attached."""
    lost: bool = False
    """What was counted is written down nowhere."""


def detach(state_dir: Path, namer: Namer, discard: bool = False) -> Detached:
    """Attach nothing any more. What no daemon has written down is, where the last one has kept its ledger.

    A daemon that is at work writes down what is left itself. With `discard` nothing is written, and pins of other
    versions go too. Raises LedgerError, and it is counted on, if something cannot be written.
    """
    lost = discard
    with pins.changing(), ExitStack() as stack:
        strangers = pins.foreign()
        with suppress(FileNotFoundError) if not discard else suppress(FileNotFoundError, EsimbpfError):
            engine = stack.enter_context(PinnedEngine())
            if not discard:
                _same_namespace(engine.about)
                kept_in = Path(engine.about.state_dir) if engine.about.state_dir else state_dir
                if holder(kept_in):
                    lost = False
                elif (kept_in / FILE_NAME).exists():
                    _write_last(engine, kept_in, namer)
                else:
                    lost = True
            engine.detach_all()
        removed = pins.remove(pins.place())
        if discard:
            for path in strangers:
                removed = pins.remove(path) or removed
            return Detached(removed, removed)
    if strangers and not removed:
        raise CannotError(
            f"another version of esimbpf is attached: {', '.join(map(str, strangers))}",
            f"put this one in its place: esimbpf attach --replace; or lose what it has counted: {_DISCARD}",
        )
    return Detached(removed, lost and removed)


def _write_last(engine: PinnedEngine, state_dir: Path, namer: Namer) -> None:
    """Fold all that is counted, and stop counting."""
    with (
        keeping_the_ledger(state_dir),
        said(state_dir / FILE_NAME, f"counting goes on; mend it, or lose what is not written: {_DISCARD}"),
        closing(connect(state_dir)) as db,
    ):
        folding = Folding(db, attachment_of(engine.about), namer)
        if folding.followed:
            return
        reader = reader_of(engine, owns_slots=False)
        folding.take(reader.read())
        folding.commit()
        with engine.paused():
            wait_for_packets_under_way()
            folding.take(reader.read())
            folding.commit()


@contextmanager
def keeping_the_ledger(state_dir: Path) -> Iterator[None]:
    """Be the one who writes into a state folder's ledger, making the folder; CannotError if another process is."""
    shown = printable(str(state_dir))
    with ExitStack() as stack:
        try:
            state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            stack.enter_context(exclusive(state_dir))
        except Held as held:
            raise CannotError(
                f"a daemon keeps the ledger in {shown} already{held.words}",
                "end that one first (systemctl stop esimbpf), or name another folder: --state-dir",
            ) from held
        except OSError as error:
            raise LedgerError(
                f"the state folder {shown} cannot be used: {error.strerror}",
                "run as root, or name another: --state-dir",
            ) from error
        yield


def open_attached() -> PinnedEngine:
    """What is pinned; CannotError if it is not for this network namespace, OSError if there is nothing."""
    engine = PinnedEngine()
    try:
        _same_namespace(engine.about)
    except CannotError:
        engine.close()
        raise
    return engine


def _same_namespace(about: About) -> None:
    if about.netns_cookie != (cookie() or 0):
        raise CannotError(
            "what is attached counts in another network namespace", "take it off there first: esimbpf detach"
        )
