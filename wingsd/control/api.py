"""`/v1`: everything that `wingsctl` asks."""

from __future__ import annotations

from http import HTTPStatus

from wingsd.control.endpoint import ControlEndpoint
from wingsd.control.moves import ReceiveEndpoint, SendEndpoint
from wingsd.control.rooms import Rooms
from wingsd.control.status import Status
from wingsd.control.transfers import TransfersEndpoint
from wingsd.web.answers import Answer
from wingsd.web.request import StreamingRequest
from wingsd.web.site import NotFound

__all__ = ["ControlApi"]


class _StatusEndpoint(ControlEndpoint):
    def __init__(self, rooms: Rooms) -> None:
        super().__init__(rooms)
        self._status = Status(rooms)

    async def handle_GET(self, request: StreamingRequest) -> Answer:
        """Return how the node is."""
        return Answer(HTTPStatus.OK, await self._status.gather())


class ControlApi(NotFound):
    """What is found below `/v1`."""

    def __init__(self, rooms: Rooms) -> None:
        super().__init__()
        self.putChild(b"status", _StatusEndpoint(rooms))
        self.putChild(b"transfers", TransfersEndpoint(rooms))
        self.putChild(b"receive", ReceiveEndpoint(rooms))
        self.putChild(b"send", SendEndpoint(rooms))
