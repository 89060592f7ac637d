"""`GET /api/servers/{uuid}/ws`: who may open a WebSocket, and its way from HTTP to there."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.config import Config
from wingsd.errors import BadRequest, Forbidden, WingsdError
from wingsd.events import EventBus
from wingsd.servers.server import Server
from wingsd.tokens import DenyList
from wingsd.web.answers import error_json
from wingsd.web.origins import allows_origin
from wingsd.web.request import StreamingRequest
from wingsd.web.site import NotFound
from wingsd.web.websocket.client import Client, Surroundings
from wingsd.web.websocket.session import Session
from wingsd.web.websocket.wire import Wire, wire_factory

__all__ = ["ConsoleSocket", "ConsoleSockets"]

#: WebSockets of one server at a time; Pelican's Wings has the same.
SOCKETS_MAX = 30

# All that the handshake is about. Autobahn reads it once more; where the request was for and whom
# it came from has been judged already.
_HANDSHAKE = (b"Host", b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")


class ConsoleSockets:
    """The WebSockets of all servers of this node.

    `denied` are the tokens taken back, `now` tells the seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        bus: EventBus,
        denied: DenyList,
        reactor: Any,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._denied = denied
        self._around = Surroundings(reactor, now, bus, config.system.websocket_log_count)
        self._wires = wire_factory(reactor)
        # The oldest first.
        self._clients: dict[str, dict[Client, None]] = {}

    def resource(self, server: Server) -> ConsoleSocket:
        """Return the resource of a server."""
        return ConsoleSocket(server, self)

    def count(self, server: str) -> int:
        """Return how many are open for the server with this UUID."""
        return len(self._clients.get(server, ()))

    def admit(self, server: Server, request: StreamingRequest) -> None:
        """Hand the request's connection over. Raises `Forbidden`, `BadRequest`."""
        origin = request.header("Origin")
        if not allows_origin(self._config, origin):
            self._log.warn(
                "{server}: a WebSocket from {peer} is refused: its page is of {origin!r}",
                server=server.uuid,
                peer=request.peer,
                origin=origin,
            )
            raise Forbidden(
                "this page may not open a WebSocket here",
                "its origin is neither the Panel's nor one of `allowed_origins`",
            )
        if self.count(server.uuid) >= SOCKETS_MAX:
            self._make_room(server.uuid)
        wire = Wire(self._client(server), self._wires)
        request.channel.upgrade(wire, _opening(request))

    def _make_room(self, server: str) -> None:
        """Send the oldest away that has shown no token: whoever guards its place must have one."""
        for client in tuple(self._clients[server]):
            if not client.admitted:
                client.make_way()
                return
        limit = f"there are {SOCKETS_MAX} for this server; close some of its consoles"
        raise BadRequest("Too many open websocket connections.", limit)

    def _client(self, server: Server) -> Client:
        session = Session(
            server.uuid,
            self._config.token,
            self._denied,
            status=lambda: server.state.value,
            stats=server.stats,
        )
        clients = self._clients.setdefault(server.uuid, {})

        def leave(client: Client) -> None:
            clients.pop(client, None)
            if not clients and self._clients.get(server.uuid) is clients:
                del self._clients[server.uuid]

        client = Client(server, session, self._around, leave)
        clients[client] = None
        return client


class ConsoleSocket(Resource):
    """The WebSocket of one server."""

    def __init__(self, server: Server, sockets: ConsoleSockets) -> None:
        super().__init__()
        self._server = server
        self._sockets = sockets

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """There is nothing below."""
        return NotFound()

    def render(self, request: Any) -> int:
        """Open a WebSocket, or say why not."""
        if request.method != b"GET":
            error = error_json("this is a WebSocket", "open it with GET")
            request.answer(HTTPStatus.METHOD_NOT_ALLOWED, error, {"Allow": "GET"})
        elif request.header("Upgrade").lower() != "websocket":
            error = error_json("this is a WebSocket", "send the headers of RFC 6455")
            request.answer(HTTPStatus.UPGRADE_REQUIRED, error, {"Upgrade": "websocket"})
        else:
            try:
                self._sockets.admit(self._server, request)
            except WingsdError as error:
                request.answer(error.status, error_json(error.message, error.detail))
        return NOT_DONE_YET


def _opening(request: StreamingRequest) -> bytes:
    lines = [b"GET / " + request.clientproto]
    for name in _HANDSHAKE:
        values = request.requestHeaders.getRawHeaders(name, [])
        lines += [name + b": " + value for value in values]
    return b"\r\n".join([*lines, b"", b""])
