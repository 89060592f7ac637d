"""The site: its connections, and the paths below its root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from wingsd.config import LimitsConfig
from wingsd.errors import WingsdError
from wingsd.http.channel import InputScheduler, NodeChannel
from wingsd.http.errors import PathNotFound, error_json
from wingsd.http.request import StreamingRequest
from wingsd.util.observer import Observer

__all__ = ["NodeSite", "NotFound", "Paths", "error_body"]


class NodeSite(Site):
    """A site of streaming requests. `timeout` is the seconds that an upload may be silent.

    `least_rate` is the bytes a second that must come of an upload over as long, 0 for any;
    `limits` is what holds for all connections; `observer` is told of requests that fail.

    It speaks HTTP/1.1 alone: one upload a connection gains nothing from HTTP/2.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits or LimitsConfig()
        self.observer = observer or Observer()
        self.least_rate = least_rate
        self.input = InputScheduler(self.reactor)
        #: Those that are open, the oldest first.
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

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 in the TLS handshake."""
        return [b"http/1.1"]

    def drain(self, within: float) -> Deferred[None]:
        """Close idle and upgraded connections, and after `within` seconds whatever is left.

        The Deferred fires when there are none left.
        """
        for channel in tuple(self.connections):
            channel.close_if_idle()
        if not self.connections:
            return succeed(None)
        self.reactor.callLater(within, self._abort_all)
        self._drained = Deferred()
        return self._drained

    def log(self, request: Any) -> None:
        """Note an answered request; without query and headers, which may hold secrets."""
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
    """Answers 404 to whatever has no resource of its own; the root of the tree."""

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Be the answer to every path below."""
        return self

    def render(self, request: Any) -> bytes:
        """Say that there is nothing here."""
        path = request.path.decode("utf-8", "replace")
        return error_body(request, PathNotFound(path))


def error_body(request: Any, error: WingsdError) -> bytes:
    """Set status and type of an answer with `error`, and return its body."""
    request.setResponseCode(error.status)
    request.setHeader("Content-Type", "application/json")
    return error_json(error)


Rooms = TypeVar("Rooms")


class Paths(NotFound, Generic[Rooms]):
    """The root of a site: finds a path in the `table`, and nothing where it is not there.

    In the table a path has the names of its parts in braces. What is there is made for each
    request, of the `rooms` of the node and of those parts by their names.
    """

    def __init__(
        self,
        table: Mapping[str, Callable[[Rooms, Mapping[str, bytes]], Resource]],
        rooms: Rooms,
    ) -> None:
        super().__init__()
        self._rooms = rooms
        self._paths = [(path.split("/")[1:], make) for path, make in table.items()]

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """Return what is at a path, of which the first part is given and the others are left."""
        parts = [path, *request.postpath]
        for wanted, make in self._paths:
            found = _match(wanted, parts)
            if found is not None:
                return make(self._rooms, found)
        return NotFound()


def _match(wanted: list[str], parts: list[bytes]) -> dict[str, bytes] | None:
    """Return what is in the places of the names in braces; None when it is another path."""
    if len(wanted) != len(parts):
        return None
    found = {}
    for name, part in zip(wanted, parts, strict=True):
        if name.startswith("{"):
            found[name.strip("{}")] = part
        elif name.encode() != part:
            return None
    return found
