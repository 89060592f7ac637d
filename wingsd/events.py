"""The events of servers: their names, and how they reach those who subscribe.

Events have the name and the texts that a Panel's page gets over its WebSocket.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

__all__ = [
    "BACKUP_COMPLETED",
    "CONSOLE_OUTPUT",
    "DAEMON_MESSAGE",
    "DELETED",
    "INSTALL_OUTPUT",
    "STATS",
    "STATUS",
    "TRANSFER_LOGS",
    "TRANSFER_STATUS",
    "Event",
    "EventBus",
]

#: The state of a transfer, and what its two nodes have to say of it (the document's
#: `transfer.status` and `transfer.logs`).
TRANSFER_STATUS = "transfer status"
TRANSFER_LOGS = "transfer logs"
#: The state of a server, a line of its console, and what it uses, as JSON.
STATUS = "status"
CONSOLE_OUTPUT = "console output"
STATS = "stats"
#: What the node itself has to say in a server's console.
DAEMON_MESSAGE = "daemon message"
#: The server is not on this node any more.
DELETED = "deleted"
#: A line of its installation. A backup is done; the backup's UUID follows the name.
INSTALL_OUTPUT = "install output"
BACKUP_COMPLETED = "backup completed"


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
