"""Requests whose bodies stream, over an in-memory transport."""

from __future__ import annotations

import json

import pytest
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from tests.http.talk import REFUSAL, Conversation, ManyBodies, Taker, head
from tests.support.logged_errors import Logged
from tests.support.recording_observer import RecordingObserver
from wingsd.errors import TooManyTransfers
from wingsd.http import request as request_module
from wingsd.http.request import BodyReader, StreamingRequest, client_of


def test_the_body_comes_as_it_arrives_and_nothing_is_stored() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=6), b"abc")
    assert (talk.reader.body, talk.reader.events) == (b"abc", [])
    talk.send(b"def")
    assert (talk.reader.body, talk.reader.events) == (b"abcdef", ["end"])
    assert talk.reader.request.content.getvalue() == b""


def test_the_answer_after_the_body_closes_the_connection() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=3), b"abc")
    talk.reader.request.answer(200)
    status, headers, body = talk.answer
    assert (status, headers["content-length"], body) == (200, "0", b"")
    assert "content-type" not in headers
    assert headers["connection"] == "close"
    assert talk.transport.disconnecting


def test_several_bodies_can_share_a_connection() -> None:
    taker = ManyBodies()
    talk = Conversation(taker)
    one = head(Content_Length=3, Expect="100-continue") + b"abc"
    talk.send(one + one)
    taker.readers[0].request.answer(200)
    talk.clock.advance(0)
    taker.readers[1].request.answer(200)
    assert [reader.body for reader in taker.readers] == [b"abc", b"abc"]
    found = [
        (status, headers.get("connection")) for status, headers, _ in talk.transport.answers()
    ]
    assert found == [(200, None), (200, None)]
    assert not talk.transport.disconnecting


def test_a_body_that_is_refused_early_ends_the_connection_all_the_same() -> None:
    taker = ManyBodies(REFUSAL)
    talk = Conversation(taker)
    talk.send(head(Content_Length=3), b"abc")
    status, headers, _ = talk.answer
    assert (status, headers["connection"]) == (401, "close")
    assert talk.transport.disconnecting


def test_continue_is_said_when_the_resource_is_ready_and_once() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=3, Expect="100-continue"))
    assert talk.transport.value() == b""
    talk.reader.request.proceed()
    talk.reader.request.proceed()
    assert talk.transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_refusal_is_json_and_read_before_the_body_is_sent() -> None:
    talk = Conversation(Taker(REFUSAL))
    talk.send(head(Content_Length=1000, Expect="100-continue"))
    status, headers, body = talk.answer
    assert status == 401
    assert headers["content-type"] == "application/json"
    assert headers["www-authenticate"] == "bearer"
    assert json.loads(body) == {
        "error": "no",
        "code": "unauthorized",
        "detail": "do better",
        "request_id": headers["x-request-id"],
    }
    assert not talk.transport.disconnecting


@pytest.mark.promise("full-queue-refuses-early")
def test_a_refusal_may_have_retry_after() -> None:
    talk = Conversation(Taker(TooManyTransfers(72)))
    talk.send(head(Content_Length=1000))
    status, headers, body = talk.answer
    assert (status, headers["retry-after"]) == (503, "60")
    assert json.loads(body)["code"] == "too-many-transfers"


def test_a_client_that_sends_on_after_a_refusal_is_heard_to_its_end() -> None:
    talk = Conversation(Taker(REFUSAL))
    talk.send(head(Content_Length=10), b"12345")
    assert not talk.transport.disconnecting
    talk.send(b"67890")
    assert talk.reader.body == b""
    assert talk.transport.disconnecting
    talk.protocol.connectionLost(Failure(ConnectionLost()))
    assert talk.clock.getDelayedCalls() == []
    assert talk.statuses == [401]


@pytest.mark.promise("refusal-is-understood")
def test_a_refused_body_is_drained_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module, "MAX_DRAINED_BODY", 100)
    talk = Conversation(Taker(REFUSAL))
    talk.send(head(Transfer_Encoding="chunked"), b"60\r\n" + b"x" * 0x60 + b"\r\n")
    assert not talk.transport.disconnecting
    talk.send(b"60\r\n" + b"x" * 0x60 + b"\r\n")
    assert talk.transport.disconnecting


