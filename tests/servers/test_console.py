"""From a terminal's bytes to lines, and the last of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.servers import console
from wingsd.servers.console import CUT, MAX_LINE, Console, LineSplitter, text


def read(*pieces: bytes) -> list[str]:
    lines = LineSplitter()
    found = [line for piece in pieces for line in lines.feed(piece)]
    return [text(line) for line in found + lines.end()]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"one\r\ntwo\r\n"], ["one", "two"]),
        ([b"on", b"e\r", b"\ntw", b"o"], ["one", "two"]),
        ([b"\n\r\n\n"], ["", "", ""]),
        ([b""], []),
        ([b"50%\r100%\r\n"], ["50%\r100%"]),
        ([b"\xff\xc3\xa4\xc3\n"], ["\ufffd\u00e4\ufffd"]),
        ([b"\xc3", b"\xa4\n"], ["\u00e4"]),
    ],
)
def test_lines(pieces: list[bytes], lines: list[str]) -> None:
    assert read(*pieces) == lines


@given(st.lists(st.binary(max_size=40)))
def test_how_the_bytes_come_makes_no_difference(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))


@pytest.mark.parametrize("size", [1, 1000, MAX_LINE, 10 * MAX_LINE])
def test_a_line_without_end_is_cut(size: int) -> None:
    data = b"x" * 10 * MAX_LINE + b"\nnext\n"
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert read(*pieces) == ["x" * MAX_LINE + CUT, "next"]


def test_a_line_as_long_as_allowed_is_whole() -> None:
    assert read(b"x" * MAX_LINE + b"\r\n") == ["x" * MAX_LINE]


def test_a_cut_goes_through_no_character() -> None:
    assert read(b"x" * (MAX_LINE - 1) + "\u20ac".encode() + b"\n") == ["x" * (MAX_LINE - 1) + CUT]


def test_what_has_no_end_is_not_kept() -> None:
    lines = LineSplitter()
    for _ in range(100):
        assert lines.feed(b"x" * 65536) == []
    assert len(lines._partial) <= MAX_LINE + 1


def test_the_last_lines_are_kept() -> None:
    kept = Console(3)
    for number in range(5):
        kept.add(str(number))
    assert kept.lines(10) == ["2", "3", "4"]
    assert kept.lines(2) == ["3", "4"]
    assert kept.lines(0) == kept.lines(-1) == []


def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "KEPT_BYTES", 10)
    kept = Console(100)
    for line in ("\u20ac\u20ac", "abc", "abcde"):
        kept.add(line)
    assert kept.lines(100) == ["abc", "abcde"]


def test_a_new_run_begins_with_nothing() -> None:
    kept = Console(3)
    kept.add("x")
    kept.clear()
    assert kept.lines(3) == []
