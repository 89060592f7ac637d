"""The handling of a call: its authorization, its answer and its line in the log.

The methods of paths are coroutines declared as calls (`wingsd.http.operations`). They return the
content of the answer or raise a `WingsdError`. A call runs to its end, also when the client
disconnects before the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from wingsd.api.context import NodeContext
from wingsd.auth.tokens import TransferToken, authorize_panel, transfer_token
from wingsd.config import CALAGOPUS
from wingsd.errors import (
    MethodNotAllowed,
    ServerNotFound,
    ServerNotRunning,
    WingsdError,
    error_code,
)
from wingsd.http.operations import Accepted, Access, Call, Topic, parse
from wingsd.http.request import StreamingRequest
from wingsd.servers.server import Server
from wingsd.util.text import canonical_uuid


class Endpoint(Resource):
    """Calls of the interface, at some of its paths. An instance is made for each request.

    `calls` are the methods of the request's path, with the kind of token that each needs. `parts`
    are the variable parts of the path by name. OPTIONS is answered on every path. One with
    `open_body` reads the bodies as they arrive of which a call describes the `form`.
    """

    isLeaf = True
    topic: ClassVar[Topic]
    #: Statuses of the errors that all calls have in common.
    fails: ClassVar[tuple[int, ...]] = ()
    _log = Logger()

    def __init__(
        self,
        node: NodeContext,
        calls: Mapping[str, Call],
        request: StreamingRequest,
        parts: Mapping[str, bytes],
    ) -> None:
        super().__init__()
        self._node = node
        self._request = request
        #: That in force when the request has arrived.
        self._config = node.live.current
        self._calls = calls
        self._parts = parts

    @property
    def is_calagopus(self) -> bool:
        """True if the Panel is Calagopus'."""
        return self._config.family == CALAGOPUS

    @property
    def streamed_methods(self) -> frozenset[bytes]:
        """The methods whose bodies are read as they arrive."""
        streamed = (name for name, call in self._calls.items() if call.form is not None)
        return frozenset(name.encode() for name in streamed)

    def part(self, name: str) -> str:
        """Return a variable part of the path."""
        return self._parts[name].decode("latin-1")

    @property
    def uuid(self) -> str:
        """The UUID in the path. Raises `ServerNotFound` when it is invalid."""
        uuid = canonical_uuid(self.part("uuid"))
        if uuid is None:
            raise ServerNotFound(
                "The requested resource does not exist on this instance.",
                "a server is identified by its UUID",
            )
        return uuid

    def transfer_token(self, **options: Any) -> TransferToken:
        """Return the request's token of a transfer; `options` are of `transfer_token`."""
        config = self._config
        return transfer_token(
            self._request.header("Authorization"),
            config.token,
            config.family,
            config.api.public_url,
            **options,
        )

    def authorize(self, access: Access) -> None:
        """Check the request's token. Paths with other tokens than the Panel's override this.

        Raises `Unauthorized`, `Forbidden`.
        """
        authorize_panel(self._request.header("Authorization"), self._config.token)

    def admits_body(self, request: StreamingRequest) -> bool:
        """Return whether the body of a request is stored: that of an authorized client is.

        With a method that the path does not have, it needs the token of the others. Raises what
        `authorize` does.
        """
        call = self._call()
        needed = [each.access for each in ([call] if call else self._calls.values())]
        if not all(access.admits_body for access in needed):
            return False
        self.authorize(needed[0])
        return True

    def render(self, request: Any) -> None:
        """Start the call; the answer follows when its coroutine has ended."""
        Deferred.fromCoroutine(self._respond())

    @property
    def methods(self) -> str:
        """The methods of this path, as the header `Allow` lists them."""
        get = self._calls.get("GET")
        heads = {"HEAD"} if get is not None and get.sends_file else set()
        return ", ".join(sorted({"OPTIONS", *self._calls, *heads}))

    async def handle(self, call: Call) -> None:
        """Run a call."""
        if call.access is not Access.PUBLIC:
            self.authorize(call.access)
        self.prepare()
        content = await call.handler(self, **self._arguments(call))
        status = call.success.status
        if isinstance(content, Accepted):
            content, status = content.content, content.status
        elif content is not None and status is HTTPStatus.NO_CONTENT:
            status = HTTPStatus.OK
        if status is not HTTPStatus.SWITCHING_PROTOCOLS:
            self._request.respond(status, content)

    def prepare(self) -> None:
        """Check what must hold before the body is parsed."""

    def failed(self, failure: Failure) -> None:
        """Answer with an error; log it where its cause is in this node.

        Such an error comes neither from the request nor from the state of a server.
        """
        error = failure.value
        is_own = not isinstance(error, WingsdError) or (
            error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            and not isinstance(error, ServerNotRunning)
        )
        if is_own and isinstance(error, Exception):
            self._log.warn(
                "{method} {path} failed (request {number}): {error}",
                method=self._request.method.decode("latin-1"),
                path=self._request.path.decode("latin-1"),
                number=self._request.request_id,
                code=error_code(error),
                error=error,
            )
        self._request.fail(failure)

    def _call(self) -> Call | None:
        """Return what the request's method does; HEAD of a file is its GET."""
        method = self._request.method.decode("latin-1")
        get = self._calls.get("GET")
        if method == "HEAD" and get is not None and get.sends_file:
            return get
        return self._calls.get(method)

    async def _respond(self) -> None:
        method, call = self._request.method, self._call()
        try:
            if call is None or method == b"OPTIONS":
                self._request.setHeader("Allow", self.methods)
            if call is not None:
                await self.handle(call)
            elif method == b"OPTIONS":
                self._request.answer(HTTPStatus.NO_CONTENT)
            else:
                name = method.decode("latin-1")
                self._request.refuse(
                    MethodNotAllowed(f"{name} is not allowed for this path", f"use {self.methods}")
                )
        except Exception:
            self.failed(Failure())

    def _arguments(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a call's handler. Raises `BadRequest`."""
        arguments = {}
        if call.body is not None:
            sent = self._request.content.read()
            if sent or call.needs_body:
                arguments["body"] = parse(sent, call.body, self._request.media)
        if call.query is not None:
            given: dict[str, Any] = {
                field.name: self._request.arguments(field.name)
                if isinstance(field.default, tuple)
                else self._request.argument(field.name)
                for field in attrs.fields(call.query)
            }
            arguments["query"] = call.query(
                **{name: value for name, value in given.items() if value}
            )
        return arguments


class ServerResource(Endpoint):
    """A path of one server, `game_server`, whose UUID is in it."""

    fails: ClassVar[tuple[int, ...]] = (404, 503)
    game_server: Server

    def prepare(self) -> None:
        """Find the server. Raises `ServerNotFound`, `ServersNotLoaded`."""
        self.game_server = self._node.servers.get(self.uuid)
