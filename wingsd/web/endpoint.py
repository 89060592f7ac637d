"""One path of the Panel's calls: who may call, what is answered, and what is logged of it.

A path's methods are coroutines named `handle_GET` and so on. They return an `Answer`, or None when
they have handed the request on, or raise a `WingsdError`. A caller that leaves before its answer
takes nothing back: what it asked for is done all the same.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, ClassVar
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.reflect import prefixedMethodNames
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wingsd.config import Config
from wingsd.errors import NotRunning, UnknownServer, WingsdError
from wingsd.model import canonical_uuid
from wingsd.tokens import authorize_panel
from wingsd.web.answers import Answer
from wingsd.web.origins import allows_origin
from wingsd.web.request import StreamingRequest
from wingsd.web.site import NotFound

__all__ = ["Endpoint", "Public", "server_in_path"]

# The Panel's pages call from a browser too: its list of nodes asks each how it is.
_PREFLIGHT = {
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type",
    "Access-Control-Max-Age": "7200",
}


def server_in_path(part: bytes) -> str:
    """Return the UUID that a part of a path is. Raises `UnknownServer` when it is none."""
    uuid = canonical_uuid(part.decode("latin-1"))
    if uuid is None:
        raise UnknownServer(
            "The requested resource was not found on this instance.",
            "a server is named by its UUID",
        )
    return uuid


def _is_ours(error: Exception) -> bool:
    """Return whether the node, and not its caller or a player, has to do with the failure."""
    if not isinstance(error, WingsdError):
        return True
    return error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, NotRunning)


class Public(Resource):
    """A path that anybody may call; `config` names the pages whose browsers may.

    OPTIONS is answered for all of them, with `features` as further headers.
    """

    features: ClassVar[dict[str, str]] = {}
    _log = Logger()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def getChild(self, path: bytes, request: IRequest) -> Resource:
        """There is nothing below, but what was put there."""
        return NotFound()

    def render(self, request: Any) -> int:
        """Answer when the method's coroutine has ended."""
        request.setHeader("X-Request-Id", str(uuid4()))
        self._welcome(request)
        Deferred.fromCoroutine(self._respond(request))
        return NOT_DONE_YET

    @property
    def methods(self) -> str:
        """The methods of this path, as the header `Allow` lists them."""
        return ", ".join(sorted({"OPTIONS", *prefixedMethodNames(type(self), "handle_")}))

    async def handle(self, request: StreamingRequest) -> Answer | None:
        """Return what the method's coroutine does; the place for what must be so before that."""
        handler = getattr(self, f"handle_{request.method.decode('latin-1')}")
        answer: Answer | None = await handler(request)
        return answer

    async def _respond(self, request: StreamingRequest) -> None:
        try:
            answer = await self._dispatch(request)
            if answer is not None:
                request.answer(answer.status, answer.body, answer.headers)
        except Exception as error:
            if _is_ours(error):
                self._complain(request, error)
            request.fail(Failure())

    async def _dispatch(self, request: StreamingRequest) -> Answer | None:
        method = request.method.decode("latin-1")
        if method == "OPTIONS":
            allow = {"Allow": self.methods}
            return Answer(HTTPStatus.NO_CONTENT, headers=allow | self.features)
        if method not in self.methods.split(", "):
            error = {"error": f"{method} is not possible here", "detail": f"use {self.methods}"}
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, error, {"Allow": self.methods})
        return await self.handle(request)

    def _welcome(self, request: StreamingRequest) -> None:
        """Let a browser hand the answer to a page of the Panel's."""
        origin = request.header("Origin")
        if not origin:
            return
        request.setHeader("Vary", "Origin")
        if allows_origin(self.config, origin):
            request.setHeader("Access-Control-Allow-Origin", origin)
            if request.method == b"OPTIONS":
                request.setHeader("Access-Control-Allow-Methods", self.methods)
                for name, value in _PREFLIGHT.items():
                    request.setHeader(name, value)

    def _complain(self, request: StreamingRequest, error: Exception) -> None:
        # The Panel shows people no more of it than this number.
        (number,) = request.responseHeaders.getRawHeaders("X-Request-Id", [""])
        self._log.warn(
            "{method} {path} failed (request {number}): {error}",
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            number=number,
            error=error,
        )


class Endpoint(Public):
    """A path for the Panel alone, which shows the node's token."""

    def authorize(self, request: StreamingRequest) -> None:
        """Let the Panel pass. Raises `NotAuthorized`, `Forbidden`."""
        authorize_panel(request.header("Authorization"), self.config.token)

    async def handle(self, request: StreamingRequest) -> Answer | None:
        """Return what the method's coroutine does. Raises `NotAuthorized`, `Forbidden`."""
        self.authorize(request)
        return await super().handle(request)