@pytest.mark.promise("refusal-is-understood")
def test_a_refused_body_is_drained_for_a_limited_time() -> None:
    talk = Conversation(Taker(REFUSAL))
    talk.send(head(Content_Length=1000))
    for _ in range(int(request_module.MAX_DRAIN_TIME) - 1):
        talk.clock.advance(1)
        talk.send(b"x")
    assert not talk.transport.disconnecting
    talk.clock.advance(1)
    assert talk.transport.disconnecting


def test_an_answer_in_the_middle_of_the_body_is_whole_and_the_rest_thrown_away() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=10), b"12345")
    talk.reader.request.pause()
    talk.reader.request.fail(Failure(REFUSAL))
    assert talk.transport.producerState == "producing"
    assert talk.statuses == [401]
    talk.send(b"67890")
    assert (talk.reader.body, talk.reader.events) == (b"12345", [])
    assert talk.transport.disconnecting


def test_only_the_first_answer_counts() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=3), b"abc")
    talk.reader.request.answer(200)
    talk.reader.request.fail(Failure(REFUSAL))
    assert talk.statuses == [200]


def test_a_lost_client_is_reported_and_not_answered() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=10), b"123")
    talk.protocol.connectionLost(Failure(ConnectionLost()))
    assert talk.reader.events == ["lost"]
    talk.reader.request.pause()
    talk.reader.request.proceed()
    talk.reader.request.resume()
    talk.reader.request.answer(200)
    assert talk.transport.value() == b""


