"""The resource of one path: who may call it, and how a call is answered and logged.

The methods of a path are coroutines declared as calls (`wingsd.http.operations`). They return the
content of the answer or raise a `WingsdError`. A call runs to its end, also when the client
disconnects before the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from importlib import import_module
from typing import Any, ClassVar, get_args

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.auth.tokens import authorize_panel
from wingsd.config import Config
from wingsd.errors import (
    MethodNotAllowed,
    ServerNotFound,
    ServerNotRunning,
    WingsdError,
    error_code,
)
from wingsd.http.file_body import FileBody
from wingsd.http.operations import Accepted, Access, Call, Repeated, Topic, declared, parse
from wingsd.http.request import StreamingRequest
from wingsd.http.streamed_body import StreamedBody
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server
from wingsd.util.later import Later, not_prepared
from wingsd.util.text import canonical_uuid

__all__ = ["Endpoint", "LaterEndpoint", "Public", "ServerResource"]


def _is_node_failure(error: Exception) -> bool:
    """Return whether the cause is in this node, not in the request or the state of a server."""
    if not isinstance(error, WingsdError):
        return True
    return error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(
        error, ServerNotRunning
    )


class Public(Resource):
    """A path without authentication. An instance is made for each request.

    `parts` are the variable parts of the path by name. OPTIONS is answered on every path.
    """

    isLeaf = True
    access: ClassVar = Access.PUBLIC
    topic: ClassVar[Topic]
    #: Statuses of the errors that all calls of the path have in common.
    fails: ClassVar[tuple[HTTPStatus, ...]] = ()
    calls: ClassVar[Mapping[str, Call]] = {}
    #: The same by the methods that are accepted: HEAD of a file is its GET.
    _methods: ClassVar[Mapping[str, Call]] = {}
    _log = Logger()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.calls = declared(cls)
        get = cls.calls.get("GET")
        given = (get.content, *get_args(get.content)) if get is not None else ()
        sends_file = FileBody in given or StreamedBody in given
        cls._methods = {**cls.calls, **({"HEAD": get} if sends_file and get else {})}

    def __init__(self, config: Config, parts: Mapping[str, bytes] = {}) -> None:
        super().__init__()
        self._config = config
        self._parts = parts

    @property
    def uuid(self) -> str:
        """The UUID in the path. Raises `ServerNotFound` when it is invalid."""
        uuid = canonical_uuid(self._parts["uuid"].decode("latin-1"))
        if uuid is None:
            raise ServerNotFound(
                "The requested resource does not exist on this instance.",
                "a server is identified by its UUID",
            )
        return uuid

    def render(self, request: Any) -> int:
        """Start the call; the answer follows when its coroutine has ended."""
        Deferred.fromCoroutine(self._respond(request))
        return NOT_DONE_YET

    @property
    def methods(self) -> str:
        """The methods of this path, as the header `Allow` lists them."""
        return ", ".join(sorted({"OPTIONS", *self._methods}))

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run a call. Subclasses check here what must hold before the body is parsed."""
        content = await call.handler(self, request, **_arguments(request, call))
        status = call.success.status
        if isinstance(content, Accepted):
            content, status = content.content, HTTPStatus.ACCEPTED
        elif isinstance(content, Repeated):
            content, status = content.content, HTTPStatus.OK
        elif content is not None and status is HTTPStatus.NO_CONTENT:
            status = HTTPStatus.OK
        if status is not HTTPStatus.SWITCHING_PROTOCOLS:
            request.respond(status, content)

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            await self._dispatch(request)
        except Exception:
            self.failed(request, Failure())

    def failed(self, request: StreamingRequest, failure: Failure) -> None:
        """Answer with an error; log it where its cause is in this node."""
        if isinstance(failure.value, Exception) and _is_node_failure(failure.value):
            self._log_failure(request, failure.value)
        request.fail(failure)

    async def _dispatch(self, request: StreamingRequest) -> None:
        method = request.method.decode("latin-1")
        call = self._methods.get(method)
        if call is None or method == "OPTIONS":
            request.setHeader("Allow", self.methods)
        if call is not None:
            await self.handle(request, call)
        elif method == "OPTIONS":
            request.answer(HTTPStatus.NO_CONTENT)
        else:
            request.refuse(
                MethodNotAllowed(f"{method} is not allowed for this path", f"use {self.methods}")
            )

    def _log_failure(self, request: StreamingRequest, error: Exception) -> None:
        self._log.warn(
            "{method} {path} failed (request {number}): {error}",
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            number=request.request_id,
            code=error_code(error),
            error=error,
        )


