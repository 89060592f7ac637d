"""Servers that arrive by uploads: by one, or by several that are received at the same time.

Read `UploadTransfer._receive` from top to bottom. One thread reads the parts of an upload in their
order: an archive, which it extracts into the staging area, and attachments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger

from wingsd.archive.extract import NOT_KEPT, Extracted, SharedTreeWriter, extract
from wingsd.archive.policy import Kind, attributes_line
from wingsd.archive.quota import ArchiveLimits
from wingsd.auth.tokens import TransferToken, token_was_used
from wingsd.backups.store import Backup
from wingsd.config import StreamsConfig
from wingsd.errors import (
    BadRequest,
    ChecksumMismatch,
    DaemonStopping,
    StoragePoolConflict,
    StreamMismatch,
    StreamMissing,
    UploadTruncated,
    WingsdError,
)
from wingsd.panel.schemas import Configuration, Settings
from wingsd.statedb import StateDatabase
from wingsd.threadio import Feed, relayed
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.incoming.transfer import (
    IncomingParts,
    IncomingTransfer,
    IncomingUpload,
    Remainder,
)
from wingsd.transfers.manager import IncomingTransfers
from wingsd.transfers.steps import ProgressMeter, ReceiveStep, progress_bar
from wingsd.transfers.storage.shared_volume import is_same_pool
from wingsd.transfers.upload_form import Checksums, UploadForm
from wingsd.util.reactor import Timer

#: The name of the first request in messages.
FIRST = "the first request"
_MIB = 1 << 20


def name_of(number: int) -> str:
    """Return the name of a stream in messages."""
    return f"stream {number}"


def sender_gone() -> UploadTruncated:
    """Return the error of an upload whose sender can no longer be answered."""
    return UploadTruncated("the sender disconnected before the answer", "send the server again")


#: Unpacks the blocks it is given, or discards them; the other function ends that early.
Unpack = Callable[[Iterator[bytes], Callable[[], None]], "Extracted | None"]


class FormFeed(Feed):
    """Divides the body of an upload into its parts, and feeds them to a thread."""

    def __init__(self, form: UploadForm, reactor: IReactorFromThreads) -> None:
        super().__init__(reactor)
        self._form = form
        #: Fires when the body is complete, and fails with what is wrong with it.
        self.checksums: Deferred[Checksums] = Deferred()

    def write(self, data: bytes) -> None:
        """Take a piece of the body. Raises `BadRequest` where it is not a valid form."""
        for piece in self._form.receive(data):
            if isinstance(piece, bytes):
                super().write(piece)
            else:
                self.divide(piece)

    def finish(self) -> None:
        """Take the end of the body. Raises `BadRequest` where a part is missing."""
        checksums = self._form.close()
        self.unregisterProducer()
        super().finish()
        self.checksums.callback(checksums)

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the thread as well."""
        self.unregisterProducer()
        super().fail(error)
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
    #: The archive when it is read; None where the files were here already.
    archive: Extracted | None = attrs.field(default=None, init=False)
    #: The SHA-256 of each backup by its UUID, and the checksums that all should have.
    backups: dict[str, str] = attrs.field(factory=dict, init=False)
    _checksums: Checksums = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Raise `InvalidContentType` where the upload is not a form."""
        #: How many bytes of the parts have been received so far.
        self.bytes = 0
        upload, parts = self.upload, self._parts
        self._is_first = self.name in ("", FIRST)
        try:
            form = UploadForm(upload.content_type, upload.user_agent, parts.config.form)
        except WingsdError as error:
            if not self._is_first:
                error.add_context(self.name)
            raise
        self._feed = FormFeed(form, parts.reactor)

    async def read(self, unpack: Unpack) -> None:
        """Read the whole upload. Raises the `WingsdError` that stops it."""
        feed = self._feed
        try:
            self.upload.deliver(feed)
            # An error of the body is raised here too, by the feed in the thread. So there is one
            # place to wait, and no thread is left behind in the directory.
            await self._parts.workers.run(self._work, unpack)
        except Exception as error:
            self.upload.stop(error if isinstance(error, WingsdError) else WingsdError(str(error)))
            feed.checksums.addErrback(lambda _: None)  # it is raised already
            raise
        self._checksums = await feed.checksums

    def verify(self) -> None:
        """Raise `ChecksumMismatch` where anything is not what was sent."""
        sent = self._checksums
        if self.archive is not None and sent.archive != self.archive.sha256:
            raise ChecksumMismatch(sent.archive, self.archive.sha256)
        for uuid, checksum in sorted(self.backups.items()):
            if sent.backups[uuid] != checksum:
                what = f"backup {uuid}"
                raise ChecksumMismatch(sent.backups[uuid], checksum, what)

    # In the thread

    def _work(self, unpack: Unpack) -> None:
        feed = self._feed
        self.archive = unpack(self._counted(), feed.close)
        while (attachment := feed.next_part()) is not None:
            if not self._is_first:
                raise StreamMismatch(
                    "it has more parts than an archive; backups and the installation log belong "
                    "in the first request"
                )
            if isinstance(attachment, Backup):
                store = self._parts.backups.store
                self.backups[attachment.uuid] = store(self._server, attachment, self._counted())
            else:
                self._parts.logs.store(self._server, self._counted())

    def _counted(self) -> Iterator[bytes]:
        # The reactor only looks at the number.
        for block in self._feed.blocks():
            self.bytes += len(block)
            yield block


@attrs.define(eq=False, repr=False, slots=False)
class UploadTransfer(IncomingTransfer):
    """The transfer of one server to this node, which arrives by uploads."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._upload: IncomingUpload | None = None
        self._group: StreamGroup | None = None
        self._readers: Sequence[UploadReader] = ()
        #: Counts the bytes received, those of attachments too.
        self.meter = ProgressMeter(self._parts.reactor.seconds, self._count)

    async def run(self, upload: IncomingUpload, group: StreamGroup) -> None:
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
        self.abort(sender_gone(), verified=True)

    def _on_group_failed(self, error: WingsdError) -> None:
        # Before, it is raised where the group is awaited, and so reported.
        if not self._steps.before(ReceiveStep.RECEIVE):
            self.abort(error, verified=True)

    async def _receive(
        self, upload: IncomingUpload, group: StreamGroup, configuration: Configuration
    ) -> Remainder:
        steps, scope = self._steps, self._steps.cancel_scope
        await self._begin()
        await scope.wait(Deferred.fromCoroutine(self._require_name()))
        await self._look_for_pool(upload)
        await self._receive_all(upload, group, configuration.settings)

        await steps.enter(ReceiveStep.VERIFY)
        for each in self._readers:
            each.verify()

        await steps.enter(ReceiveStep.DURABLE)
        await scope.wait(Deferred.fromCoroutine(self._flush()))
        archives = [each.archive for each in self._readers if each.archive is not None]
        files = sum(each.counts[Kind.FILE] + each.counts[Kind.HARD_LINK] for each in archives)
        if not steps.pool:
            steps.set_figures(sum(each.archive_bytes for each in archives), files)
        backups = sum(len(each.backups) for each in self._readers)
        self._log_received(self.meter.done, files, backups)

        server = self._servers.get(self.server)
        size = None if steps.pool else sum(each.unpacked_bytes for each in archives)
        return await self._commit(server, configuration, size)

    async def _look_for_pool(self, upload: IncomingUpload) -> None:
        """Note the pool if the files are here, in a storage pool that the sender has as well.

        Raises `StorageError` where they are not sound, `Conflict` where a copy would meet them.
        """
        if self.coordinator.is_direct:
            return
        pool = self._parts.volume.pool
        if not is_same_pool(pool, upload.pool):
            await self._refuse_pool(upload)
            return
        await self._run(self._parts.volume.check, upload.mark)
        await self._steps.save_terms(pool)
        self._servers.share(self.server, pool)
        self._steps.say(f"its files are here, in the storage pool {pool}")
        self._mark = upload.mark

    async def _refuse_pool(self, upload: IncomingUpload) -> None:
        """Let the files be copied; raise `Conflict` where a copy would meet those in a pool."""
        volume = self._parts.volume
        if upload.mark:
            raise StoragePoolConflict(
                "this node no longer has the storage pool of the other node",
                "it has sent no files; transfer the server again",
            )
        if upload.pool:
            self._log.warn(
                "{server}: the sender has the storage pool {theirs}, this node {ours}: its files "
                "are copied; if both have the same volume, set system.transfers.storage_pool on "
                "both to the same pool_name",
                server=self.server,
                theirs=ascii(upload.pool[:100]),
                ours=ascii(volume.pool) if volume.pool else "none",
            )
        if upload.pool or volume.pool:
            await self._run(volume.require_free)

    def _count(self) -> int:
        return sum(reader.bytes for reader in self._readers)

    @property
    def size(self) -> int:
        """The number of bytes to be received, 0 where that is not known."""
        sizes = [reader.upload.size for reader in self._readers]
        return sum(sizes) if all(sizes) else 0

    async def _receive_all(
        self, upload: IncomingUpload, group: StreamGroup, settings: Settings
    ) -> None:
        """Receive the whole server when a slot is free. Raises the `WingsdError` that stops it.

        The files of a server in a pool are here already: an archive is then read and discarded,
        for the attachments that follow it.
        """
        scope = self._steps.cancel_scope
        others = await scope.wait(group.gathered())
        names = [FIRST if others else "", *map(name_of, range(len(others)))]
        self._readers = [
            UploadReader(each, self.server, self._parts, name)
            for each, name in zip([upload, *others], names, strict=True)
        ]
        if self._steps.pool and len(self._readers) > 1:
            raise StreamMismatch("within a storage pool a server is sent in one request")
        await self._steps.enter(ReceiveStep.RECEIVE)
        shared = self._parts.slots
        async with shared.held(self.server, len(self._readers), scope) as slots:
            self.meter.start()
            try:
                self._steps.restart_clock()
                await group.admit()
                with self._parts.write_back.during():
                    await self._read(settings, slots)
            finally:
                self.meter.stop()

    async def _read(self, settings: Settings, slots: int) -> None:
        parts, steps = self._parts, self._steps
        limits, directory = parts.limits.for_server(settings.build.disk_space), ""
        if self._steps.pool:
            await self._run_long(parts.staging.discard)
            await self._run_long(parts.backups.discard)
            size = await parts.disk.run(parts.volume.size)
            unpack: Unpack = partial(_discard, size=size)
        else:
            # What is kept of a move of the server is worth nothing from now on.
            await self._run_long(parts.copies.forget)
            self._rollback.add(partial(self._run_long, parts.staging.withdraw))
            directory = await self._run_long(parts.staging.create)
            await self._run_long(parts.backups.discard)

            def unpack(blocks: Iterator[bytes], abort: Callable[[], None]) -> Extracted:
                owner, note = parts.owner, self._note
                return extract(blocks, directory, owner, note, limits=limits, abort=abort)

        steps.show_progress(self._progress)
        try:
            if len(self._readers) > 1:
                await self._read_in_parallel(directory, limits, slots)
            else:
                await self._readers[0].read(unpack)
        finally:
            steps.hide_progress()

    async def _read_in_parallel(self, directory: str, limits: ArchiveLimits, slots: int) -> None:
        workers, owner = self._parts.workers, self._parts.owner
        tree = await workers.run(SharedTreeWriter, directory, owner, limits, len(self._readers))
        try:
            await self._read_into(tree, DeferredSemaphore(slots))
            await workers.run(tree.finish)
            if tree.without_attributes:
                self._note(attributes_line(tree.without_attributes, NOT_KEPT))
        finally:
            await workers.run(tree.close)

    async def _read_into(self, tree: SharedTreeWriter, slots: DeferredSemaphore) -> None:
        """Read all uploads, as many at a time as `slots`; raise the error of the first to fail."""
        errors, note = list[Exception](), self._note

        async def read(reader: UploadReader) -> None:
            await slots.acquire()
            try:
                await reader.read(lambda blocks, abort: tree.extract(blocks, note, abort=abort))
                # Here already: otherwise the others would be read to their ends in vain.
                reader.verify()
            except Exception as error:
                errors.append(error)
                if len(errors) == 1:
                    self._stop_reading(reader, error)
                raise
            finally:
                slots.release()

        first, *others = self._readers
        jobs = [Deferred.fromCoroutine(read(reader)) for reader in others]
        if slots.limit < len(self._readers):
            # A sender may end its first upload only when the others are complete. It must not
            # hold a slot that one of them waits for.
            await DeferredList(jobs)
        jobs.insert(0, Deferred.fromCoroutine(read(first)))
        await DeferredList(jobs, consumeErrors=True)
        if errors:
            raise errors[0]

    def _stop_reading(self, failed: UploadReader, error: Exception) -> None:
        reason = error if isinstance(error, WingsdError) else WingsdError(str(error))
        if reason is not self._steps.cancel_scope.reason:
            reason.add_context(failed.name)
        for each in self._readers:
            each.upload.stop(reason)

    @property
    def _note(self) -> Callable[[str], None]:
        return relayed(self._parts.reactor, self._steps.warn)

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


