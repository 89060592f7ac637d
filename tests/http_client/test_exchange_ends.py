"""How a conversation ends: by the other side, in time, by us, or in silence."""

from __future__ import annotations

import socket

import pytest
from h11 import RemoteProtocolError
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut

from tests.http_client.talk import OK, REFUSAL, Talk
from tests.http_client.wire import Endpoint
from wingsd.http_client.exchange import (
    ANSWER_WITHIN,
    INTERIM_WITHIN,
    MAX_HEAD,
    MAX_INTERIM,
    AnswerRefused,
)
from wingsd.threadio import STEP


@pytest.mark.parametrize("reason", [ConnectionDone(), ConnectionLost()])
def test_a_connection_lost_without_an_answer_says_why(reason: Exception) -> None:
    talk = Talk()
    talk.lose(reason)
    assert talk.failure is reason
    assert talk.conversation.begun
    assert not talk.conversation.request_sent
    assert talk.closed_body()
    assert talk.reactor.getDelayedCalls() == []


def test_an_answer_that_ends_with_the_connection_is_complete() -> None:
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


def test_half_a_head_is_not_an_answer() -> None:
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


def test_an_answer_that_still_waits_in_the_socket_is_read_when_sending_fails() -> None:
    talk = Talk()
    talk.write(b"x" * STEP)
    talk.wire.unread = REFUSAL
    talk.lose(ConnectionLost())
    assert (talk.result.code, talk.result.early) == (409, True)
    assert not talk.failures


def test_an_answer_is_read_when_all_is_sent_but_not_acknowledged() -> None:
    talk = Talk()
    talk.write(b"x", last=True)
    talk.wire.unread = REFUSAL
    talk.lose(ConnectionLost())
    assert (talk.result.code, talk.result.early) == (409, False)
    assert talk.reactor.getDelayedCalls() == []


def test_a_failed_connection_fails_the_exchange() -> None:
    refused = Refused()
    talk = Talk(endpoint=Endpoint(refused))
    assert talk.failure is refused
    assert not talk.conversation.begun
    assert talk.closed_body()
    assert talk.reactor.getDelayedCalls() == []


def test_connecting_has_a_time_limit() -> None:
    talk = Talk(endpoint=Endpoint(answers=False))
    talk.reactor.advance(29)
    assert talk.failures == []
    talk.reactor.advance(1)
    assert isinstance(talk.failure, TimedOut)
    assert talk.endpoint.cancelled
    assert talk.closed_body()


def test_an_upload_and_its_answer_have_no_time_limit() -> None:
    talk = Talk()
    talk.reactor.advance(3600)
    talk.write(b"x", last=True)
    talk.reactor.advance(3600)
    talk.hear(OK)
    assert talk.result.code == 200


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_too_many_interim_answers_end_the_exchange() -> None:
    talk = Talk()
    talk.write(b"x" * STEP)
    talk.hear(CONTINUE * MAX_INTERIM)
    assert not talk.closed_body()
    talk = Talk()
    talk.hear(CONTINUE * (MAX_INTERIM + 1000))
    assert isinstance(talk.failure, AnswerRefused)
    assert "it sent more than 1000 interim answers (1xx) and no final one" in str(talk.failure)
    assert talk.wire.aborted
    assert talk.closed_body()
    assert talk.reactor.getDelayedCalls() == []


@pytest.mark.promise("answers-are-bounded")
def test_interim_answers_may_come_for_an_hour_after_the_request() -> None:
    talk = Talk()
    talk.hear(CONTINUE)
    talk.reactor.advance(10 * INTERIM_WITHIN)
    talk.write(b"x", last=True)
    for _ in range(60):
        talk.hear(CONTINUE)
        talk.reactor.advance(INTERIM_WITHIN / 60)
    talk.hear(CONTINUE)
    assert talk.failures == []
    talk.reactor.advance(1)
    talk.hear(CONTINUE)
    assert isinstance(talk.failure, AnswerRefused)
    assert "it sent interim answers (1xx) and no final one for 3600 s" in str(talk.failure)
    assert talk.wire.aborted


@pytest.mark.parametrize("block", [b"X: 1\r\n", b"x" * 100])
def test_headers_that_are_too_large_end_the_exchange(block: bytes) -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 200 OK\r\nX: ")
    heard = 0
    while not talk.failures and heard < 2 * MAX_HEAD:
        talk.hear(block)
        heard += len(block)
    assert heard <= MAX_HEAD + len(block)
    assert isinstance(talk.failure, RemoteProtocolError)
    assert talk.wire.aborted
    assert talk.closed_body()


def test_the_answer_to_a_request_without_body_has_a_time_limit() -> None:
    talk = Talk(body=False)
    talk.reactor.advance(30)
    assert isinstance(talk.failure, TimedOut)
    assert talk.wire.aborted


@pytest.mark.parametrize("how", ["abort", "cancel"])
@pytest.mark.parametrize("connected", [True, False])
def test_an_exchange_can_be_cancelled_at_any_time(how: str, connected: bool) -> None:
    talk = Talk(endpoint=Endpoint(answers=connected))
    if how == "abort":
        talk.conversation.abort(CancelledError())
    else:
        talk.answer.cancel()
    assert isinstance(talk.failure, CancelledError)
    assert talk.closed_body()
    assert talk.wire.aborted if connected else talk.endpoint.cancelled
    assert talk.reactor.getDelayedCalls() == []


def test_cancelling_a_finished_exchange_changes_nothing() -> None:
    talk = Talk(body=False)
    talk.hear(OK)
    talk.lose(ConnectionDone())
    talk.conversation.abort(CancelledError())
    assert talk.failures == []


@pytest.mark.promise("only-a-vanished-peer-fails")
def test_a_silent_peer_is_probed() -> None:
    assert sorted(Talk().wire.socket.options) == sorted(
        [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
        ]
    )
