"""Deletes backups: those that are there or being made, and those that a Panel has dropped."""

from __future__ import annotations

import attrs
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from wingsd.backups.creation import Backups
from wingsd.backups.local import backup_at
from wingsd.backups.store import BackupStore, StoredBackup
from wingsd.callbacks import CallbackQueue
from wingsd.errors import BackupMissing, PanelError, StorageError
from wingsd.events import BACKUP_DELETED, Event, EventBus
from wingsd.panel.client import Panel
from wingsd.servers.registry import Servers
from wingsd.statedb import DroppedBackup, Outcome, ReportKind, StateDatabase
from wingsd.threadio import Workers
from wingsd.util.text import readable_size

_DAY = 24 * 3600.0
#: Seconds between two answers of the Panel that it has no record of a backup.
_APART = _DAY / 2

_log = Logger()


@attrs.frozen(eq=False, repr=False)
class BackupDeletion:
    """Deletes the backups in `store`. One that is being made is cancelled."""

    store: BackupStore
    made: Backups
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


@attrs.frozen(eq=False, repr=False)
class DroppedBackups:
    """Deletes the local backups that Pelican's Panel dropped when their servers moved away.

    Its page deletes its records of those that its order does not name, and leaves the files to the
    node that the server leaves. Each is deleted `days` after a transfer that has moved the server,
    when the Panel has answered twice, on different days, that it has no record of it. It stays for
    good where the server is here again, and as long as the configuration has none deleted:
    `deletes`. `lock` is that of what reads backups at rest.
    """

    store: BackupStore
    database: StateDatabase
    panel: Panel
    servers: Servers
    disk: Workers
    lock: DeferredLock
    days: int
    deletes: bool

    async def clear(self) -> None:
        """Delete those whose time has come. To be called daily. What fails is logged."""
        if not self.deletes:
            return
        try:
            dropped = await self.database.age_dropped()
            for each in dropped if self.servers.loaded else ():
                await self._try_to_settle(each)
        except (PanelError, StorageError) as error:
            _log.warn(
                "backups of servers that have moved are not deleted today: {error}", error=error
            )

    async def _try_to_settle(self, dropped: DroppedBackup) -> None:
        """Settle one. What fails on the disk is logged: the others do not wait for it."""
        try:
            await self._settle(dropped)
        except StorageError as error:
            _log.warn(
                "{server}: the backup {place} of a server that has moved is not deleted today: "
                "{error}",
                server=dropped.server,
                place=dropped.place,
                error=error,
            )

    async def _settle(self, dropped: DroppedBackup) -> None:
        place, backup = dropped.place, backup_at(dropped.place)
        found = await self.disk.run(self.store.at, place)
        if backup is None or found is None or self.servers.knows(dropped.server):
            await self.database.forget_dropped(place)
            return
        is_missed = await self.panel.lacks_backup(backup.uuid)
        await self.database.set_missed(place, is_missed=is_missed)
        if not is_missed or dropped.missed is None:
            return
        if dropped.age >= self.days * _DAY and dropped.age - dropped.missed >= _APART:
            async with self.lock:
                await self._delete(dropped, found)

    async def _delete(self, dropped: DroppedBackup, found: StoredBackup) -> None:
        # Not of a server that is coming back since, or is here again.
        if dropped.place not in [each.place for each in await self.database.dropped()]:
            return
        if self.servers.knows(dropped.server):
            return
        await self.disk.run(self.store.remove, found)
        await self.database.forget_dropped(dropped.place)
        _log.warn(
            "{server}: backup {backup} ({size}) deleted: the server has moved to another node "
            "without it, and the Panel has no record of it",
            server=dropped.server,
            backup=found.uuid,
            size=readable_size(found.size),
        )