#: The headers of the first request and of the others.
COUNT = "Multiplex-Stream-Count"
NUMBER = "Multiplex-Stream"
_MOST_DIGITS = 6


@attrs.define(eq=False, repr=False, slots=False)
class StreamGroups:
    """All groups, by the digests of their tokens."""

    receiver: IncomingTransfers
    database: StateDatabase
    limits: StreamsConfig
    reactor: IReactorTime

    def __attrs_post_init__(self) -> None:
        self._open: dict[str, StreamGroup] = {}

    def of(self, token: TransferToken) -> StreamGroup:
        """Return the group of the requests with this token."""
        group = self._open.get(token.digest)
        if group is None:
            group = self._open[token.digest] = StreamGroup(token, self)
        return group

    def discard(self, group: StreamGroup) -> None:
        """Forget a group, all of whose requests have ended or are read."""
        if self._open.get(group.token.digest) is group:
            del self._open[group.token.digest]

    def stop(self) -> None:
        """Refuse the requests that wait for the first of their group."""
        for group in tuple(self._open.values()):
            group.refuse_waiting(DaemonStopping())


class StreamGroup:
    """The requests with one token, that one server arrives by.

    Which belong to it is checked by `StreamRegistry`. A token is good for one transfer: further
    requests with it are only accepted for the transfer that it was used for. They come at the same
    time, so any of them may be here before the first; it is held until the first comes, and not
    read.

    A request that does not belong to the group is refused alone, and does not end the transfer.
    Its sender, if it is the group's as well, fails the transfer because of the refusal.
    """

    _log = Logger()

    def __init__(self, token: TransferToken, groups: StreamGroups) -> None:
        self.token = token
        self._groups = groups
        self._registry = StreamRegistry(groups.limits.most)
        self._others: dict[int, IncomingUpload] = {}
        self._outcomes: list[Deferred[None]] = []
        #: The first request, when it has come, or the request that fails in its place.
        self._first: IncomingUpload | None = None
        #: How many requests are being checked.
        self._checking = 0
        self._error: WingsdError | None = None
        self._is_over = False
        self._gathering: Deferred[Sequence[IncomingUpload]] | None = None
        self._timer = Timer(groups.reactor)
        self._on_failed: Callable[[WingsdError], object] = lambda error: None
        self._admitted = False

    # What the requests call

    async def admit(self) -> None:
        """Use up the token, once for all requests; nothing is read before.

        Raises `Unauthorized` where it was used before.
        """
        if not self._admitted:
            token = self.token
            if not await self._groups.database.use_token(token.digest, token.expires):
                raise token_was_used()
            self._admitted = True

    async def open(
        self,
        count: str,
        upload: IncomingUpload,
        coordinator: Callable[[], ReceivingCoordinator | None] = lambda: None,
    ) -> Deferred[None]:
        """Accept the first request, with `count` in its header, and receive the server.

        Return what fires when the server is here and the Panel knows, and fails with the
        `WingsdError` that the sender is to read.

        Raises a `WingsdError` where no transfer can begin; the requests that came before it then
        fail with the same. `coordinator` returns the coordinator of the transfer, None for the
        Panel.
        """
        with self._check():
            self._refuse_second(count)
            try:
                await self._refuse_used()
                self._refuse_second(count)
                token, receiver = self.token, self._groups.receiver
                transfer = receiver.open(UploadTransfer, token.server, coordinator(), token.issued)
            except WingsdError as error:
                self.refuse_waiting(error)
                raise
            self._first = upload
            self._timer.cancel()
            try:
                self._registry.first(count)
            except WingsdError as error:
                self._fail(error)  # Raised when they are gathered.
            self._continue_if_complete()
        return Deferred.fromCoroutine(self._receive(transfer, upload))

    async def join(self, number: str, count: str, upload: IncomingUpload) -> Deferred[None]:
        """Accept another request, with `number` and `count` in its headers; see `open`.

        Raises the `WingsdError` that its sender is to read where it does not belong to the group.
        """
        with self._check():
            if self._first is None:
                await self._refuse_used()
            if self._is_over:
                raise self._error or token_was_used()
            if self._error is not None:
                raise self._error
            each = self._registry.further(number, count)
            upload.when_gone(partial(self._on_gone, each))
            self._others[each] = upload
            outcome: Deferred[None] = Deferred()
            self._outcomes.append(outcome)
            self._continue_if_complete()
        return outcome

    def refuse_waiting(self, error: WingsdError) -> None:
        """Fail the requests that wait for the first one, if it has not come, with `error`."""
        if self._first is None:
            self._is_over, self._error = True, error
            self._conclude(error)
            self._close()

    # What the transfer calls

    def gathered(self) -> Deferred[Sequence[IncomingUpload]]:
        """Return the other uploads by their numbers, when all are here."""
        if self._error is not None:
            return fail(self._error)
        if self._registry.is_complete:
            return succeed(self._in_order())
        self._gathering = Deferred()
        return self._gathering

    def stop(self, error: WingsdError) -> None:
        """Read none of the other uploads further."""
        for upload in self._others.values():
            upload.stop(error)

    def when_failed(self, callback: Callable[[WingsdError], object]) -> None:
        """Call back when one of them has failed."""
        self._on_failed = callback

    # Arrival

    async def _refuse_used(self) -> None:
        # Before there is a transfer: a request with a used token says nothing about the server,
        # and is not reported to the Panel.
        if await self._groups.database.was_used(self.token.digest, self.token.expires):
            raise token_was_used()

    def _refuse_second(self, count: str) -> None:
        if self._first is None:
            return
        if self._error is not None:
            raise self._error
        if self._registry.others:
            self._registry.first(count)

    @contextmanager
    def _check(self) -> Iterator[None]:
        self._checking += 1
        try:
            yield
        finally:
            self._checking -= 1
            if not self._checking and not self._timer.is_running and self._first is None:
                self._close()

    def _continue_if_complete(self) -> None:
        """Continue the transfer when all requests are here, or wait for the others."""
        if self._error is not None:
            return
        if self._registry.is_complete:
            self._timer.cancel()
            gathering = self._gathering
            if gathering is not None and not gathering.called:
                gathering.callback(self._in_order())
        elif not self._timer.is_running:
            self._timer.start(self._groups.limits.within, self._on_timeout)

    def _in_order(self) -> list[IncomingUpload]:
        return [self._others[number] for number in sorted(self._others)]

    def _on_gone(self, number: int) -> None:
        error = sender_gone()
        error.add_context(name_of(number))
        if self._first is not None:
            self._fail(error)
        elif not self._is_over:
            # No transfer has begun: the Panel hears of it only when the first request comes.
            self._others.pop(number, None)
            self._registry.leave(number)
            self._error = self._error or error

    def _on_timeout(self) -> None:
        error = self._registry.missing(self._groups.limits.within)
        if self._first is not None:
            self._fail(error)
        elif self.token.direct:
            # There is no Panel to report to.
            self.refuse_waiting(error)
        elif self._others and self._error is None:
            Deferred.fromCoroutine(self._fail_without_first(error))
        else:
            self._close()

    # The end

    def _fail(self, error: WingsdError) -> None:
        if self._error is not None or self._is_over:
            return
        self._error = error
        self.stop(error)
        self._timer.cancel()
        if self._first is not None:
            self._first.stop(error)
        if self._gathering is not None and not self._gathering.called:
            self._gathering.errback(error)
        self._on_failed(error)

    async def _fail_without_first(self, error: WingsdError) -> None:
        """Fail as any transfer does of which a request is missing."""
        self._error = error
        # The upload is not read: the transfer meets the error first.
        self._first = upload = self._others[min(self._others)]
        try:
            receiver, token = self._groups.receiver, self.token
            transfer = receiver.open(UploadTransfer, token.server, ordered=token.issued)
            await transfer.run(upload, self)
        except WingsdError as failure:
            if failure is not error:
                self._log.warn(
                    "{server}: transfer failed: {error}", server=self.token.server, error=failure
                )
        except Exception:
            self._log.failure("{server}: transfer failed unexpectedly", server=self.token.server)
        await self._end(error)

    async def _receive(self, transfer: UploadTransfer, upload: IncomingUpload) -> None:
        try:
            await transfer.run(upload, self)
        except Exception as error:
            internal = WingsdError("internal error", "see the log of this node")
            await self._end(error if isinstance(error, WingsdError) else internal)
            raise
        await self._end(None)

    async def _end(self, error: WingsdError | None) -> None:
        self._is_over = True
        self._error = self._error or error
        if self._registry.others or self._outcomes:
            # However early it ended, a late request must not begin another transfer.
            try:
                await self.admit()
            except WingsdError as failure:
                self._log.warn(
                    "{server}: transfer failed: {error}", server=self.token.server, error=failure
                )
        self._conclude(error)
        self._close()

    def _conclude(self, error: WingsdError | None) -> None:
        outcomes, self._outcomes = self._outcomes, []
        for outcome in outcomes:
            outcome.callback(None) if error is None else outcome.errback(error)

    def _close(self) -> None:
        self._timer.cancel()
        self._groups.discard(self)


