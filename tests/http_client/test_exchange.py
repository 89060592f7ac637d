"""One request and its answer over a connection in memory: who says what, and when."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from tests.http_client.talk import HEAD, OK, REFUSAL, Talk, upload
from tests.http_client.wire import Endpoint
from tests.threadio.reactor import ManualReactor
from wingsd.http_client.exchange import CLOSE_WITHIN, MAX_ANSWER, Answer, HttpExchange
from wingsd.threadio import STEP, Outflow, OutflowClosed
from wingsd.util.net import FREE_PIECES

pytestmark = pytest.mark.promise("answers-are-bounded")


def test_a_body_goes_out_in_chunks_and_the_answer_comes_back() -> None:
    talk = Talk()
    assert talk.wire.value() == HEAD
    talk.write(b"x" * 10, last=True)
    assert talk.wire.value() == HEAD + b"a\r\n" + b"x" * 10 + b"\r\n0\r\n\r\n"
    assert talk.conversation.request_sent
    talk.hear(OK)
    assert talk.result == Answer(200, "OK", [("content-length", "0")], b"", early=False)
    assert talk.result.good


def test_data_written_before_connecting_is_sent() -> None:
    body = Outflow(ManualReactor())
    body.write(b"early")
    body.finish()
    endpoint = Endpoint()
    HttpExchange(Clock(), upload(), body).start(endpoint, 30)
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


def test_interim_answers_are_ignored() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 100 Continue\r\n\r\n")
    talk.write(b"x", last=True)
    talk.hear(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n")
    assert talk.results == []
    talk.hear(OK)
    assert not talk.result.early


def test_the_body_is_paused_while_the_transport_is_full() -> None:
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


def test_only_the_beginning_of_a_long_answer_is_read() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    while not talk.results:
        talk.hear(b"x" * 10_000)
    assert talk.result.body == b"x" * MAX_ANSWER
    talk.hear(b"and on")
    talk.lose(ConnectionDone())


@pytest.mark.parametrize(
    "noise",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % (b"9" * 5000),
    ],
    ids=["SSH", "TLS", "no line", "a length of 5,000 digits"],
)
def test_bytes_that_are_not_http_end_the_exchange(noise: bytes) -> None:
    talk = Talk()
    talk.hear(noise)
    talk.lose(ConnectionDone())
    assert isinstance(talk.failure, (h11.RemoteProtocolError, ConnectionDone))
    assert talk.closed_body()


@pytest.mark.promise("tiny-pieces-are-refused")
def test_an_answer_in_pieces_of_a_byte_is_not_read_to_its_end() -> None:
    talk = Talk(body=False)
    talk.conversation.max_answer = 1 << 20
    talk.hear(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n")
    talk.hear(b"1\r\nx\r\n" * FREE_PIECES)
    assert talk.results == []
    talk.hear(b"1\r\nx\r\n" * FREE_PIECES)
    assert (talk.result.code, talk.result.whole) == (400, False)
    assert len(talk.result.body) < FREE_PIECES + 100


def test_a_status_counts_even_if_its_body_is_not_http() -> None:
    talk = Talk()
    talk.hear(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
    assert talk.result.code == 400
