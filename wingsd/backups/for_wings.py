"""Rewrites backups at rest in the form that Wings can restore, before a node goes back to it.

The new archive is written beside the old one, and takes its place when it is complete and on
stable storage. A daemon that dies before that leaves the old one, and its successor removes the
part, or completes the exchange if that had begun. An archive that is in that form stays.

The daemon does this, and not `wingsctl` itself: it knows which backups are in use, and keeps
transfers, restores and deletions of the server from using one meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, suppress

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive.compress import ArchiveFormat
from wingsd.archive.quota import ArchiveLimits
from wingsd.archive.regular_files import RegularFiles, has_only_files
from wingsd.backups.catalogue import COMPLETE, Catalogue
from wingsd.backups.creation import BackupParts, Backups
from wingsd.backups.making import ArchiveTerms, NewArchiveFile
from wingsd.backups.store import BackupStore, StoredBackup
from wingsd.config import CALAGOPUS
from wingsd.errors import (
    ArchiveError,
    BackupMissing,
    BackupNotForWings,
    FileWorkCancelled,
    StorageError,
    WingsdError,
)
from wingsd.files.progress import Progress
from wingsd.filesystem.directory import OpenFile
from wingsd.servers.operations import Operation
from wingsd.servers.registry import Servers
from wingsd.servers.server import Server

#: Rewrites that have ended and are kept in memory.
_KEPT = 100
_BLOCK = 240 << 10


@attrs.define(eq=False)
class Rewrite:
    """A backup that is being rewritten. `is_over` at its end, which `error` tells if it failed.

    `size` are then the bytes of the archive in its place, and `not_kept` tells what that does not
    have of the old one. With `is_unchanged` it was in that form before.
    """

    found: StoredBackup
    progress: Progress = attrs.field(factory=Progress)
    is_over: bool = False
    is_unchanged: bool = False
    size: int = 0
    not_kept: str = ""
    error: WingsdError | None = None


@attrs.frozen
class _NewArchive:
    """A complete part, and what it is."""

    place: str
    inode: int
    size: int
    catalogue: Catalogue | None
    not_kept: str


class BackupRewrites:
    """Rewrites backups, one at a time; `lock` is that of their checks. See `Rewrite`."""

    _log = Logger()

    def __init__(
        self, parts: BackupParts, made: Backups, servers: Servers, lock: DeferredLock
    ) -> None:
        self._parts = parts
        self._made = made
        self._servers = servers
        self._lock = lock
        self._rewrites: dict[str, Rewrite] = {}

    def stop(self) -> None:
        """Cancel all."""
        for rewrite in self._rewrites.values():
            rewrite.progress.cancel()

    def last(self, backup: str) -> Rewrite:
        """Return the rewrite of a backup that is under way, or has ended last.

        Raises BackupMissing where there was none.
        """
        if backup not in self._rewrites:
            raise BackupMissing(backup)
        return self._rewrites[backup]

    async def begin(self, backup: str) -> Rewrite:
        """Begin to rewrite a backup, or join what is under way.

        Raises BackupMissing, BackupNotForWings, ServerBusy, StorageError.
        """
        if self._parts.family == CALAGOPUS:
            raise BackupNotForWings("this is a node of Calagopus, whose nodes restore directories")
        if backup in self._made.making:
            raise BackupNotForWings("it is being made: try again when it is complete")
        found = await self._parts.disk.run(self._parts.store.find, "", backup)
        under_way = self._rewrites.get(backup)
        if under_way is not None and not under_way.is_over:
            return under_way
        if found is None:
            raise BackupMissing(backup)
        self._check(found)
        rewrite = self._rewrites[backup] = Rewrite(found)
        while len(self._rewrites) > _KEPT and (
            over := [uuid for uuid, each in self._rewrites.items() if each.is_over]
        ):
            del self._rewrites[over[0]]
        Deferred.fromCoroutine(self._run(rewrite)).addErrback(self._failed, backup)
        return rewrite

    def _check(self, found: StoredBackup) -> None:
        if found.suffix != ArchiveFormat.TAR_GZ.suffix:
            raise BackupNotForWings(f"it is a {found.suffix}, and Wings knows only a tar.gz")
        for server in self._owners(found):
            server.operations.check(Operation.BACKUP)

    def _owners(self, found: StoredBackup) -> list[Server]:
        """Return the servers that may use a backup: all, where nothing tells whose it is."""
        return [each for each in self._servers.all() if found.server in ("", each.uuid)]

    def _limit(self, found: StoredBackup) -> int | None:
        """Return the bytes that the server of a backup may have: Wings restores no more."""
        if not found.server:
            return None
        limits = [each.configuration.settings.build.disk_space for each in self._owners(found)]
        return ArchiveLimits.disk_bytes(limits[0]) if limits else None

    async def _run(self, rewrite: Rewrite) -> None:
        found, cancel = rewrite.found, rewrite.progress.cancel
        try:
            with ExitStack() as stack:
                for server in self._owners(found):
                    stack.enter_context(server.operations.during(Operation.BACKUP, cancel))
                async with self._lock:
                    await self._rewrite(rewrite)
        except FileWorkCancelled:
            rewrite.error = BackupNotForWings("it was ended; run the command again")
        except WingsdError as error:
            rewrite.error = error
        except BaseException:
            rewrite.error = BackupNotForWings("an unexpected error; see the node's log")
            raise
        finally:
            rewrite.is_over = True
        if rewrite.error is not None:
            self._log.error(
                "backup {backup}: not rewritten for Wings: {error}",
                backup=found.uuid,
                error=rewrite.error,
            )

    async def _rewrite(self, rewrite: Rewrite) -> None:
        found, parts = rewrite.found, self._parts
        opened = await parts.disk.run(parts.store.open, found.server, found.uuid)
        if opened is None:
            raise BackupNotForWings("it was deleted meanwhile")
        new = await parts.workers.run(
            _new_archive, parts.store, *opened, parts.terms, rewrite.progress, self._limit(found)
        )
        if new is None:
            rewrite.is_unchanged, rewrite.size = True, found.size
            return
        await parts.disk.run(_put_into_place, parts.store, opened[0], new)
        rewrite.size, rewrite.not_kept = new.size, new.not_kept
        self._log.info(
            "backup {backup} of {server}: rewritten for Wings: {not_kept}",
            backup=found.uuid,
            server=found.server or "an unknown server",
            not_kept=new.not_kept or "everything is in it",
        )

    def _failed(self, failure: Failure, backup: str) -> None:
        if not failure.check(CancelledError):
            self._log.failure("backup {backup}: not rewritten", failure, backup=backup)


# In a thread


def _new_archive(
    store: BackupStore,
    found: StoredBackup,
    file: OpenFile,
    terms: ArchiveTerms,
    progress: Progress,
    limit: int | None,
) -> _NewArchive | None:
    """Write the other form of an open backup beside it, on stable storage.

    Its files have at most `limit` bytes with the copies of hard links.
    None where it has that form. After an error nothing is left of it. Raises FileWorkCancelled,
    NoSpaceForBackup, StorageError, BackupNotForWings where the old one is damaged.
    """
    progress.bytes_total = found.size
    digest, new = hashlib.sha256(), hashlib.sha256()
    readings = 0

    def blocks() -> Generator[bytes, None, None]:
        """Read the archive: to look at it, to rewrite it, and for the copies of hard links."""
        nonlocal readings
        readings += 1
        at, number = 0, readings
        while block := file.read_at(at, _BLOCK):
            at += len(block)
            progress.check()
            if number <= 2:  # noqa: PLR2004 - what is read of it later is not foreseen
                progress.bytes_done = at
            if number == 2:  # noqa: PLR2004
                digest.update(block)
            yield block

    path = store.part_path(found.place)
    files = RegularFiles(blocks, limit)
    try:
        with file:
            with closing(blocks()) as looked_at:
                if has_only_files(looked_at):
                    return None
            with NewArchiveFile(path, terms, progress) as part:
                with files.packed(terms.compression) as packed:
                    for block in packed:
                        new.update(block)
                        part.write(block)
                _compare(found, digest.hexdigest())
                size = part.size
                os.utime(path, (found.modified, found.modified))
                part.sync()
            inode = os.fstat(file.fileno()).st_ino
    except ArchiveError as error:
        raise BackupNotForWings(f"it is damaged: {error.detail}") from error
    except OSError as error:
        raise StorageError.reading(f"{store.path(found.place)}: {error.strerror}") from error
    made = found.catalogue
    catalogue = (
        None
        if made is None
        else attrs.evolve(
            made,
            state=COMPLETE,
            bytes=size,
            sha256=new.hexdigest(),
            files=files.files,
            checksum_type=terms.checksum_type,
            checksum=part.checksum.hexdigest(),
            checked=time.time(),
            fault="",
        )
    )
    return _NewArchive(found.place, inode, size, catalogue, str(files.not_kept))


def _compare(found: StoredBackup, sha256: str) -> None:
    if found.catalogue is not None and found.catalogue.sha256 != sha256:
        raise BackupNotForWings("it is damaged: its checksum is not that of the archive made")


def _put_into_place(store: BackupStore, found: StoredBackup, new: _NewArchive) -> None:
    """Exchange a backup with the part made of it. Raises BackupNotForWings, StorageError."""
    is_replaced = False
    try:
        is_replaced = store.replace(found, new.inode, new.catalogue)
    finally:
        if not is_replaced:
            with suppress(OSError):
                os.unlink(store.part_path(new.place))
    if not is_replaced:
        raise BackupNotForWings("it was deleted meanwhile")
