import os
import unicodedata

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esimbpf.text import original, printable

ANY_TEXT = st.text(st.characters())  # lone surrogates included
HOSTILE_PIECES = st.sampled_from(
    [
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\r",
        "\n",
        "\x7f",
        "\x85",
        "\x9b31m",
        "\u202e",
        "\u2066",
        "\u200d",
        "\ufeff",
        "\u2028",
        "\u0301",
        "\ufe0f",
        "\udc80",
        "\ud800",
        "\ue000",
        "\U000e0001",
        "\\",
        "\\x1b",
        "\\x5c",
        "\\u202e",
        "\\U000e0001",
        "x1b",
        "5c",
        "é",
        "日本",
        "🚀",
        "/",
    ]
)
HOSTILE_TEXT = st.lists(HOSTILE_PIECES).map("".join)


def acts_on_a_terminal(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@pytest.mark.parametrize(
    "name",
    [
        "curl",
        "Isolated Web Co",
        "/usr/bin/[",
        "[bold red]",
        "café",
        "cafe\u0301",
        "日本語",
        "Ελληνικά",
        "עברית",
        "ภาษาไทยที่นี่",
        "🚀",
        "👍🏽",
        "🇩🇪",
        r"app-gnome-foo\x2dbar-12.scope",
        r"C:\users\new",
        "\\",
        "\\\\",
    ],
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert printable(name) == name
    assert printable(name.encode()) == name


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        (b"two\nlines\r\n", r"two\x0alines\x0d\x0a"),
        (b"tab\there", r"tab\x09here"),
        (b"\x00\x7f", r"\x00\x7f"),
        ("\x9b31m", r"\u009b31m"),
        (b"\x9b31m", r"\x9b31m"),
        (b"\xff\xfe", r"\xff\xfe"),
        (b"caf\xc3", r"caf\xc3"),
        ("evil\u202etxt.exe", r"evil\u202etxt.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("a\u200bb\u200cc\u200dd\u2060e\ufeff", r"a\u200bb\u200cc\u200dd\u2060e\ufeff"),
        ("soft\u00adhyphen", r"soft\u00adhyphen"),
        ("line\u2028para\u2029", r"line\u2028para\u2029"),
        ("no\u00a0break", r"no\u00a0break"),
        ("filler\u3164\u115f\uffa0", r"filler\u3164\u115f\uffa0"),
        ("blank\u2800", r"blank\u2800"),
        ("\ud800", r"\ud800"),
        ("\udcff", r"\xff"),
        ("\ue000\U0010ffff\ufffe", r"\ue000\U0010ffff\ufffe"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("👩\u200d💻", r"👩\u200d💻"),
        ("❤\ufe0f", r"❤\ufe0f"),
        ("\u0301a", r"\u0301a"),
        ("a/\u0301b", r"a/\u0301b"),
        ("e" + "\u0301" * 8, "e" + "\u0301" * 6 + r"\u0301\u0301"),
    ],
)
def test_what_could_act_on_a_terminal_is_shown_instead(raw: bytes | str, shown: str) -> None:
    assert printable(raw) == shown


@pytest.mark.parametrize(
    ("literal", "shown"),
    [
        (r"\x1b", r"\x5cx1b"),
        (r"\x5c", r"\x5cx5c"),
        (r"\\x1b", r"\\x5cx1b"),
        (r"\u202e", r"\x5cu202e"),
        (r"\U0010ffff", r"\x5cU0010ffff"),
        (r"\xff", r"\x5cxff"),
        (r"\x2d", r"\x2d"),
        (r"\X1B", r"\X1B"),
        (r"\x1B", r"\x1B"),
        (r"\Uffffffff", r"\Uffffffff"),
    ],
)
def test_a_backslash_is_escaped_only_where_it_would_read_as_an_escape(literal: str, shown: str) -> None:
    assert printable(literal) == shown
    assert original(shown) == literal.encode()


@given(st.one_of(st.binary(), ANY_TEXT, HOSTILE_TEXT))
def test_nothing_invisible_or_acting_is_left(raw: bytes | str) -> None:
    shown = printable(raw)
    assert not any(map(acts_on_a_terminal, shown))
    assert "\n" not in shown
    assert len(shown.splitlines()) <= 1


@given(st.one_of(st.binary(), ANY_TEXT, HOSTILE_TEXT))
def test_any_name_can_be_encoded_and_dumped(raw: bytes | str) -> None:
    shown = printable(raw)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert orjson.loads(orjson.dumps(shown)) == shown


@given(st.one_of(st.binary(), HOSTILE_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(b"\\\\x5cx1b\x1b\\")
@example(b"\xed\xa0\x80")
def test_no_two_names_look_the_same(raw: bytes) -> None:
    assert original(printable(raw)) == raw


@given(st.one_of(ANY_TEXT, HOSTILE_TEXT))
def test_text_keeps_its_bytes_with_those_that_are_no_utf8(text: str) -> None:
    expected = b"".join(
        bytes([ord(char) - 0xDC00]) if "\udc80" <= char <= "\udcff" else char.encode("utf-8", "surrogatepass")
        for char in text
    )
    assert original(printable(text)) == expected


@given(st.binary())
def test_bytes_and_what_fsdecode_makes_of_them_look_the_same(raw: bytes) -> None:
    assert printable(os.fsdecode(raw)) == printable(raw)


@given(st.one_of(st.binary(), ANY_TEXT, HOSTILE_TEXT))
def test_a_name_cut_at_punctuation_never_begins_with_a_combining_mark(raw: bytes | str) -> None:
    for piece in printable(raw).replace("-", "/").replace(".", "/").split("/"):
        assert not piece or unicodedata.category(piece[0]) not in ("Mn", "Me")
