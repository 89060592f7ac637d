"""Uploads to other nodes over real sockets: to our own site, and to nobody."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from tests.transfers.peers import Peer, closed_port
from tests.transfers.uploading import PIECE, TYPE, Sending, reactor
from wingsd.errors import (
    BadRequest,
    DestinationDisconnected,
    DestinationRefused,
    DestinationUnreachable,
    StorageError,
)
from wingsd.http.request import BodyReader, StreamingRequest
from wingsd.http.site import NodeSite, NotFound
from wingsd.threadio import Outflow
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.upload_form import FormFrame, UploadForm
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

    def render_OPTIONS(self, request: Any) -> bytes:
        assert request.getHeader("Authorization") == "Bearer t"
        request.setHeader("Transfer-Features", "symlinks, Hard-Links,,")
        request.setResponseCode(204)
        return b""


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


async def test_a_form_written_here_is_read_there(tls: tuple[ServerCertificate, str]) -> None:
    node = Node(receiver := Receiver(), tls[0])
    frame, body = FormFrame(), Outflow(reactor)
    form = UploadForm(frame.content_type)
    pieces: list[bytes] = []
    received = Taken.data

    def data(taken: Taken, chunk: bytes) -> None:
        pieces.extend(piece for piece in form.receive(chunk) if isinstance(piece, bytes))
        received(taken, chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Taken, "data", data)
        destination = PeerClient(
            f"https://127.0.0.1:{node.port}/api/transfers", "Bearer t", reactor, tls[1]
        )
        upload = destination.upload(frame.content_type, body, 120)
        for part in (frame.before(), PIECE, frame.after("cafe"), frame.end()):
            body.write(part)
        body.finish()
        await upload.answer
    assert (b"".join(pieces), form.close().archive) == (PIECE, "cafe")
    assert await receiver.taken[0].ended == "end"
    await node.close()


async def test_features_of_a_wingsd_node_are_read(tls: tuple[ServerCertificate, str]) -> None:
    node = Node(Receiver(), tls[0])
    url = f"https://127.0.0.1:{node.port}/api/transfers"
    features = await PeerClient(url, "Bearer t", reactor, tls[1]).features()
    assert features == {"symlinks", "hard-links"}
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


async def test_a_port_without_tls_is_unreachable() -> None:
    peer = Peer(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
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


async def test_a_connection_closed_before_tls_is_up() -> None:
    peer = Peer(lambda connection: connection.recv(65536))
    url = f"https://127.0.0.1:{peer.port}/"
    with pytest.raises(DestinationUnreachable):
        await PeerClient(url, "Bearer t", reactor, "").features()
    await peer.outcome


async def test_an_upload_can_be_cancelled_while_tls_is_set_up() -> None:
    peer = Peer(lambda connection: connection.recv(1) and connection.recv(65536 * 4))
    sending = Sending(peer.port, pieces=10_000, scheme="https")
    await deferLater(reactor, 0)
    sending.upload.answer.cancel()
    with pytest.raises(CancelledError):
        await sending.upload.answer
    assert await sending.written == "closed"
    peer.outcome.addErrback(lambda failure: failure.trap(OSError))
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", peer.port)).close()
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


@pytest.mark.parametrize("host", ["[::1]", "NODE.example.com", "10.0.0.1"])
def test_names_and_addresses_are_valid_hosts(host: str) -> None:
    PeerClient(f"https://{host}:8080/api/transfers", "Bearer t", reactor, "")
