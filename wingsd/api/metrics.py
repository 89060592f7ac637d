"""`GET /metrics` for Prometheus, behind a door of its own."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.config import Config, Ssl
from wingsd.http.listener import HttpListener, tcp_endpoint
from wingsd.http.request import StreamingRequest
from wingsd.http.site import NodeSite, NotFound, error_body
from wingsd.metrics import Exposition
from wingsd.util.text import host_and_port

__all__ = ["MetricsListener"]


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
            return error_body(request, HTTPStatus.METHOD_NOT_ALLOWED, "metrics can only be read")
        Deferred.fromCoroutine(self._respond(request))
        return NOT_DONE_YET

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            body, content_type = await self._exposition.render(request.header("Accept"))
            request.answer(HTTPStatus.OK, body, {"Content-Type": content_type})
        except Exception:
            request.fail(Failure())
