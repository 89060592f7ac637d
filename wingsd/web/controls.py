"""`/api/servers/{uuid}/...`: what the Panel, and browsers through it, do with one server."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import attrs
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from wingsd.errors import BadRequest, Unprocessable
from wingsd.model import canonical_uuid
from wingsd.servers.server import Server
from wingsd.servers.states import PowerAction
from wingsd.transfers.order import TransferOrder
from wingsd.web.answers import Answer
from wingsd.web.bodies import INVALID, parse
from wingsd.web.endpoint import Endpoint, Public, server_in_path
from wingsd.web.request import StreamingRequest
from wingsd.web.services import Services
from wingsd.web.site import NotFound

__all__ = ["CONTROLS", "ServerPath"]

#: Lines of the console that are told at most, and seconds that a power action may wait for
#: another one at most, and usually. All of them are Wings'.
MAX_LINES = 100
MAX_WAIT = 300
USUAL_WAIT = 30


class ServerPath(Public):
    """A path with a server's UUID in it, the `part`."""

    def __init__(self, services: Services, part: bytes) -> None:
        super().__init__(services.config)
        self.services = services
        self.part = part

    def find(self) -> Server:
        """Return the server. Raises `UnknownServer`, `NotLoaded`."""
        return self.services.servers.get(server_in_path(self.part))


@attrs.frozen
class _Power:
    action: str
    wait_seconds: int = USUAL_WAIT


class _PowerEndpoint(ServerPath, Endpoint):
    async def handle_POST(self, request: StreamingRequest) -> Answer:
        """Start, stop, restart or kill; what comes of it is told by the server's events."""
        server = self.find()
        order = parse(request.content.read(), _Power)
        try:
            action = PowerAction(order.action)
        except ValueError:
            raise Unprocessable(
                "The power action provided was not valid, "
                'should be one of "stop", "start", "restart", "kill"'
            ) from None
        server.check_power(action)
        wait = order.wait_seconds if 0 <= order.wait_seconds <= MAX_WAIT else USUAL_WAIT
        # The server itself tells of a failure, in its console and in the log.
        Deferred.fromCoroutine(server.power(action, wait)).addErrback(lambda _: None)
        return Answer(HTTPStatus.ACCEPTED)


@attrs.frozen
class _Commands:
    commands: tuple[str, ...]


class _CommandsEndpoint(ServerPath, Endpoint):
    async def handle_POST(self, request: StreamingRequest) -> Answer:
        """Type commands into the console, in order; the first that fails is the last."""
        server = self.find()
        for line in parse(request.content.read(), _Commands).commands:
            await server.command(line)
        return Answer(HTTPStatus.NO_CONTENT)


class _LogsEndpoint(ServerPath, Endpoint):
    async def handle_GET(self, request: StreamingRequest) -> Answer:
        """Return the last lines of the console."""
        server = self.find()
        wanted = _lines(request.argument("size") or request.argument("lines"))
        return Answer(HTTPStatus.OK, {"data": await server.logs(wanted)})


def _lines(text: str) -> int:
    """Return how many lines are asked for, never more than there may be."""
    try:
        wanted = int(text or MAX_LINES)
    except ValueError:
        wanted = 0
    if wanted <= 0:
        raise BadRequest(INVALID, f"size: expected a number of lines from 1 to {MAX_LINES}")
    return min(wanted, MAX_LINES)


class _SyncEndpoint(ServerPath, Endpoint):
    async def handle_POST(self, request: StreamingRequest) -> Answer:
        """Fetch the server's settings from the Panel, which has changed them."""
        await self.find().sync()
        return Answer(HTTPStatus.NO_CONTENT)


@attrs.frozen
class _Destination:
    uuid: str | None = None


@attrs.frozen
class _Transfer:
    url: str
    token: str
    server: _Destination = _Destination()
    backups: tuple[str, ...] = ()
    # Calagopus' Panel asks for these.
    archive_format: str | None = None
    compression_level: str | None = None


def _uuids(backups: tuple[str, ...]) -> tuple[str, ...]:
    """Return each of them once. Only what is a UUID may become part of a path."""
    uuids = [canonical_uuid(each) for each in backups]
    if None in uuids:
        raise BadRequest(INVALID, "backups: expected the UUIDs of backups")
    return tuple(dict.fromkeys(each for each in uuids if each is not None))


class _TransferEndpoint(ServerPath, Endpoint):
    async def handle_POST(self, request: StreamingRequest) -> Answer:
        """Send the server to another node."""
        server = self.find()
        order = parse(request.content.read(), _Transfer)
        named = order.server.uuid
        if named is not None and canonical_uuid(named) != server.uuid:
            raise BadRequest(INVALID, "server.uuid: expected the server that the path names")
        self.services.sender.start(
            server,
            TransferOrder(
                url=order.url,
                token=order.token,
                archive_format=order.archive_format or "",
                compression_level=order.compression_level or "",
                backups=_uuids(order.backups),
            ),
        )
        return Answer(HTTPStatus.ACCEPTED)

    async def handle_DELETE(self, request: StreamingRequest) -> Answer:
        """Cancel that; the server stays."""
        self.services.sender.cancel(self.find().uuid)
        return Answer(HTTPStatus.ACCEPTED)


class _SocketEndpoint(ServerPath):
    """`ws`: open to browsers, which show their token once they are connected."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return the deny list."""
        return _DenyEndpoint(self.services, self.part) if path == b"deny" else NotFound()

    async def handle_GET(self, request: StreamingRequest) -> None:
        """Hand the request on to the WebSocket."""
        request.render(self.services.websocket(self.find()))


@attrs.frozen
class _Denied:
    jtis: tuple[str, ...]


class _DenyEndpoint(ServerPath, Endpoint):
    async def handle_POST(self, request: StreamingRequest) -> Answer:
        """Refuse tokens for the WebSocket that were issued until now, by their ids."""
        denied = parse(request.content.read(), _Denied)
        self.services.denied.deny(denied.jtis, self.services.now())
        # For the Panel it is done with the answer, whatever becomes of this process.
        await self.services.journal.deny(denied.jtis)
        return Answer(HTTPStatus.NO_CONTENT)


#: What is below a server, by its name in the path.
CONTROLS: dict[bytes, Callable[[Services, bytes], Resource]] = {
    b"commands": _CommandsEndpoint,
    b"logs": _LogsEndpoint,
    b"power": _PowerEndpoint,
    b"sync": _SyncEndpoint,
    b"transfer": _TransferEndpoint,
    b"ws": _SocketEndpoint,
}
