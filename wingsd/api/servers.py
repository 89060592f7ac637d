"""`/api/servers`: the servers of this node, as the Panel makes, asks for and deletes them."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.api.resource import Endpoint
from wingsd.errors import Conflict, UnknownServer, Unprocessable, WingsdError
from wingsd.http.operations import INVALID, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.servers.runtime import ServerDetails
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuid

__all__ = ["ServerEndpoint", "ServersEndpoint"]

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
        with suppress(UnknownServer):
            self.services.servers.get(uuid)  # Or it is not known which there are.
            raise Conflict("This server is already on this node.", "delete it first")
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
        except UnknownServer:
            self.services.sender.deleted(uuid)
            # A transfer to this node that was called off has taken the server along.
            if not arriving:
                raise
        else:
            self.services.sender.deleted(uuid)
