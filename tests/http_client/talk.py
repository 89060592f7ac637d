"""A conversation with another node over a connection in memory."""

from __future__ import annotations

from typing import Any

import h11
from twisted.python.failure import Failure

from tests.http_client.wire import Endpoint
from tests.threadio.reactor import ManualReactor
from wingsd.http_client.exchange import Answer, HttpExchange
from wingsd.threadio import Outflow, OutflowClosed

HEAD = b"POST /up HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSAL = b'HTTP/1.1 409 Conflict\r\nContent-Length: 15\r\n\r\n{"error":"here"}'[:-1]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def upload() -> h11.Request:
    headers = [("Host", "node"), ("Transfer-Encoding", "chunked")]
    return h11.Request(method="POST", target="/up", headers=headers)


def question() -> h11.Request:
    return h11.Request(method="OPTIONS", target="/up", headers=[("Host", "node")])


class Talk:
    """A conversation begun, with the other side in the test's hands."""

    def __init__(self, *, body: bool = True, endpoint: Endpoint | None = None) -> None:
        self.reactor = ManualReactor()
        self.body = Outflow(self.reactor)
        self.endpoint = endpoint or Endpoint()
        request = upload() if body else question()
        self.conversation = HttpExchange(
            self.reactor, request, self.body if body else None, stall_timeout=120
        )
        self.results: list[Answer] = []
        self.failures: list[BaseException] = []
        self.answer = self.conversation.start(self.endpoint, 30)
        self.answer.addCallbacks(self.results.append, self._failed)

    def _failed(self, failure: Failure) -> None:
        assert failure.value is not None
        self.failures.append(failure.value)

    @property
    def wire(self) -> Any:
        return self.endpoint.wire

    @property
    def result(self) -> Answer:
        (result,) = self.results
        return result

    @property
    def failure(self) -> BaseException:
        (failure,) = self.failures
        return failure

    def write(self, data: bytes, *, last: bool = False) -> None:
        self.body.write(data)
        if last:
            self.body.finish()
        waiting, self.reactor.waiting = self.reactor.waiting, []
        for call in waiting:
            call()

    def hear(self, data: bytes) -> None:
        self.conversation.dataReceived(data)

    def lose(self, reason: Exception) -> None:
        """End the connection in the order in which a TCP transport tells of it."""
        if self.wire.producer is not None:
            self.wire.producer.stopProducing()
        self.conversation.connectionLost(Failure(reason))

    def closed_body(self) -> bool:
        try:
            self.body.finish()
        except OutflowClosed:
            return True
        return False
