"""One path of the control socket, for whoever may open that: its mode has decided who comes."""

from __future__ import annotations

from collections.abc import Mapping

from wingsd.control.rooms import Rooms
from wingsd.web.endpoint import Public
from wingsd.web.request import StreamingRequest

__all__ = ["ControlEndpoint"]


class ControlEndpoint(Public):
    """A path that is answered by what the node's `rooms` tell."""

    def __init__(self, rooms: Rooms, parts: Mapping[str, bytes]) -> None:
        super().__init__(rooms.services, parts)
        self.rooms = rooms

    def authorize(self, request: StreamingRequest) -> None:
        """Let everybody pass, and have a body kept."""
