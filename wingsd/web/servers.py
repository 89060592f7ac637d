"""`/api/servers`: the servers of this node, as the Panel makes, asks for and deletes them."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from wingsd.errors import Conflict, UnknownServer, Unprocessable, WingsdError
from wingsd.model import canonical_uuid
from wingsd.web.answers import Answer
from wingsd.web.bodies import INVALID, parse
from wingsd.web.controls import CONTROLS, ServerPath
from wingsd.web.endpoint import Endpoint, server_in_path
from wingsd.web.request import StreamingRequest
from wingsd.web.services import Services
from wingsd.web.site import NotFound

__all__ = ["ServersEndpoint"]


@attrs.frozen
class _NewServer:
    uuid: str
    start_on_completion: bool = False


class ServersEndpoint(Endpoint):
    """`/api/servers`: all of them. Below it, by UUID, is each."""

    _log = Logger()

    def __init__(self, services: Services) -> None:
        super().__init__(services.config)
        self._services = services

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return a server."""
        return _ServerEndpoint(self._services, path)

    async def handle_GET(self, request: StreamingRequest) -> Answer:
        """Return what every server is and does."""
        servers = self._services.servers.all()
        return Answer(HTTPStatus.OK, [server.details() for server in servers])

    async def handle_POST(self, request: StreamingRequest) -> Answer:
        """Create a server; the Panel is told of the end by the report of its installation."""
        order = parse(request.content.read(), _NewServer)
        uuid = canonical_uuid(order.uuid)
        if uuid is None:
            raise Unprocessable(INVALID, "uuid: expected the UUID of a server")
        with suppress(UnknownServer):
            self._services.servers.get(uuid)  # Or it is not known which there are.
            raise Conflict("This server is already on this node.", "delete it first")
        Deferred.fromCoroutine(self._create(uuid, start=order.start_on_completion))
        return Answer(HTTPStatus.ACCEPTED)

    async def _create(self, uuid: str, *, start: bool) -> None:
        try:
            await self._services.servers.create(uuid, start_on_completion=start)
        except Conflict as error:
            self._log.warn("{server}: could not be created: {error}", server=uuid, error=error)
        except WingsdError:
            pass  # Logged where it was undone.
        except Exception:
            self._log.failure("{server}: could not be created", server=uuid)


class _ServerEndpoint(ServerPath, Endpoint):
    """`/api/servers/{uuid}`: one server."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return one of the things that can be done with it."""
        control = CONTROLS.get(path)
        return NotFound() if control is None else control(self.services, self.part)

    async def handle_GET(self, request: StreamingRequest) -> Answer:
        """Return what it is and does."""
        return Answer(HTTPStatus.OK, self.find().details())

    async def handle_DELETE(self, request: StreamingRequest) -> Answer:
        """Delete it.

        A transfer under way makes way first. When it has sent everything, this call is how the
        Panel ends it, while the other node waits for the Panel: nothing may take long here.
        """
        uuid = server_in_path(self.part)
        arriving = uuid in self.services.receiver.servers
        await self.services.sender.release(uuid)
        await self.services.receiver.release(uuid)
        try:
            await self.services.servers.delete(uuid)
        except UnknownServer:
            # A transfer to this node that was called off has taken the server along.
            if not arriving:
                raise
        return Answer(HTTPStatus.NO_CONTENT)
