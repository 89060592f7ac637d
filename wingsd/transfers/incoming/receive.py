"""Receiving, the first half: from an upload's bytes to files that are whole in the staging area.

One thread reads the parts of an upload in their order. Where a server arrives by several uploads,
they are read at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger

from wingsd.archive.extract import NOT_KEPT, Extracted, SharedTreeWriter, extract_part
from wingsd.archive.policy import attributes_line
from wingsd.archive.quota import ArchiveLimits
from wingsd.errors import BadRequest, WingsdError
from wingsd.panel.schemas import Settings
from wingsd.threadio import relayed
from wingsd.transfers.cancellation import CancelScope
from wingsd.transfers.console import ProgressMeter, progress_bar
from wingsd.transfers.errors import StreamMismatch
from wingsd.transfers.incoming.uploads import (
    FIRST,
    Extraction,
    IncomingUpload,
    ReceivedUpload,
    UploadGroup,
    UploadReader,
    name_of,
)
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import ReceiveStep
from wingsd.transfers.storage.incoming import ArrivingServer

__all__ = ["ReceivePhase", "ReceivedServer"]

MIB = 1024 * 1024


@attrs.frozen(eq=False, repr=False)
class ReceivedServer:
    """What was received of a server, by one upload or by several."""

    uploads: Sequence[ReceivedUpload]

    def verify(self) -> None:
        """Raise `ChecksumMismatch` where anything is not what was sent."""
        for upload in self.uploads:
            upload.verify()

    @property
    def _archives(self) -> list[Extracted]:
        return [upload.archive for upload in self.uploads if upload.archive is not None]

    @property
    def files(self) -> int:
        """How many files there are, by all their names."""
        return sum(each.file_count + each.hard_link_count for each in self._archives)

    @property
    def archive_bytes(self) -> int:
        """The bytes of all archives, as they were sent."""
        return sum(each.archive_bytes for each in self._archives)

    @property
    def unpacked_bytes(self) -> int | None:
        """The bytes of all files; None where no archive was unpacked."""
        archives = self._archives
        return sum(each.unpacked_bytes for each in archives) if archives else None

    @property
    def backups(self) -> int:
        """How many backups there are."""
        return sum(len(upload.backups) for upload in self.uploads)


class ReceivePhase:
    """Receives one server into the staging area."""

    _log = Logger()

    def __init__(
        self,
        server: str,
        files: ArrivingServer,
        extraction: Extraction,
        steps: StepLog[ReceiveStep],
    ) -> None:
        self._server = server
        self._files = files
        self._extraction = extraction
        self._steps = steps
        self._readers: Sequence[UploadReader] = ()
        #: Counts the bytes received, those of attachments too.
        self.meter = ProgressMeter(extraction.reactor.seconds, self._count)

    def _count(self) -> int:
        return sum(reader.bytes for reader in self._readers)

    @property
    def size(self) -> int:
        """How many bytes are to be received, 0 where that is not known."""
        sizes = [reader.upload.size for reader in self._readers]
        return sum(sizes) if all(sizes) else 0

    async def receive(
        self,
        upload: IncomingUpload,
        group: UploadGroup,
        settings: Settings,
        *,
        pooled: bool = False,
    ) -> ReceivedServer:
        """Receive the whole server when a slot is free. Raises the `WingsdError` that stops it.

        The files of a server that is `pooled` are here already: an archive is then read and
        discarded, for the attachments that follow it.
        """
        scope = self._steps.cancel_scope
        self._readers = self._readers_of(upload, await scope.wait(group.gathered()))
        if pooled and len(self._readers) > 1:
            raise StreamMismatch("within a storage pool a server is sent in one request")
        await self._steps.enter(ReceiveStep.RECEIVE)
        shared = self._extraction.slots
        async with shared.held(self._server, len(self._readers), scope) as slots:
            self.meter.start()
            try:
                self._steps.restart_clock()
                await group.admit()
                with self._files.writing_back():
                    if pooled:
                        return await self._receive_pooled()
                    return await self._receive_files(settings, slots)
            finally:
                self.meter.stop()

    def _readers_of(
        self, upload: IncomingUpload, others: Sequence[IncomingUpload]
    ) -> list[UploadReader]:
        names = [FIRST if others else "", *map(name_of, range(len(others)))]
        readers = []
        for each, name in zip([upload, *others], names, strict=True):
            try:
                readers.append(UploadReader(each, self._extraction, self._files, name))
            except WingsdError as error:
                if name != names[0]:
                    error.add_context(name)
                raise
        return readers

    async def _receive_files(self, settings: Settings, slots: int) -> ReceivedServer:
        directory = await self._files.create()
        limits = self._extraction.limits.for_server(settings.build.disk_space)
        announcer = self._steps.announcer
        announcer.show_progress(self._progress)
        try:
            if len(self._readers) > 1:
                return await self._read_in_parallel(directory, limits, slots)
            (reader,) = self._readers
            unpack = self._extraction.unpack_into(directory, limits, self._note)
            return ReceivedServer([await reader.read(unpack)])
        finally:
            announcer.hide_progress()

    async def _receive_pooled(self) -> ReceivedServer:
        await self._files.discard_files()
        await self._files.discard_backups()
        size = await self._files.pool_size()
        (reader,) = self._readers
        announcer = self._steps.announcer
        announcer.show_progress(self._progress)
        try:
            return ReceivedServer([await reader.read(lambda blocks, _: _discard(blocks, size))])
        finally:
            announcer.hide_progress()

    async def _read_in_parallel(
        self, directory: str, limits: ArchiveLimits, slots: int
    ) -> ReceivedServer:
        workers, owner = self._extraction.workers, self._extraction.owner
        tree = await workers.run(SharedTreeWriter, directory, owner, limits, len(self._readers))
        try:
            parallel = ParallelUploads(self._readers, tree, slots, self._steps.cancel_scope)
            received = await parallel.read(self._note)
            await workers.run(tree.finish)
            if tree.without_attributes:
                self._note(attributes_line(tree.without_attributes, NOT_KEPT))
        finally:
            await workers.run(tree.close)
        return ReceivedServer(received)

    @property
    def _note(self) -> Callable[[str], None]:
        return relayed(self._extraction.reactor, self._steps.announcer.warn)

    # Console and log

    def _progress(self) -> str:
        return f"Receiving {progress_bar(self.meter.done, self.size)}"

    def log_figures(self, received: ReceivedServer) -> None:
        """Log how much was received, and how fast; note it for the state database."""
        meter = self.meter
        if not self._steps.pool:
            self._steps.set_figures(received.archive_bytes, received.files)
        self._log.info(
            "{server}: received {bytes} bytes, {files} files, {backups} backups, {seconds:.1f} s, "
            "{rate:.1f} MiB/s",
            server=self._server,
            bytes=meter.done,
            files=received.files,
            backups=received.backups,
            seconds=meter.seconds,
            rate=meter.done / MIB / max(meter.seconds, 0.001),
        )


class ParallelUploads:
    """Reads all uploads of one server at the same time, in at most as many threads as `slots`."""

    def __init__(
        self,
        readers: Sequence[UploadReader],
        tree: SharedTreeWriter,
        slots: int,
        scope: CancelScope,
    ) -> None:
        """Take the first upload first."""
        self._readers = readers
        self._tree = tree
        self._slots = DeferredSemaphore(slots)
        self._scope = scope
        self._error: Exception | None = None

    async def read(self, note: Callable[[str], None]) -> list[ReceivedUpload]:
        """Read all of them; raise the error of the first to fail.

        `note` gets a line for each member that was left out or written otherwise.
        """
        first, *others = self._readers
        jobs = [Deferred.fromCoroutine(self._read(reader, note)) for reader in others]
        if self._slots.limit < len(self._readers):
            # A sender may end its first upload only when the others are complete. It must not
            # hold a slot that one of them waits for.
            await DeferredList(jobs)
        jobs.insert(0, Deferred.fromCoroutine(self._read(first, note)))
        done = await DeferredList(jobs, consumeErrors=True)
        if self._error is not None:
            raise self._error
        return [received for _, received in done]

    async def _read(self, reader: UploadReader, note: Callable[[str], None]) -> ReceivedUpload:
        await self._slots.acquire()
        try:
            received = await reader.read(
                lambda blocks, abort: extract_part(blocks, self._tree, note, abort=abort)
            )
            # Here already: otherwise the others would be read to their ends in vain.
            received.verify()
        except Exception as error:
            self._fail(reader, error)
            raise
        finally:
            self._slots.release()
        return received

    def _fail(self, reader: UploadReader, error: Exception) -> None:
        if self._error is not None:
            return
        self._error = error
        reason = error if isinstance(error, WingsdError) else WingsdError(str(error))
        if reason is not self._scope.reason:
            reason.add_context(reader.name)
        for each in self._readers:
            each.upload.stop(reason)


def _discard(blocks: Iterator[bytes], size: int) -> None:
    """Read an archive and discard it, in a thread. Raises `BadRequest` beyond `size` bytes."""
    left = size
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise BadRequest(
                "the archive is larger than the storage pool that its files are in",
                "send the server again",
            )
