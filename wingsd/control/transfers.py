"""`/v1/transfers`: what moves now, what has moved, and calling it off."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import Any

import attrs

from wingsd.control import views
from wingsd.control.endpoint import ControlEndpoint
from wingsd.control.rooms import Rooms
from wingsd.errors import BadRequest, Conflict, NotLoaded, UnknownServer
from wingsd.web.calls import Success, Topic, call
from wingsd.web.request import StreamingRequest

__all__ = ["TransferEndpoint", "TransfersEndpoint"]

#: Ended transfers that are told, where nothing else is asked for, and at most.
USUALLY = 20
MOST = 10_000

Json = dict[str, Any]


async def _running(rooms: Rooms) -> list[Json]:
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


def _expected(rooms: Rooms) -> list[Json]:
    expected = rooms.services.by_hand.arrivals.expected
    return [{"server": uuid, "expires": until} for uuid, until in expected.items()]


class TransfersEndpoint(ControlEndpoint):
    """`transfers`: all of the node's."""

    topic = Topic.TRANSFERS

    @call("GET", Success(HTTPStatus.OK, "Transfers."))
    async def list_transfers(self, request: StreamingRequest, query: Past) -> Json:
        """Return what is under way, what is expected, and the last that have ended."""
        most = _number(query.past)
        answer = {"running": await _running(self.rooms), "expected": _expected(self.rooms)}
        ended = await self.rooms.services.journal.past(most)
        answer["past"] = [views.past(entry) for entry in ended]
        return answer


class TransferEndpoint(ControlEndpoint):
    """`transfers/{uuid}`: those of one server."""

    topic = Topic.TRANSFERS

    @call("GET", Success(HTTPStatus.OK, "Its transfers."))
    async def show_transfers(self, request: StreamingRequest) -> Json:
        """Return all that is known of a server. Raises `UnknownServer`."""
        uuid, rooms = self.uuid, self.rooms
        answer: Json = {
            "server": self._server(uuid),
            "running": _only(await _running(rooms), uuid),
            "expected": _only(_expected(rooms), uuid),
        }
        ended = await rooms.services.journal.past(MOST, uuid)
        reports = await rooms.services.journal.unsettled()
        answer["past"] = [views.past(entry) for entry in ended]
        answer["reports_waiting"] = [views.report(each) for each in reports if each.server == uuid]
        if not any(answer.values()):
            raise UnknownServer(
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
            raise Conflict(
                "there is no transfer of this server that could be cancelled",
                "it cannot be any more once success was told",
            )

    def _server(self, uuid: str) -> Json | None:
        try:
            server = self.rooms.services.servers.get(uuid)
        except (NotLoaded, UnknownServer):
            return None
        server.renew_measure()
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
