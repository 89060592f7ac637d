"""Another node's answer to an upload: one result, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import h11
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from fuzz.findings import Finding, pieces
from tests.http_client.wire import Endpoint
from wingsd.errors import DestinationRefused
from wingsd.http_client.exchange import Answer, AnswerRefused, HttpExchange
from wingsd.transfers.peer.client import judge

__all__ = ["WORDS", "one", "seeds"]

WORDS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 302 \r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Location: https://x\r\n",
    b"\r\n0\r\n\r\n",
    b'{"error": "e", "detail": "d"}',
    b"[" * 20,
]

_ANSWERED = (
    AnswerRefused,
    DestinationRefused,
    h11.RemoteProtocolError,
    ConnectionDone,
    ConnectionLost,
)


class _Body:
    """A body that is sent immediately, or never."""

    def __init__(self, sends: bool) -> None:
        self._sends = sends
        self.closed = False

    def start(self, write: Callable[[bytes], Any], end: Callable[[], Any]) -> None:
        if self._sends:
            write(b"x" * 10)
            end()

    def close(self) -> None:
        self.closed = True

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


def one(data: bytes) -> None:
    """Answer an upload with `data` after its first byte, which selects how it is sent and ends."""
    if not data:
        return
    clock, endpoint = Clock(), Endpoint()
    body: Any = _Body(sends=bool(data[0] & 1))
    headers = [("Host", "node"), ("Transfer-Encoding", "chunked")]
    request = h11.Request(method="POST", target="/up", headers=headers)
    conversation = HttpExchange(clock, request, body, stall_timeout=120)
    results: list[object] = []
    answer: Deferred[Answer] = conversation.start(endpoint, 30)
    answer.addCallback(judge).addBoth(results.append)
    for piece in pieces(data[1:]):
        conversation.dataReceived(piece)
    if data[0] & 2:
        clock.advance(60)
    if conversation.connected:
        endpoint.wire.producer.stopProducing() if endpoint.wire.producer else None
        reason = ConnectionLost() if data[0] & 4 else ConnectionDone()
        conversation.connectionLost(Failure(reason))
    _check(results)
    clock.advance(600)
    if clock.getDelayedCalls():
        raise Finding(f"something is still waiting: {clock.getDelayedCalls()}")


def _check(results: list[object]) -> None:
    if len(results) != 1:
        raise Finding(f"the upload ended {len(results)} times")
    (result,) = results
    if not isinstance(result, Failure):
        return
    error = result.value
    if not isinstance(error, _ANSWERED):
        result.raiseException()
    if isinstance(error, DestinationRefused) and not str(error).isprintable():
        raise Finding(f"this cannot be shown to anybody: {error}")


def seeds() -> Iterator[bytes]:
    """Yield answers, before and after the end of the upload."""
    refusal = b'{"error": "no", "detail": "for this reason"}'
    head = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n"
    yield b"\1HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    yield b"\0" + head % len(refusal) + refusal
    yield b"\3HTTP/1.1 500 \r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    yield b"\1HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\nelsewhere"
    yield b"\4HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n<p>"
