"""Uploads to other nodes over real sockets: to our own site, and to peers with a script."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trustme
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from tests.transfers.peers import (
    BUFFERS,
    OK,
    PIECE,
    TYPE,
    Peer,
    Script,
    Sending,
    answer,
    chunks,
    closed_port,
    goes_on,
    reactor,
    read_head,
    server_context,
)
from wingsd.errors import (
    BadRequest,
    DestinationDisconnected,
    DestinationRefused,
    DestinationUnreachable,
    StorageError,
)
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.http.site import NodeSite, NotFound
from wingsd.threadio import OUTFLOW_HIGH_MARK, STEP
from wingsd.transfers.peer.client import PeerClient
from wingsd.util.net import ServerCertificate


class Receiver(Resource):
    """Takes uploads; refuses with `refusal` after so many bytes of the body."""

    streamed_methods = frozenset({b"POST"})

    isLeaf = True

    def __init__(self, refusal: Exception | None = None, after: int = 0) -> None:
        super().__init__()
        self.refusal, self.after = refusal, after
        self.taken: list[Taken] = []

    def open_body(self, request: StreamingRequest) -> BodyReader:
        self.taken.append(Taken(self, request))
        return self.taken[-1]

    def render_OPTIONS(self, request: Any) -> None:
        assert request.getHeader("Authorization") == "Bearer t"
        request.setHeader("Transfer-Features", "symlinks, Hard-Links,,")
        request.answer(204)


class Taken:
    def __init__(self, receiver: Receiver, request: StreamingRequest) -> None:
        self.receiver, self.request = receiver, request
        self.digest = hashlib.sha256()
        self.size = 0
        self.ended: Deferred[str] = Deferred()

    def data(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.size += len(chunk)
        if self.receiver.refusal is not None and self.size > self.receiver.after:
            self.request.fail(Failure(self.receiver.refusal))

    def end(self) -> None:
        self.ended.callback("end")
        self.request.answer(200)

    def lost(self, reason: Failure) -> None:
        if not self.ended.called:
            self.ended.callback("lost")


class Node:
    """A site of ours on loopback, with or without TLS."""

    def __init__(self, receiver: Receiver, certificate: ServerCertificate | None = None) -> None:
        root: Any = NotFound()
        api: Any = NotFound()
        root.putChild(b"api", api)
        api.putChild(b"transfers", receiver)
        self.site = NodeSite(root, reactor=reactor, timeout=20)
        factory: Any = self.site
        if certificate is not None:
            factory = TLSMemoryBIOFactory(certificate, False, self.site)
        factory.noisy = False
        self._port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port: int = self._port.getHost().port

    async def close(self) -> None:
        await self._port.stopListening()
        await self.site.drain(0)


@pytest.mark.parametrize("secure", [True, False])
async def test_an_upload_arrives(tls: tuple[ServerCertificate, str], secure: bool) -> None:
    receiver = Receiver()
    node = Node(receiver, tls[0] if secure else None)
    scheme = "https" if secure else "http"
    sending = Sending(node.port, pieces=200, scheme=scheme, trust=tls[1])
    assert not sending.upload.request_sent
    await sending.upload.answer
    assert sending.upload.request_sent
    (taken,) = receiver.taken
    assert taken.size == sending.body.bytes_out == 200 * (len(PIECE) + 4)
    assert taken.digest.hexdigest() == await sending.written
    assert taken.request.header("Content-Type") == TYPE
    assert taken.request.header("Authorization") == "Bearer t"
    assert taken.request.header("Host") == f"127.0.0.1:{node.port}"
    assert taken.request.header("User-Agent").startswith("wingsd/")
    assert taken.request.header("Content-Length") == ""
    await node.close()


@pytest.mark.parametrize("secure", [True, False])
async def test_a_refusal_in_the_middle_comes_at_once_in_the_nodes_words(
    tls: tuple[ServerCertificate, str], secure: bool
) -> None:
    receiver = Receiver(StorageError("the disk is full"), after=2_000_000)
    node = Node(receiver, tls[0] if secure else None)
    scheme = "https" if secure else "http"
    sending = Sending(node.port, pieces=10_000, scheme=scheme, trust=tls[1])
    with pytest.raises(DestinationRefused) as caught:
        await sending.upload.answer
    assert (caught.value.response_status, caught.value.message, caught.value.detail) == (
        500,
        "the destination node says: the server's files could not be stored",
        "the disk is full",
    )
    assert not sending.upload.request_sent
    assert await sending.written == "closed"
    await node.close()


async def test_an_aborted_upload_ends_at_both_ends(tls: tuple[ServerCertificate, str]) -> None:
    receiver = Receiver(Exception("never"), after=1 << 60)
    node = Node(receiver, tls[0])
    sending = Sending(node.port, pieces=100_000, scheme="https", trust=tls[1])
    while not receiver.taken or receiver.taken[0].size < 3_000_000:
        await deferToThread(int)
    sending.upload.abort(CancelledError())
    with pytest.raises(CancelledError):
        await sending.upload.answer
    assert await sending.written == "closed"
    assert await receiver.taken[0].ended == "lost"
    sending.upload.abort(CancelledError())
    await node.close()


async def test_a_closed_port_is_unreachable() -> None:
    with closed_port() as port:
        sending = Sending(port, pieces=10_000)
        with pytest.raises(DestinationUnreachable) as caught:
            await sending.upload.answer
    assert caught.value.message == "the destination node cannot be reached"
    assert f"nothing listens at 127.0.0.1:{port}" in caught.value.detail
    assert await sending.written == "closed"


async def test_an_unknown_name_is_unreachable() -> None:
    with pytest.raises(DestinationUnreachable, match=r"the name node\.invalid is not known"):
        await PeerClient("http://node.invalid:8080/", "Bearer t", reactor, "").features()


@pytest.mark.parametrize(
    "script",
    [
        lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda connection: connection.recv(65536),
    ],
    ids=["no TLS", "closed before"],
)
async def test_a_port_where_tls_does_not_come_up_is_unreachable(
    script: Callable[[socket.socket], object],
) -> None:
    peer = Peer(script)
    url = f"https://127.0.0.1:{peer.port}/"
    with pytest.raises(DestinationUnreachable):
        await PeerClient(url, "Bearer t", reactor, "").features()
    await peer.outcome


async def test_http_to_a_tls_port_fails_with_advice() -> None:
    peer = Peer(lambda connection: connection.recv(65536))
    client = PeerClient(f"http://127.0.0.1:{peer.port}/", "Bearer t", reactor, "")
    with pytest.raises(DestinationDisconnected) as caught:
        await client.features()
    assert "its address begins with https://" in caught.value.detail
    # It was only asked.
    assert "whole server" not in caught.value.detail
    await peer.outcome


@pytest.mark.parametrize(
    "url",
    [
        "",
        "node",
        "/api/transfers",
        "ftp://node/",
        "https://",
        "https://:8080/",
        "https://node:0/",
        "https://node:65536/",
        "https://node:port/",
        "https://[::1/",
        "https://me@node/",
        "https://n\u00f6de/",
        "https://node/a b",
        "https://node/a\r\nX: y",
    ],
)
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        PeerClient(url, "Bearer t", reactor, "")
    assert caught.value.detail


@pytest.mark.parametrize("token", ["Bearer a\r\nX: y", "Bearer \u00f6", "Bearer \x00"])
def test_an_invalid_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(BadRequest) as caught:
        PeerClient("https://node/", token, reactor, "")
    assert token not in str(caught.value)


# Destinations that do what a script says: what is made of their answers, and of their end


def says(data: bytes) -> Script:
    """Read the head, say `data`, and go on reading until the client closes."""

    def script(connection: socket.socket) -> bytes:
        head = read_head(connection)
        connection.sendall(data)
        try:
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return head

    return script


@pytest.mark.parametrize(
    "reply",
    [
        answer("204 No Content", b"", "Access-Control-Allow-Methods: GET, POST\r\n"),
        answer("404 Not Found", b"404 page not found"),
        answer("405 Method Not Allowed", b"{}"),
        answer("401 Unauthorized", b"", "Transfer-Features: symlinks\r\n"),
        answer("500 Internal Server Error", b"<html>"),
        b"HTTP/1.0 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_node_that_is_not_wingsd_has_no_features(reply: bytes) -> None:
    peer = Peer(says(reply))
    url = f"http://127.0.0.1:{peer.port}/api/transfers?x=1"
    assert await PeerClient(url, "Bearer t", reactor, "").features() == frozenset()
    assert (await peer.outcome).startswith(b"OPTIONS /api/transfers?x=1 HTTP/1.1\r\n")


@pytest.mark.promise("move-passes-strict-proxies")
@pytest.mark.parametrize("status", ["502 Gone", "503 Busy", "504 Late", "429 Slow", "524 x"])
async def test_a_node_that_did_not_answer_itself_may_have_any_features(status: str) -> None:
    peer = Peer(says(answer(status, b"<html>")))
    url = f"http://127.0.0.1:{peer.port}/api/transfers"
    with pytest.raises(DestinationRefused, match=f"answered {status}"):
        await PeerClient(url, "Bearer t", reactor, "").features()
    await peer.outcome


BUSY = b'{"error": "this node is receiving 72 servers already", "detail": "send it again"}'
SAYS_BUSY = "the destination node says: this node is receiving 72 servers already"
REFUSALS = [
    (
        answer("503 Service Unavailable", BUSY, "Retry-After: 60\r\n"),
        (503, SAYS_BUSY, "send it again; try again in 60 s"),
    ),
    (
        answer("429 Too Many Requests", b"", "Retry-After: 5\r\n"),
        (429, "the destination node answered 429 Too Many Requests", "try again in 5 s"),
    ),
    (
        answer("503 Service Unavailable", BUSY, "Retry-After: when it rains\r\n"),
        (503, SAYS_BUSY, "send it again"),
    ),
    (
        answer("409 Conflict", b'{"error": "it is here", "detail": "see"}'),
        (409, "the destination node says: it is here", "see"),
    ),
    (
        answer("500 Internal Server Error", b'{"error": "boom", "request_id": "1"}'),
        (
            500,
            "the destination node says: boom",
            "500 Internal Server Error; the reason is in its log, with request_id 1",
        ),
    ),
    (
        answer("502 Bad Gateway", b"<html>\r\n  no\x1b[1m node  \x00</html>"),
        (502, "the destination node answered 502 Bad Gateway", "<html> no [1m node </html>"),
    ),
    (
        answer("404 Not Found", b""),
        (404, "the destination node answered 404 Not Found", ""),
    ),
    (
        answer("400 Bad Request", b'["error"]'),
        (400, "the destination node answered 400 Bad Request", '["error"]'),
    ),
    (
        answer("400 Bad Request", b"[" * 60_000),
        (400, "the destination node answered 400 Bad Request", "[" * 500 + "…"),
    ),
    (
        answer("413 Content Too Large", b""),
        (
            413,
            "the destination node answered 413 Content Too Large",
            "a proxy in front of it limits how much may be sent; lift that limit",
        ),
    ),
    (
        answer("308 Permanent Redirect", b"x", "Location: https://other:1/\r\n"),
        (
            308,
            "the destination node redirects the upload",
            "308 Permanent Redirect points to https://other:1/; "
            "give the node its right address in the Panel",
        ),
    ),
    (
        OK,
        (
            200,
            "the destination node answered before it had received everything",
            "200 OK came while the server was still being sent; see its log, and whether a proxy "
            "in front of it answers in its place",
        ),
    ),
]


@pytest.mark.promise("answers-are-bounded", "full-queue-refuses-early")
@pytest.mark.parametrize(("reply", "expected"), REFUSALS)
async def test_an_early_answer_is_a_refusal(reply: bytes, expected: tuple[int, str, str]) -> None:
    peer = Peer(says(reply))
    sending = Sending(peer.port, pieces=10_000)
    with pytest.raises(DestinationRefused) as caught:
        await sending.upload.answer
    error = caught.value
    assert (error.response_status, error.message, error.detail) == expected
    assert await sending.written == "closed"
    assert (await peer.outcome).startswith(b"POST /api/transfers HTTP/1.1\r\n")


async def test_a_late_answer_with_an_error_is_a_refusal() -> None:
    def script(connection: socket.socket) -> int:
        read_head(connection)
        size = sum(map(len, chunks(connection)))
        connection.sendall(answer("400 Bad Request", b'{"error": "checksums don\'t match"}'))
        return size

    peer = Peer(script)
    sending = Sending(peer.port, pieces=50)
    with pytest.raises(DestinationRefused) as caught:
        await sending.upload.answer
    assert (caught.value.response_status, caught.value.message) == (
        400,
        "the destination node says: checksums don't match",
    )
    assert sending.upload.request_sent
    assert await peer.outcome == 50 * (len(PIECE) + 4)
    assert await sending.written != "closed"


def reset(connection: socket.socket) -> None:
    """Have the connection closed as by one that still has something unread: with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.promise("refusal-is-understood")
