"""A small Panel that is really there: it listens, remembers, and fails when it is told to.

It offers what a node asks of a Panel (`{url}/api/remote`) and keeps the truth about servers, nodes
and open transfers as a Panel does. Tests and the demo drive it in the process they run in.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

import attrs
import jwt
from twisted.internet.defer import Deferred

from wingsd.testing.faults import Fault
from wingsd.testing.http import Call, Listener
from wingsd.testing.state import Node, State

__all__ = ["Call", "Node", "Panel"]

_NOT_BEFORE = 5 * 60
_LIFETIME = 15 * 60


@attrs.define(eq=False)
class Panel(State):
    """The Panel. `calls` is everything that was asked of it, in order, refused calls included."""

    url: str = attrs.field(default="http://panel.invalid", init=False)
    calls: list[Call] = attrs.field(factory=list, init=False)
    #: The headers of `calls`, one map each, names in lower case.
    headers: list[dict[str, str]] = attrs.field(factory=list, init=False)
    _faults: list[tuple[str, Fault]] = attrs.field(factory=list, init=False)
    _watchers: list[tuple[str, int, Deferred[None]]] = attrs.field(factory=list, init=False)
    _listener: Listener | None = attrs.field(default=None, init=False)

    async def listen(self, reactor: Any, port: int = 0) -> str:
        """Listen on loopback; return the address, a node's `remote`."""
        self._listener = Listener(reactor, self, self._record)
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

    def called(self, match: str, times: int = 1) -> Deferred[None]:
        """Return a Deferred that fires once `times` calls in all had a path with `match` in it."""
        watcher: Deferred[None] = Deferred()
        self._watchers.append((match, times, watcher))
        self._tell_watchers()
        return watcher

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
        issued = int(time.time() if now is None else now)
        jti = hashlib.sha256(uuid.encode()).hexdigest()
        usual = {
            "iss": self.url,
            "aud": [node.address],
            "sub": uuid,
            "jti": jti,
            "unique_id": secrets.token_hex(8),
            "iat": issued,
            "nbf": issued - _NOT_BEFORE,
            "exp": issued + _LIFETIME,
        }
        payload = {name: value for name, value in (usual | claims).items() if value is not None}
        headers = {"jti": jti, "sub": uuid}
        return jwt.encode(payload, node.token if key is None else key, algorithm, headers)

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
