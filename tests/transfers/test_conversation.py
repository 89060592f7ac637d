"""One request and its answer over a connection in memory: who says what, and when."""

from __future__ import annotations

import socket
from typing import Any

import h11
import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.bridge.reactor import Reactor
from tests.transfers.wire import Endpoint
from wingsd.bridge import Outflow, OutflowClosed
from wingsd.bridge.outflow import STEP
from wingsd.transfers.conversation import (
    ANSWER_WITHIN,
    CLOSE_WITHIN,
    MAX_ANSWER,
    Answer,
    Conversation,
)

HEAD = b"POST /up HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSAL = b'HTTP/1.1 409 Conflict\r\nContent-Length: 15\r\n\r\n{"error":"here"}'[:-1]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def upload() -> h11.Request:
    headers = [("Host", "node"), ("Transfer-Encoding", "chunked")]
    return h11.Request(method="POST", target="/up", headers=headers)


def question() -> h11.Request:
    return h11.Request(method="OPTIONS", target="/up", headers=[("Host", "node")])


class Talk:
    """A conversation begun, with the other side in the test's hands."""

    def __init__(self, *, body: bool = True, endpoint: Endpoint | None = None) -> None:
        self.reactor = Reactor()
        self.body = Outflow(self.reactor)
        self.endpoint = endpoint or Endpoint()
        request = upload() if body else question()
        self.conversation = Conversation(
            self.reactor, request, self.body if body else None, stall_timeout=120
        )
        self.results: list[Answer] = []
        self.failures: list[BaseException] = []
        self.answer = self.conversation.start(self.endpoint, 30)
        self.answer.addCallbacks(self.results.append, self._failed)

    def _failed(self, failure: Failure) -> None:
        assert failure.value is not None
        self.failures.append(failure.value)

    @property
    def wire(self) -> Any:
        return self.endpoint.wire

    @property
    def result(self) -> Answer:
        (result,) = self.results
        return result

    @property
    def failure(self) -> BaseException:
        (failure,) = self.failures
        return failure

    def write(self, data: bytes, *, last: bool = False) -> None:
        self.body.write(data)
        if last:
            self.body.finish()
        waiting, self.reactor.waiting = self.reactor.waiting, []
        for call in waiting:
            call()

    def hear(self, data: bytes) -> None:
        self.conversation.dataReceived(data)

    def lose(self, reason: Exception) -> None:
        """End the connection in the order in which a TCP transport tells of it."""
        if self.wire.producer is not None:
            self.wire.producer.stopProducing()
        self.conversation.connectionLost(Failure(reason))

    def closed_body(self) -> bool:
        try:
            self.body.finish()
        except OutflowClosed:
            return True
        return False


def test_a_body_goes_out_in_chunks_and_the_answer_comes_back() -> None:
    talk = Talk()
    assert talk.wire.value() == HEAD
    talk.write(b"x" * 10, last=True)
    assert talk.wire.value() == HEAD + b"a\r\n" + b"x" * 10 + b"\r\n0\r\n\r\n"
    assert talk.conversation.request_sent
    talk.hear(OK)
    assert talk.result == Answer(200, "OK", [("content-length", "0")], b"", early=False)
    assert talk.result.good


def test_what_was_written_before_there_was_a_connection_is_not_lost() -> None:
    body = Outflow(Reactor())
    body.write(b"early")
    body.finish()
    endpoint = Endpoint()
    Conversation(Clock(), upload(), body).start(endpoint, 30)
    wire: Any = endpoint.wire
    assert wire.value() == HEAD + b"5\r\nearly\r\n0\r\n\r\n"


def test_a_request_without_a_body_is_complete_at_once() -> None:
    talk = Talk(body=False)
    assert talk.wire.value() == b"OPTIONS /up HTTP/1.1\r\nHost: node\r\n\r\n"
    talk.hear(b"HTTP/1.1 204 No Content\r\nA: 1\r\nB: 2\r\na: 3\r\n\r\n")
    assert (talk.result.code, talk.result.early) == (204, False)
    assert talk.result.header("a") == "1, 3"
    assert talk.result.header("c") == ""


