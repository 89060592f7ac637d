"""A Docker engine that says that a container does not exist, and then says nothing any more."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.node_process import reactor


class SilentEngine(Resource):
    """It answers what is asked before an upload is taken, and takes every other request.

    Nothing is on it when the daemon asks for the installers that are left over.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._has_answered = False
        self._requests: list[Any] = []
        self._port: Any = None

    async def listen(self, socket: str) -> None:
        self._port = await UNIXServerEndpoint(reactor, socket).listen(Site(self))

    async def close(self) -> None:
        await maybeDeferred(self._port.stopListening)
        for request in tuple(self._requests):
            request.channel.forceAbortClient()

    def render_GET(self, request: Any) -> bytes | int:
        """Answer the version, that nothing is listed, and once that there is no container."""
        if request.path == b"/version":
            return json.dumps({"ApiVersion": "1.44", "MinAPIVersion": "1.24"}).encode()
        if request.path.endswith(b"/containers/json"):
            return b"[]"
        if b"/containers/" in request.path and not self._has_answered:
            self._has_answered = True
            request.setResponseCode(404)
            return json.dumps({"message": "No such container"}).encode()
        self._requests.append(request)
        request.notifyFinish().addBoth(lambda _: self._requests.remove(request))
        return NOT_DONE_YET
