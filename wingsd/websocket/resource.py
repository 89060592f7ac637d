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
from wingsd.util.later import Later
from wingsd.util.reactor import Reactor
from wingsd.websocket.recent_transfers import RecentTransfers

if TYPE_CHECKING:
    from wingsd.websocket.client import ConsoleClient
    from wingsd.websocket.opener import ConsoleOpener

__all__ = ["ConsoleSocket", "ConsoleSockets"]

#: WebSockets of one server at a time; the figure of Pelican's Wings.
SOCKETS_MAX = 30


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
        self._proxies = TrustedProxies(config.api.trusted_proxies)
        log_count = config.system.websocket_log_count
        self._transfers = RecentTransfers(bus, reactor, now, log_count)

        def opener() -> ConsoleOpener:
            # Here, since autobahn takes 6 MiB, which a node without an open console saves.
            from wingsd.websocket.client import ClientContext  # noqa: PLC0415
            from wingsd.websocket.opener import ConsoleOpener  # noqa: PLC0415

            context = ClientContext(reactor, now, bus, self._transfers, log_count, activity)
            return ConsoleOpener(context, reactor, denied, config.family)

        self._opener = Later(opener)
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

        Raises `Forbidden`, `BadRequest`, and what `Later.get` raises.
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
        opener = self._opener.get()
        if self.count(uuid) >= SOCKETS_MAX:
            self._evict_one(uuid)
        clients = self._clients.setdefault(uuid, {})

        def on_leave(client: ConsoleClient) -> None:
            clients.pop(client, None)
            if not clients and self._clients.get(uuid) is clients:
                del self._clients[uuid]

        address = self._proxies.client_of(request)
        client = opener.client(uuid, server, self._config.token, on_leave, address)
        clients[client] = None
        opener.upgrade(request, client)

    def _evict_one(self, server: str) -> None:
        """Evict the oldest unauthenticated browser. Raises `BadRequest` if there is none."""
        for client in tuple(self._clients[server]):
            if not client.admitted:
                client.evict()
                return
        limit = f"there are {SOCKETS_MAX} for this server; close some of its consoles"
        raise TooManyWebSockets("Too many open websocket connections.", limit)


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
