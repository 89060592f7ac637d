"""Heads of requests: their framing, and bounds on what is split."""

from __future__ import annotations

import itertools

import pytest
from twisted.web.http_headers import _nameEncoder

from tests.http.talk import Conversation, Taker, head
from wingsd.http.site import MAX_ENTRIES, MAX_NAME, MAX_PARTS, MAX_VALUES

pytestmark = pytest.mark.promise("request-heads-are-bounded")


def answer_to(*lines: str, path: str = "/take", version: str = "1.1") -> tuple[int, Conversation]:
    """Return the only answer's status. Behind the head comes what would be a second request."""
    talk = Conversation(Taker())
    request = "\r\n".join([f"POST {path} HTTP/{version}", "Host: x", *lines, "", ""])
    talk.send(request.encode("latin-1"), b"0\r\n\r\n", head("/nothing", method="GET"))
    return talk.transport.answers()[0][0], talk


CODINGS = ["chunked", "identity", "xchunked", "CHUNKED", "gzip, chunked", "chunked, identity", ""]
LENGTH = "Content-Length: 5"


@pytest.mark.promise("request-length-is-unambiguous")
@pytest.mark.parametrize(
    "lines",
    [
        *itertools.permutations([f"Transfer-Encoding: {coding}" for coding in CODINGS], 2),
        *(["Transfer-Encoding: chunked", f"Transfer-Encoding: {each}"] for each in CODINGS),
        *([f"Transfer-Encoding: {each}"] for each in CODINGS if each.lower() != "chunked"),
        *([f"Transfer-Encoding: {each}", LENGTH] for each in CODINGS),
        *([LENGTH, f"Transfer-Encoding: {each}"] for each in CODINGS),
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: chunked,"],
        ["Transfer-Encoding: ,chunked"],
        ["Transfer-Encoding: identity, chunked"],
        ["Transfer-Encoding: chunked;q=1"],
        ['Transfer-Encoding: "chunked"'],
        ["Transfer-Encoding: chunked\x0b"],
        ["Transfer-Encoding: \x0bchunked"],
        ["Transfer-Encoding: chunked\nX: y"],
        ["X: y\nTransfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked\rX"],
        ["X: y\rTransfer-Encoding: chunked"],
        ["X: y\0"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding\t: chunked"],
        ["Transfer-Encoding:", " chunked"],
        ["Transfer-Encoding: chunked", "\tidentity"],
        ["X: y", " Transfer-Encoding: chunked"],
        [" Transfer-Encoding: chunked"],
        [LENGTH, LENGTH],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5_0"],
        ["Content-Length:", " 5"],
    ],
)
def test_a_body_whose_length_can_be_read_in_two_ways_is_refused(lines: list[str]) -> None:
    status, talk = answer_to(*lines)
    assert (status, talk.taker.readers) == (400, [])
    assert len(talk.transport.answers()) == 1
    assert talk.transport.disconnecting


@pytest.mark.parametrize("value", ["chunked", "CHUNKED", " \tchunked\t ", "Chunked"])
def test_chunked_alone_is_taken(value: str) -> None:
    talk = Conversation(Taker())
    talk.send(f"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:{value}\r\n\r\n".encode())
    talk.send(b"1\r\nx\r\n0\r\n\r\n")
    assert (talk.reader.body, talk.reader.events) == (b"x", ["end"])


def test_a_request_of_http_1_0_is_not_chunked() -> None:
    assert answer_to("Transfer-Encoding: chunked", version="1.0")[0] == 400


@pytest.mark.parametrize(
    "name", ["Accept", "Accept-Encoding", "Connection", "Content-Type", "Cookie", "Range", "X"]
)
@pytest.mark.parametrize("separator", [",", ";", "a,", ";q=", ",;"])
def test_a_header_has_so_many_entries(name: str, separator: str) -> None:
    times = MAX_ENTRIES // sum(map(separator.count, ",;"))
    for extra, status in ((0, 404), (1, 400)):
        line = f"{name}: {separator * (times - 1 + extra)}a"
        assert answer_to(line, "Content-Length: 0", path="/nothing")[0] == status


@pytest.mark.parametrize("separator", ["&", ";", "a=b&", "%41=%41;"])
def test_a_query_has_so_many_values(separator: str) -> None:
    for extra, status in ((0, 404), (1, 400)):
        path = f"/nothing?{separator * (MAX_VALUES - 1 + extra)}"
        assert answer_to("Content-Length: 0", path=path)[0] == status


@pytest.mark.parametrize("part", ["/", "/a", "/%2e"])
def test_a_path_has_so_many_parts(part: str) -> None:
    for extra, status in ((0, 404), (1, 400)):
        path = part * (MAX_PARTS + extra)
        assert answer_to("Content-Length: 0", path=path)[0] == status


def test_the_names_of_headers_that_are_remembered_take_little_memory() -> None:
    known = set(_nameEncoder._canonicalHeaderCache)
    assert answer_to("n" * MAX_NAME + ": x", "Content-Length: 0", path="/nothing")[0] == 404
    assert answer_to("n" * (MAX_NAME + 1) + ": x", "Content-Length: 0", path="/nothing")[0] == 400
    added = set(_nameEncoder._canonicalHeaderCache) - known
    assert max(map(len, added)) == MAX_NAME
