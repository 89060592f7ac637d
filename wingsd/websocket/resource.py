"""`GET /api/servers/{uuid}/ws`: opens the console WebSocket of a server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.activity import ActivityRecorder
from wingsd.auth.tokens import DenyList
from wingsd.config import Config
from wingsd.errors import (
    Forbidden,
    MethodNotAllowed,
    TooManyWebSockets,
    UpgradeRequired,
    WingsdError,
)
from wingsd.events import EventBus
from wingsd.http.proxies import TrustedProxies
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NotFound
from wingsd.servers.server import Server
from wingsd.util.addresses import address_block
from wingsd.util.reactor import Reactor
from wingsd.websocket.client import ClientContext, ConsoleClient, ConsoleProtocol, protocol_factory
from wingsd.websocket.recent_transfers import RecentTransfers
from wingsd.websocket.session import MessageRateLimits, Session

__all__ = ["ConsoleSocket", "ConsoleSockets"]

# The headers of the handshake, which autobahn parses again; path and origin are checked already.
_HANDSHAKE = (b"Host", b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")
#: WebSockets of one server at a time; the figure of Pelican's Wings.
SOCKETS_MAX = 30
#: WebSockets of the whole node that have shown no token.
WAITING_MAX = 256
#: Addresses whose WebSockets have shown no token, and the seconds for which that is remembered.
REMEMBERED, REMEMBERED_FOR = 1024, 60.0


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
        lines_max = config.system.websocket_log_count
        self._transfers = RecentTransfers(bus, reactor, now, lines_max)
        self._context = ClientContext(reactor, now, bus, self._transfers, config, activity)
        self._denied = denied
        self._protocols = protocol_factory(reactor, config.family)
        self._reactor = reactor
        # In the order of their connections.
        self._clients: dict[str, dict[ConsoleClient, None]] = {}
        #: Those without a token: the UUIDs of their servers, and the blocks of their addresses.
        self._waiting: dict[ConsoleClient, tuple[str, str]] = {}
        #: How many of a block have gone without a token, lately.
        self._gone: Counter[str] = Counter()
        self._remembered_since = reactor.seconds()

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
        address = self._proxies.client_of(request)
        block = address_block(address)
        self._make_place(uuid, block)
        clients = self._clients.setdefault(uuid, {})

        def on_leave(client: ConsoleClient) -> None:
            clients.pop(client, None)
            if self._waiting.pop(client, None) and not client.admitted:
                self._gone[block] += 1
            if not clients and self._clients.get(uuid) is clients:
                del self._clients[uuid]

        session = Session(
            uuid,
            self._config.token,
            self._config.family,
            self._denied,
            MessageRateLimits(self._reactor.seconds),
            _Watched(server),
            transfer=_LastTransfer(uuid, server, self._transfers),
            has_left=server is None,
        )
        client = ConsoleClient(uuid, server, session, self._context, on_leave, address)
        clients[client] = None
        self._waiting[client] = (uuid, block)
        protocol = ConsoleProtocol(client, self._protocols, request.common_headers)
        request.channel.upgrade(protocol, _opening(request))

    def _make_place(self, server: str, block: str) -> None:
        """Evict unauthenticated browsers where there are too many. Raises `TooManyWebSockets`."""
        now = self._reactor.seconds()
        if len(self._gone) > REMEMBERED or now - self._remembered_since > REMEMBERED_FOR:
            self._gone.clear()
            self._remembered_since = now
        for client in tuple(self._waiting):
            if client.admitted:
                del self._waiting[client]
        if self.count(server) >= SOCKETS_MAX:
            limit = f"there are {SOCKETS_MAX} for this server; close some of its consoles"
            self._evict_one(
                [c for c, (of, _) in self._waiting.items() if of == server], block, limit
            )
        if len(self._waiting) >= WAITING_MAX:
            limit = f"{WAITING_MAX} of this node wait for a token; try again"
            self._evict_one(list(self._waiting), block, limit)

    def _evict_one(self, clients: Sequence[ConsoleClient], block: str, limit: str) -> None:
        """Evict the oldest of the block that has most of these, in favour of one from `block`.

        Those that have gone without a token count as well. Raises `TooManyWebSockets` where there
        are none, or the new one would be of the block that has most.
        """
        open_now = Counter(self._waiting[client][1] for client in clients)
        most = self._gone + open_now
        victim = max(clients, key=lambda client: most[self._waiting[client][1]], default=None)
        if victim is None or (
            not open_now[block] and most[block] >= most[self._waiting[victim][1]]
        ):
            raise TooManyWebSockets("Too many open websocket connections.", limit)
        victim.evict()


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

    @property
    def heard(self) -> set[str]:
        return self._transfers.heard(self._uuid)

    def missed(self, issued: float) -> str:
        return self._transfers.missed(self._uuid, issued, is_here=not self._has_left)

    @property
    def _has_left(self) -> bool:
        return self._server is None or self._server.disowned


def _opening(request: StreamingRequest) -> bytes:
    lines = [b"GET / " + request.clientproto]
    for name in _HANDSHAKE:
        values = request.requestHeaders.getRawHeaders(name, [])
        lines += [name + b": " + value for value in values]
    return b"\r\n".join([*lines, b"", b""])


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
