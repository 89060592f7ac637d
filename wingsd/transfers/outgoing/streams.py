"""The upload of a server as one request, or several at the same time, and its payload.

A destination that joins them, as wingsd does, answers all of them when it has all. Calagopus'
nodes answer each by itself, and some of them take the server for complete when the first request
is, although others are still coming: for them the first is ended last, when the others have their
answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import closing
from itertools import chain, repeat
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.pack import Packed, pack
from wingsd.archive.partition import Part, split
from wingsd.archive.policy import Kind, attributes_line
from wingsd.archive.quota import ArchiveLimits
from wingsd.archive.regular_files import RegularFiles, has_only_files
from wingsd.backups.local import LocalBackup
from wingsd.config import CALAGOPUS, PELICAN
from wingsd.errors import ArchiveError, DestinationTimeout, StorageError
from wingsd.servers import Server
from wingsd.threadio import Outflow, OutflowClosed
from wingsd.transfers.outgoing.source import (
    JOINS_STREAMS,
    KEEPS_ATTRIBUTES,
    OutgoingParts,
    SourceStorage,
    Subject,
    TransferRequest,
    upload_format,
)
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.storage.incoming import InstallLogs
from wingsd.transfers.storage.shared_volume import (
    BACKUPS_MARK,
    SHARED_BACKUPS,
    Sharing,
    pool_headers,
    sharing_of,
)
from wingsd.transfers.upload_form import FormFrame
from wingsd.util.deferreds import fires_within
from wingsd.util.retry import Watch
from wingsd.util.text import readable_size

#: The features of a destination that keeps symlinks and hard links.
KEEPS_LINKS = frozenset({"symlinks", "hard-links"})


@attrs.frozen(eq=False, repr=False)
class Payload:
    """The contents of one upload of a server.

    `source` is the server's directory, or a part of one; without one the archive is empty, since
    the destination has the files. `links` tells whether the destination keeps symlinks and hard
    links, `attributes` whether it keeps extended attributes and ACLs, and `family` the kind of its
    nodes.
    """

    server: str
    family: str
    source: str | Part | None
    links: bool
    attributes: bool
    form: ArchiveFormat
    compression: Compression
    backups: tuple[LocalBackup, ...]
    logs: InstallLogs | None

    def write(
        self,
        frame: FormFrame,
        write: Callable[[bytes], object],
        warn: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> Packed | None:
        """Write all but the form's end; return what the archive was, None where it is empty.

        `warn` gets a line for each thing that cannot be sent as it is, `progress` the bytes of
        files and backups read so far, and the number of files. Raises `StorageError`, and whatever
        `write` raises.
        """
        write(frame.before())
        packed = self._write_files(write, warn, progress)
        write(frame.after(packed.sha256 if packed else hashlib.sha256().hexdigest()))
        read, files = (packed.packed_bytes, packed.counts[Kind.FILE]) if packed else (0, 0)
        # In the order in which the family's own nodes send them.
        if self.family == CALAGOPUS:
            self._write_log(frame, write, warn)
        self._write_backups(frame, write, warn, lambda more: progress(read + more, files))
        if self.family != CALAGOPUS:
            self._write_log(frame, write, warn)
        return packed

    def _write_files(
        self,
        write: Callable[[bytes], object],
        warn: Callable[[str], None],
        progress: Callable[[int, int], None],
    ) -> Packed | None:
        if self.source is None:
            return None
        part = self.source if isinstance(self.source, Part) else Part(self.source)
        return pack(
            attrs.evolve(part, attributes=self.attributes),
            write,
            links=self.links,
            form=self.form,
            compression=self.compression,
            warn=warn,
            progress=progress,
        )

    def _write_backups(
        self,
        frame: FormFrame,
        write: Callable[[bytes], object],
        warn: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        before = 0

        def note(read: int) -> None:
            progress(before + read)

        for local in self.backups:
            write(frame.before_backup(local.backup))
            digest = hashlib.sha256()
            with closing(self._backup_blocks(local, warn, note)) as blocks:
                for block in blocks:
                    digest.update(block)
                    write(block)
            before += local.size
            write(frame.after_backup(local.backup, digest.hexdigest()))

    def _backup_blocks(
        self, local: LocalBackup, warn: Callable[[str], None], note: Callable[[int], None]
    ) -> Generator[bytes, None, None]:
        """Yield the archive of a backup as the destination restores it.

        Nodes in Go get regular files alone. `note` gets the bytes read so far.
        """
        if self.family != PELICAN or self.links or _goes_as_it_is(local, warn):
            yield from _noted(local, note)
            return
        # Only the first reading is progress.
        readings = chain((_noted(local, note),), (local.blocks() for _ in repeat(None)))
        limit = self.source.limit if isinstance(self.source, Part) else None
        files = RegularFiles(lambda: next(readings), limit)
        try:
            with files.packed(self.compression) as blocks:
                yield from blocks
        except ArchiveError as error:
            raise StorageError(
                f"{local.path}: {error.detail}; delete the backup in the Panel, or leave it out "
                "of the transfer",
                "a backup that is to be sent with the server is damaged",
            ) from error
        if told := str(files.not_kept):
            warn(
                f"the backup {local.backup.uuid} is sent as the destination's node can restore "
                f"it: {told}"
            )

    def _write_log(
        self, frame: FormFrame, write: Callable[[bytes], object], warn: Callable[[str], None]
    ) -> None:
        """Write the log as far as it can be read: no transfer fails because of it."""
        try:
            log = self.logs.open(self.server) if self.logs is not None else None
            if log is None:
                return
            with closing(log):
                write(frame.before_log(self.family))
                for block in log.blocks():
                    write(block)
        except StorageError as error:
            warn(error.detail)


def _goes_as_it_is(local: LocalBackup, warn: Callable[[str], None]) -> bool:
    """Return whether a node in Go restores a backup as it is, or it has no other form."""
    try:
        with closing(local.blocks()) as blocks:
            return has_only_files(blocks)
    except ArchiveError as error:
        warn(f"the backup {local.backup.uuid} cannot be read and is sent as it is: {error.detail}")
        return True


def _noted(local: LocalBackup, note: Callable[[int], None]) -> Generator[bytes, None, None]:
    """Yield the archive of a backup as it is."""
    read = 0
    with closing(local.blocks()) as blocks:
        for block in blocks:
            read += len(block)
            note(read)
            yield block


class SourcePool:
    """The storage pool of the source, as it is used in the transfer of one `server`.

    The state database has it before anything is sent. From then on the server's files are not
    deleted with the server, whichever node dies.
    """

    def __init__(
        self, server: str, request: TransferRequest, storage: SourceStorage, *, is_direct: bool
    ) -> None:
        self.sharing = Sharing.COPIED
        #: Whether both nodes have the same directory of backups, so that none may be removed.
        self.shares_backups = False
        self._server = server
        self._disk = storage.disk
        self._volume = storage.volume
        self._mark = ""
        # The header is Pelican's, and so are all nodes that read it. In a direct transfer no
        # Panel would decide whose the files are.
        is_pelican = request.family == PELICAN
        self._is_used = storage.volume.pool != "" and is_pelican and not is_direct
        self._removes_backups = request.delete_backups and bool(request.backups)

    async def query(
        self, features: Callable[[Sequence[tuple[str, str]]], Awaitable[frozenset[str]]]
    ) -> frozenset[str]:
        """Query the destination's `features`, and learn from them how the files are shared.

        Raises what that raises, `StorageError`, and `Conflict` where a transfer would do harm.
        """
        headers: list[tuple[str, str]] = []
        if self._is_used:
            self._mark = await self._disk.run(self._volume.marks.leave, self._server)
            headers += pool_headers(self._volume.pool, self._mark)
        if self._removes_backups:
            mark = await self._disk.run(self._volume.backup_marks.leave, self._server)
            headers.append((BACKUPS_MARK, mark))
        found = await features(headers)
        if self._is_used:
            self.sharing = sharing_of(found, self._volume.pool)
        self.shares_backups = SHARED_BACKUPS in found
        return found

    @property
    def name(self) -> str:
        """The pool in which the destination may have the files; empty where it gets a copy."""
        return "" if self.sharing is Sharing.COPIED else self._volume.pool

    @property
    def has_files(self) -> bool:
        """True if the destination is known to have the files, so that none are sent."""
        return self.sharing is Sharing.POOLED

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of an upload."""
        return pool_headers(self.name, self._mark if self.has_files else "")

    async def remove_marks(self) -> None:
        """Remove the marks of this transfer from the volume."""
        if self._mark:
            await self._disk.run(self._volume.marks.remove, self._server, self._mark)
        if self._removes_backups:
            await self._disk.run(self._volume.backup_marks.remove, self._server)


