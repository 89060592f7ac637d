"""The adapter `s3`: an archive that is made is uploaded, and removed when the Panel has answered.

The part of the archive, with its catalogue beside it, stays until then: a daemon that dies goes on
with it at its next start. It never gets the name of a local backup.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive.compress import ArchiveFormat
from wingsd.backups.creation import UploadedPart
from wingsd.backups.s3.store import PartNotSent, PartStore, Range, StoreLimits, UrlRefused
from wingsd.backups.s3.urls import PartUrls, SignedParts, parts_of_size, parts_onwards
from wingsd.backups.store import BackupStore, MadeArchive
from wingsd.config import CALAGOPUS, S3BackupsConfig
from wingsd.errors import BackupUploadFailed, StorageError
from wingsd.filesystem.open_directories import FILE_FLAGS
from wingsd.panel.client import Panel
from wingsd.statedb import BackupRecord
from wingsd.threadio import Workers
from wingsd.util.deferreds import Changes
from wingsd.util.reactor import Reactor
from wingsd.util.retry import Backoff

__all__ = ["GrowingArchive", "S3Adapter"]

#: Seconds before a part is sent again.
BACKOFF = Backoff(1.0, 60.0)
#: How often the URL of one part is asked for again.
RENEWALS = 3
#: How often the whole upload begins.
BEGINNINGS = 3
#: A store looks at a URL's time when a request begins: as long as that before it has passed, all
#: parts that are left are begun, up to so many at once.
BEGIN_ALL_BEFORE, ALL_AT_ONCE = 90.0, 64


class GrowingArchive:
    """An archive, and how far it has been written to its file; for the reactor alone.

    Its maker calls `grew` when bytes are in the file, and `complete` at the end.
    """

    def __init__(self) -> None:
        self._size = 0
        self._is_complete = False
        self._changes = Changes()

    def grew(self, size: int) -> None:
        """Note that the file has `size` bytes that do not change any more."""
        self._size = size
        self._changes.changed()

    def complete(self, size: int) -> None:
        """Note that it is made, with `size` bytes."""
        self._size, self._is_complete = size, True
        self._changes.changed()

    async def reach(self, size: int) -> int:
        """Wait until it has so many bytes, or is complete; return how many it has."""
        while self._size < size and not self._is_complete:
            await self._changes.next()
        return self._size


class _UploadReplaced(Exception):
    """The Panel has begun another upload, which has none of the parts that were sent."""


class MultipartUpload:
    """One backup of a server, `name` in the log, on its way to a store.

    Several parts are sent at once, until each is stored, each up to `attempts` times from its own
    beginning. With new URLs the upload goes on where it was if they are of the same upload, and
    else begins again.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        urls: PartUrls,
        archive: GrowingArchive,
        store: PartStore,
        name: str,
        attempts: int,
    ) -> None:
        self._reactor = reactor
        self._urls = urls
        self._archive = archive
        self._store = store
        self._name = name
        self._attempts = attempts
        self._cutting = DeferredLock()
        self._cut = 0
        self._is_cut = False
        self._etags: dict[int, str] = {}

    async def run(self) -> tuple[UploadedPart, ...]:
        """Send all of it; return its parts.

        Raises `BackupSettled`, `BackupUploadFailed` and `StorageError`.
        """
        for _ in range(BEGINNINGS):
            try:
                await self._send_all()
            except _UploadReplaced:
                self._log.warn(
                    "{name}: the URLs have expired, all parts are sent again to new ones",
                    name=self._name,
                )
            else:
                return tuple(UploadedPart(*each[::-1]) for each in sorted(self._etags.items()))
        raise BackupUploadFailed(
            "the signed URLs expire before all parts are sent; let the Panel sign them for a "
            "longer time, or make parts larger"
        )

    async def _send_all(self) -> None:
        signed = await self._urls.signed(1)
        self._cut, self._is_cut = 0, False
        self._etags.clear()
        workers = _Workers(partial(self._work, signed))
        until = signed.parts[0].good_until - BEGIN_ALL_BEFORE - self._reactor.seconds()
        beginning_all: IDelayedCall = self._reactor.callLater(
            max(until, 0.0), workers.begin, 0 if signed.renewable else ALL_AT_ONCE
        )
        workers.begin(signed.at_once)
        try:
            await workers.ended
        finally:
            if beginning_all.active():
                beginning_all.cancel()
            workers.cancel()

    async def _work(self, signed: SignedParts) -> None:
        while (part := await self._next(signed.part_size)) is not None:
            self._etags[part.number] = await self._send(part, signed.parts[0].upload)

    async def _next(self, size: int) -> Range | None:
        """Return the next part, of `size` bytes, when the archive has it; None after the last."""
        async with self._cutting:
            if self._is_cut:
                return None
            start = self._cut * size
            length = min(await self._archive.reach(start + size) - start, size)
            self._is_cut = length < size
            if length <= 0:
                return None
            self._cut += 1
            return Range(self._cut, start, length)

    async def _send(self, part: Range, upload: str) -> str:
        """Send a part of an upload until the store has it; return its ETag."""
        pauses, attempts, renewals = iter(BACKOFF), 0, 0
        while True:
            url = await self._urls.of(part.number)
            if url.upload != upload:
                raise _UploadReplaced
            try:
                return await self._store.put(url.url, part)
            except UrlRefused as error:
                is_late = self._reactor.seconds() >= url.good_until
                renewals += 1
                if not (error.is_expired or is_late) or renewals > RENEWALS:
                    # New ones that have expired as well are those of a wrong clock.
                    raise BackupUploadFailed(
                        f"part {part.number}: {error}; see the settings of the store in the Panel"
                    ) from error
                self._urls.forget(url)
            except PartNotSent as error:
                attempts += 1
                if attempts >= self._attempts:
                    raise BackupUploadFailed(
                        f"part {part.number} was sent {attempts} times: {error}"
                    ) from error
                pause = max(next(pauses), error.retry_after)
                self._log.warn(
                    "{name}: part {number} not sent, again in {seconds:.0f} s: {reason}",
                    name=self._name,
                    number=part.number,
                    seconds=pause,
                    reason=error,
                )
                await deferLater(self._reactor, pause)


class _Workers:
    """Coroutines that do the same work, until all of them have ended or one has failed."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._workers: list[Deferred[None]] = []
        self._open = 0
        #: Fires when all have ended; fails with the first error of one.
        self.ended: Deferred[None] = Deferred()

    def begin(self, count: int) -> None:
        """Begin so many, or as many as are not begun yet."""
        more = count - len(self._workers)
        self._open += max(more, 0)
        for _ in range(more):
            worker = Deferred.fromCoroutine(self._work())
            self._workers.append(worker)
            worker.addCallbacks(self._end, self._fail)

    def cancel(self) -> None:
        """End those that are still at work."""
        for worker in self._workers:
            worker.cancel()

    def _end(self, _: None) -> None:
        self._open -= 1
        if not self._open and not self.ended.called:
            self.ended.callback(None)

    def _fail(self, failure: Failure) -> None:
        if not self.ended.called:
            self.ended.errback(failure)


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
        """Cancel `keep` of a backup: it ends soon, with CancelledError."""
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
