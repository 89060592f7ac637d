"""The server of a backup that an earlier daemon has made, as far as the rest of it needs one."""

from __future__ import annotations

from twisted.logger import Logger

from wingsd.events import DAEMON_MESSAGE, Event, EventBus
from wingsd.servers.operations import Operations

__all__ = ["LeftServer"]


class LeftServer:
    """A server by its UUID: it may not be loaded yet, or not be of this node any more."""

    _log = Logger()

    def __init__(self, uuid: str, bus: EventBus) -> None:
        self.uuid = uuid
        self._bus = bus
        #: Its files are in the archive: nothing that is done with them excludes the rest.
        self.operations = Operations()

    def say(self, message: str) -> None:
        """Show a message in the console, if it is open, and log it."""
        self._log.info("{server}: {message}", server=self.uuid, message=message)
        self.publish(DAEMON_MESSAGE, message)

    def publish(self, event: str, *args: str) -> None:
        """Publish an event."""
        self._bus.publish(Event(self.uuid, event, args))
