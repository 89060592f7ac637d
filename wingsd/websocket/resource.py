"""`GET /api/servers/{uuid}/ws`: opens the console WebSocket of a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.activity import ActivityRecorder
from wingsd.auth.tokens import DenyList
from wingsd.config import Config
from wingsd.errors import BadRequest, Forbidden, WingsdError
from wingsd.events import EventBus
from wingsd.http.errors import MethodNotAllowed, UpgradeRequired
from wingsd.http.proxies import TrustedProxies
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NotFound
from wingsd.servers.server import Server
from wingsd.util.reactor import Reactor
from wingsd.websocket.client import ClientContext, ConsoleClient
from wingsd.websocket.rate_limits import MessageRateLimits
from wingsd.websocket.recent_transfers import RecentTransfers
from wingsd.websocket.session import Session

if TYPE_CHECKING:
    from autobahn.twisted.websocket import WebSocketServerFactory

__all__ = ["ConsoleSocket", "ConsoleSockets"]

#: WebSockets of one server at a time; the figure of Pelican's Wings.
SOCKETS_MAX = 30

# The headers of the handshake, which autobahn parses again; path and origin are checked already.
_HANDSHAKE = (b"Host", b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")


class TooManyWebSockets(BadRequest):
    """As many WebSockets of one server are open as may be (400)."""

    code = "too-many-websockets"


class ConsoleSockets:
    """The WebSockets of all servers of this node.

    `denied` are the revoked tokens, `now` returns the seconds since the epoch. `activity` records
    what users do.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        bus: EventBus,
        denied: DenyList,
        activity: ActivityRecorder,
        reactor: Reactor,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._denied = denied
        self._proxies = TrustedProxies(config.api.trusted_proxies)
        log_count = config.system.websocket_log_count
        self._transfers = RecentTransfers(bus, reactor, now, log_count)
        self._context = ClientContext(reactor, now, bus, self._transfers, log_count, activity)
        self._reactor = reactor
        self._protocols: WebSocketServerFactory | None = None
        # In the order of their connections.
        self._clients: dict[str, dict[ConsoleClient, None]] = {}

    def use(self, config: Config) -> None:
        """Check origins and tokens by another configuration, also in open WebSockets."""
        self._config = config
        for clients in self._clients.values():
            for client in clients:
                client.use_key(config.token)

    def resource(self, server: Server) -> ConsoleSocket:
        """Return the resource of a server."""
        return ConsoleSocket(server.uuid, server, self)

    def resource_of_moved(self, server: str) -> ConsoleSocket | None:
        """Return the resource of a server with this UUID that has left this node.

        It sends the final state of the transfer to pages that missed it. None when the server is
        not known to have moved, or when that is more than a minute ago.
        """
        return ConsoleSocket(server, None, self) if self._transfers.has_moved(server) else None

    def count(self, server: str) -> int:
        """Return the number of open WebSockets of the server with this UUID."""
        return len(self._clients.get(server, ()))

    def close_user(self, user: str, servers: Collection[str]) -> int:
        """Close a user's WebSockets of these servers, of all when there are none; return how many.

        UUIDs are in lower case.
        """
        closing = [
            client
            for server in servers or tuple(self._clients)
            for client in self._clients.get(server, ())
            if client.user == user
        ]
        for client in closing:
            client.deauthorize()
        return len(closing)

    def admit(self, uuid: str, server: Server | None, request: StreamingRequest) -> None:
        """Upgrade the request's connection; `server` is None when it has left this node.

        Raises `Forbidden`, `BadRequest`.
        """
        origin = request.header("Origin")
        if not self._config.allows_origin(origin):
            self._log.warn(
                "{server}: WebSocket from {peer} refused: origin {origin!r} is not allowed",
                server=uuid,
                peer=request.peer,
                origin=origin,
            )
            raise Forbidden(
                "this page may not open a WebSocket here",
                "its origin is neither the Panel's nor one of `allowed_origins`",
            )
        if self.count(uuid) >= SOCKETS_MAX:
            self._evict_one(uuid)
        # Here, since autobahn takes 6 MiB, which a node without an open console saves.
        from wingsd.websocket.protocol import ConsoleProtocol, protocol_factory  # noqa: PLC0415

        if self._protocols is None:
            self._protocols = protocol_factory(self._reactor, self._config.family)
        client = self._client(uuid, server, self._proxies.client_of(request))
        protocol = ConsoleProtocol(client, self._protocols, request.common_headers)
        request.channel.upgrade(protocol, _opening(request))

    def _evict_one(self, server: str) -> None:
        """Evict the oldest unauthenticated browser. Raises `BadRequest` if there is none."""
        for client in tuple(self._clients[server]):
            if not client.admitted:
                client.evict()
                return
        limit = f"there are {SOCKETS_MAX} for this server; close some of its consoles"
        raise TooManyWebSockets("Too many open websocket connections.", limit)

    def _client(self, uuid: str, server: Server | None, address: str) -> ConsoleClient:
        session = Session(
            uuid,
            self._config.token,
            self._denied,
            MessageRateLimits(self._reactor),
            _Watched(server),
            transfer=_LastTransfer(uuid, server, self._transfers),
            has_left=server is None,
        )
        clients = self._clients.setdefault(uuid, {})

        def on_leave(client: ConsoleClient) -> None:
            clients.pop(client, None)
            if not clients and self._clients.get(uuid) is clients:
                del self._clients[uuid]

        client = ConsoleClient(uuid, server, session, self._context, on_leave, address)
        clients[client] = None
        return client


class _Watched:
    """One server, which is None when it has left this node."""

    def __init__(self, server: Server | None) -> None:
        self._server = server

    def status(self) -> str:
        return self._server.state.value if self._server else ""

    def stats(self) -> str:
        return self._server.stats() if self._server else ""

    def pending_restart(self) -> bool:
        return self._server is not None and self._server.pending_restart


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
        """Return 404 for any path below."""
        return NotFound()

    def render(self, request: Any) -> int:
        """Open a WebSocket, or answer with the reason of a refusal."""
        if request.method != b"GET":
            refusal = MethodNotAllowed("this path is a WebSocket", "open it with GET")
            request.refuse(refusal, {"Allow": "GET"})
        elif request.header("Upgrade").lower() != "websocket":
            request.refuse(UpgradeRequired(), {"Upgrade": "websocket"})
        else:
            try:
                self._sockets.admit(self._uuid, self._server, request)
            except WingsdError as error:
                request.refuse(error)
        return NOT_DONE_YET


def _opening(request: StreamingRequest) -> bytes:
    lines = [b"GET / " + request.clientproto]
    for name in _HANDSHAKE:
        values = request.requestHeaders.getRawHeaders(name, [])
        lines += [name + b": " + value for value in values]
    return b"\r\n".join([*lines, b"", b""])
