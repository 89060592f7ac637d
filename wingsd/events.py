"""What happens to servers, told to whoever listens: the node's event bus.

Events have the name and the texts that a Panel's page gets over its WebSocket.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

from wingsd.eventnames import (
    CONSOLE_OUTPUT,
    DAEMON_MESSAGE,
    DELETED,
    STATS,
    STATUS,
    TRANSFER_LOGS,
    TRANSFER_STATUS,
)

__all__ = [
    "CONSOLE_OUTPUT",
    "DAEMON_MESSAGE",
    "DELETED",
    "STATS",
    "STATUS",
    "TRANSFER_LOGS",
    "TRANSFER_STATUS",
    "Event",
    "EventBus",
]


@attrs.frozen
class Event:
    """Something that happened to the server with the UUID `server`."""

    server: str
    name: str
    args: tuple[str, ...] = ()


class EventBus:
    """Hands every event to every subscriber to its server, in order, at once."""

    _log = Logger()

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Callable[[Event], None]]] = {}
        self._to_all: list[Callable[[Event], None]] = []

    def subscribe_to_all(self, subscriber: Callable[[Event], None]) -> None:
        """Call `subscriber` for each event of every server, before those of the server alone."""
        self._to_all.append(subscriber)

    def subscribe(self, server: str, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` for each event of the server from now on. Returns what ends that."""
        subscribers = self._subscribers.setdefault(server, [])
        subscribers.append(subscriber)

        def unsubscribe() -> None:
            subscribers.remove(subscriber)
            if not subscribers and self._subscribers.get(server) is subscribers:
                del self._subscribers[server]

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Tell all. A subscriber that fails is logged and hurts nobody else."""
        for subscriber in (*self._to_all, *self._subscribers.get(event.server, ())):
            try:
                subscriber(event)
            except Exception:
                self._log.failure("a listener to {event} failed", event=event)
