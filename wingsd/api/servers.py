"""`/api/servers`: the servers of this node, their power, console and settings."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.api.resource import Endpoint, ServerPath
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
from wingsd.servers.runtime import ServerDetails
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

__all__ = [
    "CommandsEndpoint",
    "DenyEndpoint",
    "LogsEndpoint",
    "PowerEndpoint",
    "ServerEndpoint",
    "ServersEndpoint",
    "SocketEndpoint",
    "SyncEndpoint",
]

_UNKNOWN_YET = HTTPStatus.SERVICE_UNAVAILABLE


@attrs.frozen
class NewServer:
    """A server that the Panel knows already."""

    uuid: Annotated[str, Keywords(format="uuid")]
    start_on_completion: bool = False


class ServersEndpoint(Endpoint):
    """`/api/servers`: all of them."""

    topic = Topic.SERVERS
    fails = (_UNKNOWN_YET,)
    _log = Logger()

    @call("GET", Success(HTTPStatus.OK, "The servers."))
    async def list_servers(self, request: StreamingRequest) -> list[ServerDetails]:
        """Tell what every server is and does."""
        return [server.details() for server in self.services.servers.all()]

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "It is being made."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def create_server(self, request: StreamingRequest, order: NewServer) -> None:
        """Make a server, which the Panel knows already.

        It is made in the background; the Panel is told of the end by the report of its
        installation. A server whose container cannot be made is here all the same, offline, with
        the reason in its console; a start of it tries again.
        """
        uuid = canonical_uuid(order.uuid)
        if uuid is None:
            raise Unprocessable(INVALID, "uuid: expected the UUID of a server")
        with suppress(ServerNotFound):
            self.services.servers.get(uuid)  # Or it is not known which there are.
            raise ServerAlreadyExists("This server is already on this node.", "delete it first")
        Deferred.fromCoroutine(self._create(uuid, start=order.start_on_completion))

    async def _create(self, uuid: str, *, start: bool) -> None:
        try:
            await self.services.servers.create(uuid, start_on_completion=start)
        except Conflict as error:
            self._log.warn("{server}: could not be created: {error}", server=uuid, error=error)
        except WingsdError:
            pass  # Logged where it was undone.
        except Exception:
            self._log.failure("{server}: could not be created", server=uuid)


class ServerEndpoint(Endpoint):
    """`/api/servers/{uuid}`: one server."""

    topic = Topic.SERVERS
    fails = (HTTPStatus.NOT_FOUND, _UNKNOWN_YET)

    @call("GET", Success(HTTPStatus.OK, "The server."))
    async def get_server(self, request: StreamingRequest) -> ServerDetails:
        """Tell what a server is and does."""
        return self.services.servers.get(self.uuid).details()

    # Not a `ServerPath`: what arrives in a transfer is not among the servers yet.
    @call(
        "DELETE",
        Success(HTTPStatus.NO_CONTENT, "It is deleted."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR),
    )
    async def delete_server(self, request: StreamingRequest) -> None:
        """Delete a server with its container and its files.

        A transfer under way makes way first.
        """
        # When that has sent everything, this call is how the Panel ends it, while the other node
        # waits for the Panel: nothing may take long here.
        uuid = self.uuid
        arriving = uuid in self.services.receiver.servers
        await self.services.sender.release(uuid)
        await self.services.receiver.release(uuid)
        try:
            await self.services.servers.delete(uuid)
        except ServerNotFound:
            self.services.sender.deleted(uuid)
            # A transfer to this node that was called off has taken the server along.
            if not arriving:
                raise
        else:
            self.services.sender.deleted(uuid)


#: Lines of the console that are told at most, and seconds that a power action may wait for
#: another one at most, and usually. All of them are Wings'.
MAX_LINES = 100
MAX_WAIT = 300
USUAL_WAIT = 30


@attrs.frozen
class PowerOrder:
    """What is to be done, and when."""

    action: Annotated[str, Keywords(enum=tuple(action.value for action in PowerAction))]
    wait_seconds: Annotated[
        int, f"Seconds that it may wait for another power action; {MAX_WAIT} at most."
    ] = USUAL_WAIT


class PowerEndpoint(Endpoint, ServerPath):
    """`power`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "It is begun."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def power_server(self, request: StreamingRequest, order: PowerOrder) -> None:
        """Start, stop, restart or kill a server.

        What comes of it is told in its console and by its events.
        """
        try:
            action = PowerAction(order.action)
        except ValueError:
            raise Unprocessable(
                "The power action provided was not valid, "
                'should be one of "stop", "start", "restart", "kill"'
            ) from None
        self.game_server.check_power(action)
        wait = order.wait_seconds if 0 <= order.wait_seconds <= MAX_WAIT else USUAL_WAIT
        # The server itself tells of a failure, in its console and in the log.
        Deferred.fromCoroutine(self.game_server.power(action, wait)).addErrback(lambda _: None)