#: Seconds between two looks, and in which nothing was taken before each line.
LOOK_EVERY, EVERY = 5.0, 300.0


class StandstillNotice(Watch):
    """Tells that nothing of what is to be sent is taken, and when it goes on, until `stop`.

    `sent` are the bytes that were handed over; `is_full` is whether there is more than was taken.
    It is waited for: nodes slow an upload down while it waits for a slot there, for hours.
    """

    def __init__(
        self,
        clock: IReactorTime,
        sent: Callable[[], int],
        is_full: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._sent = sent
        self._is_full = is_full
        self._say = say
        self._last = sent()
        self._since = self._told = clock.seconds()
        super().__init__(clock, LOOK_EVERY, self._look, "watching an upload failed")

    def _look(self) -> None:
        now, sent = self._clock.seconds(), self._sent()
        if sent != self._last or not self._is_full():
            if self._told > self._since:
                self._say(f"the upload goes on, after {now - self._since:.0f} s")
            self._last, self._since, self._told = sent, now, now
        elif now - self._told >= EVERY:
            self._told = now
            self._say(
                f"the destination has taken nothing for {now - self._since:.0f} s: it has no slot "
                "for the upload yet, or it hangs; see its log. The upload goes on when it reads on"
            )


#: Seconds that the first request waits for the answers to the others, when all of them are sent: a
#: node that joins them without saying so gives none before it has the first.
HOLD_BACK = 60.0


class _Stream:
    """One request. `number` is None for the first, of `others` more."""

    def __init__(
        self,
        payload: Payload,
        destination: PeerClient,
        parts: OutgoingParts,
        number: int | None,
        others: int,
        pool: Sequence[tuple[str, str]],
    ) -> None:
        self.payload = payload
        self.frame = FormFrame(f"archive.{payload.form.suffix}")
        self.body = Outflow(parts.reactor, bucket=parts.bucket)
        #: Bytes of the server's files that have been read.
        self.read = 0
        #: How many of them have been read.
        self.files = 0
        headers: list[tuple[str, str]] = []
        if number is not None:
            headers = [("Multiplex-Stream", str(number))]
        elif others:
            headers = [("Multiplex-Stream-Count", str(others))]
        self.request = destination.upload(
            self.frame.content_type,
            self.body,
            parts.config.stall_timeout,
            [*headers, *pool],
            may_be_early=bool(pool),
        )

    def write(self, warn: Callable[[str], None], ends: bool) -> Packed | None:
        """Write the body, in a worker thread."""
        packed = self.payload.write(self.frame, self.body.write, warn, self._set_progress)
        if ends:
            self.end()
        return packed

    def end(self) -> None:
        """Write the end of the body."""
        self.body.write(self.frame.end())
        self.body.finish()

    def _set_progress(self, read: int, files: int) -> None:
        # Called in the packing thread; the reactor only looks at the numbers.
        self.read, self.files = read, files


def size_limit(server: Server) -> int | None:
    """Return the bytes that the server's files may have, None without a limit."""
    return ArchiveLimits.disk_bytes(server.configuration.settings.build.disk_space)


@attrs.define(eq=False, repr=False, slots=False)
class StreamSending:
    """Sends a server as one stream, or with further ones.

    Its storage pool may have the files: then the destination need not read the body.
    """

    _log = Logger()
    is_move = is_live = is_asked = False

    _subject: Subject
    _parts: OutgoingParts
    _destination: PeerClient
    _pool: SourcePool

    def __attrs_post_init__(self) -> None:
        self._is_joined = True
        self._error: BaseException | None = None
        self._streams: list[_Stream] = []
        self._packed: list[Packed] = []

    async def send(self, warn: Callable[[str], None], patience: float) -> None:
        """Send all; return when the last bytes are on their way, however long that takes.

        `warn` gets a line for each member that is left out or sent otherwise, from any thread.
        Raises the error of the first request to fail; all others have then ended as well.
        """
        payloads, pool = await self._payloads(), self._pool.headers
        self._subject.steps.cancel_scope.check()
        self._subject.meter.start()  # again, without the seconds that dividing the server took
        others = len(payloads) - 1
        self._is_joined = JOINS_STREAMS in self._subject.features or not others
        destination, parts = self._destination, self._parts
        streams = self._streams = [
            _Stream(each, destination, parts, number - 1 if number else None, others, pool)
            for number, each in enumerate(payloads)
        ]
        for stream in streams:
            stream.request.answer.addErrback(self._fail)
        notice = StandstillNotice(
            parts.reactor,
            lambda: self.bytes_out,
            lambda: any(stream.body.is_paused for stream in streams),
            warn,
        )
        with notice:
            self._packed = await self._send(warn)

    async def _payloads(self) -> list[Payload]:
        """Return the payload of each stream: the first also has all that is beside the files."""
        server, request, storage = self._subject.server, self._subject.request, self._parts.storage
        directory, limit = storage.directory(server.uuid), size_limit(server)
        warn = self._subject.steps.warn
        form, compression = upload_format(request, storage.compression, warn)
        whole = Payload(
            server=server.uuid,
            family=request.family,
            source=None if self._pool.has_files else Part(directory, limit=limit),
            links=set(self._subject.features) >= KEEPS_LINKS,
            attributes=KEEPS_ATTRIBUTES in self._subject.features,
            form=form,
            compression=compression,
            backups=self._subject.backups,
            logs=storage.logs,
        )
        if not self._subject.further:
            return [whole]
        splitting = self._parts.packers.run(split, directory, 1 + self._subject.further, limit)
        first, *others = await self._subject.steps.cancel_scope.wait(splitting)
        evolve = attrs.evolve
        return [
            evolve(whole, source=first),
            *(evolve(whole, source=part, backups=(), logs=None) for part in others),
        ]

    async def _send(self, warn: Callable[[str], None]) -> list[Packed]:
        first, *others = self._streams
        jobs = [self._run(stream, stream.write, warn, True) for stream in others]
        jobs.insert(0, self._run(first, first.write, warn, self._is_joined))
        done = await DeferredList(jobs)
        if not self._is_joined and self._error is None:
            answers = DeferredList([stream.request.answer for stream in others])
            await fires_within(answers, HOLD_BACK, self._parts.reactor)
            if self._error is None:
                await self._run(first, first.end)
        if self._error is not None:
            raise self._error
        return [packed for _, packed in done if packed is not None]

    async def answered(self, has_moved: Callable[[], Awaitable[bool]], patience: float) -> None:
        """Return when the destination has accepted all; raise the reason why it has not.

        That is `DestinationTimeout` when it does not answer in `answer_timeout`. Nothing else is
        asked, and all of that time is given.
        """
        limit, clock = self._parts.config.answer_timeout, self._parts.reactor
        timer = (
            clock.callLater(limit, self._fail, Failure(DestinationTimeout(limit)))
            if limit
            else None
        )
        await DeferredList([stream.request.answer for stream in self._streams])
        if timer is not None and timer.active():
            timer.cancel()
        if self._error is not None:
            raise self._error

    async def rehearse(self, ask_panel: Callable[[], Awaitable[None]]) -> None:
        """Return at once: only a move is rehearsed."""

    def log_sent(self) -> None:
        """Log how much was sent, and record it; nothing where the destination had the files."""
        packed, subject = self._packed, self._subject
        if not packed:
            return
        size = sum(each.archive_bytes for each in packed)
        files = sum(each.counts[Kind.FILE] + each.counts[Kind.HARD_LINK] for each in packed)
        subject.steps.set_figures(size, files)
        # The seconds include those of the backups.
        size += sum(backup.size for backup in subject.backups)
        self._log.info(
            "{server}: sent {bytes} bytes, {files} files, {seconds:.1f} s, {rate}/s",
            server=subject.server.uuid,
            bytes=size,
            files=files,
            seconds=subject.meter.seconds,
            rate=readable_size(size / max(subject.meter.seconds, 0.001)),
        )
        if left_out := sum(each.without_attributes for each in packed):
            is_kept = KEEPS_ATTRIBUTES in self._subject.features
            reason = "they have too many" if is_kept else "the destination does not keep them"
            subject.steps.warn(attributes_line(left_out, reason))

    async def close(self) -> None:
        """Close what a seed has read, which only a move goes on with."""
        if self._subject.kept is not None:
            await self._parts.packers.run(self._subject.kept.close)

    async def discard(self, *, keep: bool) -> None:
        """Do nothing: the destination has seen the upload end."""

    def abort(self) -> None:
        """Close all connections at once."""
        for stream in self._streams:
            stream.request.abort(CancelledError())

    @property
    def begun(self) -> bool:
        """True if the destination may have the headers of any."""
        return any(stream.request.begun for stream in self._streams)

    @property
    def body_sent(self) -> bool:
        """True if the last byte of each was handed over: only now can the node have it all."""
        streams = self._streams
        return bool(streams) and all(stream.request.request_sent for stream in streams)

    @property
    def bytes_out(self) -> int:
        """The number of bytes sent so far."""
        return sum(stream.body.bytes_out for stream in self._streams)

    @property
    def read(self) -> int:
        """The number of bytes read of the server's files."""
        return sum(stream.read for stream in self._streams)

    @property
    def files(self) -> int:
        """The number of the server's files that have been read."""
        return sum(stream.files for stream in self._streams)

    def _run(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._work(stream, work, *args))

    async def _work(self, stream: _Stream, work: Callable[..., Any], *args: object) -> Any:
        """Write for a stream in a thread; where that fails, all fail, and None is returned."""
        try:
            return await self._parts.packers.run(work, *args)
        except OutflowClosed as closed:
            await stream.request.answer  # which has the reason
            if not self._pool.headers:
                self._fail(Failure(closed))
        except Exception:
            self._fail(Failure())
        return None

    def _fail(self, failure: Failure) -> None:
        if self._error is None:
            self._error = failure.value
            self.abort()
