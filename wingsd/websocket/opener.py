"""Opens WebSockets: each is a protocol, a client and a session.

It is imported by the first request for one.
"""

from __future__ import annotations

from collections.abc import Callable

from wingsd.auth.tokens import DenyList
from wingsd.http.request import StreamingRequest
from wingsd.servers.server import Server
from wingsd.util.reactor import Reactor
from wingsd.websocket.client import ClientContext, ConsoleClient
from wingsd.websocket.protocol import ConsoleProtocol, protocol_factory
from wingsd.websocket.rate_limits import MessageRateLimits
from wingsd.websocket.recent_transfers import RecentTransfers
from wingsd.websocket.session import Session

__all__ = ["ConsoleOpener"]

# The headers of the handshake, which autobahn parses again; path and origin are checked already.
_HANDSHAKE = (b"Host", b"Upgrade", b"Connection", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version")


class ConsoleOpener:
    """Opens WebSockets of the servers of a node of `family`. `denied` are the revoked tokens."""

    def __init__(
        self, context: ClientContext, reactor: Reactor, denied: DenyList, family: str
    ) -> None:
        self._context = context
        self._reactor = reactor
        self._denied = denied
        self._family = family
        self._protocols = protocol_factory(reactor, family)

    def client(
        self,
        uuid: str,
        server: Server | None,
        key: str,
        on_leave: Callable[[ConsoleClient], None],
        address: str,
    ) -> ConsoleClient:
        """Return a client of a server, which is None when it has left this node.

        `key` is the node's token, by which those of users are checked.
        """
        transfers = self._context.transfers
        session = Session(
            uuid,
            key,
            self._family,
            self._denied,
            MessageRateLimits(self._reactor),
            _Watched(server),
            transfer=_LastTransfer(uuid, server, transfers),
            has_left=server is None,
        )
        return ConsoleClient(uuid, server, session, self._context, on_leave, address)

    def upgrade(self, request: StreamingRequest, client: ConsoleClient) -> None:
        """Make the request's connection the WebSocket of a client."""
        protocol = ConsoleProtocol(client, self._protocols, request.common_headers)
        request.channel.upgrade(protocol, _opening(request))


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
