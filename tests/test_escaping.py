"""What comes from outside is one printable line of bounded length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.util.text import MAX_TEXT, escaped


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("a b=c {x} \\", "a b=c {x} \\"),
        ("\N{SNOWMAN} äß 日本", "\N{SNOWMAN} äß 日本"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\nb\tc\0", "a\\r\\nb\\tc\\x00"),
        ("\x7f\x85\x9b31m", "\\x7f\\x85\\x9b31m"),
        ("\u202aa\u202e", "\\u202aa\\u202e"),
        ("\u2066a\u2069", "\\u2066a\\u2069"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("\udc80", "\\udc80"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, line: str) -> None:
    assert escaped(text) == line


def test_a_long_text_is_cut_off_and_says_so() -> None:
    assert escaped("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert escaped("x" * MAX_TEXT + "y") == "x" * MAX_TEXT + "…"


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    assert escaped(text).isprintable()
