"""The backups that an earlier daemon was making: settled at the start of the next one.

Those in this node's directory are complete or are removed, and are reported. An archive that is
for a store is uploaded when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from wingsd.backups.adapters import Adapter
from wingsd.backups.catalogue import Catalogue
from wingsd.backups.creation import BackupParts, Backups
from wingsd.backups.dialect import BackupResult
from wingsd.backups.parts import remove_parts
from wingsd.errors import StorageError, WingsdError
from wingsd.statedb import BackupRecord, Outcome
from wingsd.util.deferreds import when_fired

__all__ = ["BackupRecovery"]


class BackupRecovery:
    """Settles the backups that are recorded as being made."""

    _log = Logger()

    def __init__(
        self, parts: BackupParts, adapters: Mapping[str, Adapter], backups: Backups
    ) -> None:
        self._parts = parts
        self._adapters = adapters
        self._backups = backups

    async def recover(self, records: Sequence[BackupRecord]) -> None:
        """Settle the backups that an earlier daemon was making. A failure is logged."""
        await self._remove_parts({record.backup for record in records})
        for record in records:
            try:
                await self._settle(record)
            except WingsdError as error:
                self._log.error(
                    "{server}: backup {backup} is not settled, the next start tries again: "
                    "{error}",
                    server=record.server,
                    backup=record.backup,
                    error=error,
                )

    async def _remove_parts(self, recorded: set[str]) -> None:
        """Remove what stays of archives that stores have; of some, when the Panel has answered."""
        unanswered = self._parts.callbacks.unanswered_backups()

        def is_wanted(backup: str) -> bool:
            return backup in recorded or backup in unanswered or backup in self._backups.making

        async def remove(is_wanted: Callable[[str], bool]) -> None:
            try:
                await self._parts.disk.run(remove_parts, self._parts.store, is_wanted)
            except StorageError as error:
                self._log.error("parts of backups not removed: {error}", error=error)

        def remove_one(answered: str, _: object) -> Deferred[None]:
            return Deferred.fromCoroutine(remove(lambda backup: backup != answered))

        for backup, report in unanswered.items():
            when_fired(report.answer).addCallback(partial(remove_one, backup))
        await remove(is_wanted)

    async def _settle(self, record: BackupRecord) -> None:
        adapter = self._adapters.get(record.adapter)
        made = None if adapter is None else await adapter.left_by(record)
        if made is not None:
            self._log.info(
                "{server}: backup {backup} goes on", server=record.server, backup=record.backup
            )
            self._backups.go_on(record, made)
            return
        catalogue = await self._parts.disk.run(self._left_by, record)
        result = BackupResult(self._parts.family, record.backup, catalogue)
        outcome = Outcome.FAILURE if catalogue is None else Outcome.SUCCESS
        self._log.info(
            "{server}: backup {backup} {how} when the node was stopped",
            server=record.server,
            backup=record.backup,
            how="was not complete, and is removed," if catalogue is None else "was complete",
        )
        await self._parts.callbacks.add_backup(
            record.server, record.backup, outcome, result.report()
        )

    def _left_by(self, record: BackupRecord) -> Catalogue | None:
        """Return the catalogue of a backup that is complete; remove what is left of another."""
        store = self._parts.store
        found = store.at(record.place)
        made = None if found is None else found.catalogue
        if found is not None and made is not None and found.size == made.bytes:
            return made
        store.remove_leftovers(record.place, record.backup)
        return None