@attrs.frozen
class Commands:
    """Lines for the console."""

    commands: tuple[str, ...]


class CommandsEndpoint(Endpoint, ServerPath):
    """`commands`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "They are typed."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY),
    )
    async def send_commands(self, request: StreamingRequest, order: Commands) -> None:
        """Type commands into the console, in order; the first that fails is the last."""
        for line in order.commands:
            await self.game_server.command(line)


@attrs.frozen
class LogsQuery:
    """How many lines are wanted. As texts: what is no number is refused in words of our own."""

    size: Annotated[
        str,
        f"How many; {MAX_LINES} are told at most. Without it `lines` counts.",
        Keywords(type="integer", minimum=1, default=MAX_LINES),
    ] = ""
    lines: Annotated[str, Keywords(type="integer", minimum=1)] = ""


@attrs.frozen
class ConsoleLines:
    """The end of the console, the oldest line first."""

    data: Annotated[list[str], Keywords(maxItems=MAX_LINES)]


class LogsEndpoint(Endpoint, ServerPath):
    """`logs`."""

    topic = Topic.SERVERS

    @call("GET", Success(HTTPStatus.OK, "The lines."), fails=(HTTPStatus.BAD_REQUEST,))
    async def get_logs(self, request: StreamingRequest, query: LogsQuery) -> ConsoleLines:
        """Tell the last lines of the console."""
        return ConsoleLines(
            await self.game_server.logs(_number_of_lines(query.size or query.lines))
        )


def _number_of_lines(text: str) -> int:
    """Return how many lines are asked for, never more than there may be."""
    try:
        wanted = int(text or MAX_LINES)
    except ValueError:
        wanted = 0
    if wanted <= 0:
        raise BadRequest(INVALID, f"size: expected a number of lines from 1 to {MAX_LINES}")
    return min(wanted, MAX_LINES)


class SyncEndpoint(Endpoint, ServerPath):
    """`sync`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "They are fetched."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def sync_server(self, request: StreamingRequest) -> None:
        """Fetch a server's settings from the Panel, which has changed them."""
        await self.game_server.sync()


class SocketEndpoint(ServerPath):
    """`ws`: open to browsers, which show their token once they are connected."""

    topic = Topic.CONSOLE

    @call(
        "GET",
        Success(HTTPStatus.SWITCHING_PROTOCOLS, "The WebSocket is open."),
        fails=(HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UPGRADE_REQUIRED),
    )
    async def open_console(self, request: StreamingRequest) -> None:
        """Open a WebSocket (RFC 6455) for the console and the events of a server.

        Its first message must be `{"event": "auth", "args": [TOKEN]}` with a token of the Panel's.

        For a minute after a transfer has taken the server to another node it can still be opened,
        and tells that; nothing else is possible then.
        """
        request.render(self.services.websocket(self.game_server))

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Make a call. Raises `ServerNotFound`, `ServersNotLoaded`."""
        try:
            await super().handle(request, call)
        except ServerNotFound:
            moved = self.services.websocket_of_moved(self.uuid)
            if moved is None:
                raise
            request.render(moved)


@attrs.frozen
class DeniedTokens:
    """Tokens, by their ids."""

    jtis: tuple[str, ...]


class DenyEndpoint(Endpoint):
    """`ws/deny`."""

    topic = Topic.CONSOLE

    @call(
        "POST",
        Success(HTTPStatus.NO_CONTENT, "They are refused from now on."),
        fails=(HTTPStatus.INTERNAL_SERVER_ERROR,),
    )
    async def deny_tokens(self, request: StreamingRequest, order: DeniedTokens) -> None:
        """Refuse tokens for the WebSocket that were issued until now.

        Which server is named is not looked at: a token's id is of one server.
        """
        self.services.denied.deny(order.jtis, self.services.now())
        # For the Panel it is done with the answer, whatever becomes of this process.
        await self.services.journal.deny(order.jtis)