@pytest.mark.parametrize("secure", [True, False])
async def test_a_refusal_is_read_when_sending_meets_the_reset_first(
    tls: tuple[ServerCertificate, str], certificate: trustme.LeafCert, secure: bool
) -> None:
    deaf = threading.Event()

    def script(connection: socket.socket) -> None:
        read_head(connection)
        deaf.wait(20)
        connection.sendall(answer("409 Conflict", b'{"error": "it is here"}'))

    peer = Peer(script, server_context(certificate) if secure else None)
    scheme = "https" if secure else "http"
    sending = Sending(peer.port, pieces=10_000, scheme=scheme, trust=tls[1])
    conversation: Any = sending.upload
    while not conversation.begun:
        await deferToThread(int)
    # As if the reactor had looked for what can be read just before there was something.
    conversation._tcp().stopReading()
    deaf.set()
    with pytest.raises(DestinationRefused, match="it is here"):
        await sending.upload.answer
    assert await sending.written == "closed"
    await peer.outcome


@pytest.mark.parametrize("how", [lambda _: None, reset])
async def test_a_connection_that_breaks_during_the_upload_fails_it(how: Any) -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.recv(100_000)
        how(connection)

    peer = Peer(script)
    sending = Sending(peer.port, pieces=10_000)
    with pytest.raises(DestinationDisconnected) as caught:
        await sending.upload.answer
    assert not caught.value.body_sent
    assert caught.value.message == "the destination node did not answer"
    assert "had not received everything" in caught.value.detail
    assert await sending.written == "closed"
    await peer.outcome