@pytest.mark.parametrize(
    "broken",
    [
        head(Content_Length=3, Transfer_Encoding="gzip") + b"abc",
        head(Content_Length=-3),
        head(Content_Length="1" * 5000),
        head(Content_Length=3)[:-4] + b"\r\nno header\r\n\r\nabc",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_in_json_and_taken_for_nothing(broken: bytes) -> None:
    talk = Conversation(Taker())
    talk.send(broken, head(Content_Length=0))
    status, _, body = talk.answer
    assert (status, json.loads(body)["code"]) == (400, "http-request-invalid")
    assert talk.taker.readers == []
    assert talk.transport.disconnecting


def test_a_body_that_is_no_http_ends_the_upload() -> None:
    talk = Conversation(Taker())
    talk.send(head(Transfer_Encoding="chunked"), b"3\r\nabc\r\n", b"nonsense\r\n", b"more")
    assert (talk.reader.body, talk.reader.events) == (b"abc", ["lost"])
    assert talk.statuses == [400]


class Mistaken(Taker):
    def open_body(self, request: StreamingRequest) -> BodyReader:
        raise RuntimeError("a mistake")


def test_a_resource_that_fails_at_once_is_answered_for(logged: Logged) -> None:
    talk = Conversation(Mistaken())
    talk.send(head(Content_Length=3), b"abc")
    assert talk.statuses == [500]
    assert logged.take(RuntimeError)


def test_an_internal_error_is_logged_and_its_answer_is_empty_of_it(logged: Logged) -> None:
    talk = Conversation(Taker(RuntimeError("secret")))
    talk.send(head(Content_Length=0))
    status, _, body = talk.answer
    assert status == 500
    assert b"secret" not in body
    assert "log of this node" in json.loads(body)["detail"]
    assert len(logged.take(RuntimeError)) == 1


def test_a_form_is_not_parsed_by_twisted() -> None:
    # Its parser fails on names in the form of RFC 2231, and runs before anybody is asked to let
    # the client in.
    form = b"--b\r\nContent-Disposition: form-data; name*=utf-8''x\r\n\r\nv\r\n--b--\r\n"
    talk = Conversation(Taker())
    kind = "multipart/form-data; boundary=b"
    talk.send(head("/whole", Content_Type=kind, Content_Length=len(form)), form[:9], form[9:])
    assert [body for _, _, body in talk.transport.answers()] == [form[::-1]]


def test_an_internal_error_of_a_resource_is_answered_with_500_in_json(logged: Logged) -> None:
    talk = Conversation(Taker())
    talk.send(head("/whole", method="PUT", Content_Length=0))
    status, _, body = talk.answer
    assert (status, json.loads(body)["code"]) == (500, "internal-error")
    assert logged.take(RuntimeError)


@pytest.mark.parametrize("headers", [{"Content_Length": 2**21}, {"Transfer_Encoding": "chunked"}])
def test_a_body_too_large_to_store_is_refused(headers: dict[str, object]) -> None:
    talk = Conversation(Taker())
    talk.send(head("/whole", method="POST", **headers))
    for _ in range(2**21 // 2**16):
        piece = b"x" * 2**16
        chunked = "Transfer_Encoding" in headers
        talk.send(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
    assert talk.statuses == [413]


@pytest.mark.promise("unauthorized-body-is-not-read")
def test_a_body_is_refused_before_it_comes_when_nobody_is_let_in_with_it() -> None:
    talk = Conversation(Taker())
    talk.send(head("/whole", Authorization="wrong", Content_Length=10), b"12345")
    assert talk.statuses == [401]
    assert talk.request.content.getvalue() == b""
    talk.send(b"67890", head("/whole"))
    assert talk.statuses == [401]
    assert talk.transport.disconnecting


def test_a_body_for_nothing_is_not_stored() -> None:
    talk = Conversation(Taker())
    talk.send(head("/nothing", Content_Length=10), b"12345")
    assert talk.request.content.getvalue() == b""
    talk.send(b"67890", head("/nothing", Content_Length=0))
    assert talk.statuses == [404, 404]


def test_an_error_answer_is_counted() -> None:
    heard, resource = RecordingObserver(), Taker(REFUSAL)
    talk = Conversation(resource, observer=heard)
    talk.send(head(Content_Length=5), b"abcde")
    assert heard.answers == [REFUSAL]


@pytest.mark.promise("slow-sender-frees-its-slot")
def test_a_client_is_not_looked_for_when_its_request_is_answered() -> None:
    talk = Conversation(Taker())
    talk.send(head(Content_Length=2) + b"ab")
    request = talk.request
    request.pause()
    request.answer(200)
    talk.clock.pump([1] * 20)
    assert talk.clock.getDelayedCalls() == []


# Whose request it is that comes through proxies


CLIENT, PROXY, INNER = "198.51.100.7", "192.0.2.1", "10.0.0.5"
UNIX = "a Unix socket"


@pytest.mark.parametrize(
    ("trusted", "peer", "chain", "client"),
    [
        ([], PROXY, [CLIENT], PROXY),
        ([PROXY], CLIENT, ["203.0.113.1"], CLIENT),
        ([PROXY], PROXY, [CLIENT], CLIENT),
        (["192.0.2.0/24"], PROXY, [CLIENT], CLIENT),
        ([PROXY], f"::ffff:{PROXY}", [CLIENT], CLIENT),
        # What comes before the address that the proxy has added may be invented.
        ([PROXY], PROXY, ["203.0.113.1", CLIENT], CLIENT),
        ([PROXY, "10.0.0.0/8"], PROXY, ["203.0.113.1", CLIENT, INNER], CLIENT),
        ([PROXY, "10.0.0.0/8"], PROXY, ["203.0.113.1", INNER], "203.0.113.1"),
        ([PROXY, "10.0.0.0/8"], PROXY, [INNER], INNER),
        ([PROXY], PROXY, ["2001:db8::1"], "2001:db8::1"),
        ([PROXY], PROXY, [f"{CLIENT}, x"], PROXY),
        ([PROXY], PROXY, ["unknown"], PROXY),
        ([PROXY], PROXY, [""], PROXY),
        ([PROXY], PROXY, [], PROXY),
        ([PROXY], UNIX, [CLIENT], CLIENT),
        ([PROXY], UNIX, [], UNIX),
        ([], UNIX, [CLIENT], UNIX),
    ],
)
def test_the_client_is_the_last_that_is_no_trusted_proxy(
    trusted: list[str], peer: str, chain: list[str], client: str
) -> None:
    assert client_of(trusted, peer, chain) == client