def _arguments(request: StreamingRequest, call: Call) -> dict[str, Any]:
    """Return the arguments of a call's handler. Raises `BadRequest`."""
    arguments = {}
    if call.body is not None:
        sent = request.content.read()
        if sent or call.needs_body:
            arguments["body"] = parse(sent, call.body, request.media)
    if call.query is not None:
        given: dict[str, Any] = {
            field.name: request.arguments(field.name)
            if isinstance(field.default, tuple)
            else request.argument(field.name)
            for field in attrs.fields(call.query)
        }
        arguments["query"] = call.query(**{name: value for name, value in given.items() if value})
    return arguments


class Endpoint(Public):
    """A path for the Panel, which authenticates with the node's token."""

    access = Access.PANEL
    fails: ClassVar[tuple[HTTPStatus, ...]] = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    def authorize(self, request: StreamingRequest) -> None:
        """Check the token. Raises `Unauthorized`, `Forbidden`."""
        authorize_panel(request.header("Authorization"), self._config.token)

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run a call. Raises `Unauthorized`, `Forbidden`."""
        self.authorize(request)
        await super().handle(request, call)


class ServerResource(Public):
    """A path of one server, `game_server`, whose UUID is in it."""

    fails: ClassVar[tuple[HTTPStatus, ...]] = (
        HTTPStatus.NOT_FOUND,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    game_server: Server

    def __init__(self, config: Config, servers: Servers, parts: Mapping[str, bytes] = {}) -> None:
        super().__init__(config, parts)
        self._servers = servers

    async def handle(self, request: StreamingRequest, call: Call) -> None:
        """Run a call. Raises `ServerNotFound`, `ServersNotLoaded`."""
        self.game_server = self._servers.get(self.uuid)
        await super().handle(request, call)


@attrs.frozen(repr=False)
class LaterEndpoint:
    """An endpoint class, by the name of its module in `package` and its own; called like it.

    The module is imported by the first request, when its headers have arrived, before its body is
    read or anything is changed: a node at rest does without most calls, whose modules take 3 MiB
    and 60 ms of CPU time.
    """

    module: str
    name: str
    package: str = "wingsd.api"

    def load(self) -> type[Public]:
        """Return the class. Raises `OSError`, `ImportError` when its module cannot be read."""
        loaded: type[Public] = getattr(import_module(f"{self.package}.{self.module}"), self.name)
        return loaded

    def __call__(self, *args: Any) -> Resource:
        """Return the resource of a request, or one that answers with why there is none.

        What is made `Later` is made for it.
        """
        try:
            endpoint = self.load()
            made = [each.get() if isinstance(each, Later) else each for each in args]
        except (OSError, ImportError) as error:
            return _NotImported(not_prepared(error))
        except WingsdError as error:
            return _NotImported(error)
        return endpoint(*made)


class _NotImported(Resource):
    """A path whose module could not be imported; the next request tries it again."""

    isLeaf = True
    _log = Logger()

    def __init__(self, error: WingsdError) -> None:
        super().__init__()
        self._error = error

    def render(self, request: Any) -> int:
        """Answer 500."""
        self._log.warn(
            "{path} failed: {error}",
            path=request.path.decode("latin-1"),
            error=self._error,
        )
        request.refuse(self._error)
        return NOT_DONE_YET
