"""The site: what is found under which path, and the connections it is reached by."""

from __future__ import annotations

import json
from typing import Any

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from wingsd.web.request import StreamingRequest

__all__ = ["NodeSite", "NotFound"]


class NodeSite(Site):
    """A site of streaming requests. `timeout` is the seconds a client may be silent."""

    requestFactory = StreamingRequest
    displayTracebacks = False

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 alone: one upload a connection gains nothing from HTTP/2."""
        return [b"http/1.1"]


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
