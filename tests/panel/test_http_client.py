"""Answers within their bounds and past them, from scripted servers on loopback."""

from __future__ import annotations

import socket
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from tests.transfers.peers import BUFFERS, ENDLESS, Peer, goes_on, pem, read_head, server_context
from wingsd.http_client.exchange import MAX_HEAD, AnswerRefused
from wingsd.panel import client as panel_module
from wingsd.panel.client import (
    MAX_BODY,
    MAX_HEADERS,
    MAX_INTERIM,
    BoundedClient,
    body_of,
)

pytestmark = pytest.mark.promise("answers-are-bounded")

#: In place of `MAX_BODY`, so that a body past the bound is still a small part of ENDLESS.
SMALL_BODY = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\n"


def ask(peer: Peer, content: bytes | None = None, scheme: str = "http") -> Deferred[Any]:
    url = f"{scheme}://127.0.0.1:{peer.port}/api/remote/servers?page=1"
    headers = Headers({"User-Agent": ["test"]})
    method = "GET" if content is None else "POST"
    asking = BoundedClient(reactor).request(method, url, headers, content)
    return Deferred.fromCoroutine(asking)


async def answered(data: bytes, pieces: int = 1 << 20) -> tuple[IResponse, bytes]:
    """Return what becomes of the answer `data`, sent in pieces of so many bytes."""

    def script(connection: socket.socket) -> None:
        read_head(connection)
        for at in range(0, len(data), pieces):
            connection.sendall(data[at : at + pieces])

    peer = Peer(script)
    try:
        found: tuple[IResponse, bytes] = await ask(peer)
        return found
    finally:
        await peer.outcome


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.LeafCert:
    """A certificate for 127.0.0.1 that this process trusts."""
    ca = trustme.CA()
    monkeypatch.setenv("SSL_CERT_FILE", str(pem(ca, tmp_path / "ca.pem")))
    return ca.issue_cert("127.0.0.1")


async def test_an_answer_and_its_body_are_returned() -> None:
    def script(connection: socket.socket) -> bytes:
        head = read_head(connection)
        content = connection.recv(100)
        connection.sendall(OK + b"A: 1\r\nContent-Length: 4\r\n\r\nbody")
        return head + content

    peer = Peer(script)
    response, body = await ask(peer, b"sent")
    assert (response.code, response.headers.getRawHeaders("A"), body) == (200, ["1"], b"body")
    head, content = (await peer.outcome).split(b"\r\n\r\n")
    assert head.startswith(b"POST /api/remote/servers?page=1 HTTP/1.1\r\n")
    assert {b"Accept-Encoding: identity", b"Connection: close", b"User-Agent: test"} <= set(
        head.split(b"\r\n")
    )
    assert content == b"sent"


@pytest.mark.parametrize("pieces", [1, 1 << 20])
@pytest.mark.parametrize(
    ("rest", "body"),
    [
        (b"Content-Length: 4\r\n\r\nbody", b"body"),
        (b"Content-Length: 0\r\n\r\n", b""),
    ],
)
async def test_interim_answers_are_left_out(rest: bytes, body: bytes, pieces: int) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    response, content = await answered(interim * (MAX_INTERIM // 2) + OK + rest, pieces)
    assert (response.code, content) == (200, body)
    assert not response.headers.hasHeader("Link")


async def test_an_answer_may_be_as_long_as_each_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_module, "MAX_BODY", SMALL_BODY)
    headers = b"".join(b"X-%d: 1\r\n" % number for number in range(MAX_HEADERS - 2))
    rest = b"Content-Length: %d\r\nY: \r\n\r\n" % SMALL_BODY
    padding = b"y" * (MAX_HEAD - len(OK + headers + rest))
    head = OK + headers + rest.replace(b"Y: ", b"Y: " + padding)
    _, body = await answered(head + b"x" * SMALL_BODY)
    assert len(head) == MAX_HEAD
    assert len(body) == SMALL_BODY


@pytest.mark.promise("answers-are-bounded")
async def test_the_body_of_an_answer_takes_its_own_size_in_memory() -> None:
    piece, pieces = bytes(64 << 10), MAX_BODY // (64 << 10)

    class Response:
        length = MAX_BODY

        def deliverBody(self, body: Any) -> None:
            for _ in range(pieces):
                body.dataReceived(piece)
            body.connectionLost(Failure(ResponseDone()))

    response: Any = Response()
    tracemalloc.start()
    try:
        assert len(await body_of(response)) == MAX_BODY == 16 << 20
        assert tracemalloc.get_traced_memory()[1] < MAX_BODY * 5 // 4
    finally:
        tracemalloc.stop()


TOO_LONG = "headers are longer than 16 KiB, or more than 128 lines"
INTERIM = "more than 16 interim answers"
HEADS = {
    "short header lines": (OK, b"X:\r\n" * 20, TOO_LONG),
    "one header line": (OK + b"X: ", b"x" * 10_000, TOO_LONG),
    "one folded header": (OK + b"X: 1\r\n", b" folded\r\n" * 1000, TOO_LONG),
    "a status line": (b"HTTP/1.1 200 ", b"x" * 10_000, TOO_LONG),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, INTERIM),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", b"x" * 10_000, "is not HTTP but b'SSH-2.0"),
}


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("name", HEADS)
async def test_a_head_without_end_is_cut(name: str, logged: Logged) -> None:
    first, block, says = HEADS[name]
    peer = Peer(goes_on(first, block))
    with pytest.raises(AnswerRefused, match=says):
        await ask(peer)
    assert await peer.outcome < MAX_HEAD + BUFFERS
    assert not [line for line in logged.lines if "Ignoring unexpected" in line]


