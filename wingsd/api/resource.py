"""One path of the API: who may call it, and how a call is answered and logged.

A path's methods are coroutines that are declared as calls (`wingsd.http.operations`). They return
what the answer says, or raise a `WingsdError`. What a caller asked for is done even when it leaves
before its answer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.auth.tokens import DenyList, authorize_panel
from wingsd.config import Config
from wingsd.direct_transfers import DirectTransfers
from wingsd.docker.runtime import EngineInformation
from wingsd.errors import ServerNotFound, ServerNotRunning, WingsdError, error_code
from wingsd.http.errors import MethodNotAllowed, error_json
from wingsd.http.operations import Access, Call, Topic, declared, parse, to_json
from wingsd.http.request import StreamingRequest
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.statedb import StateDatabase
from wingsd.threadio import TokenBucket
from wingsd.transfers.incoming.manager import IncomingTransfers
from wingsd.transfers.incoming.multistream import StreamGroups
from wingsd.transfers.outgoing.manager import OutgoingTransfers
from wingsd.util.text import canonical_uuid

__all__ = ["Endpoint", "Public", "ServerPath", "Services"]


@attrs.frozen
class Services:
    """`denied` is the deny list of the WebSocket's tokens, and `websocket` makes its resource.

    `websocket_of_moved` makes that of a server which has left this node, by its UUID; it returns
    None where there is no such server.
    `engine` asks the Docker engine about itself, None when there is none; by `download_bucket` all
    servers are received, None without a limit; `now` gives the seconds since the epoch.
    """

    config: Config
    servers: Servers
    sender: OutgoingTransfers
    receiver: IncomingTransfers
    streams: StreamGroups
    journal: StateDatabase
    by_hand: DirectTransfers
    denied: DenyList
    websocket: Callable[[Server], IResource]
    websocket_of_moved: Callable[[str], IResource | None] = lambda _: None
    engine: Callable[[], Awaitable[EngineInformation]] | None = None
    download_bucket: TokenBucket | None = None
    now: Callable[[], float] = time.time


# The Panel's pages call from a browser too: its list of nodes asks each how it is.
_PREFLIGHT = {
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type",
    "Access-Control-Max-Age": "7200",
}


def _is_ours(error: Exception) -> bool:
    """Return whether the node, and not its caller or a player, has to do with the failure."""
    if not isinstance(error, WingsdError):
        return True
    return error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(
        error, ServerNotRunning
    )


class Public(Resource):
    """A path that anybody may call; one is made for each request, and OPTIONS is always answered.

    `parts` are the parts of the path that are not the same in every request, by their names.
    """

    isLeaf = True
    access: ClassVar = Access.ANYBODY
    topic: ClassVar[Topic]
    #: Refusals that all calls of the path have in common.
    fails: ClassVar[tuple[HTTPStatus, ...]] = ()
    calls: ClassVar[Mapping[str, Call]] = {}
    _log = Logger()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.calls = declared(cls)

    def __init__(self, services: Services, parts: Mapping[str, bytes] = {}) -> None:
        super().__init__()
        self.services = services
        self._parts = parts

    @property
    def uuid(self) -> str:
        """The UUID in the path. Raises `ServerNotFound` when what is there is none."""
        uuid = canonical_uuid(self._parts["uuid"].decode("latin-1"))
        if uuid is None:
            raise ServerNotFound(
                "The requested resource was not found on this instance.",
                "a server is named by its UUID",
            )
        return uuid

    def render(self, request: Any) -> int:
        """Answer when the method's coroutine has ended."""
        self._welcome(request)
        Deferred.fromCoroutine(self._respond(request))
        return NOT_DONE_YET

    @property
    def methods(self) -> str:
        """The methods of this path, as the header `Allow` lists them."""
        return ", ".join(sorted({"OPTIONS", *self.calls}))

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Make a call; the place for what must be so before its body is looked at."""
        content = await call.handler(self, request, **_arguments(request, call))
        if call.success.status is not HTTPStatus.SWITCHING_PROTOCOLS:
            request.answer(call.success.status, b"" if content is None else to_json(content))

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            await self._dispatch(request)
        except Exception as error:
            if _is_ours(error):
                self._complain(request, error)
            request.fail(Failure())

    async def _dispatch(self, request: StreamingRequest) -> None:
        method = request.method.decode("latin-1")
        call = self.calls.get(method)
        if call is None or method == "OPTIONS":
            request.setHeader("Allow", self.methods)
        if call is not None:
            await self.handle(request, call)
        elif method == "OPTIONS":
            request.answer(HTTPStatus.NO_CONTENT)
        else:
            error = MethodNotAllowed(f"{method} is not possible here", f"use {self.methods}")
            request.answer(error.status, error_json(error))

    def _welcome(self, request: StreamingRequest) -> None:
        """Let a browser hand the answer to a page of the Panel's."""
        origin = request.header("Origin")
        if not origin:
            return
        request.setHeader("Vary", "Origin")
        if self.services.config.allows_origin(origin):
            request.setHeader("Access-Control-Allow-Origin", origin)
            if request.method == b"OPTIONS":
                request.setHeader("Access-Control-Allow-Methods", self.methods)
                for name, value in _PREFLIGHT.items():
                    request.setHeader(name, value)

    def _complain(self, request: StreamingRequest, error: Exception) -> None:
        self._log.warn(
            "{method} {path} failed (request {number}): {code}: {error}",
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            number=request.request_id,
            code=error_code(error),
            error=error,
        )


def _arguments(request: StreamingRequest, call: Call) -> dict[str, Any]:
    """Return what a call's handler takes. Raises `BadRequest`."""
    arguments = {}
    if call.order is not None:
        arguments["order"] = parse(request.content.read(), call.order)
    if call.query is not None:
        texts = {name: request.argument(name) for name in attrs.fields_dict(call.query)}
        given = {name: text for name, text in texts.items() if text}
        arguments["query"] = call.query(**given)
    return arguments


class Endpoint(Public):
    """A path for the Panel alone, which shows the node's token."""

    access = Access.PANEL
    fails: ClassVar[tuple[HTTPStatus, ...]] = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    def authorize(self, request: StreamingRequest) -> None:
        """Let the Panel pass. Raises `Unauthorized`, `Forbidden`."""
        authorize_panel(request.header("Authorization"), self.services.config.token)

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Make a call. Raises `Unauthorized`, `Forbidden`."""
        self.authorize(request)
        await super().handle(request, call)


class ServerPath(Public):
    """A path that is about one server, `game_server`, and has its UUID in it."""

    fails: ClassVar[tuple[HTTPStatus, ...]] = (
        HTTPStatus.NOT_FOUND,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    game_server: Server

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Make a call. Raises `ServerNotFound`, `ServersNotLoaded`."""
        self.game_server = self.services.servers.get(self.uuid)
        await super().handle(request, call)
