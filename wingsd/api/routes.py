"""The paths of the HTTP interface in one table, its document, and the listener for metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.api import node, system
from wingsd.api.backup_paths import BACKUP_PATHS
from wingsd.api.file_paths import FILE_PATHS, SIGNED_PATHS
from wingsd.api.resource import LaterEndpoint, Public
from wingsd.api.server_paths import SERVER_PATHS
from wingsd.api.transfer_paths import TRANSFER_PATHS
from wingsd.config import Config, Ssl
from wingsd.errors import MethodNotAllowed
from wingsd.http.listener import HttpListener, tcp_endpoint
from wingsd.http.operations import EncodedObject, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NodeSite, NotFound, Paths
from wingsd.util.media import MediaType, encode
from wingsd.util.reactor import Reactor
from wingsd.util.text import host_and_port

if TYPE_CHECKING:
    from wingsd.metrics.exposition import Exposition

__all__ = [
    "RESTORE",
    "UPDATE",
    "ApiRoot",
    "InterfaceEndpoint",
    "MetricsListener",
    "interface",
    "paths",
]


class InterfaceEndpoint(Public):
    """`/openapi.json`, without authentication.

    It is the same on every node of a version and contains nothing of this node. Tools that read
    such documents should not need the node's token.
    """

    topic = Topic.NODE

    @call("GET", Success(HTTPStatus.OK, "This document."))
    async def get_interface(self, request: StreamingRequest) -> EncodedObject:
        """Return the OpenAPI 3.1 document of this interface."""
        return _encoded_interface()


UPDATE = LaterEndpoint("update", "UpdateEndpoint")
RESTORE = LaterEndpoint("backup_restores", "RestoreEndpoint")
_PATHS: Mapping[str, type[Public] | LaterEndpoint] = {
    "/api/diagnostics": node.DIAGNOSTICS,
    "/api/ports/used": node.USED_PORTS,
    "/api/system": system.SystemEndpoint,
    "/api/update": UPDATE,
    "/api/system/docker/disk": node.ENGINE_DISK,
    "/api/system/docker/image/prune": node.PRUNE,
    "/api/system/ips": node.ADDRESSES,
    "/api/system/config": node.CONFIG,
    "/api/system/logs": node.LOG_FILES,
    "/api/system/logs/{file}": node.LOG_FILE,
    "/api/system/overview": node.OVERVIEW,
    "/api/system/stats": node.STATS,
    "/api/system/upgrade": node.UPGRADE,
    "/api/system/utilization": node.UTILIZATION,
    # Before the paths of one server.
    "/api/servers/utilization": node.SERVERS_UTILIZATION,
    **SERVER_PATHS,
    **BACKUP_PATHS,
    **FILE_PATHS,
    "/api/servers/{uuid}/backup/{backup}/restore": RESTORE,
    **TRANSFER_PATHS,
    **SIGNED_PATHS,
    "/openapi.json": InterfaceEndpoint,
}


def paths() -> dict[str, type[Public]]:
    """Return the endpoints of all paths; their modules are imported."""
    return {
        path: endpoint.load() if isinstance(endpoint, LaterEndpoint) else endpoint
        for path, endpoint in _PATHS.items()
    }


@cache
def interface() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all paths."""
    # Here, since few ask for it: it takes half a MiB and 3 ms.
    from wingsd.http.openapi import document  # noqa: PLC0415

    return document({path: endpoint.calls for path, endpoint in paths().items()})


@cache
def _encoded_interface() -> EncodedObject:
    # Encoded once: it takes milliseconds, and the path needs no authentication.
    return EncodedObject(encode(interface(), MediaType.JSON))


class ApiRoot(Paths):
    """The root of the API's site.

    `endpoints` are those of all paths with their collaborators, of which the configuration is
    the first.
    """

    def __init__(self, endpoints: Iterable[partial[Any]]) -> None:
        self._endpoints = {endpoint.func: endpoint for endpoint in endpoints}
        super().__init__({path: self._endpoints[cls] for path, cls in _PATHS.items()})

    def use(self, config: Config) -> None:
        """Answer later requests by another configuration."""
        self._endpoints = {
            cls: partial(cls, config, *made.args[1:], **made.keywords)
            for cls, made in self._endpoints.items()
        }
        self.set_paths({path: self._endpoints[cls] for path, cls in _PATHS.items()})


class MetricsListener:
    """Serves `GET /metrics` for Prometheus at `metrics.address`; closed when that is empty."""

    _log = Logger()

    def __init__(self, config: Config, exposition: Exposition | None, reactor: Reactor) -> None:
        """`exposition` is None without an address."""
        self._listener: HttpListener | None = None
        if exposition is None:
            return
        root = NotFound()
        root.putChild(b"metrics", _MetricsResource(exposition))
        limits = config.api.limits
        site = NodeSite(root, reactor=reactor, timeout=limits.request_timeout, limits=limits)
        endpoint = tcp_endpoint(*host_and_port(config.metrics.address))
        # Without TLS: access is limited by the address.
        self._listener = HttpListener(Ssl(), endpoint, site, reactor)

    def open(self) -> None:
        """Listen. Raises `SystemExit` with one line when that fails."""
        if self._listener is not None:
            self._listener.open()
            self._log.info("metrics: listening at {where}/metrics", where=self._listener.address)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._listener is not None:
            await self._listener.close()
            await self._listener.drain(0)


class _MetricsResource(Resource):
    """`/metrics`."""

    def __init__(self, exposition: Exposition) -> None:
        super().__init__()
        self._exposition = exposition

    def render(self, request: Any) -> int:
        """Answer GET and HEAD with the exposition."""
        if request.method not in (b"GET", b"HEAD"):
            request.refuse(MethodNotAllowed("metrics are read-only"), {"Allow": "GET, HEAD"})
            return NOT_DONE_YET
        Deferred.fromCoroutine(self._respond(request))
        return NOT_DONE_YET

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            body, content_type = await self._exposition.render(request.header("Accept"))
            request.answer(HTTPStatus.OK, body, {"Content-Type": content_type})
        except Exception:
            request.fail(Failure())
