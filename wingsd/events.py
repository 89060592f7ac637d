"""The events of servers, and the bus that publishes them to subscribers.

Events have the names and arguments of the WebSocket messages of a Panel's page.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.logger import Logger

#: The state of a transfer, and the log lines of its two nodes (the document's `transfer.status`
#: and `transfer.logs`).
TRANSFER_STATUS = "transfer status"
TRANSFER_LOGS = "transfer logs"
#: The Panel knows that a transfer has failed. It is for this node only, as `suspended`.
TRANSFER_REPORTED = "transfer reported"
#: How much of a server has been sent, as JSON (Calagopus).
TRANSFER_PROGRESS = "transfer progress"
#: The state of a server, a line of its console, and its usage, as JSON.
STATUS = "status"
CONSOLE_OUTPUT = "console output"
STATS = "stats"
#: A message of the node itself in a server's console.
DAEMON_MESSAGE = "daemon message"
#: A line of the console for which the Panel's page has a dialogue (Pelican): JSON with its `key`,
#: the `pattern` found, and the `line`.
FEATURE_MATCH = "feature match"
#: A layer of an image's pull (Calagopus): its id and JSON with `status`, `bytes_processed` and
#: `bytes_total`, and the id alone when it is complete.
IMAGE_PULL_PROGRESS = "image pull progress"
IMAGE_PULL_COMPLETED = "image pull completed"
#: `true` or `false`: whether the server runs with other settings than the Panel has now
#: (Calagopus).
PENDING_RESTART = "pending restart"
#: The server has left this node.
DELETED = "deleted"
#: The node is not to start the server by itself: another node may run it. It is for this node
#: only, as `suspended`.
STAYS_OFF = "stays off"
#: The Panel has suspended the server. It is for this node only, and not sent to browsers.
SUSPENDED = "suspended"
#: Its program has crashed: JSON with its `exit_code`, whether it was `out_of_memory`, the `reason`
#: as a sentence (empty for an exit by itself), whether it is `restarted`, and the last `lines` of
#: the console. It is for this node only, as `suspended`.
CRASHED = "crashed"
#: It lacks something: the name of an entry of the activity log without `server:`, and a sentence.
#: It is for this node only, as `suspended`.
EXPLAINED = "explained"
#: Its installation: the beginning, a line, and the end.
INSTALL_STARTED = "install started"
INSTALL_OUTPUT = "install output"
INSTALL_COMPLETED = "install completed"
#: A change of files that takes long (Calagopus): its identifier and JSON with how far it is; its
#: end, with a message where it has failed.
OPERATION_PROGRESS = "operation progress"
OPERATION_COMPLETED = "operation completed"
OPERATION_ERROR = "operation error"
OPERATION_ABORTED = "operation aborted"
#: The end of a backup: of Pterodactyl and Pelican JSON, with the backup's UUID behind the name; of
#: Calagopus its UUID and JSON. Calagopus also has a backup's beginning and its deletion, with the
#: UUID, and how far it is, with the UUID and JSON.
BACKUP_COMPLETED = "backup completed"
#: The restoring of a backup: its beginning, and how far it is, as JSON (Calagopus), and its end.
#: For Calagopus the end has `true` or `false`; the pages of the others take it for a success.
BACKUP_RESTORE_STARTED = "backup restore started"
BACKUP_RESTORE_PROGRESS = "backup restore progress"
BACKUP_RESTORE_COMPLETED = "backup restore completed"
BACKUP_STARTED = "backup started"
BACKUP_PROGRESS = "backup progress"
BACKUP_DELETED = "backup deleted"


@attrs.frozen(eq=False)
class Event:
    """An event of the server with the UUID `server`."""

    server: str
    name: str
    args: tuple[str, ...] = ()


class EventBus:
    """Calls the subscribers of a server for each of its events, in order, synchronously."""

    _log = Logger()

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Callable[[Event], None]]] = {}
        self._to_all: list[Callable[[Event], None]] = []

    def subscribe_to_all(self, subscriber: Callable[[Event], None]) -> None:
        """Call `subscriber` for each event of every server, before those of one server."""
        self._to_all.append(subscriber)

    def subscribe(self, server: str, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` for each event of the server. Returns a function that ends that."""
        subscribers = self._subscribers.setdefault(server, [])
        subscribers.append(subscriber)

        def unsubscribe() -> None:
            subscribers.remove(subscriber)
            if not subscribers and self._subscribers.get(server) is subscribers:
                del self._subscribers[server]

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Call all subscribers. A failure is logged, and does not affect the others."""
        for subscriber in (*self._to_all, *self._subscribers.get(event.server, ())):
            try:
                subscriber(event)
            except Exception:
                self._log.failure("a subscriber to {event} failed", event=event)