def test_a_refusal_during_the_body_is_there_at_once_and_ends_it() -> None:
    talk = Talk()
    talk.write(b"x" * STEP)
    talk.hear(REFUSAL)
    assert (talk.result.code, talk.result.early) == (409, True)
    assert talk.wire.aborted
    assert talk.closed_body()
    sent = talk.wire.value()
    with pytest.raises(OutflowClosed):
        talk.body.write(b"x")
    talk.conversation.resumeProducing()
    assert talk.wire.value() == sent
    talk.lose(ConnectionLost())
    assert not talk.failures


def test_the_body_stops_at_the_answers_head_whenever_its_end_comes() -> None:
    talk = Talk()
    talk.hear(REFUSAL[:-5])
    assert talk.closed_body()
    assert talk.results == []
    talk.hear(REFUSAL[-5:])
    assert talk.result.early


def test_an_answer_of_success_before_the_bodys_end_is_early() -> None:
    talk = Talk()
    talk.write(b"x" * STEP)
    talk.hear(OK)
    assert (talk.result.good, talk.result.early) == (True, True)


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_an_answer_may_come_in_any_pieces(size: int) -> None:
    talk = Talk()
    for at in range(0, len(REFUSAL), size):
        talk.hear(REFUSAL[at : at + size])
    assert talk.result.body == b'{"error":"here"'


def test_an_answer_may_come_in_chunks() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    talk.hear(b"2\r\nde\r\n0\r\n\r\n")
    assert (talk.result.reason, talk.result.body) == ("No", b"abcde")


def test_interim_answers_are_none() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 100 Continue\r\n\r\n")
    talk.write(b"x", last=True)
    talk.hear(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n")
    assert talk.results == []
    talk.hear(OK)
    assert not talk.result.early


def test_the_body_waits_while_the_transport_is_full() -> None:
    talk = Talk()
    for _ in range(9):
        talk.write(b"x" * STEP)
    assert talk.body.bytes_out == STEP
    talk.wire.drain()
    assert talk.body.bytes_out == 2 * STEP
    talk.wire.holds = 100 * STEP
    talk.wire.drain()
    assert talk.body.bytes_out == 8 * STEP
    talk.write(b"y", last=True)
    assert talk.wire.value().endswith(b"y\r\n0\r\n\r\n")


def test_after_the_answer_the_connection_is_closed_and_in_time() -> None:
    talk = Talk(body=False)
    talk.hear(OK)
    assert talk.wire.disconnecting
    assert talk.wire.producer is None
    assert not talk.wire.aborted
    talk.reactor.advance(CLOSE_WITHIN)
    assert talk.wire.aborted


def test_a_connection_that_is_closed_leaves_nothing_behind() -> None:
    talk = Talk(body=False)
    talk.hear(OK)
    talk.lose(ConnectionDone())
    assert talk.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost()])
def test_a_connection_lost_without_an_answer_says_why(reason: Exception) -> None:
    talk = Talk()
    talk.lose(reason)
    assert talk.failure is reason
    assert talk.conversation.begun
    assert not talk.conversation.request_sent
    assert talk.closed_body()
    assert talk.reactor.getDelayedCalls() == []


def test_an_answer_that_ends_with_the_connection_is_one() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 502 Bad Gateway\r\n\r\nno node")
    assert talk.results == []
    talk.lose(ConnectionDone())
    assert (talk.result.code, talk.result.body) == (502, b"no node")


@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost()])
def test_an_answer_cut_short_counts(reason: Exception) -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 100\r\n\r\nno no")
    talk.lose(reason)
    assert (talk.result.code, talk.result.body) == (502, b"no no")


