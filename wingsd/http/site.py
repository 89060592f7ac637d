"""The site: its connections, and the paths below its root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from wingsd.config import LimitsConfig
from wingsd.http.answers import AnswerStyle
from wingsd.http.channel import NodeChannel
from wingsd.http.errors import PathNotFound
from wingsd.http.request import StreamingRequest
from wingsd.util.observer import Observer
from wingsd.util.turns import InputScheduler

__all__ = ["NodeSite", "NotFound", "Paths"]


class NodeSite(Site):
    """A site of streaming requests, HTTP/1.1 only: uploads gain nothing from HTTP/2.

    `timeout` is the seconds that an upload may be silent, `least_rate` the bytes a second that it
    must send on average over this time (0: any). `observer` is notified of requests that fail.
    `style` is that of all answers.
    """

    protocol = NodeChannel  # type: ignore[assignment]  # narrower than Twisted's, on purpose
    requestFactory = StreamingRequest
    displayTracebacks = False
    noisy = False
    _log = Logger()

    def __init__(
        self,
        *args: Any,
        limits: LimitsConfig | None = None,
        least_rate: int = 0,
        observer: Observer | None = None,
        style: AnswerStyle | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits or LimitsConfig()
        self.observer = observer or Observer()
        self.least_rate = least_rate
        self._style = style
        #: Whether an empty answer is an empty map.
        self.sends_empty_maps = style is not None and style.empty_maps
        self.input = InputScheduler(self.reactor)
        #: The open connections, the oldest first.
        self.connections: dict[NodeChannel, None] = {}
        self._drained: Deferred[None] | None = None

    def connection_opened(self, channel: NodeChannel) -> None:
        """Add a connection. When too many wait for a request, one of them is aborted.

        It is the oldest of the address with the most, so that one client does not displace
        others. The limit keeps file descriptors free for transfers.
        """
        self.connections[channel] = None
        if len(self.connections) <= self.limits.connections:
            return
        waiting = [channel for channel in self.connections if channel.is_waiting]
        if len(waiting) > self.limits.connections:
            ((most, _),) = Counter(channel.address for channel in waiting).most_common(1)
            next(channel for channel in waiting if channel.address == most).abortConnection()

    def common_headers(self, origin: str) -> dict[str, str]:
        """Return the headers of all answers to requests with this `Origin`; empty for none."""
        return {} if self._style is None else self._style.headers(origin)

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 in the TLS handshake."""
        return [b"http/1.1"]

    def drain(self, within: float) -> Deferred[None]:
        """Close idle and upgraded connections, and abort the others after `within` seconds.

        The Deferred fires when all are closed.
        """
        for channel in tuple(self.connections):
            channel.close_if_idle()
        if not self.connections:
            return succeed(None)
        self.reactor.callLater(within, self._abort_all)
        self._drained = Deferred()
        return self._drained

    def log(self, request: Any) -> None:
        """Log an answered request, without query and headers, which may contain secrets."""
        self._log.debug(
            "{peer}: {method} {path}: {status} (request {number})",
            peer=request.peer,
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            status=request.code,
            number=request.request_id,
        )

    def _abort_all(self) -> None:
        for channel in tuple(self.connections):
            channel.abortConnection()

    def connection_closed(self, channel: NodeChannel) -> None:
        """Remove a connection."""
        self.connections.pop(channel, None)
        if self._drained is not None and not self.connections:
            drained, self._drained = self._drained, None
            drained.callback(None)


class NotFound(Resource):
    """Answers 404 on every path without a child resource."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return this resource for all paths below."""
        return self

    def render(self, request: Any) -> int:
        """Answer 404."""
        request.refuse(PathNotFound(request.path.decode("utf-8", "replace")))
        return NOT_DONE_YET


class Paths(NotFound):
    """The root of a site. `table` has the paths, and what makes the resource of each.

    Variable parts of a path are names in braces. A resource is made for each request, from the
    values of these parts by name. Other paths are answered with 404.
    """

    def __init__(self, table: Mapping[str, Callable[[Mapping[str, bytes]], Resource]]) -> None:
        super().__init__()
        self.set_paths(table)

    def set_paths(self, table: Mapping[str, Callable[[Mapping[str, bytes]], Resource]]) -> None:
        """Replace the paths. Requests that have begun keep theirs."""
        self._paths = [(path.split("/")[1:], make) for path, make in table.items()]

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return the resource of a path: of its first part, and `request.postpath`."""
        parts = [path, *request.postpath]
        for pattern, make in self._paths:
            variables = _match(pattern, parts)
            if variables is not None:
                return make(variables)
        return NotFound()


def _match(pattern: list[str], parts: list[bytes]) -> dict[str, bytes] | None:
    """Return the values of the names in braces; None when the path does not match."""
    if len(pattern) != len(parts):
        return None
    found = {}
    for name, part in zip(pattern, parts, strict=True):
        if name.startswith("{"):
            found[name.strip("{}")] = part
        elif name.encode() != part:
            return None
    return found
