"""A destination that is a Go Wings node, by its protocol: it answers as Go, gin and Wings do."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any

import h11
import treq
from OpenSSL import SSL
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from tests.support import Node
from tests.support.node_process import NodeProcess, reactor
from tests.support.sample_server import UUID
from wingsd.transfers.upload_form import UploadForm

# What net/http does with a body that its handler has not read: it answers, reads so many more
# bytes, says that it will send no more, and closes after so many seconds.
READS_ON = 256 * 1024
LINGERS = 0.5
# What gin's middleware puts on every answer of Wings.
HEADERS = [
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Headers", "Accept, Accept-Encoding, Authorization"),
    ("Access-Control-Allow-Methods", "GET, POST, PATCH, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Origin", "http://panel.invalid"),
    ("X-Request-Id", "6e4c9a1e-59d5-4b8e-9e0c-0d5a8f4a7f60"),
    ("Connection", "close"),
    ("Date", "Wed, 25 Nov 2026 10:00:00 GMT"),
]
# Of nearly all that fails in a transfer Wings says this and no more; the rest is in its log.
UNEXPECTED = {
    "error": "An unexpected error was encountered while processing this request",
    "request_id": "6e4c9a1e-59d5-4b8e-9e0c-0d5a8f4a7f60",
}


class GoNode:
    """The node. `fails` says when it refuses: never (""), "early", "late", or "dying".

    When it is dying, its connections end with its early answer, and the unread body resets them.
    """

    def __init__(self, replaced: NodeProcess) -> None:
        """It takes the place of a node that is not started, and shows its certificate."""
        self.panel = replaced.panel
        self.fails = ""
        self.requests: list[h11.Request] = []
        self._works: list[Deferred[None]] = []
        self.archive = bytearray()
        self.checksum = ""
        factory: Any = Factory.forProtocol(lambda: _Connection(self))
        factory.noisy = False
        certificate = DefaultOpenSSLContextFactory(
            str(replaced.key), str(replaced.cert), SSL.TLS_METHOD
        )
        self._port = reactor.listenSSL(0, factory, certificate, interface="127.0.0.1")
        address = f"https://127.0.0.1:{self._port.getHost().port}"
        self.node: Node = self.panel.add_node(address, ca=str(replaced.ca), port=25566)

    async def report(self, outcome: str) -> None:
        url = f"{self.panel.url}/api/remote/servers/{UUID}/transfer/{outcome}"
        headers = Headers({"Authorization": [f"Bearer {self.node.token_id}.{self.node.token}"]})
        answer = await treq.post(url, headers=headers, persistent=False)
        await answer.content()

    def work(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do something of the node's own; `close` waits for it."""
        self._works.append(Deferred.fromCoroutine(coroutine))

    async def close(self) -> None:
        await DeferredList(self._works)
        await maybeDeferred(self._port.stopListening)


class _Connection(Protocol):
    transport: Any

    def __init__(self, node: GoNode) -> None:
        self._node = node
        self._http = h11.Connection(h11.SERVER)
        self._form: UploadForm | None = None
        self._unread = 0
        self._closing: Any = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._closing is not None and self._closing.active():
            self._closing.cancel()

    def dataReceived(self, data: bytes) -> None:
        self._http.receive_data(data)
        while True:
            event = self._http.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return
            self._take(event)

    def _take(self, event: Any) -> None:
        node = self._node
        if isinstance(event, h11.Request):
            node.requests.append(event)
            if event.method == b"OPTIONS":
                self._answer(204)
            elif node.fails in ("early", "dying"):
                self.transport.pauseProducing()
                node.work(self._refuse())
            else:
                headers = dict(event.headers)
                self._form = UploadForm(headers[b"content-type"].decode())
        elif isinstance(event, h11.Data) and self._form is not None:
            pieces = self._form.receive(bytes(event.data))
            node.archive += b"".join(piece for piece in pieces if isinstance(piece, bytes))
        elif isinstance(event, h11.Data) and self._http.our_state is h11.MUST_CLOSE:
            self._unread += len(event.data)
            if self._unread >= READS_ON and self._closing is None:
                self._close_slowly()
        elif isinstance(event, h11.EndOfMessage) and self._http.our_state is h11.MUST_CLOSE:
            self.transport.loseConnection()
        elif isinstance(event, h11.EndOfMessage) and self._form is not None:
            node.checksum = self._form.close().archive
            node.work(self._refuse() if node.fails else self._succeed())

    async def _succeed(self) -> None:
        # It tells it once. A real one has a container to make before, which takes longer than the
        # Panel's commit of the transfer.
        while not self._node.panel.in_transfer(UUID):
            await deferLater(reactor, 0.01)
        await self._node.report("success")
        self._answer(200, [("Content-Length", "0")])

    async def _refuse(self) -> None:
        await self._node.report("failure")
        body = json.dumps(UNEXPECTED).encode()
        kind = ("Content-Type", "application/json; charset=utf-8")
        self._answer(500, [kind, ("Content-Length", str(len(body)))], body)

    def _answer(
        self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        reason = HTTPStatus(status).phrase
        answer = h11.Response(status_code=status, reason=reason, headers=[*HEADERS, *headers])
        self.transport.write(self._http.send(answer))
        if body:
            self.transport.write(self._http.send(h11.Data(data=body)))
        self.transport.write(self._http.send(h11.EndOfMessage()))
        if self._http.their_state is not h11.SEND_BODY:
            self.transport.loseConnection()
        elif self._node.fails == "dying":
            self.transport.transport.loseConnection()
        else:
            self.transport.resumeProducing()

    def _close_slowly(self) -> None:
        self.transport.loseConnection()  # TLS alone: that is over when the client closes as well
        self.transport.pauseProducing()
        self._closing = reactor.callLater(LINGERS, self.transport.transport.loseConnection)