async def test_a_connection_that_breaks_after_the_upload_leaves_it_unanswered() -> None:
    def script(connection: socket.socket) -> int:
        read_head(connection)
        return sum(map(len, chunks(connection)))

    peer = Peer(script)
    sending = Sending(peer.port, pieces=10)
    with pytest.raises(DestinationDisconnected) as caught:
        await sending.upload.answer
    assert caught.value.body_sent
    assert caught.value.detail == (
        "it closed the connection; it may have received the whole server; check in the Panel "
        "where the server is now"
    )
    assert await peer.outcome == 10 * (len(PIECE) + 4)


WITHOUT_END = [
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "it sent more than 1000 interim answers"),
    (b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n" * 1000, "headers of its answer are longer than 16 KiB"),
]


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize(("first", "block", "says"), WITHOUT_END)
async def test_an_upload_ends_at_an_endless_answer(first: bytes, block: bytes, says: str) -> None:
    peer = Peer(goes_on(first, block))
    sending = Sending(peer.port, pieces=10_000)
    with pytest.raises(DestinationDisconnected, match=says) as caught:
        await sending.upload.answer
    assert not caught.value.body_sent
    assert await sending.written == "closed"
    assert await peer.outcome < BUFFERS


@pytest.mark.parametrize("secure", [True, False])
async def test_a_peer_that_does_not_read_stops_the_thread_that_writes(
    tls: tuple[ServerCertificate, str], certificate: trustme.LeafCert, secure: bool
) -> None:
    reads = threading.Event()

    def script(connection: socket.socket) -> str:
        read_head(connection)
        reads.wait(20)
        digest = hashlib.sha256()
        for chunk in chunks(connection):
            digest.update(chunk)
        connection.sendall(OK)
        return digest.hexdigest()

    peer = Peer(script, server_context(certificate) if secure else None)
    scheme = "https" if secure else "http"
    sending = Sending(peer.port, pieces=1000, scheme=scheme, trust=tls[1])
    before = -1
    while not (sending.waits.begun.is_set() and sending.body.bytes_out == before > 0):
        before = sending.body.bytes_out
        assert not sending.written.called
        await deferLater(reactor, 0.05)
    conversation: Any = sending.upload
    tcp = conversation._tcp()
    assert sending.body._size <= OUTFLOW_HIGH_MARK + STEP
    assert len(tcp.dataBuffer) + tcp._tempDataLen <= 3 * STEP
    reads.set()
    await sending.upload.answer
    assert await sending.written == await peer.outcome
