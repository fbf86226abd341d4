r"""The one place where names that others chose become text that is safe to print.

A process picks its own name, path and arguments: any bytes but NUL. `printable` turns them into text in
which every character shows and none acts. `original` is its inverse.

    what                                             becomes
    bytes 00-1f and 7f (C0 controls, DEL)            \x1b
    bytes that are no UTF-8                          \xff
    C1 controls, bidi marks, overrides, isolates     \u0085  \u202e
    zero-width and other invisible characters        \u200b
    line and paragraph separators, odd spaces        \u2028  \u00a0
    lone surrogates, private use, unassigned         \ud800  \ue000  \U000e0000
    a combining mark with no letter below it         \u0301
    a backslash that would read as one of these      \x5c
    all else: é, 日本, 🚀, other backslashes          itself

`\xNN` is always a byte, `\uNNNN` and `\UNNNNNNNN` always a character, digits in lower case. Other
backslashes stay, so that systemd's `\x2d` in cgroup paths reads as systemd wrote it.

Emoji that are joined (ZWJ) or styled (variation selectors) fall apart into visible pieces: terminals
disagree about their width, and a joiner is invisible everywhere else.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["original", "printable"]

_ESCAPE_TAIL = r"(?:x([01][0-9a-f]|5c|7f|[89a-f][0-9a-f])|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4}))"
_ESCAPE = re.compile(r"\\" + _ESCAPE_TAIL)
_AMBIGUOUS_BACKSLASH = re.compile(r"\\(?=" + _ESCAPE_TAIL + ")")

# What str.isprintable() lets pass although it shows nothing: the characters of Unicode's
# Default_Ignorable_Code_Point property that are marks or letters, and the blank Braille pattern.
_INVISIBLE = frozenset(
    map(
        chr,
        (
            0x034F,  # combining grapheme joiner
            *(0x115F, 0x1160, 0x3164, 0xFFA0),  # Hangul fillers
            *(0x17B4, 0x17B5),  # Khmer inherent vowels
            *(0x180B, 0x180C, 0x180D, 0x180F),  # Mongolian variation selectors
            0x2800,  # Braille pattern blank
            *range(0xFE00, 0xFE10),  # variation selectors
            *range(0xE0100, 0xE01F0),  # variation selectors supplement
        ),
    )
)

_MARKS_IN_A_ROW = 6
"""More than any script stacks on one letter; piles of them spill over the neighbouring lines."""


def printable(raw: bytes | str) -> str:
    """Text that shows what `raw` holds and does nothing else.

    Bytes are read as UTF-8; in a str, what `os.fsdecode` made of other bytes is seen as those bytes.
    Apply it once, where a name enters the program: applied twice it escapes its own escapes.
    Which characters are unassigned is decided by the Unicode version of the running Python.
    """
    text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
    if "\\" in text:
        text = _AMBIGUOUS_BACKSLASH.sub(r"\\x5c", text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(text))


def _shown(text: str) -> list[str]:
    pieces = []
    room_for_marks = 0
    for char in text:
        if char.isascii():
            is_mark = False
            shows = char.isprintable()
        else:
            is_mark = unicodedata.category(char) in ("Mn", "Me")
            shows = char.isprintable() and char not in _INVISIBLE and (room_for_marks > 0 or not is_mark)
        if not shows:
            pieces.append(_escaped(char))
            room_for_marks = 0
            continue
        pieces.append(char)
        if is_mark:
            room_for_marks -= 1
        else:
            # None on ASCII punctuation: a path cut at a slash must not begin with a mark.
            room_for_marks = _MARKS_IN_A_ROW if char.isalnum() or not char.isascii() else 0
    return pieces


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape (PEP 383): a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def original(text: str) -> bytes:
    """The bytes that `printable` made `text` of."""

    def unescaped(match: re.Match[str]) -> str:
        byte, *character = match.groups()
        if byte is None:
            return chr(int(character[0] or character[1], 16))
        code = int(byte, 16)
        return chr(code if code < 0x80 else 0xDC00 + code)

    unescaped_text = _ESCAPE.sub(unescaped, text) if "\\" in text else text
    # Not one codec for the whole: surrogateescape refuses the surrogates that stand for no byte.
    return b"".join(
        char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")
        for char in unescaped_text
    )