def test_half_a_head_is_no_answer() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 200 OK\r\nConte")
    talk.lose(ConnectionDone())
    assert isinstance(talk.failure, ConnectionDone)


def test_an_answer_that_does_not_end_is_taken_as_it_is() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 100\r\n\r\nno no")
    talk.reactor.advance(ANSWER_WITHIN)
    assert (talk.result.code, talk.result.body) == (502, b"no no")
    assert talk.wire.aborted


def test_of_a_long_answer_only_the_beginning_is_read() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    while not talk.results:
        talk.hear(b"x" * 10_000)
    assert talk.result.body == b"x" * MAX_ANSWER
    talk.hear(b"and on")
    talk.lose(ConnectionDone())


@pytest.mark.parametrize(
    "noise", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"x" * 200_000]
)
def test_what_is_not_http_ends_it(noise: bytes) -> None:
    talk = Talk()
    talk.hear(noise)
    talk.lose(ConnectionDone())
    assert isinstance(talk.failure, (h11.RemoteProtocolError, ConnectionDone))
    assert talk.closed_body()


def test_a_body_that_is_not_http_does_not_take_the_heads_word_back() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
    assert talk.result.code == 400


def test_an_answer_that_still_waits_in_the_socket_is_read_when_sending_fails() -> None:
    talk = Talk()
    talk.write(b"x" * STEP)
    talk.wire.unread = REFUSAL
    talk.lose(ConnectionLost())
    assert (talk.result.code, talk.result.early) == (409, True)
    assert not talk.failures


def test_so_is_one_that_comes_when_everything_was_sent_but_not_taken() -> None:
    talk = Talk()
    talk.write(b"x", last=True)
    talk.wire.unread = REFUSAL
    talk.lose(ConnectionLost())
    assert (talk.result.code, talk.result.early) == (409, False)
    assert talk.reactor.getDelayedCalls() == []


def test_no_connection() -> None:
    refused = Refused()
    talk = Talk(endpoint=Endpoint(refused))
    assert talk.failure is refused
    assert not talk.conversation.begun
    assert talk.closed_body()
    assert talk.reactor.getDelayedCalls() == []


def test_connecting_has_a_limit() -> None:
    talk = Talk(endpoint=Endpoint(answers=False))
    talk.reactor.advance(29)
    assert talk.failures == []
    talk.reactor.advance(1)
    assert isinstance(talk.failure, TimedOut)
    assert talk.endpoint.cancelled
    assert talk.closed_body()


def test_neither_an_upload_nor_its_answer_has_one() -> None:
    talk = Talk()
    talk.reactor.advance(3600)
    talk.write(b"x", last=True)
    talk.reactor.advance(3600)
    talk.hear(OK)
    assert talk.result.code == 200


def test_the_answer_to_a_question_has_one() -> None:
    talk = Talk(body=False)
    talk.reactor.advance(30)
    assert isinstance(talk.failure, TimedOut)
    assert talk.wire.aborted


@pytest.mark.parametrize("how", ["abort", "cancel"])
@pytest.mark.parametrize("connected", [True, False])
def test_it_can_be_ended_at_any_time(how: str, connected: bool) -> None:
    talk = Talk(endpoint=Endpoint(answers=connected))
    if how == "abort":
        talk.conversation.abort(CancelledError())
    else:
        talk.answer.cancel()
    assert isinstance(talk.failure, CancelledError)
    assert talk.closed_body()
    assert talk.wire.aborted if connected else talk.endpoint.cancelled
    assert talk.reactor.getDelayedCalls() == []


def test_ending_it_when_it_is_over_changes_nothing() -> None:
    talk = Talk(body=False)
    talk.hear(OK)
    talk.lose(ConnectionDone())
    talk.conversation.abort(CancelledError())
    assert talk.failures == []


def test_a_silent_peer_is_asked_whether_it_is_there() -> None:
    assert sorted(Talk().wire.socket.options) == sorted(
        [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
        ]
    )
