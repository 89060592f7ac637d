"""One path of the control socket."""

from __future__ import annotations

from wingsd.control.rooms import Rooms
from wingsd.web.endpoint import Public
from wingsd.web.request import StreamingRequest

__all__ = ["ControlEndpoint"]


class ControlEndpoint(Public):
    """A path for whoever may open the socket."""

    def __init__(self, rooms: Rooms) -> None:
        super().__init__(rooms.services.config)
        self.rooms = rooms

    def authorize(self, request: StreamingRequest) -> None:
        """Let everybody pass: the socket's mode has decided who comes as far as this."""
