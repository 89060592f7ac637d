"""Servers that arrive by uploads: by one, or by several that are received at the same time.

Read `UploadTransfer._receive` from top to bottom. One thread reads the parts of an upload in their
order: an archive, which it extracts into the staging area, and attachments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IProducer

from wingsd.archive.extract import NOT_KEPT, Extracted, SharedTreeWriter, extract, extract_part
from wingsd.archive.policy import attributes_line
from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.local import Backup
from wingsd.errors import (
    BadRequest,
    ChecksumMismatch,
    StreamMismatch,
    UploadTruncated,
    WingsdError,
)
from wingsd.panel.schemas import Configuration, Settings
from wingsd.threadio import Feed, relayed
from wingsd.transfers.console import ProgressMeter, progress_bar
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.transfer import (
    IncomingParts,
    IncomingTransfer,
    Remainder,
)
from wingsd.transfers.steps import ReceiveStep
from wingsd.transfers.upload_form import Checksums, UploadForm

__all__ = [
    "FIRST",
    "FormFeed",
    "IncomingUpload",
    "UploadConsumer",
    "UploadGroup",
    "UploadTransfer",
    "name_of",
]

#: The name of the first request in messages.
FIRST = "the first request"
_MIB = 1 << 20


def name_of(number: int | None) -> str:
    """Return the name of a stream in messages; the first request has no number."""
    return FIRST if number is None else f"stream {number}"


class UploadConsumer(Protocol):
    """Takes the body of one upload; one of `finish` and `fail` ends it."""

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Take the body from `producer`, a push producer, which is paused when need be."""

    def write(self, data: bytes) -> None:
        """Take the next piece. Raises `WingsdError` where the body is not valid."""

    def finish(self) -> None:
        """Take the end of the body. Raises `WingsdError` where it is not complete."""

    def fail(self, error: WingsdError) -> None:
        """Take the reason why there is no more of the body."""


class IncomingUpload(Protocol):
    """An upload whose body is not read before `deliver`. `size` is its bytes, 0 if not known.

    `pool` is the storage pool of the sender, and `mark` what it has left there; empty without.
    """

    content_type: str
    user_agent: str
    size: int
    pool: str
    mark: str

    def deliver(self, consumer: UploadConsumer) -> None:
        """Write the body to `consumer` from now on. Raises what `stop` was given before."""

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back when the sender disconnects while its body is not being read."""


class UploadGroup(Protocol):
    """The uploads of one transfer, which share a token."""

    async def admit(self) -> None:
        """Use up the token, once for all of them; nothing is read before.

        Raises `Unauthorized` where it was used before.
        """

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        """Return the other uploads by their numbers, when they are here.

        The Deferred fails with the `WingsdError` that any of them has failed with.
        """

    def stop(self, error: WingsdError) -> None:
        """Read none of the others further, for the reason `error`."""

    def when_failed(self, callback: Callable[[WingsdError], object]) -> None:
        """Call back with the reason when the others can no longer all come."""


#: Unpacks the blocks it is given, or discards them; the other function ends that early.
Unpack = Callable[[Iterator[bytes], Callable[[], None]], "Extracted | None"]


@attrs.frozen(eq=False, repr=False)
class ReceivedUpload:
    """The archive and backups of one upload, and the checksums that they should have."""

    #: None where the files were here already.
    archive: Extracted | None
    #: The SHA-256 of each backup by its UUID.
    backups: dict[str, str]
    checksums: Checksums

    def verify(self) -> None:
        """Raise `ChecksumMismatch` where anything is not what was sent."""
        sent = self.checksums
        if self.archive is not None and sent.archive != self.archive.sha256:
            raise ChecksumMismatch(sent.archive, self.archive.sha256)
        for uuid, checksum in sorted(self.backups.items()):
            if sent.backups[uuid] != checksum:
                what = f"backup {uuid}"
                raise ChecksumMismatch(sent.backups[uuid], checksum, what)


class FormFeed:
    """Divides the body of an upload into its parts, and feeds them to a thread."""

    def __init__(self, form: UploadForm, feed: Feed) -> None:
        self._form = form
        self._feed = feed
        #: Fires when the body is complete, and fails with what is wrong with it.
        self.checksums: Deferred[Checksums] = Deferred()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause `producer` while the thread cannot keep up."""
        self._feed.registerProducer(producer, streaming)

    def write(self, data: bytes) -> None:
        """Take a piece of the body. Raises `BadRequest` where it is not a valid form."""
        for piece in self._form.receive(data):
            if isinstance(piece, bytes):
                self._feed.write(piece)
            else:
                self._feed.divide(piece)

    def finish(self) -> None:
        """Take the end of the body. Raises `BadRequest` where a part is missing."""
        checksums = self._form.close()
        self._feed.unregisterProducer()
        self._feed.finish()
        self.checksums.callback(checksums)

    def fail(self, error: WingsdError) -> None:
        """Raise `error` in the thread as well."""
        self._feed.unregisterProducer()
        self._feed.fail(error)
        self.checksums.errback(error)