CHUNK = b"1;" + b"e" * 1000 + b"\r\nx\r\n"
BODIES = {
    "without a length": (OK + b"\r\n", b"x" * 60_000),
    "in chunks": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        b"ea60\r\n" + b"x" * 60_000 + b"\r\n",
    ),
    "in chunks of one byte": (OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK * 60),
    "of an error": (b"HTTP/1.1 500 No\r\n\r\n", b"x" * 60_000),
}


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("name", BODIES)
async def test_a_body_without_end_is_cut(
    name: str, trusted: trustme.LeafCert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_module, "MAX_BODY", SMALL_BODY)
    scheme = "https" if name == "in chunks" else "http"
    peer = Peer(goes_on(*BODIES[name]), server_context(trusted) if scheme == "https" else None)
    with pytest.raises(AnswerRefused, match="its answer is longer than 1 MiB"):
        await ask(peer, scheme=scheme)
    assert await peer.outcome < SMALL_BODY + BUFFERS


async def test_a_body_whose_length_is_past_the_bound_is_not_waited_for() -> None:
    def script(connection: socket.socket) -> bytes:
        read_head(connection)
        connection.sendall(OK + b"Content-Length: 16777217\r\n\r\n")
        return received(connection)

    peer = Peer(script)
    with pytest.raises(AnswerRefused, match="its answer is longer than 16 MiB"):
        await ask(peer)
    assert await peer.outcome == b""


@pytest.mark.promise("answers-are-bounded")
@pytest.mark.parametrize("encoding", ["gzip", "identity, GZIP"])
async def test_an_encoded_body_is_refused_before_it_is_read(encoding: str) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(ENDLESS)) + packer.flush()
    headers = f"Content-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    with pytest.raises(AnswerRefused, match=f"encoded with '{encoding}', which was not asked for"):
        await answered(OK + headers + bomb)


def received(connection: socket.socket) -> bytes:
    """Return what comes until the client closes, which may be with a reset."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    "begun",
    [b"", OK, OK + b"\r\nsome of the body"],
)
async def test_a_request_that_is_cancelled_closes_its_connection(begun: bytes) -> None:
    said: Deferred[None] = Deferred()

    def script(connection: socket.socket) -> bytes:
        read_head(connection)
        connection.sendall(begun)
        reactor.callFromThread(said.callback, None)
        return received(connection)

    peer = Peer(script)
    asking = ask(peer)
    await said
    asking.cancel()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - in the Agent's words for it
        await asking
    reasons: Any = getattr(caught.value, "reasons", ())
    assert isinstance(caught.value, CancelledError) or reasons[0].check(CancelledError)
    assert await peer.outcome == b""


async def test_a_server_that_does_not_close_after_its_answer_is_left(
    trusted: trustme.LeafCert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_module, "CLOSE_WITHIN", 0.01)

    def script(connection: Any) -> bytes:
        read_head(connection)
        connection.sendall(OK + b"Content-Length: 4\r\n\r\nbody")
        # Below TLS, where the client's goodbye gets no answer.
        plain = socket.socket(fileno=connection.detach())
        with plain:
            plain.settimeout(60)
            return received(plain)

    peer = Peer(script, server_context(trusted))
    _, body = await ask(peer, scheme="https")
    assert body == b"body"
    await peer.outcome  # the end of the connection, whether TLS has said goodbye or not
