"""The fake Panel's wire: paths, credentials and JSON, in and out."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.faults import Answer, Drop, Fault, Hang
from tests.support.settings import Json
from tests.support.state import Node, Refused, State

_API = "/api/remote"
_PREFIX = f"{_API}/servers"
_PER_PAGE = 50
_CODES = {
    401: "UnauthorizedHttpException",
    403: "AccessDeniedHttpException",
    404: "NotFoundHttpException",
    409: "ConflictHttpException",
    422: "UnprocessableEntityHttpException",
    429: "TooManyRequestsHttpException",
}


class Call(NamedTuple):
    """One call a node made: `path` with its query, `body` as JSON says it (None: no body)."""

    method: str
    path: str
    body: Any = None


Record = Callable[[Call, dict[str, str]], Fault | None]
#: What has to be done, before the answer, about a server that has just moved away from a node.
Moved = Callable[[str, Node], Awaitable[None]]


def _page(entries: list[Json], number: int, size: int) -> Json:
    first = (number - 1) * size
    data = entries[first : first + size]
    meta = {
        "current_page": number,
        "from": first + 1 if data else None,
        "last_page": max(1, math.ceil(len(entries) / size)),
        "per_page": size,
        "to": first + len(data) if data else None,
        "total": len(entries),
    }
    return {"data": data, "meta": meta}


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value).encode())


def _error(status: int, detail: str) -> Answer:
    code = _CODES.get(status, "HttpException")
    error = {"code": code, "status": str(status), "detail": detail}
    return Answer(status, json.dumps({"errors": [error]}).encode())


def _body_of(request: Request) -> Any:
    text = request.content.read() if request.content else b""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text.decode("utf-8", "replace")


def _number(request: Request, name: bytes, default: int) -> int:
    text = (request.args or {}).get(name, [b""])[0]
    return max(1, int(text)) if text.isdigit() else default


def _send(request: Any, answer: Answer) -> None:
    if answer.status >= 400 and not answer.body:
        error = _error(answer.status, "This answer was injected.")
        answer = attrs.evolve(answer, body=error.body)
    request.setResponseCode(answer.status)
    if answer.retry_after:
        request.setHeader(b"Retry-After", answer.retry_after.encode())
    if answer.body:
        request.setHeader(b"Content-Type", answer.content_type.encode())
        request.write(answer.body)
    request.finish()


def _ignore_cancel(failure: Failure) -> None:
    failure.trap(CancelledError)


class _Api(Resource):
    isLeaf = True

    def __init__(self, state: State, record: Record, moved: Moved) -> None:
        super().__init__()
        self._state = state
        self._record = record
        self._moved = moved
        self._answering: set[Deferred[None]] = set()

    def render(self, request: Any) -> int:
        call = Call(request.method.decode(), request.uri.decode(), _body_of(request))
        headers = {
            name.decode().lower(): values[-1].decode()
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        fault = self._record(call, headers)
        answering = Deferred.fromCoroutine(self._answer(request, call, fault))
        self._answering.add(answering)
        answering.addErrback(_ignore_cancel)
        answering.addBoth(lambda _: self._answering.discard(answering))
        return NOT_DONE_YET

    def cancel(self) -> None:
        for answering in list(self._answering):
            answering.cancel()

    async def _answer(self, request: Any, call: Call, fault: Fault | None) -> None:
        if isinstance(fault, Hang):
            waiting = fault.wait()
            # A client that went away while its call hung waits for no answer. Once the call is
            # being carried out, that goes on without the client, as PHP does.
            request.notifyFinish().addErrback(lambda _: waiting.cancel())
            await waiting
        if isinstance(fault, Answer):
            answer: Answer | None = fault
        elif isinstance(fault, Drop):
            answer = None
            if fault.carried_out:
                await self._carry_out(request, call)
        else:
            answer = await self._carry_out(request, call)
        if request.channel is None:
            return
        if answer is None:
            request.channel.forceAbortClient()
        else:
            _send(request, answer)

    async def _carry_out(self, request: Request, call: Call) -> Answer:
        try:
            node = self._authenticate(request)
            return await self._answer_to(request, call, node)
        except Refused as refused:
            return _error(refused.status, refused.detail)

    async def _answer_to(self, request: Request, call: Call, node: Node) -> Answer:
        path, _, query = call.path.partition("?")
        match call.method, path.removeprefix(_API).strip("/").split("/"):
            case "GET", ["backups", backup, *_]:
                return _json(self._state.sign_backup(node, backup, query))
            case "POST", ["sftp", "auth"]:
                return _json(self._state.sftp_access(node, call.body))
        return Answer(204) if self._takes(node, call) else await self._route(request, call, node)

    def _authenticate(self, request: Request) -> Node:
        kind, _, credentials = (request.getHeader("Authorization") or "").partition(" ")
        token_id, dot, token = credentials.partition(".")
        if kind.lower() != "bearer" or not dot:
            raise Refused(401, "Expected: Authorization: Bearer token_id.token")
        return self._state.node_with(token_id, token)

    async def _route(self, request: Request, call: Call, node: Node) -> Answer:
        path = call.path.partition("?")[0]
        if not path.startswith(_PREFIX):
            raise Refused(404, "There is no such path.")
        match call.method, path.removeprefix(_PREFIX).strip("/").split("/"):
            case "GET", [""]:
                number = _number(request, b"page", 1)
                size = _number(request, b"per_page", _PER_PAGE)
                return _json(_page(self._state.servers_of(node), number, size))
            case "POST", ["reset"]:
                self._state.reset(node)
                return Answer(204)
            case "GET", [uuid]:
                return _json(self._state.describe(node, uuid))
            case "GET", [uuid, "install"]:
                return _json(self._state.script_of(node, uuid))
            case "POST", [uuid, "install"]:
                return self._install(node, uuid, call.body)
            case "POST", [uuid, "transfer", "success" | "failure" as outcome]:
                source = self._state.finish_transfer(node, uuid, outcome)
                if source is not None:
                    await self._moved(uuid, source)
                return Answer(204)
        raise Refused(404, "There is no such path.")

    def _takes(self, node: Node, call: Call) -> bool:
        """Take what a node reports by itself; return whether that is what it does."""
        data = call.body.get("data") if isinstance(call.body, dict) else None
        match call.method, call.path.removeprefix(_API).strip("/").split("/"):
            case "POST", ["activity"]:
                self._state.report_activity(node, data)
            case "POST", ["servers", uuid, "container", "status"]:
                self._state.report_status(node, uuid, data)
            case "POST", ["backups", backup, "restore"]:
                self._state.finish_restore(node, backup, call.body)
            case "POST", ["backups", uuid, *rest]:
                self._state.report_backup(node, uuid, rest, call.body)
            case _:
                return False
        return True

    def _install(self, node: Node, uuid: str, body: Any) -> Answer:
        if not isinstance(body, dict) or "successful" not in body:
            raise Refused(422, "The successful field is required.")
        self._state.finish_install(node, uuid, bool(body["successful"]))
        return Answer(204)


class _QuietSite(Site):
    """Without a line in the log for every request; `Panel.calls` has them."""

    def log(self, request: Any) -> None:
        pass


class Listener:
    def __init__(self, reactor: Any, state: State, record: Record, moved: Moved) -> None:
        self._reactor = reactor
        self._api = _Api(state, record, moved)
        site: Any = _QuietSite(self._api)
        self._factory: Any = WrappingFactory(site)
        site.noisy = self._factory.noisy = False
        self._port: Any = None

    def listen(self, port: int) -> int:
        """Listen on loopback; return the port, which 0 leaves to the kernel."""
        self._port = self._reactor.listenTCP(port, self._factory, interface="127.0.0.1")
        return int(self._port.getHost().port)

    async def close(self) -> None:
        """Stop listening, cut every connection and wait until they are gone."""
        await self._port.stopListening()
        self._api.cancel()
        for connection in list(self._factory.protocols):
            connection.transport.abortConnection()
        while self._factory.protocols:
            await deferLater(self._reactor, 0)
