"""`/v1/receive` and `/v1/send`: moving a server by hand, from either end."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import attrs

from wingsd.control.address import reachable_at
from wingsd.control.endpoint import ControlEndpoint
from wingsd.errors import BadRequest
from wingsd.model import canonical_uuid
from wingsd.web.calls import Success, Topic, call
from wingsd.web.request import StreamingRequest

__all__ = ["ReceiveEndpoint", "SendEndpoint"]

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
        last = await self.rooms.services.journal.past(1, server)
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
