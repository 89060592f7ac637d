"""Local backups that have moved with a server are removed from the node that they have left.

Which they are is in the journal before the server is sent, and a transfer is not over there before
they are gone. So a daemon that dies in between removes them at its next start.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.logger import Logger

from wingsd.bridge import Workers
from wingsd.errors import StorageError
from wingsd.transfers.localbackups import remove_backup

__all__ = ["Removal"]

_log = Logger()


@attrs.frozen
class Removal:
    """Removes backups below `directory`, which is `system.backup_directory`."""

    directory: str
    disk: Workers

    async def remove(self, server: str, paths: Sequence[str]) -> None:
        """Remove the backups at `paths` in the directory. What cannot be is logged."""
        for path in paths:
            try:
                await self.disk.run(remove_backup, self.directory, path)
            except StorageError as error:
                _log.error("{server}: {error}", server=server, error=error)
            else:
                _log.info(
                    "{server}: the backup {path} has moved, and is removed here",
                    server=server,
                    path=path,
                )