@attrs.define(eq=False, repr=False, slots=False)
class UploadReader:
    """Reads one upload in a thread. Of several, only the first may have attachments.

    `name` is what the upload is called in errors.
    """

    upload: IncomingUpload
    _server: str
    _parts: IncomingParts
    name: str = ""

    def __attrs_post_init__(self) -> None:
        """Raise `InvalidContentType` where the upload is not a form."""
        #: How many bytes of the parts have been received so far.
        self.bytes = 0
        upload = self.upload
        self._storage = self._parts.storage
        self._extraction = self._parts.extraction
        self._form = UploadForm(upload.content_type, upload.user_agent, self._extraction.form)

    async def read(self, unpack: Unpack) -> ReceivedUpload:
        """Read the whole upload. Raises the `WingsdError` that stops it."""
        feed = Feed(self._extraction.reactor)
        consumer = FormFeed(self._form, feed)
        try:
            self.upload.deliver(consumer)
            # An error of the body is raised here too, by the feed in the thread. So there is one
            # place to wait, and no thread is left behind in the directory.
            archive, backups = await self._extraction.workers.run(self._work, feed, unpack)
        except Exception as error:
            self.upload.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))
            consumer.checksums.addErrback(lambda _: None)  # it is raised already
            raise
        return ReceivedUpload(archive, backups, await consumer.checksums)

    # In the thread

    def _work(self, feed: Feed, unpack: Unpack) -> tuple[Extracted | None, dict[str, str]]:
        backups: dict[str, str] = {}
        archive = unpack(self._counted(feed), feed.close)
        while (attachment := feed.next_part()) is not None:
            if self.name not in ("", FIRST):
                raise StreamMismatch(
                    "it has more parts than an archive; backups and the installation log belong "
                    "in the first request"
                )
            blocks = self._counted(feed)
            if isinstance(attachment, Backup):
                store = self._storage.backups.store
                backups[attachment.uuid] = store(self._server, attachment, blocks)
            else:
                self._storage.logs.store(self._server, blocks)
        return archive, backups

    def _counted(self, feed: Feed) -> Iterator[bytes]:
        # The reactor only looks at the number.
        for block in feed.blocks():
            self.bytes += len(block)
            yield block


@attrs.frozen(eq=False, repr=False)
class ReceivedServer:
    """A server as it was received, by one upload or by several."""

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


