"""Transfers on the control socket: listed, started and cancelled."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Any

import attrs

from wingsd.control import resource as views
from wingsd.control.resource import ControlContext, ControlEndpoint
from wingsd.control.status import reachable_at
from wingsd.errors import BadRequest, Conflict, ServerNotFound, ServersNotLoaded
from wingsd.http.operations import Success, Topic, call
from wingsd.http.request import StreamingRequest
from wingsd.transfers.errors import TransferNotActive
from wingsd.util.text import canonical_uuid

__all__ = ["ControlTransfersEndpoint", "ReceiveEndpoint", "SendEndpoint", "TransferEndpoint"]

#: Seconds that a server is expected: usually, and at most.
AN_HOUR = 3600
A_WEEK = 7 * 24 * 3600


@attrs.frozen
class Expectation:
    """A server that is to come, and for how long it may."""

    server: str
    settings: dict[str, Any] | None = None
    addresses: tuple[str, ...] = ()
    seconds: int = AN_HOUR


@attrs.frozen
class Departure:
    """A server that is to go, and where."""

    server: str
    url: str
    token: str = attrs.field(repr=False)
    settings: dict[str, Any] | None = None
    remove: bool = False


class _MoveEndpoint(ControlEndpoint):
    async def _last(self, server: str) -> int:
        """Return the number of the server's last transfer: what follows has a higher one."""
        last = await self.rooms.services.journal.ended(1, server)
        return last[0].id if last else 0


class ReceiveEndpoint(_MoveEndpoint):
    """`receive`."""

    topic = Topic.TRANSFERS

    @call("POST", Success(HTTPStatus.CREATED, "It is expected."))
    async def expect_server(self, request: StreamingRequest, order: Expectation) -> dict[str, Any]:
        """Expect a server; return the token by which it may come, and where to."""
        server = _uuid(order.server)
        if not 0 < order.seconds <= A_WEEK:
            raise BadRequest("that is too long, or no time at all", "expected a week at most")
        rooms = self.rooms
        after = await self._last(server)
        invitation = await rooms.services.by_hand.arrivals.expect(
            server,
            seconds=order.seconds,
            description=order.settings,
            addresses=order.addresses,
        )
        url, certain = await rooms.disk.run(reachable_at, rooms.services.config, rooms.address())
        return {
            "server": server,
            "url": url,
            "url_is_certain": certain,
            "token": invitation.token,
            "expires": invitation.expires,
            "after": after,
        }


class SendEndpoint(_MoveEndpoint):
    """`send`."""

    topic = Topic.TRANSFERS

    @call("POST", Success(HTTPStatus.ACCEPTED, "It is begun."))
    async def begin_sending(self, request: StreamingRequest, order: Departure) -> dict[str, Any]:
        """Begin to send a server; how that goes on is found at `/v1/transfers/{uuid}`."""
        server = _uuid(order.server)
        after = await self._last(server)
        await self.rooms.services.by_hand.departures.send(
            server,
            order.url,
            order.token,
            description=order.settings,
            remove=order.remove,
        )
        # Which of those are the server's, only its Panel knows.
        backups = self.services.config.system.backup_directory
        return {"server": server, "after": after, "backups_stay_in": backups}


def _uuid(text: str) -> str:
    uuid = canonical_uuid(text)
    if uuid is None:
        raise BadRequest("a server is named by its UUID", f"{text!r} is none")
    return uuid


#: Ended transfers that are told, where nothing else is asked for, and at most.
USUALLY = 20
MOST = 10_000

Json = dict[str, Any]


async def _running(rooms: ControlContext) -> list[Json]:
    """Return what is under way, the oldest first.

    What is under way no more when this returns, is among those that have ended afterwards.
    """
    # Asked first: what begins meanwhile is among the others.
    unfinished = await rooms.services.journal.unfinished()
    now = rooms.now()
    found = [
        views.running(each, now)
        for each in (*rooms.services.receiver.progress, *rooms.services.sender.progress)
    ]
    shown = {each["server"] for each in found}
    found += [
        views.ending(entry, rooms.begun) for entry in unfinished if entry.server not in shown
    ]
    return sorted(found, key=lambda each: float(each["begun"]))


@attrs.frozen
class Past:
    """How many that have ended are wanted. As a text: what is no number is refused below."""

    past: str = ""


def _expected(rooms: ControlContext) -> list[Json]:
    expected = rooms.services.by_hand.arrivals.expected
    return [{"server": uuid, "expires": until} for uuid, until in expected.items()]


class ControlTransfersEndpoint(ControlEndpoint):
    """`transfers`: all of the node's."""

    topic = Topic.TRANSFERS

    @call("GET", Success(HTTPStatus.OK, "Transfers."))
    async def list_transfers(self, request: StreamingRequest, query: Past) -> Json:
        """Return what is under way, what is expected, and the last that have ended."""
        most = _number(query.past)
        answer = {"running": await _running(self.rooms), "expected": _expected(self.rooms)}
        ended = await self.rooms.services.journal.ended(most)
        answer["past"] = [views.past(entry) for entry in ended]
        return answer


class TransferEndpoint(ControlEndpoint):
    """`transfers/{uuid}`: those of one server."""

    topic = Topic.TRANSFERS

    @call("GET", Success(HTTPStatus.OK, "Its transfers."))
    async def show_transfers(self, request: StreamingRequest) -> Json:
        """Return all that is known of a server. Raises `ServerNotFound`."""
        uuid, rooms = self.uuid, self.rooms
        answer: Json = {
            "server": self._server(uuid),
            "running": _only(await _running(rooms), uuid),
            "expected": _only(_expected(rooms), uuid),
        }
        ended = await rooms.services.journal.ended(MOST, uuid)
        reports = await rooms.services.journal.unsettled()
        answer["past"] = [views.past(entry) for entry in ended]
        answer["reports_waiting"] = [views.report(each) for each in reports if each.server == uuid]
        if not any(answer.values()):
            raise ServerNotFound(
                "this node knows nothing of that server",
                "wingsctl transfers shows those that were moved in the last 90 days",
            )
        return {"uuid": uuid} | answer

    @call("DELETE", Success(HTTPStatus.ACCEPTED, "It is being cancelled."))
    async def cancel_transfer(self, request: StreamingRequest) -> None:
        """Cancel a server's transfer, or expect it no longer. Raises `Conflict`."""
        uuid, rooms = self.uuid, self.rooms
        for room in (rooms.services.sender, rooms.services.receiver):
            with suppress(Conflict):
                room.cancel(uuid)
                return
        if not rooms.services.by_hand.cancel(uuid):
            raise TransferNotActive(
                "there is no transfer of this server that could be cancelled",
                "it cannot be any more once success was told",
            )

    def _server(self, uuid: str) -> Json | None:
        try:
            server = self.rooms.services.servers.get(uuid)
        except (ServersNotLoaded, ServerNotFound):
            return None
        server.files.measure_if_stale()
        return {
            "name": server.configuration.settings.meta.name,
            "state": server.state.value,
            "hold": server.hold,
            "by_hand": server.by_hand,
            "disk_bytes": server.disk_bytes,
        }


def _only(found: list[Json], uuid: str) -> Json | None:
    return next((each for each in found if each["server"] == uuid), None)


def _number(text: str) -> int:
    try:
        number = int(text or USUALLY)
    except ValueError:
        number = -1
    if not 0 <= number <= MOST:
        raise BadRequest("the request makes no sense", f"past: expected a number up to {MOST}")
    return number
