"""What a restore leaves behind: replaced files, kept in quarantine or deleted, and failed content.

It is renamed at once, so that another restore of the server does not meet it, and deleted in the
background, of one server at a time. What the daemon's end interrupts is deleted at its next start.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from wingsd.errors import StorageError
from wingsd.restores.storage import RestoreStorage
from wingsd.servers.files import BackgroundTasks
from wingsd.statedb import RestoreRecord
from wingsd.threadio import Workers

__all__ = ["RestoreLeftovers"]


class RestoreLeftovers:
    """What restores have left in `storage`.

    Replaced files are kept for `days`, where all were to be replaced; 0 for none.
    """

    _log = Logger()

    def __init__(self, storage: RestoreStorage, disk: Workers, days: int) -> None:
        self._storage = storage
        self._disk = disk
        self._days = days
        self._tasks = BackgroundTasks()
        self._lock = DeferredLock()

    async def retire(self, record: RestoreRecord) -> None:
        """Take the replaced files away. A failure is logged: the next daemon deletes them."""
        keep = self._keeps(record)
        try:
            kept = await self._disk.run(self._storage.retire, record.server, keep=keep)
        except StorageError as error:
            self._log.error(
                "{server}: the files that its backup has replaced stay until the next start of "
                "this node: {error}",
                server=record.server,
                error=error,
            )
        else:
            self._log_kept(record.server, kept)

    async def withdraw(self, server: str) -> None:
        """Take what is staged of a failed restore away. A failure is logged."""
        try:
            await self._disk.run(self._storage.withdraw, server)
        except StorageError as error:
            self._log.error(
                "{server}: what was read of its backup stays until the next start of this node: "
                "{error}",
                server=server,
                error=error,
            )

    def delete(self, server: str) -> None:
        """Delete in the background what was taken away, and is not kept."""
        self._tasks.start("deleting what a restore has left", self._delete(server), server)

    async def _delete(self, server: str) -> None:
        deleting: Deferred[None] = self._lock.run(self._disk.run, self._storage.discard, server)
        await deleting

    def recover(self, record: RestoreRecord) -> None:
        """Complete what an earlier daemon has begun to put into place.

        Blocking, at the daemon's start. Raises `StorageError`.
        """
        kept = self._storage.recover(record, keep=self._keeps(record))
        self._log_kept(record.server, kept)

    def stop(self) -> None:
        """Delete nothing more."""
        self._tasks.stop()

    def _keeps(self, record: RestoreRecord) -> bool:
        return record.truncate and self._days > 0

    def _log_kept(self, server: str, kept: str | None) -> None:
        if kept is not None:
            self._log.info(
                "{server}: the files that its backup has replaced are kept for {days} days in "
                "{place}",
                server=server,
                days=self._days,
                place=kept,
            )
