"""`/api/servers`: the servers of this node, their power, console and settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import IResource

from wingsd.api.resource import Endpoint, ServerPath
from wingsd.auth.tokens import DenyList
from wingsd.config import Config
from wingsd.errors import (
    BadRequest,
    Conflict,
    ServerAlreadyExists,
    ServerNotFound,
    Unprocessable,
    WingsdError,
)
from wingsd.http.operations import INVALID, Call, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.servers.power_states import PowerAction
from wingsd.servers.registry import Servers
from wingsd.servers.runtime import ServerDetails
from wingsd.servers.server import Server
from wingsd.statedb import StateDatabase
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

__all__ = [
    "CommandsEndpoint",
    "ConsoleResources",
    "DenyEndpoint",
    "LogsEndpoint",
    "PowerEndpoint",
    "ServerEndpoint",
    "ServersEndpoint",
    "SocketEndpoint",
    "SyncEndpoint",
    "endpoints",
]

# The status until the Panel has sent the list of servers.
_NOT_LOADED = HTTPStatus.SERVICE_UNAVAILABLE


class ConsoleResources(Protocol):
    """Makes the resources that open WebSockets."""

    def resource(self, server: Server) -> IResource:
        """Return the resource of a server."""

    def resource_of_moved(self, server: str) -> IResource | None:
        """Return the resource of a server that has just left this node; None for others."""


def endpoints(
    config: Config,
    servers: Servers,
    receiver: IncomingTransfers,
    sender: OutgoingTransfers,
    sockets: ConsoleResources,
    denied: DenyList,
    database: StateDatabase,
    now: Callable[[], float] = time.time,
) -> list[partial[Any]]:
    """Return the endpoints of this module. `denied` are console tokens; `now` is Unix time."""
    return [
        partial(ServersEndpoint, config, servers),
        partial(ServerEndpoint, config, servers, receiver, sender),
        partial(PowerEndpoint, config, servers),
        partial(CommandsEndpoint, config, servers),
        partial(LogsEndpoint, config, servers),
        partial(SyncEndpoint, config, servers),
        partial(SocketEndpoint, config, servers, sockets),
        partial(DenyEndpoint, config, denied, database, now),
    ]


@attrs.frozen
class NewServer:
    """A server to be created. The Panel has its settings."""

    uuid: Annotated[str, Keywords(format="uuid")]
    start_on_completion: bool = False


class ServersEndpoint(Endpoint):
    """`/api/servers`: all servers."""

    topic = Topic.SERVERS
    fails = (_NOT_LOADED,)
    _log = Logger()

    def __init__(self, config: Config, servers: Servers, parts: Mapping[str, bytes] = {}) -> None:
        super().__init__(config, parts)
        self._servers = servers

    @call("GET", Success(HTTPStatus.OK, "The servers."))
    async def list_servers(self, request: StreamingRequest) -> list[ServerDetails]:
        """List all servers with their configuration and state."""
        return [server.details() for server in self._servers.all()]

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The server is being created."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def create_server(self, request: StreamingRequest, body: NewServer) -> None:
        """Create a server with the settings that the Panel has for it.

        It is created in the background; the result is sent to the Panel as the result of its
        installation. When its container cannot be created, the server exists nevertheless: it is
        offline, its console has the reason, and a start creates the container again.
        """
        uuid = canonical_uuid(body.uuid)
        if uuid is None:
            raise Unprocessable(INVALID, "uuid: expected the UUID of a server")
        with suppress(ServerNotFound):
            self._servers.get(uuid)  # `ServersNotLoaded` until the Panel has sent the list.
            raise ServerAlreadyExists("This server is already on this node.", "delete it first")
        Deferred.fromCoroutine(self._create(uuid, start=body.start_on_completion))

    async def _create(self, uuid: str, *, start: bool) -> None:
        try:
            await self._servers.create(uuid, start_on_completion=start)
        except Conflict as error:
            self._log.warn("{server}: creation failed: {error}", server=uuid, error=error)
        except WingsdError:
            pass  # Logged by the rollback.
        except Exception:
            self._log.failure("{server}: creation failed unexpectedly", server=uuid)


class ServerEndpoint(Endpoint):
    """`/api/servers/{uuid}`: one server."""

    topic = Topic.SERVERS
    fails = (HTTPStatus.NOT_FOUND, _NOT_LOADED)

    def __init__(
        self,
        config: Config,
        servers: Servers,
        receiver: IncomingTransfers,
        sender: OutgoingTransfers,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, parts)
        self._servers = servers
        self._receiver = receiver
        self._sender = sender

    @call("GET", Success(HTTPStatus.OK, "The server."))
    async def get_server(self, request: StreamingRequest) -> ServerDetails:
        """Return a server's configuration and state."""
        return self._servers.get(self.uuid).details()

    # Not a `ServerPath`: a server being received is not in the registry yet.
    @call(
        "DELETE",
        Success(HTTPStatus.NO_CONTENT, "The server is deleted."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR),
    )
    async def delete_server(self, request: StreamingRequest) -> None:
        """Delete a server with its container and its files.

        A transfer in progress is cancelled first.
        """
        # After a transfer that has sent everything, the Panel makes this call before it answers
        # the destination: it must return quickly.
        uuid = self.uuid
        is_incoming = uuid in self._receiver.servers
        await self._sender.release(uuid)
        await self._receiver.release(uuid)
        try:
            await self._servers.delete(uuid)
        except ServerNotFound:
            self._sender.deleted(uuid)
            # The cancelled transfer to this node has removed the server.
            if not is_incoming:
                raise
        else:
            self._sender.deleted(uuid)