class UploadTransfer(IncomingTransfer):
    """The transfer of one server to this node, which arrives by uploads."""

    def __init__(
        self, server: str, coordinator: ReceivingCoordinator, parts: IncomingParts
    ) -> None:
        super().__init__(server, coordinator, parts)
        self._extraction = parts.extraction
        self._upload: IncomingUpload | None = None
        self._group: UploadGroup | None = None
        self._readers: Sequence[UploadReader] = ()
        #: Counts the bytes received, those of attachments too.
        self.meter = ProgressMeter(parts.reactor.seconds, self._count)

    async def run(self, upload: IncomingUpload, group: UploadGroup) -> None:
        """Receive the server by the first upload of `group` and the others in it.

        Raises the `WingsdError` that the sender is to read.
        """
        self._upload, self._group = upload, group
        upload.when_gone(self._on_sender_gone)
        group.when_failed(self._on_group_failed)
        await self._carry_out(partial(self._receive, upload, group))

    def abort(self, reason: WingsdError, *, verified: bool = False) -> bool:
        """End the transfer if its archive is not verified yet; with `verified`, also later."""
        ends = super().abort(reason, verified=verified)
        if ends and self._upload is not None and self._group is not None:
            self._upload.stop(reason)
            self._group.stop(reason)
        return ends

    def _on_sender_gone(self) -> None:
        # It can no longer be answered, and every sender then keeps the server as its own.
        self.abort(
            UploadTruncated("the sender disconnected before the answer", "send the server again"),
            verified=True,
        )

    def _on_group_failed(self, error: WingsdError) -> None:
        # Before, it is raised where the group is awaited, and so reported.
        if not self._steps.lifecycle.before(ReceiveStep.RECEIVE):
            self.abort(error, verified=True)

    async def _receive(
        self, upload: IncomingUpload, group: UploadGroup, configuration: Configuration
    ) -> Remainder:
        steps, scope = self._steps, self._steps.cancel_scope
        await self._begin()
        await scope.wait(Deferred.fromCoroutine(self._require_name()))
        pooled = await self._is_in_pool(upload)
        received = await self._receive_all(upload, group, configuration.settings, pooled=pooled)

        await steps.enter(ReceiveStep.VERIFY)
        received.verify()

        await steps.enter(ReceiveStep.DURABLE)
        await scope.wait(Deferred.fromCoroutine(self._files.flush(pooled=pooled)))
        if not pooled:
            steps.set_figures(received.archive_bytes, received.files)
        self._log_received(self.meter.done, received.files, received.backups)

        server = self._servers.get(self.server)
        return await self._commit(server, configuration, received.unpacked_bytes)

    async def _is_in_pool(self, upload: IncomingUpload) -> bool:
        """Return whether the files are here, in a storage pool that the sender has as well."""
        if self.coordinator.is_direct:
            return False
        if not await self._files.is_in_pool(upload.pool, upload.mark):
            return False
        pool = self._parts.storage.volume.pool
        await self._steps.save_terms(pool)
        self._servers.share(self.server, pool)
        self._steps.announcer.say(f"its files are here, in the storage pool {pool}")
        self._mark = upload.mark
        return True

    def _count(self) -> int:
        return sum(reader.bytes for reader in self._readers)

    @property
    def size(self) -> int:
        """How many bytes are to be received, 0 where that is not known."""
        sizes = [reader.upload.size for reader in self._readers]
        return sum(sizes) if all(sizes) else 0

    async def _receive_all(
        self, upload: IncomingUpload, group: UploadGroup, settings: Settings, *, pooled: bool
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
        async with shared.held(self.server, len(self._readers), scope) as slots:
            self.meter.start()
            try:
                self._steps.restart_clock()
                await group.admit()
                with self._parts.storage.write_back.during():
                    return await self._read(settings, slots, pooled=pooled)
            finally:
                self.meter.stop()

    def _readers_of(
        self, upload: IncomingUpload, others: Sequence[IncomingUpload]
    ) -> list[UploadReader]:
        names = [FIRST if others else "", *map(name_of, range(len(others)))]
        readers = []
        for each, name in zip([upload, *others], names, strict=True):
            try:
                readers.append(UploadReader(each, self.server, self._parts, name))
            except WingsdError as error:
                if name != names[0]:
                    error.add_context(name)
                raise
        return readers

    async def _read(self, settings: Settings, slots: int, *, pooled: bool) -> ReceivedServer:
        files, extraction, announcer = self._files, self._extraction, self._steps.announcer
        limits, directory = extraction.limits.for_server(settings.build.disk_space), ""
        if pooled:
            await files.discard_files()
            await files.discard_backups()
            storage = self._parts.storage
            size = await storage.disk.run(storage.volume.size)
            unpack: Unpack = partial(_discard, size=size)
        else:
            directory = await files.create()

            def unpack(blocks: Iterator[bytes], abort: Callable[[], None]) -> Extracted:
                owner, note = extraction.owner, self._note
                return extract(blocks, directory, owner, note, limits=limits, abort=abort)

        announcer.show_progress(self._progress)
        try:
            if len(self._readers) > 1:
                return await self._read_in_parallel(directory, limits, slots)
            (reader,) = self._readers
            return ReceivedServer([await reader.read(unpack)])
        finally:
            announcer.hide_progress()

    async def _read_in_parallel(
        self, directory: str, limits: ArchiveLimits, slots: int
    ) -> ReceivedServer:
        workers, owner = self._extraction.workers, self._extraction.owner
        tree = await workers.run(SharedTreeWriter, directory, owner, limits, len(self._readers))
        try:
            received = await self._read_into(tree, DeferredSemaphore(slots))
            await workers.run(tree.finish)
            if tree.without_attributes:
                self._note(attributes_line(tree.without_attributes, NOT_KEPT))
        finally:
            await workers.run(tree.close)
        return ReceivedServer(received)

    async def _read_into(
        self, tree: SharedTreeWriter, slots: DeferredSemaphore
    ) -> list[ReceivedUpload]:
        """Read all uploads, as many at a time as `slots`; raise the error of the first to fail."""
        errors, note = list[Exception](), self._note

        async def read(reader: UploadReader) -> ReceivedUpload:
            await slots.acquire()
            try:
                received = await reader.read(
                    lambda blocks, abort: extract_part(blocks, tree, note, abort=abort)
                )
                # Here already: otherwise the others would be read to their ends in vain.
                received.verify()
            except Exception as error:
                errors.append(error)
                if len(errors) == 1:
                    self._stop_reading(reader, error)
                raise
            finally:
                slots.release()
            return received

        first, *others = self._readers
        jobs = [Deferred.fromCoroutine(read(reader)) for reader in others]
        if slots.limit < len(self._readers):
            # A sender may end its first upload only when the others are complete. It must not
            # hold a slot that one of them waits for.
            await DeferredList(jobs)
        jobs.insert(0, Deferred.fromCoroutine(read(first)))
        done = await DeferredList(jobs, consumeErrors=True)
        if errors:
            raise errors[0]
        return [received for _, received in done]

    def _stop_reading(self, failed: UploadReader, error: Exception) -> None:
        reason = error if isinstance(error, WingsdError) else WingsdError(str(error))
        if reason is not self._steps.cancel_scope.reason:
            reason.add_context(failed.name)
        for each in self._readers:
            each.upload.stop(reason)

    @property
    def _note(self) -> Callable[[str], None]:
        return relayed(self._extraction.reactor, self._steps.announcer.warn)

    def _progress(self) -> str:
        return f"Receiving {progress_bar(self.meter.done, self.size)}"


def _discard(blocks: Iterator[bytes], abort: Callable[[], None], size: int) -> None:
    """Read an archive and discard it, in a thread. Raises `BadRequest` beyond `size` bytes."""
    left = size
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise BadRequest(
                "the archive is larger than the storage pool that its files are in",
                "send the server again",
            )
