"""A small Panel that is really there: it listens, remembers, and fails when it is told to.

It offers what a node asks of a Panel (`{url}/api/remote`), asks of nodes what a Panel does, and
keeps the truth about servers, nodes and open transfers as a Panel does. Tests and the demo drive
it in the process they run in.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from tests.support.faults import Fault, Hang
from tests.support.http import Call, Listener
from tests.support.nodes import NodeError, ask
from tests.support.settings import Json
from tests.support.state import Node, State
from tests.support.tokens import console_claims, signed, transfer_claims

__all__ = ["Call", "Node", "NodeError", "Panel"]

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
        self._listener = Listener(reactor, self, self._record, self._delete_at_source)
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