# As in Wings: console lines in an answer at most; seconds that a power action may wait for
# another one at most, and by default.
MAX_LINES = 100
MAX_WAIT = 300
DEFAULT_WAIT = 30


@attrs.frozen
class PowerRequest:
    """A power action."""

    action: Annotated[str, Keywords(enum=tuple(action.value for action in PowerAction))]
    wait_seconds: Annotated[
        int, f"Seconds to wait for a power action in progress; {MAX_WAIT} at most."
    ] = DEFAULT_WAIT


class PowerEndpoint(Endpoint, ServerPath):
    """`/api/servers/{uuid}/power`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The action has started."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def power_server(self, request: StreamingRequest, body: PowerRequest) -> None:
        """Start, stop, restart or kill a server.

        The result is shown in its console and by its events.
        """
        try:
            action = PowerAction(body.action)
        except ValueError:
            raise Unprocessable(
                "The power action provided was not valid, "
                'should be one of "stop", "start", "restart", "kill"'
            ) from None
        if action.starts and self.game_server.suspended:
            raise BadRequest("Cannot start or restart a server that is suspended.")
        self.game_server.check_power(action)
        wait = body.wait_seconds if 0 <= body.wait_seconds <= MAX_WAIT else DEFAULT_WAIT
        # The server reports a failure itself, in its console and in the log.
        Deferred.fromCoroutine(self.game_server.power(action, wait)).addErrback(lambda _: None)


@attrs.frozen
class Commands:
    """Commands for the console, one a line."""

    commands: tuple[str, ...]


class CommandsEndpoint(Endpoint, ServerPath):
    """`/api/servers/{uuid}/commands`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "The commands are sent."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY),
    )
    async def send_commands(self, request: StreamingRequest, body: Commands) -> None:
        """Send commands to the console, in order. Stops at the first that fails."""
        for line in body.commands:
            await self.game_server.command(line)


@attrs.frozen
class LogsQuery:
    """How many lines to return. Strings, so that the handler words the error."""

    size: Annotated[
        str,
        f"Number of lines, {MAX_LINES} at most. The default is `lines`.",
        Keywords(type="integer", minimum=1, default=MAX_LINES),
    ] = ""
    lines: Annotated[str, Keywords(type="integer", minimum=1)] = ""


@attrs.frozen
class ConsoleLines:
    """The last lines of the console, the oldest first."""

    data: Annotated[list[str], Keywords(maxItems=MAX_LINES)]


class LogsEndpoint(Endpoint, ServerPath):
    """`/api/servers/{uuid}/logs`."""

    topic = Topic.SERVERS

    @call("GET", Success(HTTPStatus.OK, "The lines."), fails=(HTTPStatus.BAD_REQUEST,))
    async def get_logs(self, request: StreamingRequest, query: LogsQuery) -> ConsoleLines:
        """Return the last lines of the console."""
        return ConsoleLines(
            await self.game_server.logs(_number_of_lines(query.size or query.lines))
        )


def _number_of_lines(text: str) -> int:
    """Return the requested number of lines, `MAX_LINES` at most."""
    try:
        number = int(text or MAX_LINES)
    except ValueError:
        number = 0
    if number <= 0:
        raise BadRequest(INVALID, f"size: expected a number of lines from 1 to {MAX_LINES}")
    return min(number, MAX_LINES)


class SyncEndpoint(Endpoint, ServerPath):
    """`/api/servers/{uuid}/sync`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "The settings are updated."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def sync_server(self, request: StreamingRequest) -> None:
        """Fetch a server's settings from the Panel."""
        await self.game_server.sync()


class SocketEndpoint(ServerPath):
    """`/api/servers/{uuid}/ws`: for browsers, which send their token in the first message."""

    topic = Topic.CONSOLE

    def __init__(
        self,
        config: Config,
        servers: Servers,
        sockets: ConsoleResources,
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, servers, parts)
        self._sockets = sockets

    @call(
        "GET",
        Success(HTTPStatus.SWITCHING_PROTOCOLS, "The WebSocket is open."),
        fails=(HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UPGRADE_REQUIRED),
    )
    async def open_console(self, request: StreamingRequest) -> None:
        """Open a WebSocket (RFC 6455) for the console and the events of a server.

        The first message must be `{"event": "auth", "args": [TOKEN]}`, with a token issued by the
        Panel.

        For a minute after the server was transferred to another node the WebSocket can still be
        opened; it sends the end of the transfer and accepts nothing else.
        """
        request.render(self._sockets.resource(self.game_server))

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run the call. Raises `ServerNotFound`, `ServersNotLoaded`."""
        try:
            await super().handle(request, call)
        except ServerNotFound:
            moved = self._sockets.resource_of_moved(self.uuid)
            if moved is None:
                raise
            request.render(moved)


@attrs.frozen
class DeniedTokens:
    """Ids of tokens, the claim `jti`."""

    jtis: tuple[str, ...]


class DenyEndpoint(Endpoint):
    """`/api/servers/{uuid}/ws/deny`."""

    topic = Topic.CONSOLE

    def __init__(
        self,
        config: Config,
        denied: DenyList,
        database: StateDatabase,
        now: Callable[[], float],
        parts: Mapping[str, bytes] = {},
    ) -> None:
        super().__init__(config, parts)
        self._denied = denied
        self._database = database
        self._now = now

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "The tokens are refused from now on."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def deny_tokens(self, request: StreamingRequest, body: DeniedTokens) -> None:
        """Refuse tokens for the WebSocket that were issued until now.

        The server in the path is ignored: the id of a token is unique.
        """
        self._denied.deny(body.jtis, self._now())
        # After the answer the Panel relies on it, also when this process is restarted.
        await self._database.deny(body.jtis)
