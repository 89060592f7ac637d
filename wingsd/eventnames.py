"""The names of what happens to servers, as a Panel's page knows them."""

from __future__ import annotations

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
