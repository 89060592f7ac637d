"""Persistent connections: what follows on them, and when they are not used again."""

from __future__ import annotations

import weakref
from typing import Any

import h11
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.http_client.wire import Endpoint
from wingsd.http_client.exchange import (
    REST,
    Answer,
    BlocksBody,
    HttpExchange,
    PersistentConnections,
)
from wingsd.threadio import TokenBucket

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Line:
    """Kept connections, with a `clock`; each request has an endpoint of its own."""

    def __init__(self) -> None:
        self.clock: Any = Clock()
        self.kept = PersistentConnections(self.clock)
        self.answers: list[Answer | BaseException] = []
        self.wires: list[Any] = []

    def ask(self, body: BlocksBody | None = None, length: int = 0) -> HttpExchange:
        headers = [("Host", "node"), ("Content-Length", str(length))]
        request = h11.Request(method="PUT", target="/", headers=headers)
        exchange = HttpExchange(self.clock, request, body)
        endpoint = Endpoint()
        answer: Deferred[Answer] = self.kept.start(exchange, endpoint, 30)
        answer.addCallbacks(self.answers.append, self._note)
        if hasattr(endpoint, "wire"):
            self.wires.append(endpoint.wire)
        return exchange

    def _note(self, failure: Failure) -> None:
        assert failure.value is not None
        self.answers.append(failure.value)

    def hear(self, data: bytes = OK) -> None:
        self.wires[-1].protocol.dataReceived(data)


def test_one_request_follows_another() -> None:
    line = Line()
    for _ in range(3):
        line.ask()
        line.hear()
    assert len(line.wires) == 1
    assert [answer.code for answer in line.answers if isinstance(answer, Answer)] == [200] * 3
    assert line.wires[0].value().count(b"PUT / HTTP/1.1") == 3


def test_two_requests_at_once_have_a_connection_each() -> None:
    line = Line()
    line.ask()
    line.ask()
    assert len(line.wires) == 2


def test_a_connection_that_rested_long_is_not_used() -> None:
    line = Line()
    line.ask()
    line.hear()
    line.clock.advance(REST)
    line.ask()
    assert len(line.wires) == 2
    assert line.wires[0].aborted


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", OK + b"x"]
)
def test_a_connection_with_more_or_that_is_closed_is_not_kept(answer: bytes) -> None:
    line = Line()
    line.ask()
    line.hear(answer)
    line.ask()
    assert len(line.wires) == 2


def test_an_early_answer_ends_the_connection() -> None:
    line = Line()
    body = BlocksBody([b"a" * 100_000, b"b" * 100_000])
    line.ask(body, 200_000)
    line.hear(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    (answer,) = line.answers
    assert isinstance(answer, Answer)
    assert answer.early
    assert line.wires[0].aborted


def test_what_comes_unasked_ends_a_connection() -> None:
    line = Line()
    line.ask()
    line.hear()
    line.hear()
    assert line.wires[0].aborted


def test_a_lost_connection_is_forgotten() -> None:
    line = Line()
    line.ask()
    line.hear()
    line.wires[0].protocol.connectionLost(Failure(ConnectionLost()))
    line.ask()
    assert len(line.wires) == 2


def test_an_answer_is_waited_for_only_so_long() -> None:
    line = Line()
    line.ask(BlocksBody([b"abc"]), 3)
    assert line.wires[0].value().endswith(b"abc")
    line.clock.advance(90)
    assert line.wires[0].aborted
    (answer,) = line.answers
    assert isinstance(answer, TimedOut)
    assert answer.args == ("it said nothing for 90 s",)


def test_an_exchange_that_is_over_does_not_end_the_next_ones_connection() -> None:
    line = Line()
    first = line.ask()
    line.hear()
    line.ask()
    first.abort(CancelledError())
    assert not line.wires[0].aborted


def test_all_are_closed_at_the_end() -> None:
    line = Line()
    line.ask()
    line.ask()
    line.hear()
    line.kept.close()
    assert [wire.aborted for wire in line.wires] == [False, True]
    line.wires[0].protocol.dataReceived(OK)
    assert line.wires[0].aborted


def test_a_body_is_sent_at_the_rate_limit() -> None:
    clock: Any = Clock()
    sent: list[bytes] = []
    ends: list[None] = []
    body = BlocksBody([b"x" * 1000] * 10, TokenBucket(clock, 1000))
    body.start(sent.append, lambda: ends.append(None))
    assert len(sent) < 3
    while not ends:
        clock.advance(0.1)
    assert (len(sent), clock.seconds() > 7) == (10, True)


def test_a_body_of_nothing_ends_at_once() -> None:
    ends: list[None] = []
    BlocksBody([]).start(lambda data: None, lambda: ends.append(None))
    assert ends == [None]


# Bodies in memory: what was sent of them is not kept


class _Blocks(list[bytes]):
    """A list that can be referred to weakly."""


def test_blocks_that_were_sent_are_released() -> None:
    blocks = _Blocks([b"one", b"two"])
    alive = weakref.ref(blocks)
    sent: list[bytes] = []
    body = BlocksBody(blocks)
    del blocks
    assert alive() is not None
    body.start(sent.append, lambda: sent.append(b"end"))
    assert sent == [b"one", b"two", b"end"]
    assert alive() is None


def test_blocks_of_a_body_that_was_given_up_are_released() -> None:
    blocks = _Blocks([b"one", b"two"])
    alive = weakref.ref(blocks)
    body = BlocksBody(blocks)
    del blocks
    body.close()
    assert alive() is None
