"""The content of one backup, from its archive to the server's place.

Read `RestoredContent` from top to bottom: `stage` reads and verifies the whole archive beside the
server's files, `lay_over` adds the present files that stay, `put_into_place` exchanges both. Until
then nothing of the server is changed.
"""

from __future__ import annotations

import os

import attrs
from twisted.internet.defer import DeferredSemaphore
from twisted.logger import Logger

from wingsd.archive.extract import Extracted, extract
from wingsd.archive.quota import ArchiveLimits
from wingsd.errors import BackupChecksumMismatch, DiskLimitExceeded, StorageError
from wingsd.filesystem.disk_size import measure
from wingsd.restores.announcements import ReadProgress
from wingsd.restores.archives import LocalArchive, RestoreArchive
from wingsd.restores.overlay import kept_size, overlay
from wingsd.restores.storage import RestoreStorage
from wingsd.threadio import Workers
from wingsd.transfers.cancellation import CancelScope, slots_held

__all__ = ["ContentParts", "RestoredContent"]

_MIB = 1 << 20
#: Bytes by which the format of an archive is told.
_HEAD = 16


@attrs.frozen(eq=False, repr=False)
class ContentParts:
    """What reads archives and stores their content. `limits` are those of the node."""

    storage: RestoreStorage
    #: Threads that read archives, as many at a time as `slots` has.
    workers: Workers
    slots: DeferredSemaphore
    #: Threads for short and for long work on the disk.
    disk: Workers
    long: Workers
    limits: ArchiveLimits


class RestoredContent:
    """The content of a backup for the server with the UUID `server`, whose files are in `place`.

    `disk_space` is the server's disk limit in MiB. Methods raise `WingsdError`. `close` must be
    called, and nothing be under way then.
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        place: str,
        disk_space: int,
        archive: RestoreArchive,
        parts: ContentParts,
    ) -> None:
        self.progress = ReadProgress()
        self.archive = archive
        self._server = server
        self._place = place
        self._disk_space = disk_space
        self._parts = parts
        self._directory = -1

    async def stage(self, scope: CancelScope, *, keep_present: bool) -> None:
        """Read the archive to its end into a new directory, and verify all of it.

        With `keep_present`, the present files that stay count against the disk limit, too. Who
        cancels `scope` is to abort the archive as well.
        """
        parts = self._parts
        self._directory = await parts.long.run(parts.storage.create, self._server)
        async with slots_held(parts.slots, 1, scope):
            self.archive.begin()
            extracted = await parts.workers.run(self._extract)
            scope.check()
            await parts.workers.run(self._verify, extracted, keep_present=keep_present)
        self._log.info(
            "{server}: the backup is read and verified: {files} files, {size} bytes",
            server=self._server,
            files=extracted.file_count,
            size=extracted.unpacked_bytes,
        )

    async def lay_over(self) -> None:
        """Add the present files that the backup does not have. The server must not run."""
        limits, storage = self._parts.limits, self._parts.storage
        await self._parts.workers.run(
            overlay, self._place, self._directory, storage.owner, limits.directory_memory
        )

    async def flush(self) -> int:
        """Return the inode of the new directory when all of it is on stable storage."""
        return await self._parts.long.run(self._parts.storage.flush, self._directory)

    async def put_into_place(self, inode: int) -> None:
        """Exchange the new content with the present one: wholly, or not at all."""
        storage, disk = self._parts.storage, self._parts.disk
        try:
            await disk.run(storage.put_into_place, self._server, inode)
        except StorageError as error:
            if not await disk.run(storage.is_in_place, self._server, inode):
                raise
            self._log.error("{server}: {error}", server=self._server, error=error)

    async def is_undecided(self) -> bool:
        """Return whether neither content is in place, which the next daemon's start decides."""
        return await self._parts.disk.run(self._parts.storage.is_undecided, self._server)

    def close(self) -> None:
        """Close the archive and the directory."""
        self.archive.close()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    # In a thread

    @property
    def _path(self) -> str:
        return self._parts.storage.path(self._server)

    def _extract(self) -> Extracted:
        storage, archive = self._parts.storage, self.archive
        limits = self._parts.limits.for_server(self._disk_space)
        if isinstance(archive, LocalArchive):
            # Here, since such archives are rare, and their libraries take some MiB.
            from wingsd.restores.listed import (  # noqa: PLC0415
                ListedArchive,
                extract_listed,
                is_listed,
            )

            if is_listed(archive.head(_HEAD)):
                progress = self.progress
                listed = ListedArchive(
                    archive.descriptor,
                    archive.size,
                    archive.check,
                    progress.note,
                    self._warn,
                    progress.counted,
                )
                blocks = archive.blocks()
                return extract_listed(listed, blocks, self._path, storage.owner, limits)
        return extract(
            self.progress.counted(archive.blocks()),
            self._path,
            storage.owner,
            self._warn,
            limits=limits,
            abort=archive.interrupt,
            visit=self.progress.note,
        )

    def _warn(self, line: str) -> None:
        self._log.warn("{server}: {line}", server=self._server, line=line)

    def _verify(self, extracted: Extracted, *, keep_present: bool) -> None:
        expected = self.archive.sha256
        if expected and extracted.sha256 != expected:
            raise BackupChecksumMismatch(extracted.sha256, expected)
        if not keep_present:
            return
        kept = kept_size(self._place, self._directory)
        limit = ArchiveLimits.disk_bytes(self._disk_space)
        if limit is not None and (size := measure(self._path) + kept) > limit:
            raise DiskLimitExceeded(
                f"with the present files that stay, the server's files take {-(-size // _MIB)} "
                f"MiB, its disk limit is {limit // _MIB} MiB; raise its disk limit, delete files, "
                "or have the backup replace all files"
            )
