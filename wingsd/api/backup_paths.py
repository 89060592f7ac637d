"""The paths of backups."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from wingsd.api.resource import LaterEndpoint
from wingsd.backups.creation import Backups
from wingsd.backups.deletion import BackupDeletion
from wingsd.config import Config
from wingsd.servers.registry import Servers

__all__ = ["BACKUP_PATHS", "endpoints"]

_MAKING = LaterEndpoint("backups", "BackupsEndpoint")
_DELETING: Mapping[str, LaterEndpoint] = {
    "/api/backups/{backup}": LaterEndpoint("backups", "BackupDeletionEndpoint"),
    "/api/servers/{uuid}/backup/{backup}": LaterEndpoint("backups", "BackupEndpoint"),
    "/api/servers/{uuid}/deleteAllBackups": LaterEndpoint("backups", "AllBackupsEndpoint"),
}
BACKUP_PATHS: Mapping[str, LaterEndpoint] = {"/api/servers/{uuid}/backup": _MAKING, **_DELETING}


def endpoints(
    config: Config, servers: Servers, backups: Backups, deletion: BackupDeletion
) -> list[partial[Any]]:
    """Return the endpoints of backups."""
    return [
        partial(_MAKING, config, servers, backups),
        *(partial(kind, config, servers, deletion) for kind in _DELETING.values()),
    ]
