"""`GET /api/servers/{uuid}/ws`: who may open a WebSocket, and its way from HTTP to there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.auth.tokens import DenyList
from wingsd.config import Config
from wingsd.errors import BadRequest, Forbidden, WingsdError
from wingsd.events import EventBus
from wingsd.http.errors import MethodNotAllowed, UpgradeRequired, error_json
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NotFound
from wingsd.servers.server import Server
from wingsd.websocket.client import ClientContext, ConsoleClient
from wingsd.websocket.recent_transfers import RecentTransfers
from wingsd.websocket.session import Session

if TYPE_CHECKING:
    from autobahn.twisted.websocket import WebSocketServerFactory

__all__ = ["ConsoleSocket", "ConsoleSockets"]

#: WebSockets of one server at a time; Pelican's Wings has the same.
SOCKETS_MAX = 30

# All that the handshake is about. Autobahn reads it once more; where the request was for and whom
# it came from has been judged already.
_HANDSHAKE = (b"Host", b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")


class TooManyWebSockets(BadRequest):
    """As many WebSockets of one server are open as may be (400)."""

    code = "too-many-websockets"


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
        log_count = config.system.websocket_log_count
        self._transfers = RecentTransfers(bus, reactor, now, log_count)
        self._around = ClientContext(reactor, now, bus, self._transfers, log_count)
        self._reactor = reactor
        self._wires: WebSocketServerFactory | None = None
        # The oldest first.
        self._clients: dict[str, dict[ConsoleClient, None]] = {}

    def resource(self, server: Server) -> ConsoleSocket:
        """Return the resource of a server."""
        return ConsoleSocket(server.uuid, server, self)

    def resource_of_moved(self, server: str) -> ConsoleSocket | None:
        """Return the resource of a server with this UUID that has left this node.

        Pages that missed the end of its transfer learn it there. None when it is not known to have
        moved, or when that is more than a minute ago.
        """
        return ConsoleSocket(server, None, self) if self._transfers.has_moved(server) else None

    def count(self, server: str) -> int:
        """Return how many are open for the server with this UUID."""
        return len(self._clients.get(server, ()))

    def admit(self, uuid: str, server: Server | None, request: StreamingRequest) -> None:
        """Hand the request's connection over; `server` is None when it has left this node.

        Raises `Forbidden`, `BadRequest`.
        """
        origin = request.header("Origin")
        if not self._config.allows_origin(origin):
            self._log.warn(
                "{server}: a WebSocket from {peer} is refused: its page is of {origin!r}",
                server=uuid,
                peer=request.peer,
                origin=origin,
            )
            raise Forbidden(
                "this page may not open a WebSocket here",
                "its origin is neither the Panel's nor one of `allowed_origins`",
            )
        if self.count(uuid) >= SOCKETS_MAX:
            self._make_room(uuid)
        # Here, since autobahn takes 6 MiB, which a node without an open console saves.
        from wingsd.websocket.protocol import ConsoleProtocol, wire_factory  # noqa: PLC0415

        if self._wires is None:
            self._wires = wire_factory(self._reactor)
        wire = ConsoleProtocol(self._client(uuid, server), self._wires)
        request.channel.upgrade(wire, _opening(request))

    def _make_room(self, server: str) -> None:
        """Send the oldest away that has shown no token: whoever guards its place must have one."""
        for client in tuple(self._clients[server]):
            if not client.admitted:
                client.make_way()
                return
        limit = f"there are {SOCKETS_MAX} for this server; close some of its consoles"
        raise TooManyWebSockets("Too many open websocket connections.", limit)

    def _client(self, uuid: str, server: Server | None) -> ConsoleClient:
        session = Session(
            uuid,
            self._config.token,
            self._denied,
            status=lambda: server.state.value if server else "",
            stats=lambda: server.stats() if server else "",
            transfer=_LastTransfer(uuid, server, self._transfers),
            has_left=server is None,
        )
        clients = self._clients.setdefault(uuid, {})

        def leave(client: ConsoleClient) -> None:
            clients.pop(client, None)
            if not clients and self._clients.get(uuid) is clients:
                del self._clients[uuid]

        client = ConsoleClient(uuid, server, session, self._around, leave)
        clients[client] = None
        return client


class _LastTransfer:
    """The last transfer of one server, which is None when it has left this node."""

    def __init__(self, uuid: str, server: Server | None, transfers: RecentTransfers) -> None:
        self._uuid = uuid
        self._server = server
        self._transfers = transfers

    @property
    def has_moved(self) -> bool:
        return self._has_left and self._transfers.has_moved(self._uuid)

    def repeat(self, user: str, issued: float) -> str:
        return self._transfers.repeat(self._uuid, user, issued, is_here=not self._has_left)

    @property
    def _has_left(self) -> bool:
        return self._server is None or self._server.disowned


class ConsoleSocket(Resource):
    """The WebSocket of one server; `server` is None when it has left this node."""

    def __init__(self, uuid: str, server: Server | None, sockets: ConsoleSockets) -> None:
        super().__init__()
        self._uuid = uuid
        self._server = server
        self._sockets = sockets

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """There is nothing below."""
        return NotFound()

    def render(self, request: Any) -> int:
        """Open a WebSocket, or say why not."""
        if request.method != b"GET":
            refusal: WingsdError = MethodNotAllowed("this is a WebSocket", "open it with GET")
            request.answer(refusal.status, error_json(refusal), {"Allow": "GET"})
        elif request.header("Upgrade").lower() != "websocket":
            refusal = UpgradeRequired()
            request.answer(refusal.status, error_json(refusal), {"Upgrade": "websocket"})
        else:
            try:
                self._sockets.admit(self._uuid, self._server, request)
            except WingsdError as error:
                request.answer(error.status, error_json(error))
        return NOT_DONE_YET


def _opening(request: StreamingRequest) -> bytes:
    lines = [b"GET / " + request.clientproto]
    for name in _HANDSHAKE:
        values = request.requestHeaders.getRawHeaders(name, [])
        lines += [name + b": " + value for value in values]
    return b"\r\n".join([*lines, b"", b""])
