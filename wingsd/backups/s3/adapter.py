"""The adapter `s3`: an archive that is made is uploaded, and removed when the Panel has answered.

The part of the archive, with its catalogue beside it, stays until then: a daemon that dies goes on
with it at its next start. It never gets the name of a local backup.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from wingsd.archive import ArchiveFormat
from wingsd.backups.creation import UploadedPart
from wingsd.backups.s3.store import PartStore, StoreLimits
from wingsd.backups.s3.upload import GrowingArchive, MultipartUpload
from wingsd.backups.s3.urls import PartUrls, parts_of_size, parts_onwards
from wingsd.backups.store import BackupStore, MadeArchive
from wingsd.config import CALAGOPUS
from wingsd.config.sections import S3BackupsConfig
from wingsd.errors import BackupUploadFailed, StorageError
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.panel.client import Panel
from wingsd.statedb import BackupRecord
from wingsd.threadio import Workers
from wingsd.util.reactor import Reactor

__all__ = ["S3Adapter"]

#: What the families' nodes declare archives as.
_CONTENT_TYPE, _CONTENT_TYPE_CALAGOPUS = "application/x-gzip", "application/gzip"


@attrs.define(eq=False)
class _Upload:
    """An upload under way, or one that is to begin."""

    running: Deferred[Sequence[UploadedPart] | None] | None = None
    growing: GrowingArchive | None = None
    interrupted: bool = False


class S3Adapter:
    """Uploads archives to the URLs that `panel` signs; the threads `readers` read them."""

    _log = Logger()

    #: What Panels take such archives for.
    form: ArchiveFormat | None = ArchiveFormat.TAR_GZ

    def __init__(
        self,
        panel: Panel,
        store: BackupStore,
        readers: Workers,
        reactor: Reactor,
        settings: S3BackupsConfig,
        family: str,
    ) -> None:
        self._panel = panel
        self._store = store
        self._readers = readers
        self._reactor = reactor
        self._settings = settings
        self._is_calagopus = family == CALAGOPUS
        self._uploads: dict[str, _Upload] = {}

    def begin(self, server: str, backup: str, path: str) -> GrowingArchive | None:
        """Begin to upload an archive while it is made, where the Panel signs parts for that."""
        if not self._is_calagopus:
            return None
        upload = self._uploads[backup] = _Upload(growing=GrowingArchive())
        upload.running = Deferred.fromCoroutine(self._stream(server, backup, path, upload))
        return upload.growing

    async def keep(self, server: str, made: MadeArchive) -> Sequence[UploadedPart]:
        """Upload an archive; return its parts.

        Its part stays, for `discard`, and after a CancelledError that `interrupt` has caused.
        After another error it was removed. Raises `WingsdError`.
        """
        backup = made.catalogue.backup
        upload = self._uploads.setdefault(backup, _Upload())
        try:
            await self._readers.run(self._store.write_catalogue, made.place, made.catalogue)
            return await self._sent(server, made, upload)
        except CancelledError:
            raise
        except BaseException:
            await self.discard(made.place, backup)
            raise
        finally:
            self.abandon(backup)

    def interrupt(self, backup: str) -> None:
        """Have `keep` of a backup end soon, with CancelledError."""
        upload = self._uploads.get(backup)
        if upload is not None:
            upload.interrupted = True
            if upload.running is not None:
                upload.running.cancel()

    def abandon(self, backup: str) -> None:
        """End what was begun of an archive, if it has not ended."""
        upload = self._uploads.pop(backup, None)
        if upload is not None and upload.running is not None:
            upload.running.addErrback(lambda _: None)
            upload.running.cancel()

    async def left_by(self, record: BackupRecord) -> MadeArchive | None:
        """Return the archive that an earlier daemon has made and not uploaded yet.

        What is left of any other is removed. Raises `StorageError`.
        """
        return await self._readers.run(self._store.made_before, record.place, record.backup)

    async def discard(self, place: str, backup: str) -> None:
        """Remove the part of an archive. A failure is logged: the next start tries again."""
        try:
            await self._readers.run(self._store.remove_leftovers, place, backup)
        except StorageError as error:
            self._log.error(
                "the archive of backup {backup} stays: {error}", backup=backup, error=error
            )

    async def _sent(
        self, server: str, made: MadeArchive, upload: _Upload
    ) -> Sequence[UploadedPart]:
        size = made.catalogue.bytes
        if upload.growing is not None and upload.running is not None:
            upload.growing.complete(size)
            parts = await upload.running
            if parts is not None:
                return parts
        if upload.interrupted:
            raise CancelledError
        backup = made.catalogue.backup
        ask = parts_of_size(self._panel, backup, size, self._reactor)
        urls = PartUrls(ask, self._reactor, backup)
        whole = GrowingArchive()
        whole.complete(size)
        sending = self._send(server, backup, made.path, urls, whole)
        upload.running = Deferred.fromCoroutine(sending)
        sent = await upload.running
        assert sent is not None  # noqa: S101 - only `_stream` returns None
        return sent

    async def _stream(
        self, server: str, backup: str, path: str, upload: _Upload
    ) -> Sequence[UploadedPart] | None:
        """Upload an archive while it is made; None where the Panel does not know that."""
        archive = upload.growing
        assert archive is not None  # noqa: S101 - see `begin`
        urls = PartUrls(parts_onwards(self._panel, backup, self._reactor), self._reactor, backup)
        try:
            await urls.signed(1)
        except BackupUploadFailed as error:
            if error.is_unknown_call:
                return None
            raise
        await archive.reach(1)
        return await self._send(server, backup, path, urls, archive)

    async def _send(
        self, server: str, backup: str, path: str, urls: PartUrls, archive: GrowingArchive
    ) -> Sequence[UploadedPart]:
        name = f"{server}: backup {backup}"
        self._log.info("{name}: its upload begins", name=name)
        began = self._reactor.seconds()
        file = await self._readers.run(_opened, path)
        try:
            kind = _CONTENT_TYPE_CALAGOPUS if self._is_calagopus else _CONTENT_TYPE
            limits = StoreLimits(part=self._settings.part_upload_timeout)
            store = PartStore(self._reactor, self._readers, file, kind, limits)
            attempts = self._settings.retry_limit
            upload = MultipartUpload(self._reactor, urls, archive, store, name, attempts)
            parts = await upload.run()
        finally:
            os.close(file)
        self._log.info(
            "{name}: {parts} parts are uploaded, {seconds:.1f} s",
            name=name,
            parts=len(parts),
            seconds=self._reactor.seconds() - began,
        )
        return parts


def _opened(path: str) -> int:
    """Open an archive. Raises `StorageError`."""
    try:
        return os.open(path, FILE_FLAGS)
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror}", "the backup's archive could not be read"
        ) from error
