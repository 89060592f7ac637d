"""Recordings: they are the same where nothing but chance differs, and show what else does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from treq.client import HTTPClient
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.support.reactor import reactor
from tests.wire.__main__ import differing
from tests.wire.http import Exchange, exchanges
from tests.wire.normal import transcript
from tests.wire.recorder import Recorder, install
from wingsd.moves.batch import BatchKind, WholeFrame, encode_batch, make_index
from wingsd.moves.digests import DIGEST

SERVER = "5b0c7a6e-95c1-4a5b-8a53-7f6c5d2e4b77"


def exchange(
    begin: int,
    end: int,
    path: str = "/",
    *,
    method: str = "PUT",
    body: bytes = b"",
    status: str = "200 OK",
    header: str = "",
    answer: str = "",
) -> Exchange:
    """Return an exchange with what differs in each run."""
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{begin + 1000}\r\n"
    request += f"Content-Length: {len(body)}\r\n\r\n"
    answered = f"HTTP/1.1 {status}\r\nX-Request-Id: {uuid4()}\r\n{header}"
    answered += f"Content-Length: {len(answer)}\r\n\r\n{answer}"
    streams = [(begin, request.encode() + body)], [(end, answered.encode())]
    (found,) = exchanges(*streams)
    return found


def news(begin: int) -> Exchange:
    """Return a question for news of a move."""
    return exchange(begin, begin + 1, "/move/1?wait=5", method="GET")


def batch(number: int, files: range) -> bytes:
    """Return a batch with small files."""
    frames = [WholeFrame(b"%d" % each, 0o644, 0, 1, b"d" * DIGEST) for each in files]
    index = make_index(BatchKind.DATA, number, 2, 1, frames)
    return b"".join(encode_batch(index, [bytes([each]) for each in files]))


def round_of(*sizes: int) -> list[Exchange]:
    """Return the requests of a round whose contents are in batches of these sizes."""
    found, first = [], 0
    for number, size in enumerate(sizes, 2):
        body = batch(number, range(first, first + size))
        found.append(exchange(number, number, f"/move/batches/{number}", body=body))
        first += size
    return found


def test_requests_are_found_in_whatever_pieces_they_come() -> None:
    asked = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    asked += b"HEAD /b HTTP/1.1\r\n\r\n"
    told = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    told += b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
    pieces = [[(at, bytes([byte])) for at, byte in enumerate(data)] for data in (asked, told)]
    first, second = exchanges(*pieces)
    assert (first.request.body, first.answers[-1].body) == (b"abc", b"ok")
    assert [answer.status for answer in first.answers] == ["100", "200"]
    assert second.request.begin == len(asked) - len(b"HEAD /b HTTP/1.1\r\n\r\n")
    assert second.answers[0].is_whole


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([exchange(1, 2)], [exchange(5, 9)]),
        (
            [exchange(1, 4, "/a"), exchange(2, 3, "/b")],
            [exchange(2, 4, "/a"), exchange(1, 3, "/b")],
        ),
        ([news(1)], [news(1), news(3)]),
        (round_of(1, 3), round_of(2, 1, 1)),
    ],
    ids=["identifiers", "order of what is under way at once", "repeated questions", "batches"],
)
def test_what_differs_by_chance_does_not_show(
    one: Sequence[Exchange], other: Sequence[Exchange]
) -> None:
    assert transcript(one) == transcript(other)


@pytest.mark.parametrize(
    "changed",
    [
        [exchange(1, 2, status="204 No Content")],
        [exchange(1, 2, header="Retry-After: 1\r\n")],
        [exchange(1, 2, answer="said")],
        [exchange(1, 2, body=b"asked")],
        [exchange(1, 2), exchange(3, 4)],
        [],
    ],
    ids=["status", "header", "answer", "body", "one more", "none"],
)
def test_whatever_else_differs_shows(changed: Sequence[Exchange]) -> None:
    assert transcript(changed) != transcript([exchange(1, 2)])


def test_other_contents_show() -> None:
    assert transcript(round_of(1, 3)) != transcript(round_of(1, 2))


def test_a_reference_to_another_server_shows() -> None:
    here = [exchange(1, 2, f"/{SERVER}"), exchange(3, 4, f"/{SERVER}")]
    there = [exchange(1, 2, f"/{SERVER}"), exchange(3, 4, f"/{uuid4()}")]
    assert transcript(here) != transcript(there)


def test_a_test_that_is_gone_or_new_shows() -> None:
    assert differing({"new": "a"}, [{"gone": "a"}]) == ["gone", "new"]
    assert differing({"either": "a"}, [{"either": "b"}, {"either": "a"}]) == []


async def test_what_goes_over_a_socket_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path)
    install(recorder, monkeypatch)
    root: Any = Resource()
    root.isLeaf = True
    root.render_POST = lambda request: b"told " + request.content.read()
    site: Any = Site(root)
    port: Any = reactor.listenTCP(0, site, interface="127.0.0.1")
    url = f"http://127.0.0.1:{port.getHost().port}/{SERVER}"
    answer = await HTTPClient(Agent(reactor)).post(url, data=b"something")
    assert await answer.content() == b"told something"
    await port.stopListening()
    lines = recorder.transcript().splitlines()
    assert lines[0] == "POST /<uuid 1> HTTP/1.1"
    assert "  | something" in lines
    assert "HTTP/1.1 200 OK" in lines
    assert lines[-2] == "  | told something"
