"""The paths of the HTTP interface in one table, its document, and the listener for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.api import servers, system, transfers
from wingsd.api.resource import Public, Services
from wingsd.config import Config, Ssl
from wingsd.http.errors import MethodNotAllowed
from wingsd.http.listener import HttpListener, tcp_endpoint
from wingsd.http.openapi import document
from wingsd.http.operations import EncodedObject, Success, Topic, call, to_json
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NodeSite, NotFound, Paths, error_body
from wingsd.metrics import Exposition
from wingsd.util.text import host_and_port

__all__ = ["PATHS", "ApiRoot", "MetricsListener", "interface"]


class InterfaceEndpoint(Public):
    """`/openapi.json`: open to everybody.

    It is the same on every node of a version, and says nothing of this one. Tools that read such
    documents have no token of the node's, and should have none.
    """

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "This document."))
    async def get_interface(self, request: StreamingRequest) -> EncodedObject:
        """Describe all that can be called here, as OpenAPI 3.1 does."""
        return _encoded_interface()


PATHS: Mapping[str, type[Public]] = {
    "/api/system": system.SystemEndpoint,
    "/api/servers": servers.ServersEndpoint,
    "/api/servers/{uuid}": servers.ServerEndpoint,
    "/api/servers/{uuid}/power": servers.PowerEndpoint,
    "/api/servers/{uuid}/commands": servers.CommandsEndpoint,
    "/api/servers/{uuid}/logs": servers.LogsEndpoint,
    "/api/servers/{uuid}/sync": servers.SyncEndpoint,
    "/api/servers/{uuid}/transfer": transfers.OutgoingEndpoint,
    "/api/servers/{uuid}/ws": servers.SocketEndpoint,
    "/api/servers/{uuid}/ws/deny": servers.DenyEndpoint,
    "/api/transfers": transfers.TransfersEndpoint,
    "/api/transfers/{uuid}": transfers.IncomingEndpoint,
    "/api/transfers/{uuid}/by-hand": transfers.ByHandEndpoint,
    "/openapi.json": InterfaceEndpoint,
}


@cache
def interface() -> dict[str, Any]:
    """Return the description of all paths, in the form of OpenAPI 3.1."""
    return document({path: endpoint.calls for path, endpoint in PATHS.items()})


@cache
def _encoded_interface() -> EncodedObject:
    # Made once: it takes milliseconds, and everybody may ask for it.
    return EncodedObject(to_json(interface()))


class ApiRoot(Paths[Services]):
    """What is found below the root of the site."""

    def __init__(self, services: Services) -> None:
        super().__init__(PATHS, services)


class MetricsListener:
    """The door at `metrics.address`; without an address there is none, and none is opened."""

    _log = Logger()

    def __init__(self, config: Config, exposition: Exposition, reactor: Any) -> None:
        self._door: HttpListener | None = None
        if not config.metrics.address:
            return
        root = NotFound()
        root.putChild(b"metrics", _Metrics(exposition))
        limits = config.api.limits
        site = NodeSite(root, reactor=reactor, timeout=limits.request_timeout, limits=limits)
        endpoint = tcp_endpoint(*host_and_port(config.metrics.address))
        # In the clear: who may come here is settled by the address.
        self._door = HttpListener(Ssl(), endpoint, site, reactor)

    def open(self) -> None:
        """Listen. Exits with one line when that cannot be done."""
        if self._door is not None:
            self._door.open()
            self._log.info("metrics are at {where}/metrics", where=self._door.address)

    async def close(self) -> None:
        """Take no new connections, and end those there are."""
        if self._door is not None:
            await self._door.close()
            await self._door.drain(0)


class _Metrics(Resource):
    """What Prometheus scrapes."""

    def __init__(self, exposition: Exposition) -> None:
        super().__init__()
        self._exposition = exposition

    def render(self, request: Any) -> int | bytes:
        """Answer when all of it is known."""
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return error_body(request, MethodNotAllowed("metrics can only be read"))
        Deferred.fromCoroutine(self._respond(request))
        return NOT_DONE_YET

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            body, content_type = await self._exposition.render(request.header("Accept"))
            request.answer(HTTPStatus.OK, body, {"Content-Type": content_type})
        except Exception:
            request.fail(Failure())
