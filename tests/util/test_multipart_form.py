"""Parts are found as the library finds them, and what they hold is not copied."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from wingsd.config import FormConfig
from wingsd.util.multipart_form import FormParts

KEYS = "system.transfers.form"
HEAD = b'Content-Disposition: form-data; name="n"'
#: What nearly is a boundary, where the boundary is `bb`.
SCRAPS = st.sampled_from(
    [b"\r", b"\n", b"-", b"b", b"\r\n", b"\r\n-", b"\r\n--", b"\r\n--b", b"\r\r\n--", b"\r\n\r\n"]
)
CONTENTS = (
    st.lists(SCRAPS | st.binary(max_size=9), max_size=9)
    .map(b"".join)
    .filter(lambda content: b"\r\n--bb" not in content)
)


def form(*contents: bytes, head: bytes = HEAD) -> bytes:
    parts = (b"--bb\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for content in contents)
    return b"".join(parts) + b"--bb--\r\n"


def cut(whole: bytes, places: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(whole), *(place for place in places if place < len(whole))})
    return [whole[a:b] for a, b in itertools.pairwise(edges)]


def found(parser: FormParts | PushMultipartParser, pieces: Iterable[bytes]) -> list[bytes]:
    """Return what each part holds, of those that are whole."""
    contents: list[bytes] = []
    content = b""
    for piece in pieces:
        for event in parser.parse(piece):
            if isinstance(event, MultipartSegment):
                content = b""
            elif event is None:
                contents.append(content)
            else:
                content += event
    return contents


def in_parts(*pieces: bytes) -> list[bytes]:
    return found(FormParts("bb", FormConfig(), KEYS), pieces)


@given(st.lists(CONTENTS, max_size=4), st.sets(st.integers(1, 400), max_size=9))
def test_any_form_is_divided_as_by_the_library(contents: list[bytes], places: set[int]) -> None:
    pieces = cut(form(*contents), places)
    assert in_parts(*pieces) == contents == found(PushMultipartParser("bb"), pieces)


def test_a_piece_of_a_part_is_handed_on_and_not_copied() -> None:
    parts = FormParts("bb", FormConfig(), KEYS)
    assert len([*parts.parse(b"--bb\r\n" + HEAD + b"\r\n\r\n")]) == 1
    for piece in (b"x" * 1000, b"\r\n--" * 1000 + b"\n", b"\r\r\n\n--bb"):
        (same,) = parts.parse(piece)
        assert same is piece


def test_what_may_become_a_boundary_waits_for_the_next_piece() -> None:
    parts = FormParts("bb", FormConfig(), KEYS)
    assert len([*parts.parse(b"--bb\r\n" + HEAD + b"\r\n\r\n1\r\n--bb")]) == 2
    assert [*parts.parse(b"-")] == []
    assert [*parts.parse(b"x")] == [b"\r\n--bb-x"]
    assert [*parts.parse(b"\r\n--bb-")] == []
    assert [*parts.parse(b"-")] == [None]
    assert parts.is_complete


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"", "Missing Content-Disposition"),
        (b"X: y", "Missing Content-Disposition"),
        (HEAD + b"\r\nContent-Length: 1", "2 bytes and says that it has 1"),
        (HEAD + b"\r\nContent-Length: 3", "2 bytes and says that it has 3"),
        (HEAD + b"\r\nA: a\r\nB: b", "header"),
        (HEAD + b"\r\nA: " + b"a" * 50, "longer than the 50 bytes"),
        (HEAD + b"\r\nA: " + b"a" * 45 + b"\r\nB: " + b"b" * 45, "more than the 2 headers"),
    ],
)
def test_headers_that_are_wrong_or_too_much_are_refused(head: bytes, why: str, size: int) -> None:
    whole = form(b"12", head=head)
    parts = FormParts("bb", FormConfig(headers=2, header_bytes=50), KEYS)
    with pytest.raises(MultipartError, match=why):
        found(parts, cut(whole, range(size, len(whole), size)))


def test_endless_headers_are_refused() -> None:
    parts = FormParts("bb", FormConfig(), KEYS)
    with pytest.raises(MultipartError):
        found(parts, [b"--bb\r\n", *[b"A: a\r\n"] * 10_000])


def test_more_parts_than_allowed_are_refused() -> None:
    bounds = FormConfig(parts=2)
    assert found(FormParts("bb", bounds, KEYS), [form(b"1", b"2")]) == [b"1", b"2"]
    with pytest.raises(
        MultipartError, match=r"more than the 2 parts that system\.transfers\.form\.parts"
    ):
        found(FormParts("bb", bounds, KEYS), [form(b"1", b"2", b"3")])
