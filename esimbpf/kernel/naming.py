"""Names as the kernel side compares them, by their hashes: bpf/naming.h, which says for what."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache, reduce
from typing import Final

from esimbpf.apps import Meaning, Word, spellings, words
from esimbpf.kernel import abi
from esimbpf.text import original

__all__ = ["WORDS", "app_hashes", "cgroup_hash", "exe_hash", "name_hash", "packed_words"]

WORDS: Final = 512
"""Room for words."""

_BASIS: Final = 0xCBF29CE484222325
_PRIME: Final = 0x9E3779B97F4A7C15
_64_BITS: Final = (1 << 64) - 1
_PIECE: Final = 8
_EXACTLY: Final = 0
_ANY_CASE: Final = 0x2020202020202020
_ROOT: Final = 0
_FIRST_LETTER: Final = 64


@lru_cache(maxsize=4096)
def name_hash(name: bytes, how: int = _EXACTLY) -> int:
    """Of a name, or any other piece of text of at most PATH_BYTES."""
    found = _BASIS
    whole = len(name) // _PIECE * _PIECE
    for at in range(0, whole, _PIECE):
        found = (found ^ _number(name[at : at + _PIECE], how)) * _PRIME & _64_BITS
        found ^= found >> 32
    return (found ^ _number(name[whole:], how)) * _PRIME & _64_BITS


def _number(piece: bytes, how: int) -> int:
    return int.from_bytes(piece.ljust(_PIECE, b"\0"), sys.byteorder) | how


def _path_hash(names: Iterable[bytes]) -> int:
    return reduce(lambda above, name: (above * _PRIME + name_hash(name)) & _64_BITS, names, _ROOT)


def cgroup_hash(path: str) -> int:
    """Of a cgroup's path, a printable text."""
    return _path_hash(_names(path))


def exe_hash(path: str) -> int:
    """Of an executable's path, a printable text."""
    return _path_hash(reversed(_names(path)))


def _names(path: str) -> list[bytes]:
    return [name for name in original(path).split(b"/") if name]


def app_hashes(app: str) -> frozenset[int]:
    """Those that an app's name, a printable text, may have."""
    return frozenset(map(name_hash, spellings(app)))


def packed_words() -> Iterator[tuple[bytes, bytes]]:
    """The entries of the map `words`."""
    found: dict[int, Word] = {}
    for word in words():
        how = _ANY_CASE if word.meaning & (Meaning.HOST | Meaning.TERMINAL) else _EXACTLY
        found.update((name_hash(spelling, how), word) for spelling in spellings(word.text))
    for key, word in found.items():
        letters = map(_bits, (word.value, word.attached, word.code, word.script))
        yield abi.WORD_KEY.pack(key), abi.WORD.pack(word.meaning, word.options, *letters)


def _bits(letters: str) -> int:
    return sum(1 << ord(letter) - _FIRST_LETTER for letter in set(letters))