class StreamRegistry:
    """The streams of one transfer; `most` is how many this node accepts beside the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: set[int] = set()
        #: How many others there are; None until the first has come.
        self.others: int | None = None

    @property
    def is_complete(self) -> bool:
        """True when all are here."""
        return self.others is not None and len(self._numbers) == self.others

    def first(self, count: str) -> None:
        """Add the first request, with `count` in its header, which it may leave out.

        Raises `StreamMismatch`.
        """
        if self.others is not None:
            raise StreamMismatch(f"{FIRST} was sent twice; each stream is sent once")
        # From here on it has come, even if it is refused.
        self.others = 0
        others = _number(COUNT, count or "0")
        if others > self._most:
            raise StreamMismatch(
                f"{COUNT} is {others}, and this node accepts at most "
                f"{self._most} (system.transfers.streams.most)"
            )
        self.others = others
        for number in sorted(self._numbers):
            self._expect(number)

    def further(self, header: str, count: str = "") -> int:
        """Add another stream, with `header`; return its number.

        `count` is the value of the first request's header. Raises `StreamMismatch`.
        """
        number = _number(NUMBER, header)
        if count:
            raise StreamMismatch(f"a request has {COUNT} or {NUMBER}, not both")
        self._expect(number)
        if number in self._numbers:
            raise StreamMismatch(f"{name_of(number)} was sent twice; each stream is sent once")
        self._numbers.add(number)
        return number

    def leave(self, number: int) -> None:
        """Remove a stream whose sender has disconnected before any was read."""
        self._numbers.discard(number)

    def missing(self, within: float) -> BadRequest:
        """Return the error of streams that have not come `within` so many seconds."""
        if self.others is None:
            what = f"{FIRST}, the one with {COUNT},"
        else:
            what = ", ".join(map(name_of, self._absent()))
        return StreamMissing(
            f"{what} did not arrive within {within:g} s (system.transfers.streams.within)"
        )

    def _absent(self) -> Iterator[int]:
        return (number for number in range(self.others or 0) if number not in self._numbers)

    def _expect(self, number: int) -> None:
        if self.others is None:
            if number >= self._most:
                raise StreamMismatch(
                    f"{name_of(number)} is beyond the last: this node accepts {self._most} "
                    f"besides "
                    "the first, counted from 0 (system.transfers.streams.most)"
                )
        elif number >= self.others:
            known = f"0 to {self.others - 1}" if self.others else "none"
            raise StreamMismatch(f"{name_of(number)} is not announced: {FIRST} announces {known}")


def _number(header: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise StreamMismatch(f"the header {header} is {text[:40]!r}: expected a number")
    return int(text)
