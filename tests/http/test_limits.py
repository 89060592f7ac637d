"""What a client may cost: time, connections, headers; and how much must come from it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.python.failure import Failure

from tests.http.talk import REFUSAL, Conversation, Taker, head
from wingsd.config import LimitsConfig
from wingsd.http.site import CLOSE_TIMEOUT, NodeSite

pytestmark = pytest.mark.promise("slow-sender-frees-its-slot")


def test_a_silent_client_is_disconnected_but_not_one_that_is_paused() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=10), b"123")
    talk.reader.request.pause()
    assert talk.transport.producerState == "paused"
    talk.clock.advance(1000)
    assert not talk.transport.disconnecting
    talk.reader.request.resume()
    assert talk.transport.producerState == "producing"
    talk.clock.advance(29)
    assert talk.reader.events == []
    talk.clock.advance(2)
    assert talk.reader.events == ["lost"]
    assert not talk.transport.disconnecting
    talk.reader.request.fail(Failure(REFUSAL))
    assert talk.statuses == [401]
    assert talk.transport.disconnecting


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"timeout": 120}, 30),
        ({"timeout": 120, "limits": LimitsConfig(request_timeout=5)}, 5),
        ({"timeout": 5}, 5),
    ],
)
@pytest.mark.parametrize("before", [b"", head("/whole", Content_Length=1) + b"a"])
def test_an_idle_connection_is_cut(settings: dict[str, Any], seconds: int, before: bytes) -> None:
    talk = Conversation(Taker(), **settings)
    talk.clock.advance(seconds - 1)
    if before:
        talk.send(before)
        talk.clock.advance(seconds - 1)
    assert not talk.transport.disconnecting
    talk.clock.advance(1)
    assert talk.transport.disconnecting
    talk.clock.advance(CLOSE_TIMEOUT)
    assert talk.transport.aborting


@pytest.mark.promise("floods-delay-others-a-second")
@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        head("/whole", Content_Length=100)[:-2],
        head("/whole", Content_Length=100),
        head("/whole", Transfer_Encoding="chunked") + b"50\r\n",
        head("/whole", Content_Length=1) + b"a" + head("/whole")[:5],
    ],
)
def test_a_request_that_comes_byte_by_byte_has_no_more_time_than_another(start: bytes) -> None:
    talk = Conversation(Taker())
    talk.clock.advance(20)
    talk.send(start)
    for _ in range(29):
        talk.clock.advance(1)
        talk.send(b"x")
    assert not talk.transport.disconnecting
    talk.clock.advance(1)
    assert talk.transport.disconnecting


def test_an_upload_has_as_long_as_something_comes() -> None:
    talk = Conversation(Taker(), limits=LimitsConfig(request_timeout=5))
    talk.send(head(Content_Length=100))
    for _ in range(100):
        talk.clock.advance(20)
        talk.send(b"x")
    assert talk.reader.events == ["end"]


def slow(talk: Conversation, seconds: int) -> None:
    for _ in range(seconds):
        talk.send(b"x")
        talk.clock.advance(1)


def test_an_upload_byte_by_byte_fails_with_the_reason() -> None:
    talk = Conversation(Taker(), least_rate=2)
    talk.send(head(Content_Length=100_000))
    slow(talk, 29)
    assert talk.reader.events == []
    slow(talk, 1)
    assert talk.reader.events == ["lost"]
    assert not talk.transport.disconnecting
    talk.reader.request.fail(Failure(REFUSAL))
    assert talk.statuses == [401]
    assert talk.transport.disconnecting


def test_time_paused_does_not_count_against_an_upload() -> None:
    talk = Conversation(Taker(), least_rate=2)
    talk.send(head(Content_Length=100_000))
    slow(talk, 29)
    talk.reader.request.pause()
    talk.clock.advance(1000)
    talk.send(b"x" * 60)
    talk.reader.request.resume()
    slow(talk, 29)
    assert talk.reader.events == []
    talk.clock.advance(2)
    assert talk.reader.events == ["lost"]


def crowd(site: NodeSite, number: int, address: str = "192.0.2.1") -> list[Conversation]:
    return [Conversation(Taker(), site, address) for _ in range(number)]


def test_of_too_many_connections_those_that_wait_longest_make_way() -> None:
    uploading = Conversation(Taker(), limits=LimitsConfig(connections=10))
    uploading.send(head(Content_Length=100))
    asking, refused, *others = crowd(uploading.site, 10)
    asking.send(head("/endless", method="GET"))
    refused.send(head("/whole", Authorization="wrong", Content_Length=10))
    everybody = [uploading, asking, refused, *others, *crowd(uploading.site, 3)]
    assert [talk for talk in everybody if talk.transport.aborting] == [refused, others[0]]


@pytest.mark.promise("floods-delay-others-a-second")
def test_a_client_with_many_connections_crowds_out_no_other() -> None:
    first = Conversation(Taker(), address="192.0.2.2", limits=LimitsConfig(connections=10))
    flood = crowd(first.site, 50)
    last = Conversation(Taker(), first.site, "192.0.2.3")
    assert not first.transport.aborting
    assert not last.transport.aborting
    assert [talk.transport.aborting for talk in flood] == [True] * 42 + [False] * 8


@pytest.mark.promise("request-heads-are-bounded")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X": "x" * 900}, 200),
        ({"X": "x" * 1000}, 431),
        ({f"X{number}": "x" for number in range(8)}, 200),
        ({f"X{number}": "x" for number in range(9)}, 400),
        ({"X": "x" * 500, "Y": "x" * 500}, 400),
    ],
)
def test_headers_are_bounded(headers: dict[str, str], status: int) -> None:
    talk = Conversation(Taker(), limits=LimitsConfig(headers=10, header_bytes=1000))
    talk.send(head("/whole", Content_Length=0, **headers))
    assert talk.statuses == [status]
    assert talk.transport.disconnecting == (status != 200)
