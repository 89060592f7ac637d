"""What a client without a token can have the node do: so much in a turn, and so much kept."""

from __future__ import annotations

import gc
import weakref

import pytest
from twisted.python.failure import Failure

from tests.http.talk import REFUSAL, Conversation, Taker, head, turn
from wingsd.http.site import PIECE, READ_SIZE

pytestmark = pytest.mark.promise("floods-delay-others-a-second")

GET = head("/nothing", method="GET")


def turns_until_it_reads(talk: Conversation) -> int:
    turns = 0
    while talk.transport.producerState == "paused":
        turn(talk.clock)
        turns += 1
    return turns


def test_one_request_of_each_connection_is_answered_in_a_turn() -> None:
    first = Conversation(Taker())
    second = Conversation(Taker(), first.site)
    for talk in (first, second):
        talk.protocol.dataReceived(GET * 5)
    for count in range(1, 6):
        turn(first.clock)
        assert first.statuses == second.statuses == [404] * count
    turn(first.clock)
    assert len(first.statuses) == 5


def test_no_request_is_taken_while_answers_wait_to_be_written() -> None:
    talk = Conversation(Taker())
    talk.send(GET)
    talk.protocol.pauseProducing()
    for _ in range(10):
        talk.send(GET * 10)
    assert talk.statuses == [404]
    assert talk.transport.producerState == "paused"
    talk.protocol.resumeProducing()
    turn(talk.clock)
    assert talk.statuses == [404, 404]
    talk.protocol.pauseProducing()
    talk.clock.advance(0)
    assert talk.statuses == [404, 404]
    talk.protocol.resumeProducing()
    talk.clock.advance(0)
    assert talk.statuses == [404] * 101
    assert talk.transport.producerState == "producing"


def test_nothing_is_read_behind_a_request_that_is_not_answered_yet() -> None:
    talk = Conversation(Taker())
    talk.send(head("/endless", method="GET") + GET)
    assert talk.statuses == []
    assert talk.transport.producerState == "paused"
    talk.request.answer(200)
    talk.clock.advance(0)
    assert talk.statuses == [200, 404]
    assert talk.transport.producerState == "producing"


@pytest.mark.parametrize(
    "opening",
    [
        head(Transfer_Encoding="chunked"),
        head("/whole", Authorization="wrong", Transfer_Encoding="chunked"),
        head("/nothing", Transfer_Encoding="chunked"),
    ],
)
def test_chunks_of_a_body_that_nobody_wants_are_taken_a_piece_a_turn(opening: bytes) -> None:
    talk = Conversation(Taker(REFUSAL))
    talk.send(opening)
    talk.protocol.dataReceived(b"1\r\nx\r\n" * (READ_SIZE // 6))
    assert turns_until_it_reads(talk) == READ_SIZE // PIECE


def test_the_body_of_an_upload_waits_for_no_turn() -> None:
    talk = Conversation(Taker())
    talk.send(head(Transfer_Encoding="chunked"))
    talk.protocol.dataReceived(b"1\r\nx\r\n" * 1000)
    assert talk.reader.body == b"x" * 1000
    assert talk.transport.producerState == "producing"


def test_a_connection_that_closes_reads_on_so_that_its_end_is_seen() -> None:
    talk = Conversation(Taker())
    talk.protocol.dataReceived(b"nonsense\r\n" + GET * 5)
    assert talk.transport.producerState == "paused"
    talk.clock.advance(0)
    assert talk.statuses == [400]
    assert talk.transport.disconnecting
    assert talk.transport.producerState == "producing"


def test_a_lost_connection_is_freed_without_the_garbage_collector() -> None:
    talk = Conversation(Taker())
    talk.send(head("/nothing", Transfer_Encoding="chunked"), b"1\r\n")
    gone = weakref.ref(talk.protocol)
    gc.disable()
    try:
        talk.protocol.connectionLost(Failure(ConnectionError()))
        talk.transport.unregisterProducer()  # as a socket that is closed
        talk.clock.calls.clear()
        del talk.protocol
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.promise("request-heads-are-bounded")
@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [("1.1", [], 400), ("1.1", ["a", "b"], 400), ("1.1", ["a"], 404), ("1.0", [], 404)],
)
def test_a_request_of_http_1_1_has_one_host(version: str, hosts: list[str], status: int) -> None:
    talk = Conversation(Taker())
    lines = [f"GET /nothing HTTP/{version}", *(f"Host: {host}" for host in hosts), "", ""]
    talk.send("\r\n".join(lines).encode())
    assert talk.statuses == [status]
