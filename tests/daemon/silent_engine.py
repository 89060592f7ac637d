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
    """It answers what is asked before an upload is taken, and from then on takes every request.

    Nothing is on it when the daemon asks for the installers that are left over.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._is_silent = False
        self._requests: list[Any] = []
        self._port: Any = None

    async def listen(self, socket: str) -> None:
        self._port = await UNIXServerEndpoint(reactor, socket).listen(Site(self))

    async def close(self) -> None:
        await maybeDeferred(self._port.stopListening)
        for request in tuple(self._requests):
            request.channel.forceAbortClient()

    def render_GET(self, request: Any) -> bytes | int:
        """Answer the version, that nothing is listed, and before all else that no container is."""
        if request.path == b"/version":
            return json.dumps({"ApiVersion": "1.44", "MinAPIVersion": "1.24"}).encode()
        if request.path.endswith(b"/containers/json"):
            return b"[]"
        # Asked for by the upload, and by the daemon of each server that the Panel has here.
        if b"/containers/" in request.path and not self._is_silent:
            request.setResponseCode(404)
            return json.dumps({"message": "No such container"}).encode()
        self._is_silent = True
        self._requests.append(request)
        request.notifyFinish().addBoth(lambda _: self._requests.remove(request))
        return NOT_DONE_YET
