"""Answers within their bounds and past them, from scripted servers on loopback."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import h11
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport

from tests.http_client.fetching import (
    ALLOWED,
    LIMITS,
    OK,
    Collector,
    Fetched,
    Names,
    fetch,
    make_client,
    url_of,
)
from tests.support.reactor import ClockedReactor, reactor, until
from tests.transfers.peers import BUFFERS, ENDLESS, Peer, closed_port, goes_on, read_head
from wingsd.errors import AddressBlocked, DownloadFailed, UrlInvalid
from wingsd.http_client.download import LEAST_PACE, MAX_INTERIM, FetchLimits, GuardedExchange
from wingsd.http_client.exchange import MAX_HEAD
from wingsd.http_client.urls import WebUrl
from wingsd.util.net import FREE_PIECES

pytestmark = pytest.mark.promise("url-download-is-whole-or-nothing")


def says(data: bytes, pieces: int = 1 << 20) -> Callable[[socket.socket], bytes]:
    """Return the script of a server that reads a request and answers with `data`.

    A client that has its answer, or refuses it, may be gone before all was sent.
    """

    def script(connection: socket.socket) -> bytes:
        head = read_head(connection)
        with suppress(ConnectionError):
            for at in range(0, len(data), pieces):
                connection.sendall(data[at : at + pieces])
        return head

    return script


async def answered(data: bytes, limits: FetchLimits = LIMITS) -> Fetched:
    """Return what is made of an answer."""
    peer = Peer(says(data))
    try:
        return await fetch(url_of(peer), limits)
    finally:
        await peer.outcome


async def why_failed(data: bytes, limits: FetchLimits = LIMITS) -> str:
    """Return why an answer is not taken."""
    with pytest.raises(DownloadFailed) as raised:
        await answered(data, limits)
    return raised.value.detail


def waits(first: bytes, asked: threading.Event) -> Callable[[socket.socket], bytes]:
    """Return the script of a server that sends `first`, and then nothing until it is left.

    `asked` is set once it has the request.
    """

    def script(connection: socket.socket) -> bytes:
        read_head(connection)
        asked.set()
        connection.sendall(first)
        try:
            return connection.recv(1)
        except ConnectionResetError:
            return b""

    return script


@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
async def test_a_file_is_received(pieces: int) -> None:
    peer = Peer(says(OK + b"Content-Length: 4\r\nX: \xc3\xbc\r\n\r\nbodyand more", pieces))
    found = await fetch(url_of(peer, "/a b?c"))
    assert (found.status, found.length, found.body) == (200, 4, b"body")
    head = await peer.outcome
    assert head.startswith(b"GET /a%20b?c HTTP/1.1\r\n")
    assert set(head.lower().split(b"\r\n")[1:]) == {
        b"host: 127.0.0.1:%d" % peer.port,
        b"user-agent: test (agent)",
        b"accept: */*",
        b"accept-encoding: identity",
        b"connection: close",
        b"",
    }


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"\r\nbody",
        b"HTTP/1.0 200 OK\r\n\r\nbody",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        # The length does not count then: a body without an end was taken for one of 1 byte.
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_INTERIM + OK + b"\r\nbody",
    ],
)
async def test_a_body_of_unknown_length_is_received(answer: bytes) -> None:
    found = await answered(answer)
    assert (found.length, found.body) == (None, b"body")


async def test_other_statuses_are_answers() -> None:
    found = await answered(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    assert found.status == 404


async def test_an_answer_that_has_no_body_has_no_length_either() -> None:
    found = await answered(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody")
    assert (found.status, found.length, found.body) == (204, 0, b"")


async def test_what_is_received_is_not_decoded() -> None:
    packed = gzip.compress(b"text")
    head = OK + b"Content-Length: %d\r\n\r\n" % len(packed)
    assert (await answered(head + packed)).body == packed


@pytest.mark.parametrize("coding", [b"gzip", b"x-gzip", b"identity, br", b"deflate"])
async def test_an_encoded_answer_is_refused(coding: bytes) -> None:
    assert "encoded" in await why_failed(OK + b"Content-Encoding: " + coding + b"\r\n\r\nbody")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "it closed the connection"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "it closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "it closed the connection"),
        (OK + b"Content-Length: 5\r\n\r\nbody", "the connection ended before the file did"),
        (OK + b"Content-Length: -1\r\n\r\nbody", "not HTTP"),
        (OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody", "not HTTP"),
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nbody", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbo", "the connection ended"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nz\r\nbo", "not HTTP"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\nbody", "not HTTP"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1) + OK + b"\r\n", "interim"),
        (OK + b"X: " + b"x" * MAX_HEAD, "headers"),
    ],
)
async def test_answers_that_are_not_whole_are_refused(answer: bytes, why: str) -> None:
    assert why in await why_failed(answer)


@pytest.mark.parametrize(
    "first",
    [
        OK + b"X: 1",
        OK,
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        OK + b"Content-Length: 10\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        OK + b"\r\n",
    ],
    ids=["line", "headers", "interim", "body", "chunk", "endless"],
)
async def test_endless_answers_are_ended(first: bytes) -> None:
    block = (
        b"X: 1\r\n"
        if first == OK
        else b"HTTP/1.1 103 x\r\n\r\n"
        if b"103" in first
        else b"1" * 4096
    )
    peer = Peer(goes_on(first, block))
    if b"Content-Length" in first:
        assert (await fetch(url_of(peer))).body == b"1" * 10
    else:
        with pytest.raises(DownloadFailed):
            await fetch(url_of(peer), attrs.evolve(LIMITS, body=1 << 20))
    assert await peer.outcome < min(BUFFERS + (2 << 20), ENDLESS)


async def test_a_body_may_be_as_long_as_its_limit() -> None:
    limits = attrs.evolve(LIMITS, body=4)
    assert (await answered(OK + b"\r\nbody", limits)).body == b"body"
    assert "more than 4 bytes" in await why_failed(OK + b"\r\nbodyx", limits)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """The bytes that clients have received."""
    data = bytearray()
    receive = GuardedExchange.dataReceived

    def receiving(exchange: GuardedExchange, piece: bytes) -> None:
        receive(exchange, piece)
        data.extend(piece)

    monkeypatch.setattr(GuardedExchange, "dataReceived", receiving)
    return data


@pytest.mark.parametrize(
    ("first", "limits", "why"),
    [
        (b"", attrs.evolve(LIMITS, answer=5), "no answer within"),
        (OK, attrs.evolve(LIMITS, answer=5), "no answer within"),
        (OK + b"Content-Length: 9\r\n\r\nx", attrs.evolve(LIMITS, idle=5), "sent nothing for"),
        (OK + b"Content-Length: 9\r\n\r\nx", attrs.evolve(LIMITS, total=5), "took longer than"),
    ],
)
async def test_a_silent_server_is_left(
    received: bytearray, first: bytes, limits: FetchLimits, why: str
) -> None:
    clock, asked = ClockedReactor(), threading.Event()
    peer = Peer(waits(first, asked))
    fetching = Deferred.fromCoroutine(fetch(url_of(peer), limits, make_client(clock=clock)))
    await until(lambda: asked.is_set() and received == first)
    clock.advance(4)
    assert not fetching.called
    clock.advance(1)
    with pytest.raises(DownloadFailed) as raised:
        await fetching
    assert why in raised.value.detail
    assert await peer.outcome == b""


async def test_a_slow_body_is_ended_in_the_end(received: bytearray) -> None:
    def script(connection: socket.socket) -> bytes:
        read_head(connection)
        connection.sendall(OK + b"Content-Length: 1000000\r\n\r\n")
        connection.settimeout(0.01)
        while True:
            try:
                connection.sendall(b"x")
                return connection.recv(1)
            except TimeoutError:
                continue
            except OSError:
                return b""

    def drips(count: int) -> bool:
        return received.count(b"x") > count

    clock, peer = ClockedReactor(), Peer(script)
    limits = attrs.evolve(LIMITS, total=30)
    fetching = Deferred.fromCoroutine(fetch(url_of(peer), limits, make_client(clock=clock)))
    for count in range(1, 7):
        await until(partial(drips, count))
        assert not fetching.called
        clock.advance(5)
    with pytest.raises(DownloadFailed) as raised:
        await fetching
    assert "took longer than" in raised.value.detail
    assert await peer.outcome == b""


class Connection(StringTransport):
    """A connection whose socket can be set up."""

    def getHandle(self) -> socket.socket:
        return socket.socket()


@pytest.mark.promise("url-download-is-whole-or-nothing")
@pytest.mark.parametrize(
    ("size", "end"),
    [(1, ["it sent less than 60 KiB in 2 min"]), (LEAST_PACE * 61, [])],
)
def test_a_body_that_drips_ends_and_a_slow_one_does_not(size: int, end: list[str]) -> None:
    clock = Clock()
    request = h11.Request(method="GET", target="/", headers=[("Host", "h")])
    url = WebUrl.parse("http://node/")
    limits = FetchLimits(idle=120)
    exchange = GuardedExchange(clock, request, url=url, check_peer=lambda _: None, limits=limits)
    exchange.makeConnection(Connection())
    exchange.dataReceived(OK + b"Content-Length: 99999999\r\n\r\n")
    failed: list[Any] = []
    received = exchange.deliver(Collector())
    received.addErrback(failed.append)
    for _ in range(60):
        clock.advance(59)
        if not failed:
            exchange.dataReceived(b"x" * size)
    assert [failure.value.detail for failure in failed] == end
    exchange.abort(DownloadFailed("the test is over"))


async def test_the_consumer_holds_the_server_back() -> None:
    peer = Peer(goes_on(OK + b"Content-Length: %d\r\n\r\n" % ENDLESS, b"x" * 65536))
    consumer = Collector(paused_at=1)
    clock = ClockedReactor()
    answer = await make_client(clock=clock).get(url_of(peer), LIMITS)
    received = answer.deliver(consumer)
    await consumer.full
    held = len(consumer.data)
    clock.advance(LIMITS.idle + 1)
    await deferLater(reactor, 0)
    assert len(consumer.data) == held
    assert not received.called
    consumer.producer.resumeProducing()
    await received
    answer.close()
    assert len(consumer.data) == ENDLESS
    assert await peer.outcome == ENDLESS


async def test_what_arrived_before_the_end_is_delivered_after_a_pause() -> None:
    peer = Peer(says(OK + b"\r\nbody"))
    consumer = Collector(paused_at=1)
    answer = await make_client().get(url_of(peer), LIMITS)
    received = answer.deliver(consumer)
    await consumer.full
    await peer.outcome
    consumer.producer.resumeProducing()
    await received
    answer.close()
    assert consumer.data == b"body"


async def test_a_download_is_cancelled() -> None:
    peer = Peer(waits(OK + b"Content-Length: 9\r\n\r\nx", threading.Event()))
    consumer = Collector(paused_at=1)
    receiving = Deferred.fromCoroutine(fetch(url_of(peer), consumer=consumer))
    await consumer.full
    receiving.cancel()
    with pytest.raises(CancelledError):
        await receiving
    assert await peer.outcome == b""


async def test_a_request_is_cancelled() -> None:
    def script(connection: socket.socket) -> bytes:
        read_head(connection)
        reactor.callFromThread(asking.cancel)
        try:
            return connection.recv(1)
        except ConnectionResetError:
            return b""

    peer = Peer(script)
    asking = Deferred.fromCoroutine(fetch(url_of(peer)))
    with pytest.raises(CancelledError):
        await asking
    assert await peer.outcome == b""


@pytest.mark.promise("tiny-pieces-are-refused")
async def test_a_body_in_pieces_of_a_byte_is_refused() -> None:
    body = b"1\r\nx\r\n" * (2 * FREE_PIECES)
    detail = await why_failed(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert detail == "it is sent in pieces of a few bytes"


async def test_a_closed_port_is_told() -> None:
    with closed_port() as port, pytest.raises(DownloadFailed) as raised:
        await fetch(f"http://{ALLOWED}:{port}/")
    assert raised.value.detail == f"no server listens at {ALLOWED}:{port}"


async def test_an_unknown_name_is_told() -> None:
    client = make_client(Names({"unknown.invalid": [[]]}))
    with pytest.raises(DownloadFailed) as raised:
        await fetch("http://unknown.invalid/", client=client)
    assert raised.value.detail == "no name server knows unknown.invalid"


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
async def test_loopback_is_refused(host: str) -> None:
    client = make_client(Names({"localhost": [["127.0.0.1", "::1"]]}), ["127.0.0.9"])
    with pytest.raises(AddressBlocked):
        await fetch(f"http://{host}:8080/", client=client)


async def test_ports_of_other_services_are_refused() -> None:
    with pytest.raises(UrlInvalid):
        await fetch("http://host.example:25/")


async def test_the_second_address_is_tried_when_nothing_listens_at_the_first() -> None:
    peer = Peer(says(OK + b"\r\nbody"))
    names = Names({"host.example": [["127.0.0.3", "127.0.0.1"]]})
    client = make_client(names, ["127.0.0.0/24"])
    assert (await fetch(url_of(peer, host="host.example"), client=client)).body == b"body"
    await peer.outcome


async def test_only_allowed_addresses_of_a_name_are_connected_to() -> None:
    peer = Peer(says(OK + b"\r\nbody"))
    names = Names({"host.example": [["127.0.0.2", "10.0.0.1", "127.0.0.1"]]})
    client = make_client(names)
    assert (await fetch(url_of(peer, host="host.example"), client=client)).body == b"body"
    head = await peer.outcome
    assert b"Host: host.example:%d\r\n" % peer.port in head


@pytest.mark.promise("url-download-is-public-only")
async def test_a_name_is_resolved_once_and_its_second_answer_is_of_no_effect() -> None:
    peer = Peer(says(OK + b"\r\nbody"))
    names = Names({"rebinds.example": [["127.0.0.1"], ["127.0.0.2"]]})
    client = make_client(names)
    found = await fetch(url_of(peer, host="rebinds.example"), client=client)
    assert (found.body, names.asked) == (b"body", ["rebinds.example"])
    await peer.outcome
    with pytest.raises(AddressBlocked):
        await fetch(url_of(peer, host="rebinds.example"), client=client)
