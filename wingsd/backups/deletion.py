"""Deletes backups: those that are there, and those that are being made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs
from twisted.logger import Logger

from wingsd.backups.store import BackupMissing, BackupStore, StoredBackup
from wingsd.callbacks import CallbackQueue
from wingsd.errors import StorageError
from wingsd.events import BACKUP_DELETED, Event, EventBus
from wingsd.statedb import Outcome, ReportKind
from wingsd.threadio import Workers

__all__ = ["BackupDeletion"]


_log = Logger()


class BackupMaker(Protocol):
    """The backups that are being made."""

    @property
    def making(self) -> Mapping[str, str]:
        """Their servers by the backup's UUID."""

    async def cancel(self, backup: str) -> bool:
        """Cancel one; return, when it has ended, whether it was being made."""


@attrs.frozen(eq=False, repr=False)
class BackupDeletion:
    """Deletes the backups in `store`. One that is being made is cancelled."""

    store: BackupStore
    made: BackupMaker
    disk: Workers
    callbacks: CallbackQueue
    bus: EventBus

    async def owner(self, server: str, backup: str) -> str:
        """Return the server of a backup; empty where nothing tells whose it is.

        An empty `server` is any. Raises BackupMissing and StorageError.
        """
        making = self.made.making.get(backup)
        if making is not None and server in ("", making):
            return making
        found = await self._find(server, backup)
        return server or found.server

    async def delete(self, server: str, backup: str) -> None:
        """Delete a backup of a server; an empty `server` is any.

        Raises BackupMissing and StorageError.
        """
        if server in ("", self.made.making.get(backup)) and await self.made.cancel(backup):
            # It may have been complete before it was cancelled.
            found = await self.disk.run(self.store.find, server, backup)
        else:
            found = await self._find(server, backup)
        if found is not None:
            await self.disk.run(self.store.remove, found)

    async def delete_and_report(self, server: str, backup: str) -> None:
        """Delete a backup, and report the outcome to the Panel. An error is logged."""
        try:
            await self.delete(server, backup)
        except (BackupMissing, StorageError) as error:
            _log.error(
                "{server}: backup {backup} not deleted: {error}",
                server=server,
                backup=backup,
                error=error,
            )
            outcome = Outcome.FAILURE
        else:
            outcome = Outcome.SUCCESS
            self.bus.publish(Event(server, BACKUP_DELETED, (backup,)))
        body = {"successful": outcome is Outcome.SUCCESS}
        kind = ReportKind.BACKUP_DELETION
        await self.callbacks.add_backup(server, backup, outcome, body, kind)

    async def delete_all(self, server: str) -> int:
        """Delete all backups that are known to be of a server; return how many.

        Raises StorageError; others are deleted before.
        """
        for backup, owner in dict(self.made.making).items():
            if owner == server:
                await self.made.cancel(backup)
        found = await self.disk.run(self.store.all, server)
        for each in found:
            await self.disk.run(self.store.remove, each)
        return len(found)

    async def delete_with_server(self, server: str) -> None:
        """Delete all backups of a server that is deleted. An error is logged."""
        try:
            count = await self.delete_all(server)
        except StorageError as error:
            _log.error("{server}: its backups stay: {error}", server=server, error=error)
        else:
            if count:
                _log.info("{server}: {count} backups deleted", server=server, count=count)

    async def _find(self, server: str, backup: str) -> StoredBackup:
        found = await self.disk.run(self.store.find, server, backup)
        if found is None:
            raise BackupMissing(backup)
        return found
