"""The power of one server, `/api/servers/{uuid}/power`, and of several, `/api/servers/power`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import attrs
from twisted.internet.defer import Deferred

from wingsd.api.resource import Endpoint, ServerResource
from wingsd.errors import BadRequest, Unprocessable, WingsdError
from wingsd.http.operations import INVALID, Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.servers.power_states import PowerAction
from wingsd.servers.server import Server
from wingsd.util.serialization import Keywords
from wingsd.util.text import canonical_uuids

__all__ = ["AllPowerEndpoint", "PowerEndpoint"]

# As in Wings: seconds that a power action may wait for another one at most, and by default.
MAX_WAIT = 300
DEFAULT_WAIT = 30

ActionName = Annotated[str, Keywords(enum=tuple(action.value for action in PowerAction))]
Wait = Annotated[int, f"Seconds to wait for a power action in progress; {MAX_WAIT} at most."]


@attrs.frozen(eq=False, repr=False)
class PowerRequest:
    """A power action."""

    action: ActionName
    wait_seconds: Wait = DEFAULT_WAIT


class PowerEndpoint(ServerResource):
    """`/api/servers/{uuid}/power`."""

    topic = Topic.SERVERS

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The action has started."),
        fails=(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY),
    )
    async def power_server(self, request: StreamingRequest, body: PowerRequest) -> None:
        """Start, stop, restart or kill a server.

        The result is shown in its console and by its events.
        """
        action = _action(body.action)
        _check(self.game_server, action)
        _start(self.game_server, action, body.wait_seconds)


@attrs.frozen(eq=False, repr=False)
class AllPowerRequest:
    """A power action on several servers."""

    servers: Annotated[
        Any,
        '`{"type": "all"}`, `{"type": "uuids", "uuids": [...]}`, or a list of UUIDs. Servers that '
        "are not on this node are ignored.",
        Keywords(type=("object", "array")),
    ]
    action: ActionName
    wait_seconds: Wait = DEFAULT_WAIT


@attrs.frozen(eq=False, repr=False)
class AffectedServers:
    """How many servers a power action is begun for."""

    affected: Annotated[int, Keywords(minimum=0)]


class AllPowerEndpoint(Endpoint):
    """`/api/servers/power`, for Calagopus' Panel."""

    topic = Topic.SERVERS
    fails = (HTTPStatus.SERVICE_UNAVAILABLE,)

    @call(
        "POST",
        Success(HTTPStatus.ACCEPTED, "The actions have started."),
        fails=(HTTPStatus.UNPROCESSABLE_ENTITY,),
    )
    async def power_servers(
        self, request: StreamingRequest, body: AllPowerRequest
    ) -> AffectedServers:
        """Start, stop, restart or kill several servers.

        Servers that cannot be started or stopped now are left out.
        """
        action, selected = _action(body.action), _selected(body.servers)
        affected = 0
        for server in self._node.servers.all():
            if selected is None or server.uuid in selected:
                try:
                    _check(server, action)
                except WingsdError:
                    continue
                _start(server, action, body.wait_seconds)
                affected += 1
        return AffectedServers(affected)


def _action(name: str) -> PowerAction:
    try:
        return PowerAction(name)
    except ValueError:
        raise Unprocessable(
            "The power action provided was not valid, "
            'should be one of "stop", "start", "restart", "kill"'
        ) from None


def _check(server: Server, action: PowerAction) -> None:
    """Raise `BadRequest` or `Conflict` where the action cannot be begun now."""
    if action.starts and server.suspended:
        raise BadRequest("Cannot start or restart a server that is suspended.")
    server.check_power(action)


def _start(server: Server, action: PowerAction, wait_seconds: int) -> None:
    """Begin an action. The server reports a failure itself, in its console and in the log."""
    wait = wait_seconds if 0 <= wait_seconds <= MAX_WAIT else DEFAULT_WAIT
    Deferred.fromCoroutine(server.power(action, wait)).addErrback(lambda _: None)


def _selected(servers: Any) -> frozenset[str] | None:
    """Return the UUIDs of the servers that are meant, None for all of them."""
    if isinstance(servers, dict):
        if servers.get("type") == "all":
            return None
        servers = servers.get("uuids") if servers.get("type") == "uuids" else None
    uuids = canonical_uuids(servers)
    if uuids is None:
        raise Unprocessable(
            INVALID, 'servers: expected {"type": "all"}, {"type": "uuids", "uuids": [...]}'
        )
    return frozenset(uuids)
