"""What an earlier daemon has left of backups, at the start of the next one."""

from __future__ import annotations

from twisted.logger import Logger

from wingsd.backups.left_parts import left_parts
from wingsd.backups.recovery import BackupRecovery
from wingsd.errors import StorageError
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers

__all__ = ["LeftBackups"]


class LeftBackups:
    """The records and parts of backups in `directory`.

    `disk` are threads for short work.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        database: StateDatabase,
        disk: Workers,
        recovery: BackupRecovery,
    ) -> None:
        self._directory = directory
        self._database = database
        self._disk = disk
        self._recovery = recovery

    async def settle(self) -> None:
        """Settle the backups that were being made. A failure is logged."""
        records = await self._database.backups()
        if records or await self._has_parts():
            await self._recovery.recover(records)

    async def _has_parts(self) -> bool:
        try:
            return bool(await self._disk.run(left_parts, self._directory))
        except StorageError as error:
            self._log.error("parts of backups not removed: {error}", error=error)
            return False
