"""Destinations that do what a script says: what is made of their answers, and of their end."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from typing import Any

import pytest
import trustme
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.transfers.peers import BUFFERS, Peer, Script, chunks, goes_on, read_head, server_context
from tests.transfers.uploading import OK, PIECE, Sending, answer, reactor
from wingsd.errors import DestinationDisconnected, DestinationRefused
from wingsd.threadio import OUTFLOW_HIGH_MARK, STEP
from wingsd.transfers.peer.client import PeerClient
from wingsd.util.net import ServerCertificate


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


async def test_features_are_read_behind_a_byte_order_mark() -> None:
    peer = Peer(says(answer("200 OK", b'\xef\xbb\xbf{"features": ["move-1", "Streams"]}')))
    url = f"http://127.0.0.1:{peer.port}/api/transfers"
    assert await PeerClient(url, "Bearer t", reactor, "").features() == {"move-1", "streams"}
    await peer.outcome


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


async def test_a_refusal_is_read_though_the_connection_is_reset_behind_it() -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(answer("409 Conflict", b'{"error": "it is here"}'))
        # Closing with the body unread is what resets it.

    peer = Peer(script)
    sending = Sending(peer.port, pieces=10_000)
    with pytest.raises(DestinationRefused, match="it is here"):
        await sending.upload.answer
    assert await sending.written == "closed"
    await peer.outcome


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


async def test_an_answer_that_is_not_http_fails_the_upload() -> None:
    peer = Peer(says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"))
    sending = Sending(peer.port, pieces=10_000)
    with pytest.raises(DestinationDisconnected, match="is not HTTP"):
        await sending.upload.answer
    await sending.written
    await peer.outcome


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


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize(("first", "block", "says"), WITHOUT_END)
async def test_a_question_ends_at_an_endless_answer(first: bytes, block: bytes, says: str) -> None:
    peer = Peer(goes_on(first, block))
    url = f"http://127.0.0.1:{peer.port}/api/transfers/x/by-hand"
    with pytest.raises(DestinationDisconnected, match=says):
        await PeerClient(url, "Bearer t", reactor, "").ask("DELETE")
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
