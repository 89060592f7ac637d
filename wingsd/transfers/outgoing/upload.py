"""The uploads that one server is sent by, and how far they are.

A destination that joins them, as wingsd does, answers all of them when it has all. Calagopus'
nodes answer each by itself, and some of them take the server for whole when the first request is,
though others still come: to them the first is ended last, when the others have their answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive import ArchiveLimits, Packed, Part, split, survey
from wingsd.archive.errors import DiskLimitExceeded
from wingsd.backups.local import LocalBackup, find_backups
from wingsd.servers import Server
from wingsd.threadio import Outflow, OutflowClosed, relayed
from wingsd.transfers.cancellation import fires_within
from wingsd.transfers.collaborators import SendingCollaborators
from wingsd.transfers.errors import DestinationTimeout
from wingsd.transfers.form.upload_form import FormFrame
from wingsd.transfers.formatting import progress_bar, readable_size
from wingsd.transfers.outgoing.payload import Payload
from wingsd.transfers.outgoing.request import JOINS_STREAMS, TransferOrder, form_of
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.pool_negotiation import SourcePool
from wingsd.transfers.step_log import ProgressMeter, StepLog
from wingsd.transfers.steps import SendStep

__all__ = ["KEEPS_LINKS", "Dispatch", "OutgoingStreams"]

#: Seconds that the first request waits for the answers to the others, when all of them are sent: a
#: node that joins them without saying so gives none before it has the first.
HOLD_BACK = 60.0


class _Stream:
    """One of them. `number` is None for the first, of `others` more."""

    def __init__(
        self,
        cargo: Payload,
        destination: PeerClient,
        means: SendingCollaborators,
        number: int | None,
        others: int,
        pool: Sequence[tuple[str, str]],
    ) -> None:
        self.cargo = cargo
        self.frame = FormFrame(f"archive.{cargo.form.archive.suffix}")
        self.body = Outflow(means.reactor, bucket=means.bucket)
        #: Bytes of the server's files that have been read.
        self.read = 0
        headers: list[tuple[str, str]] = []
        if number is not None:
            headers = [("Multiplex-Stream", str(number))]
        elif others:
            headers = [("Multiplex-Stream-Count", str(others))]
        self.upload = destination.upload(
            self.frame.content_type,
            self.body,
            means.stall_timeout,
            [*headers, *pool],
            may_be_early=bool(pool),
        )

    def write(self, note: Callable[[str], None], ends: bool) -> Packed | None:
        """Write the body, in a worker thread."""
        packed = self.cargo.write(self.frame, self.body.write, note, self._note_progress)
        if ends:
            self.end()
        return packed

    def end(self) -> None:
        """Write the end of it."""
        self.body.write(self.frame.end())
        self.body.finish()

    def _note_progress(self, read: int) -> None:
        # Called in the packing thread; the reactor only looks at the number.
        self.read = read


class OutgoingStreams:
    """The uploads of all `cargoes`, begun at once.

    `joined` tells that the destination gives them one answer. `pool` are headers that tell of a
    storage pool; who has the files in that need not take what is sent.
    """

    def __init__(
        self,
        cargoes: Sequence[Payload],
        destination: PeerClient,
        means: SendingCollaborators,
        *,
        joined: bool,
        pool: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._means = means
        self._need_not_take = bool(pool)
        self._joined = joined or len(cargoes) == 1
        self._error: BaseException | None = None
        others = len(cargoes) - 1
        self._streams = [
            _Stream(each, destination, means, number - 1 if number else None, others, pool)
            for number, each in enumerate(cargoes)
        ]
        for stream in self._streams:
            stream.upload.answer.addErrback(self._fail)

    async def send(self, note: Callable[[str], None]) -> list[Packed]:
        """Send all; return when their last bytes are on their way.

        `note` gets a line for each member that is left out or sent otherwise. Raises what the
        first of them to fail has failed with; all others have then ended as well.
        """
        first, *others = self._streams
        jobs = [self._run(stream, stream.write, note, True) for stream in others]
        jobs.insert(0, self._run(first, first.write, note, self._joined))
        done = await DeferredList(jobs)
        if not self._joined and self._error is None:
            answers = DeferredList([stream.upload.answer for stream in others])
            await fires_within(answers, HOLD_BACK, self._means.reactor)
            if self._error is None:
                await self._run(first, first.end)
        if self._error is not None:
            raise self._error
        return [packed for _, packed in done if packed is not None]

    async def answered(self) -> None:
        """Return when the destination has taken all; raise the reason why it has not.

        That is `DestinationTimeout` when it does not answer in `answer_timeout`.
        """
        limit, clock = self._means.answer_timeout, self._means.reactor
        timer = (
            clock.callLater(limit, self._fail, Failure(DestinationTimeout(limit)))
            if limit
            else None
        )
        await DeferredList([stream.upload.answer for stream in self._streams])
        if timer is not None and timer.active():
            timer.cancel()
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Close all connections at once."""
        for stream in self._streams:
            stream.upload.abort()

    @property
    def begun(self) -> bool:
        """Whether the destination may have the headers of any."""
        return any(stream.upload.begun for stream in self._streams)

    @property
    def body_sent(self) -> bool:
        """Whether the last byte of each was handed over: only now can the node have it all."""
        return all(stream.upload.body_sent for stream in self._streams)

    @property
    def bytes_out(self) -> int:
        """How many bytes have gone so far."""
        return sum(stream.body.bytes_out for stream in self._streams)

    @property
    def read(self) -> int:
        """How many bytes of the server's files have been read."""
        return sum(stream.read for stream in self._streams)

    def _run(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._working(stream, work, *args))

    async def _working(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Any:
        """Have a thread write for a stream; where that fails, all fail, and None is returned."""
        try:
            return await self._means.packers.run(work, *args)
        except OutflowClosed as closed:
            await stream.upload.answer  # which tells why
            if not self._need_not_take:
                self._fail(Failure(closed))
        except Exception:
            self._fail(Failure())
        return None

    def _fail(self, failure: Failure) -> None:
        if self._error is None:
            self._error = failure.value
            self.abort()


#: What a destination says that it keeps, when symlinks and hard links may be sent as they are.
KEEPS_LINKS = frozenset({"symlinks", "hard-links"})


class Dispatch:
    """What is sent of one server, as `order` has it."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        order: TransferOrder,
        means: SendingCollaborators,
        course: StepLog[SendStep],
        pool: SourcePool,
    ) -> None:
        self.backups: tuple[LocalBackup, ...] = ()
        #: Counts the bytes that are read of files and backups.
        self.meter = ProgressMeter(means.reactor.seconds, self._count)
        self._server = server
        self._order = order
        self._means = means
        self._course = course
        self._pool = pool
        self._streams: OutgoingStreams | None = None

    # How far it is

    @property
    def body_sent(self) -> bool:
        """Whether all of it is on its way."""
        return self._streams is not None and self._streams.body_sent

    @property
    def may_be_taken(self) -> bool:
        """Whether the destination may have everything. What is pooled, it has from the start."""
        begun = self._streams is not None and self._streams.begun
        return self.body_sent or (self._pool.name != "" and begun)

    @property
    def total(self) -> int:
        """The bytes there are to read; 0 while the server is not measured."""
        if self._pool.has_files:
            return self._along
        measured = self._server.disk_bytes
        return 0 if measured is None else measured + self._along

    @property
    def _limit(self) -> int | None:
        """Bytes that the server's files may have, None without a limit."""
        return ArchiveLimits.disk_bytes(self._server.configuration.settings.build.disk_space)

    @property
    def _along(self) -> int:
        return sum(backup.size for backup in self.backups)

    def _count(self) -> int:
        return self._streams.read if self._streams is not None else 0

    # Its way

    async def find_backups(self) -> None:
        """Find those that are to go along. Raises `StorageError` where one is missing."""
        order, means, uuid = self._order, self._means, self._server.uuid
        self.backups = await means.disk.run(
            find_backups, means.backup_directory, uuid, order.backups, order.family
        )

    async def check_size(self) -> None:
        """Raise `DiskLimitExceeded` where the server's files are more than it may have.

        They are measured where that is not known, or where the last figure is too large: files
        may have been deleted since. Raises `StorageError` where they cannot be.
        """
        limit, known = self._limit, self._server.disk_bytes
        if limit is None or self._pool.has_files or (known is not None and known <= limit):
            return
        means = self._means
        found = await means.disk.run(survey, means.servers.directory(self._server.uuid))
        if found.size > limit:
            raise DiskLimitExceeded(
                f"the server's files have {readable_size(found.size)}, and it may have "
                f"{readable_size(limit)}; the largest is {found.shown} with "
                f"{readable_size(found.largest_size)}. Holes of sparse files count. Raise its "
                "disk limit in the Panel, or delete files, and transfer it again"
            )

    async def send(
        self, destination: PeerClient, features: frozenset[str], further: int
    ) -> OutgoingStreams:
        """Send it all; return when the last bytes are on their way.

        `features` are those of the destination, and `further` is in how many uploads beside the
        first it is sent.
        """
        means, announcer = self._means, self._course.announcer
        # Only for the bar: nothing waits for what is not measured yet.
        self._server.files.measure_if_stale()
        cargoes = await self._cargoes(features >= KEEPS_LINKS, further)
        self._course.chain.check()
        joined = JOINS_STREAMS in features
        streams = OutgoingStreams(
            cargoes, destination, means, joined=joined, pool=self._pool.headers
        )
        self._streams = streams
        self._course.count = lambda: streams.bytes_out
        announcer.show_progress(self._bar)
        self.meter.start()
        try:
            packed = await streams.send(relayed(means.reactor, announcer.warn))
        finally:
            self.meter.stop()
            announcer.hide_progress()
        if packed:
            self._say_figures(packed)
        return streams

    def abort(self) -> None:
        """Close the connections at once, where there are any."""
        if self._streams is not None:
            self._streams.abort()

    async def _cargoes(self, links: bool, further: int) -> list[Payload]:
        """Return what each upload is to hold: the first also has all that is beside the files."""
        means, directory = self._means, self._means.servers.directory(self._server.uuid)
        whole = Payload(
            server=self._server.uuid,
            family=self._order.family,
            source=None if self._pool.has_files else Part(directory, limit=self._limit),
            links=links,
            form=form_of(self._order, means.compression, self._course.announcer.warn),
            backups=self.backups,
            logs=means.logs,
        )
        if not further:
            return [whole]
        dividing = means.packers.run(split, directory, 1 + further, self._limit)
        first, *others = await self._course.chain.wait(dividing)
        return [whole.of(first), *(whole.files_of(part) for part in others)]

    # What is said of it

    def _bar(self) -> str:
        return f"Uploading {progress_bar(self.meter.done, self.total)}"

    def _say_figures(self, packed: Sequence[Packed]) -> None:
        size = sum(each.archive_bytes for each in packed)
        files = sum(each.file_count + each.hard_link_count for each in packed)
        self._course.note_figures(size, files)
        # The seconds are theirs, too.
        size += self._along
        self._log.info(
            "{server}: sent {bytes} bytes, {files} files, {seconds:.1f} s, {rate}/s",
            server=self._server.uuid,
            bytes=size,
            files=files,
            seconds=self.meter.seconds,
            rate=readable_size(size / max(self.meter.seconds, 0.001)),
        )
