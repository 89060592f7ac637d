"""The site: what is found under which path, and the connections it is reached by."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from wingsd.web.request import StreamingRequest

__all__ = ["NodeSite", "NotFound"]


class _Channel(HTTPChannel):
    """A connection that its site knows of."""

    site: NodeSite

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.site.connections.discard(self)
        self.site.lost_one()


class NodeSite(Site):
    """A site of streaming requests. `timeout` is the seconds a client may be silent.

    It speaks HTTP/1.1 alone: one upload a connection gains nothing from HTTP/2.
    """

    protocol = _Channel  # type: ignore[assignment]  # narrower than Twisted's, on purpose
    requestFactory = StreamingRequest
    displayTracebacks = False
    noisy = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: All that are open.
        self.connections: set[HTTPChannel] = set()
        self._drained: Deferred[None] | None = None

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 in the TLS handshake."""
        return [b"http/1.1"]

    def drain(self) -> Deferred[None]:
        """Close idle connections; the Deferred fires when the others are closed as well."""
        for channel in tuple(self.connections):
            if not channel.requests:
                channel.loseConnection()
        if not self.connections:
            return succeed(None)
        self._drained = Deferred()
        return self._drained

    def lost_one(self) -> None:
        """Note that a connection was closed."""
        if self._drained is not None and not self.connections:
            drained, self._drained = self._drained, None
            drained.callback(None)


class NotFound(Resource):
    """Answers 404 to whatever has no resource of its own; the root of the tree."""

    isLeaf = False

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Be the answer to every path below."""
        return self

    def render(self, request: Any) -> bytes:
        """Say that there is nothing here."""
        path = request.path.decode("utf-8", "replace")
        return error_body(request, 404, f"this node has nothing at {path}")


def error_body(request: Any, status: int, message: str) -> bytes:
    """Set up an answer of `{"error": message}` and return its body."""
    request.setResponseCode(status)
    request.setHeader("Content-Type", "application/json")
    return json.dumps({"error": message}).encode()
