"""Bodies in tiny pieces, as records of TLS may have them, take no more memory than their bytes."""

from __future__ import annotations

import tracemalloc
from typing import Any

from twisted.internet.defer import Deferred

from wingsd.errors import BodyIncomplete
from wingsd.http.request import MAX_PULLED, PulledBody, StreamingRequest

BLOCK = 256 << 10


class Request(StreamingRequest):
    """Is paused and resumed."""

    is_paused = False

    def __init__(self) -> None:
        pass

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def proceed(self) -> None: ...


def peak_of(request: Request, body: Any) -> int:
    """Write pieces of two bytes until the request is paused; return the most memory in use."""
    tracemalloc.start()
    try:
        while not request.is_paused:
            # Each is an object of its own, as those that are received are.
            body.data(bytes(bytearray(b"ab")))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_a_body_that_is_written_to_a_file() -> None:
    request = Request()
    body = PulledBody(request, BodyIncomplete, least=BLOCK, most=BLOCK)
    block = Deferred.fromCoroutine(body.next())
    assert peak_of(request, body) < 4 * BLOCK
    assert b"".join(await block) == b"ab" * (BLOCK // 2)
    # Nothing more is read until the block is written.
    assert request.is_paused
    block = Deferred.fromCoroutine(body.next())
    assert not request.is_paused
    body.end()
    assert await block == []


async def test_an_upload() -> None:
    request, first = Request(), b"x" * 100_000
    body = PulledBody(request, BodyIncomplete)
    request.resume()
    body.data(first)
    assert peak_of(request, body) < 4 * MAX_PULLED
    pieces = await body.next()
    assert len(pieces) < 100
    assert b"".join(pieces) == first + b"ab" * ((MAX_PULLED - len(first)) // 2)
