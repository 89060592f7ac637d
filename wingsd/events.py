"""What happens to servers, told to whoever listens: the node's event bus.

Events have the name and the texts that a Panel's page gets over its WebSocket.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

__all__ = ["TRANSFER_STATUS", "Event", "EventBus"]

#: The event that carries the state of a transfer (the document's `transfer.status`).
TRANSFER_STATUS = "transfer status"


@attrs.frozen
class Event:
    """Something that happened to the server with the UUID `server`."""

    server: str
    name: str
    args: tuple[str, ...] = ()


class EventBus:
    """Hands every event to every subscriber, in order, at once."""

    _log = Logger()

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event], None]] = []

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` for each event from now on. Returns what ends that."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, event: Event) -> None:
        """Tell all. A subscriber that fails is logged and hurts nobody else."""
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception:
                self._log.failure("a listener to {event} failed", event=event)
