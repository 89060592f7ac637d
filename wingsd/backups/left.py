"""What an earlier daemon has left of backups, at the start of the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

from wingsd.backups.left_parts import left_parts
from wingsd.errors import StorageError
from wingsd.statedb import StateDatabase
from wingsd.threadio import Workers
from wingsd.util.later import Later

if TYPE_CHECKING:
    from wingsd.backups.recovery import BackupRecovery

__all__ = ["LeftBackups"]


class LeftBackups:
    """The records and parts of backups in `directory`. What settles them is made where there are.

    `disk` are threads for short work.
    """

    _log = Logger()

    def __init__(
        self,
        directory: str,
        database: StateDatabase,
        disk: Workers,
        recovery: Later[BackupRecovery],
    ) -> None:
        self._directory = directory
        self._database = database
        self._disk = disk
        self._recovery = recovery

    async def settle(self) -> None:
        """Settle the backups that were being made. A failure is logged."""
        records = await self._database.backups()
        if records or await self._has_parts():
            await self._recovery.get().recover(records)

    async def _has_parts(self) -> bool:
        try:
            return bool(await self._disk.run(left_parts, self._directory))
        except StorageError as error:
            self._log.error("parts of backups not removed: {error}", error=error)
            return False
