"""Which events of a server a user may see, by the permissions of the token.

The permissions are the Panels'. A token with `meta.calagopus` is of Calagopus' Panel: only there
is reading the console a permission, and only its page has some events.
"""

from __future__ import annotations

from wingsd.auth.tokens import ConsoleToken
from wingsd.events import (
    BACKUP_COMPLETED,
    BACKUP_DELETED,
    BACKUP_PROGRESS,
    BACKUP_RESTORE_PROGRESS,
    BACKUP_RESTORE_STARTED,
    BACKUP_STARTED,
    CONSOLE_OUTPUT,
    DAEMON_MESSAGE,
    FEATURE_MATCH,
    IMAGE_PULL_COMPLETED,
    IMAGE_PULL_PROGRESS,
    INSTALL_OUTPUT,
    OPERATION_ABORTED,
    OPERATION_COMPLETED,
    OPERATION_ERROR,
    OPERATION_PROGRESS,
    PENDING_RESTART,
    TRANSFER_LOGS,
    TRANSFER_PROGRESS,
)

__all__ = ["is_for_calagopus", "may_read_console", "may_see"]

_META_CALAGOPUS = "meta.calagopus"
_READ_CONSOLE = "control.read-console"
#: Events about the changes of files.
_OPERATIONS = (OPERATION_ABORTED, OPERATION_COMPLETED, OPERATION_ERROR, OPERATION_PROGRESS)
#: Events about backups before and after their end.
_BACKUPS = (BACKUP_DELETED, BACKUP_PROGRESS, BACKUP_STARTED)
#: Events about the restoring of a backup, but its end.
_RESTORES = (BACKUP_RESTORE_PROGRESS, BACKUP_RESTORE_STARTED)
_PERMISSIONS = {
    **dict.fromkeys(_BACKUPS, "backups.read"),
    TRANSFER_LOGS: "admin.websocket.transfer",
    TRANSFER_PROGRESS: "admin.websocket.transfer",
    INSTALL_OUTPUT: "admin.websocket.install",
    **dict.fromkeys(_OPERATIONS, "files.read"),
    **dict.fromkeys(_RESTORES, "backups.read"),
}
#: Events that quote the console, or are shown in it.
_CONSOLE = (CONSOLE_OUTPUT, DAEMON_MESSAGE, FEATURE_MATCH)

#: Events that only Calagopus' page has.
_CALAGOPUS = (
    *_BACKUPS,
    *_OPERATIONS,
    *_RESTORES,
    IMAGE_PULL_COMPLETED,
    IMAGE_PULL_PROGRESS,
    PENDING_RESTART,
    TRANSFER_PROGRESS,
)


def may_see(token: ConsoleToken, event: str) -> bool:
    """Return whether the token's user may see the event of that name."""
    if event.startswith(BACKUP_COMPLETED):
        return token.allows("backup.read") or token.allows("backups.read")
    if event in _CONSOLE:
        return may_read_console(token)
    if event in _CALAGOPUS and not is_for_calagopus(token):
        return False
    return event not in _PERMISSIONS or token.allows(_PERMISSIONS[event])


def may_read_console(token: ConsoleToken) -> bool:
    """Return whether the token's user may read the console."""
    return not is_for_calagopus(token) or token.allows(_READ_CONSOLE)


def is_for_calagopus(token: ConsoleToken) -> bool:
    """Return whether the token is of Calagopus' Panel."""
    return _META_CALAGOPUS in token.permissions
