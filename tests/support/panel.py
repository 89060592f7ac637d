"""A small Panel that is really there: it listens, remembers, and fails when it is told to.

It offers what a node asks of a Panel (`{url}/api/remote`), asks of nodes what a Panel does, and
keeps the truth about servers, nodes and open transfers as a Panel does. Tests and the demo drive
it in the process they run in.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Any, NamedTuple

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support import application_api
from tests.support.application_api import ApplicationApi
from tests.support.faults import Answer, Drop, Fault, Hang
from tests.support.nodes import NodeError, ask
from tests.support.settings import Json
from tests.support.state import Node, Refused, State
from tests.support.tokens import console_claims, signed, transfer_claims

__all__ = ["Node", "NodeError"]

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

    def __init__(
        self, state: State, record: Record, moved: Moved, application: ApplicationApi
    ) -> None:
        super().__init__()
        self._state = state
        self._record = record
        self._moved = moved
        self._application = application
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
            if call.path.startswith(application_api.ROOT):
                authorization = request.getHeader("Authorization") or ""
                found = await self._application.answer(
                    call.method, call.path, authorization, call.body
                )
                return Answer(204) if found is None else _json(found)
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
    def __init__(
        self,
        reactor: Any,
        state: State,
        record: Record,
        moved: Moved,
        application: ApplicationApi,
    ) -> None:
        self._reactor = reactor
        self._api = _Api(state, record, moved, application)
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


# A small Panel that is really there: it listens, remembers, and fails when it is told to


#: Whom console tokens are for, unless another user is named.
_USER = "2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e21"
#: Seconds that a call is waited for, unless the caller says another time.
PATIENCE = 180.0


@attrs.define(eq=False)
class Panel(State):
    """The Panel. `calls` is everything that was asked of it, in order, refused calls included."""

    url: str = attrs.field(default="http://panel.invalid", init=False)
    calls: list[Call] = attrs.field(factory=list, init=False)
    #: The headers of `calls`, one map each, names in lower case.
    headers: list[dict[str, str]] = attrs.field(factory=list, init=False)
    #: Copies that sources were told to delete after a success, and how that went: server UUID,
    #: and the answer's status or why there was none.
    deletions: list[tuple[str, int | str]] = attrs.field(factory=list, init=False)
    #: Holds back the row of each transfer that its source has begun, until it is released.
    slow_commit: Hang | None = attrs.field(default=None, init=False)
    _faults: list[tuple[str, Fault]] = attrs.field(factory=list, init=False)
    _watchers: list[tuple[str, int, Deferred[None]]] = attrs.field(factory=list, init=False)
    _listener: Listener | None = attrs.field(default=None, init=False)
    _reactor: Any = attrs.field(default=None, init=False)

    async def listen(self, reactor: Any, port: int = 0) -> str:
        """Listen on loopback; return the address, a node's `remote`."""
        self._reactor = reactor
        application = ApplicationApi(self, self.transfer_order, self.ask)
        self._listener = Listener(reactor, self, self._record, self._delete_at_source, application)
        self.url = f"http://127.0.0.1:{self._listener.listen(port)}"
        return self.url

    async def close(self) -> None:
        """Stop listening and cut every connection, those of hanging calls too."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()

    def inject(self, match: str, fault: Fault, times: int = 1) -> None:
        """Make the next `times` calls whose path contains `match` meet `fault`."""
        self._faults += [(match, fault)] * times

    def heal(self, match: str) -> None:
        """Let calls meet no more of the faults that were injected for `match`."""
        self._faults = [entry for entry in self._faults if entry[0] != match]

    def hold(self, match: str) -> Hang:
        """Let the next call whose path contains `match` wait for the result's release."""
        hang = Hang()
        self.inject(match, hang)
        return hang

    def called(
        self, match: str, times: int = 1, within: float | None = PATIENCE
    ) -> Deferred[None]:
        """Return a Deferred that fires once `times` calls in all had a path with `match` in it.

        It fails when that takes more than `within` seconds.
        """
        watcher: Deferred[None] = Deferred()
        self._watchers.append((match, times, watcher))
        self._tell_watchers()

        def too_late(_: object, seconds: float) -> None:
            paths = [call.path for call in self.calls]
            raise TimeoutError(f"not {times} calls of {match} in {seconds:g} s, but {paths}")

        return watcher if within is None else watcher.addTimeout(within, self._reactor, too_late)

    def reports(self) -> list[tuple[str, str]]:
        """Return what was told of transfers, in order: (server UUID, "success" or "failure")."""
        parts = [call.path.split("/") for call in self.calls if "/transfer/" in call.path]
        return [(part[-3], part[-1]) for part in parts]

    def transfer_token(
        self,
        uuid: str,
        node: Node,
        *,
        now: float | None = None,
        key: str | None = None,
        algorithm: str = "HS256",
        **claims: Any,
    ) -> str:
        """Return the JWT with which a source sends the server `uuid` to `node`.

        `now` is the time of issue (seconds since the epoch), `key` signs in place of the node's
        token (PyJWT wants "" for the algorithm "none"), `claims` replace the usual ones, and None
        leaves one out.
        """
        usual = transfer_claims(self.url, node, uuid, int(time.time() if now is None else now))
        key = node.token if key is None else key
        return signed(usual, claims, key, algorithm, jti=usual["jti"], sub=uuid)

    def console_token(
        self,
        uuid: str,
        permissions: Collection[str] = ("*",),
        *,
        user: str = _USER,
        node: Node | None = None,
        now: float | None = None,
        key: str | None = None,
        **claims: Any,
    ) -> str:
        """Return the JWT with which a user's browser watches a server, on the node it is on.

        The rest as in `transfer_token`.
        """
        node = node or self.node_of(uuid)
        issued = int(time.time() if now is None else now)
        usual = console_claims(self.url, node, uuid, user, permissions, issued)
        return signed(usual, claims, node.token if key is None else key, jti=usual["jti"])

    async def ask(self, node: Node, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return a node's answer, whatever it is: status, and body (decoded when it is JSON).

        Raises `NodeError` when there is none.
        """
        return await ask(self._reactor, node, method, path, body)

    async def create_server_on(
        self,
        node: Node,
        settings: Json,
        process: Json | None = None,
        *,
        script: Json | None = None,
        start_on_completion: bool = False,
    ) -> None:
        """Put a server on `node` and have it installed there. Raises `NodeError`.

        `script` are the keys of the script's answer that differ from the usual ones.
        """
        self.add_server(settings, node, process)
        self.set_script(settings["uuid"], **(script or {}))
        body = {"uuid": settings["uuid"], "start_on_completion": start_on_completion}
        await self._demand(node, "POST", "/api/servers", body)

    async def power(self, uuid: str, action: str) -> None:
        """Ask for start, stop, restart or kill; return when that is answered.

        Raises `NodeError`.
        """
        path = f"/api/servers/{uuid}/power"
        await self._demand(self.node_of(uuid), "POST", path, {"action": action})

    async def restore(self, uuid: str, backup: str, **request: Any) -> None:
        """Have a backup of a server restored; return when that has begun. Raises `NodeError`.

        `request` is more of what the node is told: without it, it is a local backup that is laid
        over the present files.
        """
        path = f"/api/servers/{uuid}/backup/{backup}/restore"
        order = {"adapter": "wings", "truncate_directory": False} | request
        await self._demand(self.node_of(uuid), "POST", path, order)
        self.show_restoring(uuid, backup)

    async def transfer(self, uuid: str, destination: Node, **fields: Any) -> None:
        """Have the source begin a transfer and open it; return when both are done.

        The transfer's row is committed only when the source has answered 202, and `slow_commit`
        was released, if there is one. `fields` are put into what the source is told (Pelican:
        `backups`). Raises `NodeError` when the source does not begin; then no transfer is open.
        """
        source = self.node_of(uuid)
        order = self.transfer_order(uuid, destination) | fields
        await self._demand(source, "POST", f"/api/servers/{uuid}/transfer", order)
        if self.slow_commit is not None:
            await self.slow_commit.wait()
        self.open_transfer(uuid, destination)

    def transfer_order(self, uuid: str, destination: Node) -> Json:
        return {
            "server_id": uuid,
            "url": f"{destination.address}/api/transfers",
            "token": f"Bearer {self.transfer_token(uuid, destination)}",
            "server": {"uuid": uuid, "start_on_completion": False},
        }

    async def _demand(self, node: Node, method: str, path: str, body: Any = None) -> None:
        status, answer = await self.ask(node, method, path, body)
        if status >= HTTPStatus.BAD_REQUEST:
            raise NodeError(status, answer)

    async def _delete_at_source(self, uuid: str, source: Node) -> None:
        if not source.reachable:
            return
        try:
            status, _ = await self.ask(source, "DELETE", f"/api/servers/{uuid}")
        except NodeError as error:
            # A real Panel logs it, and the copy stays where it is.
            self.deletions.append((uuid, str(error)))
        else:
            self.deletions.append((uuid, status))

    def _record(self, call: Call, headers: dict[str, str]) -> Fault | None:
        self.calls.append(call)
        self.headers.append(headers)
        self._tell_watchers()
        for index, (match, fault) in enumerate(self._faults):
            if match in call.path:
                del self._faults[index]
                return fault
        return None

    def _tell_watchers(self) -> None:
        waiting, self._watchers = self._watchers, []
        for match, times, watcher in waiting:
            if sum(match in call.path for call in self.calls) >= times:
                watcher.callback(None)
            else:
                self._watchers.append((match, times, watcher))
