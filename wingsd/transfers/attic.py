"""Where whole copies go that nobody asks for any more: never deleted at once."""

from __future__ import annotations

from functools import partial

from twisted.logger import Logger

from wingsd.bridge import Workers
from wingsd.errors import StorageError
from wingsd.journal import Journal
from wingsd.transfers.backups import Backups
from wingsd.transfers.staging import Staging

__all__ = ["Attic"]


_DAY = 24 * 3600


class Attic:
    """The quarantine of `staging` and of `backups`, where things stay for so many `days`.

    The days are counted in the journal. The clock alone would have everything deleted that is here
    when it is set forward, or was put here while it was behind.
    """

    _log = Logger()

    def __init__(
        self, staging: Staging, backups: Backups, disk: Workers, journal: Journal, days: int
    ) -> None:
        self._staging = staging
        self._backups = backups
        self._disk = disk
        self._journal = journal
        self._days = days

    async def clear(self) -> None:
        """Delete what has been there long enough. To be called daily."""
        try:
            rooms = (self._staging, self._backups)
            here = [await self._disk.run(room.quarantined) for room in rooms]
            ages = await self._journal.ages(sorted({name for names in here for name in names}))
            old = [name for name, age in ages.items() if age > self._days * _DAY]
            gone = [await self._disk.run(room.clear_quarantine, old) for room in rooms]
        except StorageError as error:
            self._log.error("quarantine: {error}", error=error)
            return
        for name in sorted({name for names in gone for name in names}):
            self._log.warn("{name}: deleted, it was in quarantine long enough", name=name)

    async def store_away(
        self, server: str, *, pooled: bool = False, inode: int | None = None
    ) -> None:
        """Move what stands in the server's place out of it, if anything does.

        With an `inode` only the directory that has it: in a storage pool another may have come
        there meanwhile, and be another node's. The backups that have just come with the server go
        as well, and they alone when it is `pooled`: another node then has the same files.
        """
        files = partial(self._staging.quarantine, server, inode)
        backups = partial(self._backups.quarantine, server)
        for quarantine in [backups] if pooled else [files, backups]:
            try:
                place = await self._disk.run(quarantine)
            except StorageError as error:
                self._log.error("{server}: {error}", server=server, error=error)
                continue
            if place is not None:
                self._log.warn(
                    "{server}: the Panel does not have it on this node; what is here is kept for "
                    "{days} days in {place}",
                    server=server,
                    days=self._days,
                    place=place,
                )
