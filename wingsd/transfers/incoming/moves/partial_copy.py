"""The partial copy of a move: its files as they arrive, its ledger, and the one thread of both.

All that is done with a copy is sent to its thread, and done there in that order: so nothing in it
is locked. Batches are decoded and compared by other threads, several at a time, and only written
by that one. After an error of the disk the ledger is read again before the next call; batches that
are being received then fail, and come again.

A flush that fails says so once, and not what it has lost: all batches that are not known to be on
stable storage are lost then, and the source has to resume.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import time
from typing import ParamSpec, TypeVar
from uuid import UUID

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import Conflict, DiskLimitExceeded, StorageError, WingsdError
from wingsd.filesystem.openers import directory_opener
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import BatchKind, Index, frame_bytes
from wingsd.moves.batch_reader import BatchReader, BlockRun
from wingsd.moves.destination import MoveDestination
from wingsd.moves.errors import (
    LedgerDamaged,
    LedgerVersionUnknown,
    RootMismatch,
    RoundIncomplete,
)
from wingsd.moves.frames import DirectoryFrame, FileFrame, LinkFrame, WholeFrame
from wingsd.moves.ledger_file import LedgerFile
from wingsd.moves.rebasing import Resumption
from wingsd.moves.rereading import MOST as MOST_CHANGES
from wingsd.moves.rereading import Piece, PieceReader
from wingsd.moves.snapshot import held_bytes
from wingsd.moves.tree import MoveLimits
from wingsd.threadio import Workers
from wingsd.transfers.incoming.moves.errors import (
    MoveNoSpace,
    MoveRequestInvalid,
    MoveResumeNeeded,
    space_error,
)
from wingsd.transfers.storage.incoming import FLUSH_EVERY
from wingsd.transfers.storage.partial_copies import CopyPaths, PartialCopies
from wingsd.util.deferreds import beside, when_fired
from wingsd.util.text import display

__all__ = ["ArrivingBatch", "CopySettings", "CopyThread", "MoveProgress", "PartialCopy"]

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes that may be written and not flushed: a flush takes the longer, the more is written
#: meanwhile, and nothing is read back before it.
MOST_UNFLUSHED = 256 << 20
#: Bytes that count of each run of blocks at least: of so many changes one by one is known what is
#: to be read back.
LEAST_UNFLUSHED = MOST_UNFLUSHED // MOST_CHANGES
#: Bytes that the ledger may grow by, beside what it had, until it is written again after a round.
LEDGER_GROWS = 16 << 20
#: Bytes of it for each name, and bytes of files for one more: most need less.
NAME_TAKES, FILES_FOR_BYTE = 256, 256
#: Bytes and runs of blocks that are written together.
WRITTEN_TOGETHER = 256 << 10
RUNS_TOGETHER = 64
#: Frames that may make a file, directory or symlink.
_MAKES = (WholeFrame, FileFrame, DirectoryFrame, LinkFrame)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@attrs.frozen(eq=False, repr=False)
class CopySettings:
    """The limits and the owner of a copy, and the bytes and inodes that stay free.

    `attributes` is whether the source knows extended attributes.
    """

    limits: MoveLimits
    owner: tuple[int, int]
    reserve: int
    inode_reserve: int
    attributes: bool = True


@attrs.frozen(eq=False, repr=False)
class MoveProgress:
    """The numbers of a copy: its round, the highest batch received, and the highest durable one.

    `bytes` and `files` are those of the whole tree.
    """

    round: int = 1
    received: int = 0
    durable: int = 0
    bytes: int = 0
    files: int = 0


@attrs.frozen(eq=False, repr=False)
class _Written:
    """The batches that have ended and are not known to be durable, and all bytes written."""

    destination: MoveDestination
    batches: frozenset[int]
    bytes: int


class _Reading(ExitStack):
    """The files of a copy as another thread reads them back, and what of them has differed."""

    destination: MoveDestination | None = None
    reader: PieceReader
    differing: Sequence[Piece] = ()


class PartialCopy:
    """The partial copy of one server, by the move with the id `move`. For one thread.

    `sync` returns when all that was written is on stable storage; it is called in the thread of
    `flusher`. Methods raise `StorageError`, `MoveNoSpace` where there is no space, and what
    `MoveDestination` raises.
    """

    def __init__(
        self,
        server: str,
        move: bytes,
        copies: PartialCopies,
        settings: CopySettings,
        sync: Callable[[], None],
        flusher: Workers,
    ) -> None:
        self._server = server
        self._copies = copies
        self._settings = settings
        self._sync = sync
        self._flusher = flusher
        self._move = move
        self._boot = _boot_id()
        self._paths: CopyPaths | None = None
        self._open = ExitStack()
        self._destination: MoveDestination | None = None
        self._applier: TreeApplier | None = None
        #: How many files lack extended attributes that they should have, after `finish`.
        self.without_attributes = 0
        #: The descriptor of the files' directory while the ledger is open.
        self._root = -1
        #: Whether a flush has failed, of which the ledger does not know yet; and whether one has
        #: since the source has resumed.
        self._has_failed = self._is_lost = False
        #: Bytes of the ledger when it was written again, or opened.
        self._compacted = 0
        #: The paths of files that are not as they were sent, in order, until the next round.
        self._wrong: dict[bytes, None] = {}
        #: Whether all of it had been read back from the disk when it was closed.
        self.is_read = False
        #: How far it is, how many bytes of files have arrived, and of the bytes that were written,
        #: how many were so before the last flush. Other threads only look at these.
        self.progress = MoveProgress()
        self.arrived = self.written_bytes = self.flushed_bytes = 0

    # Beginning and end

    def begin(self) -> int:
        """Begin with what is kept of an earlier move; return how many bytes, 0 for nothing.

        A kept copy that proves nothing is removed; one of a newer version is kept as it is. Raises
        `MoveNoSpace` where there is no space to read it.
        """
        self._close()
        why: StorageError | None = None
        self._paths = self._copies.adopt(self._server)
        if self._paths is not None:
            try:
                return self._adopt(str(self._paths.ledger), is_read=self._paths.is_read)
            except LedgerVersionUnknown:
                self._copies.keep(self._server, 0, time())
            except StorageError as error:
                self._close()
                if isinstance(full := space_error(error), MoveNoSpace):
                    raise full from error
                why = error
        self._paths = self._copies.create(self._server, why)
        self._open_ledger(self._move)
        return 0

    def _adopt(self, ledger: str, *, is_read: bool = False) -> int:
        """Open a ledger that may be of an earlier move; return how many bytes are held.

        With `is_read` nothing of it need be read back again.
        """
        self._open_ledger(LedgerFile.move_of(ledger) or self._move)
        assert self._destination is not None  # noqa: S101 - it is open
        held = self._destination.rebase(self._move).bytes
        if is_read:
            self._destination.rereading.skip()
        return held

    def reopen(self) -> int:
        """Go on with what an earlier daemon has left; return how many bytes.

        Begins with nothing where the ledger is damaged: it proves nothing then. Raises
        `LedgerVersionUnknown`.
        """
        self._close()
        self._paths = self._copies.reopen(self._server)
        if self._paths is None:
            return self.begin()
        ledger = str(self._paths.ledger)
        try:
            if LedgerFile.move_of(ledger) in (None, self._move):
                self._open_ledger(self._move)
            else:
                # An earlier daemon has just adopted it.
                self._adopt(ledger)
        except LedgerDamaged as error:
            self._paths = self._copies.create(self._server, error)
            self._open_ledger(self._move)
        assert self._destination is not None  # noqa: S101 - it is open
        return held_bytes(self._destination.tree)

    def close(self) -> None:
        """Close all files, after a last checkpoint where that is possible.

        All other methods raise `MoveResumeNeeded` from now on.
        """
        try:
            self.note_failure()
            if self._destination is not None:
                self._destination.checkpoint()
                self.is_read = self._destination.rereading.is_over and not self._wrong
        finally:
            self.note_failure()
            self._paths = None
            self._close()

    # Sessions

    def resume(self) -> Resumption:
        """Give up what is open, and begin a round with what is held; return that."""
        with self._used(renew=True) as destination:
            wrong, self._wrong = self._wrong, {}
            resumption = destination.rebase(wrong=wrong)
            self._compacted = destination.ledger_size
            most, members = _needed(destination), destination.tree.members
        if self._compacted > most:
            raise DiskLimitExceeded(
                f"the names of its {members} files, directories and links need "
                f"{self._compacted >> 20} MiB in the ledger of the move, of {most >> 20} MiB that "
                "they may take; shorten the names of its directories, and move it again"
            )
        return resumption

    def page(self, number: int) -> bytes:
        """Return a page of what was held at `resume`. Raises `MoveResumeNeeded` for no page."""
        with self._used() as destination:
            try:
                return destination.page(number)
            except LookupError:
                raise MoveResumeNeeded(f"there is no page {number}; resume the move") from None

    # Batches

    def begin_batch(self, index: Index) -> MoveDestination | None:
        """Begin a batch; return by which opening of the ledger, None where it is here already."""
        with self._used() as destination:
            if not destination.received.has(index.number):
                size = sum(map(frame_bytes, index.frames)) + len(index.raw)
                self._require_space(size, sum(isinstance(each, _MAKES) for each in index.frames))
                if destination.ledger_size + len(index.raw) > 2 * _needed(destination):
                    # No source repeats so much within a round; the ledger is written again then.
                    raise MoveResumeNeeded("the ledger of the move has grown; resume the move")
            return destination if destination.begin(index) else None

    def write(self, opened: MoveDestination, index: Index, runs: Sequence[BlockRun]) -> None:
        """Write blocks of a batch that was begun by that opening."""
        with self._used(opened) as destination:
            self.written_bytes += sum(max(len(run.data), LEAST_UNFLUSHED) for run in runs)
            destination.write(index, runs)
        self.arrived += sum(len(run.data) for run in runs)

    def end_batch(self, opened: MoveDestination, index: Index) -> None:
        """End a batch."""
        with self._used(opened) as destination:
            destination.end(index)

    def abandon(self, opened: MoveDestination, index: Index) -> None:
        """Give up a batch that has not ended."""
        if self._destination is opened:
            try:
                opened.abandon(index)
            except WingsdError:
                self._close()

    def written(self) -> _Written:
        """Return what a flush that begins now brings to stable storage."""
        with self._used() as destination:
            return _Written(destination, destination.undurable, self.written_bytes)

    def proven(self, written: _Written) -> None:
        """Record that this is on stable storage."""
        with self._used() as destination:
            self.flushed_bytes = max(self.flushed_bytes, written.bytes)
            if destination is written.destination:
                destination.proven(written.batches)

    def sync(self) -> None:
        """Flush all that was written. In the flusher's thread.

        Of two flushes at a time only one would report an error: so it is remembered for the other.
        """
        if self._has_failed:
            raise StorageError("what has arrived could not be written to the disk")
        try:
            self._sync()
        except BaseException:
            self._has_failed = True
            raise

    def note_failure(self) -> None:
        """After a flush that has failed: have the source resume, and send what may be lost."""
        if not self._has_failed:
            return
        self._has_failed, self._is_lost = False, True
        if self._destination is not None:
            with suppress(WingsdError):  # else they are lost when the ledger is opened
                self._destination.lose()
            self._close()

    def prepare_root(self) -> None:
        """Make the digests that a root is made of, as far as all is here."""
        with suppress(RoundIncomplete), self._used() as destination:
            destination.tree.root()

    def close_round(self, in_round: int, last: int, root: bytes) -> None:
        """Close a round. Raises `RootMismatch` also for what was read back and is wrong."""
        with self._used() as destination:
            self.check_read_back()
            destination.close_round(in_round, last, root)
            if destination.ledger_size > 2 * self._compacted + LEDGER_GROWS:
                destination.compact()
                self._compacted = destination.ledger_size

    # The end

    def check_committable(self, in_round: int, root: bytes) -> None:
        """Raise `RootMismatch` unless that round was closed last, with that root."""
        with self._used() as destination:
            is_last = destination.is_between_rounds and destination.received.round == in_round + 1
            if destination.roots != {in_round: root} or not is_last:
                raise RootMismatch(f"round {in_round} was not closed last, with this root")

    def next_pieces(self, reading: _Reading, is_stopped: Callable[[], bool]) -> Sequence[Piece]:
        """Return what is durable and to be read back next, after what `reading` has read."""
        with self._used() as destination:
            if reading.destination is destination:
                self._wrong |= dict.fromkeys(destination.rereading.settle(reading.differing))
            else:
                reading.destination = destination
                reading.reader = PieceReader(os.dup(self._root))
                reading.enter_context(closing(reading.reader))
            return () if is_stopped() else destination.rereading.take()

    def check_read_back(self) -> None:
        """Raise `RootMismatch` where something is not on the disk as it was sent.

        What is wrong is not held in the next round.
        """
        wrong = self._wrong
        if wrong:
            raise RootMismatch(
                f"{len(wrong)} files are not on this node's disk as they were sent, such as "
                f"{display(next(iter(wrong)))}; check its disk and memory: they are sent again"
            )

    def finish(self) -> int:
        """Set modes and times; return the bytes of all files, when all is on stable storage."""
        with self._used() as destination:
            destination.finish()
            assert self._applier is not None  # noqa: S101 - it is open
            self.without_attributes = self._applier.without_attributes
            return destination.tree.bytes

    @property
    def steps(self) -> int:
        """Grows while the tree is gone through, as for its root."""
        destination = self._destination  # another thread may close it
        return destination.tree.steps if destination is not None else 0

    def _require_space(self, size: int, files: int) -> None:
        settings = self._settings
        try:
            self._copies.make_room(settings.reserve, settings.inode_reserve, size, files)
        except StorageError as error:
            raise MoveNoSpace(error.detail) from error

    @contextmanager
    def _used(
        self, opened: MoveDestination | None = None, *, renew: bool = False
    ) -> Iterator[MoveDestination]:
        """Use the destination; with `opened` only if the ledger is still open since then.

        With `renew`, a copy that was removed or damaged is begun again.
        """
        if opened not in (None, self._destination) or self._paths is None:
            raise MoveResumeNeeded("the copy was opened again; resume the move")
        self.note_failure()
        if self._is_lost and not renew:
            raise MoveResumeNeeded("the disk has lost what was written to it; resume the move")
        if self._destination is None:
            self._open_again(renew=renew)
        destination = self._destination
        assert destination is not None  # noqa: S101 - for mypy
        try:
            yield destination
        except StorageError as error:
            self.note_failure()
            self._close()
            raise space_error(error) from error
        except Conflict:
            raise  # nothing was changed
        except BaseException:
            self._close()
            raise
        if renew:
            self._is_lost = False
        received = destination.received
        numbers = (received.round, received.upto, destination.durable)
        self.progress = MoveProgress(*numbers, destination.tree.bytes, destination.tree.members)

    def _open_again(self, *, renew: bool) -> None:
        try:
            self._open_ledger(self._move)
        except (FileNotFoundError, LedgerDamaged) as error:
            if not renew:
                raise MoveResumeNeeded("the copy is gone; resume the move") from None
            self._paths = self._copies.create(self._server, error)
            self._open_ledger(self._move)

    def _open_ledger(self, move: bytes) -> None:
        paths = self._paths
        assert paths is not None  # noqa: S101 - for mypy
        settings = self._settings
        self.note_failure()
        sync = partial(self._flusher.call, self.sync)
        with ExitStack() as stack:
            fds = []
            for path in (paths.tree, paths.aside):
                fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
                stack.callback(os.close, fds[-1])
            applier = TreeApplier(fds[0], fds[1], settings.owner, directory_opener("auto"))
            stack.callback(applier.close)
            ids = (move, self._boot)
            destination = MoveDestination.open(
                str(paths.ledger), ids, settings.limits, applier, sync, loses=self._is_lost
            )
            stack.callback(destination.close)
            if not settings.attributes:
                destination.drop_attributes()
            self._open = stack.pop_all()
        self._destination, self._root, self._applier = destination, fds[0], applier
        tree = destination.tree
        self.progress = attrs.evolve(self.progress, bytes=tree.bytes, files=tree.members)
        self._compacted = destination.ledger_size

    def _close(self) -> None:
        self._destination = None
        self._open.close()


def _needed(destination: MoveDestination) -> int:
    """Return the bytes of a ledger that is enough for a whole tree in a round, and one before."""
    tree = destination.tree
    names, files = NAME_TAKES * tree.members, tree.bytes // FILES_FOR_BYTE
    return LEDGER_GROWS + 2 * (names + files + tree.attribute_bytes)


def _boot_id() -> bytes:
    """Return the 16 bytes that name the present boot; random ones where the kernel has none."""
    try:
        return UUID(_BOOT.read_text().strip()).bytes
    except (OSError, ValueError):
        return os.urandom(16)


class CopyThread:
    """The thread of a partial copy, and what goes on beside it: flushes and reading back.

    `rereaders` read back what is durable while more arrives, None where that is not wanted.
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        copy: PartialCopy,
        thread: Workers,
        flusher: Workers,
        rereaders: Workers | None,
        reactor: IReactorTime,
    ) -> None:
        self._server = server
        self._copy = copy
        self._thread = thread
        self._flusher = flusher
        self._rereaders = rereaders
        self._reactor = reactor
        self._flushing: Deferred[None] | None = None
        self._reading: Deferred[Exception | None] | None = None
        self._is_stopping = False
        self._closed: Deferred[None] | None = None
        #: Whether what is durable is read back at once.
        self.reads_behind = False
        thread.start()

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Do work on the copy, after all that was sent before. Raises `MoveResumeNeeded`."""
        if self._closed is not None:
            raise MoveResumeNeeded
        return self._thread.run(work, *args, **kwargs)

    async def close(self) -> None:
        """Close the copy and end the thread, when what is under way is done.

        No batch may be received any more. Raises `StorageError`.
        """
        self.reads_behind = False
        if self._flushing is not None:
            self._flushing.cancel()
        await self.stop_reading()
        if self._closed is None:
            self._closed = self._thread.run(self._copy.close).addBoth(self._ended)
            await self._closed
        else:
            await when_fired(self._closed)

    def _ended(self, result: T) -> T:
        self._thread.stop()
        return result

    def receive(self, number: int, reader: BatchReader, pieces: Iterator[bytes]) -> None:
        """Receive the batch `number`: decode and compare it in this thread, of those for that."""
        ArrivingBatch(self._copy, self._thread, number).receive(reader, pieces)

    # Flushes

    def flush_soon(self) -> None:
        """Flush in a moment, and again as long as more has ended meanwhile."""
        if self._flushing is None and self._closed is None:
            self._flushing = flushing = Deferred.fromCoroutine(self._keep_flushing())
            flushing.addBoth(self._flushed)
            flushing.addErrback(lambda failure: failure.trap(CancelledError))

    async def _keep_flushing(self) -> None:
        is_left = True
        while is_left:
            await deferLater(self._reactor, FLUSH_EVERY)
            is_flushed = await self._checkpoint_or_log()
            is_left = is_flushed and self._copy.progress.durable < self._copy.progress.received

    def _flushed(self, result: T) -> T:
        self._flushing = None
        return result

    async def prepare_root(self) -> None:
        """Flush, and make the digests that a root is made of while the disk writes."""
        async with beside(self._checkpoint_or_log()) as flushing:
            await self.submit(self._copy.prepare_root)
        await flushing

    async def _checkpoint_or_log(self) -> bool:
        """Flush; return whether that was done. An error is logged: the source resumes after it."""
        try:
            await self.checkpoint()
        except WingsdError as error:
            self._log_error(error)
            return False
        self.read_behind()
        return True

    async def checkpoint(self) -> None:
        """Bring all batches that have ended to stable storage. More may be written meanwhile."""
        written = await self.submit(self._copy.written)
        if not written.batches:
            return
        try:
            await self._flusher.run(self._copy.sync)
        except StorageError as error:
            await self.submit(self._copy.note_failure)
            raise space_error(error) from error
        await self.submit(self._copy.proven, written)

    async def bound_unflushed(self) -> None:
        """Flush if so much was written since the last flush that the next one would take long."""
        if self._copy.written_bytes - self._copy.flushed_bytes >= MOST_UNFLUSHED:
            await self.checkpoint()

    # Reading back

    def read_behind(self) -> None:
        """Begin to read back what is durable; an error of that is found again at the end."""
        if self.reads_behind and self._rereaders is not None and self._reading is None:
            self._is_stopping = False
            self._read(self._rereaders, lambda: self._is_stopping).addCallback(self._log_error)

    async def catch_up(self) -> None:
        """Return when all was read back that is durable by now."""
        self.read_behind()
        if self._reading is not None:
            await when_fired(self._reading)

    async def stop_reading(self) -> None:
        """Return when nothing is read back any more."""
        self._is_stopping = True
        if self._reading is not None:
            await when_fired(self._reading)

    async def read_back(self, workers: Workers, is_stopped: Callable[[], bool]) -> None:
        """Read back from the disk what is durable and was not read back since it was written.

        It ends early when `is_stopped`.
        """
        while self._reading is not None:
            await when_fired(self._reading)
        reading = self._read(workers, is_stopped)
        await when_fired(reading)
        if isinstance(reading.result, BaseException):
            raise reading.result

    def _read(
        self, workers: Workers, is_stopped: Callable[[], bool]
    ) -> Deferred[Exception | None]:
        if self._closed is not None:
            raise MoveResumeNeeded
        self._reading = workers.run(self._read_pieces, is_stopped)
        return self._reading.addBoth(self._read_over)

    def _read_over(self, result: T) -> T:
        self._reading = None
        return result

    def _read_pieces(self, is_stopped: Callable[[], bool]) -> Exception | None:
        """Read what the copy hands out, in another thread than the copy's; return an error."""
        next_pieces = self._copy.next_pieces
        try:
            with _Reading() as reading:
                while pieces := self._thread.call(next_pieces, reading, is_stopped):
                    reading.differing = reading.reader.differing(pieces)
        except Exception as error:
            return error
        return None

    def _log_error(self, error: Exception | None) -> None:
        if error is not None:
            self._log.warn("{server}: {error}", server=self._server, error=error)


class ArrivingBatch:
    """A batch that is decoded in one thread, and written by that of its copy meanwhile."""

    def __init__(self, copy: PartialCopy, thread: Workers, number: int) -> None:
        self._copy = copy
        self._thread = thread
        self._number = number
        #: The data batch that was begun, and by which opening of the ledger.
        self._begun: tuple[MoveDestination, Index] | None = None
        #: Blocks that have arrived and are to be written together, and their bytes.
        self._runs: list[BlockRun] = []
        self._size = 0
        #: The blocks that are being written.
        self._writing: Future[None] | None = None

    def receive(self, reader: BatchReader, pieces: Iterator[bytes]) -> None:
        """Receive all of it."""
        try:
            for piece in pieces:
                for event in reader.feed(piece):
                    self._take(event)
                self._write()
            index = reader.finish()
            self._await_writing()
            if index.kind is BatchKind.SHAPE:
                # Of a shape batch nothing may be missing.
                self._thread.call(self._copy.begin_batch, index)
            elif self._begun is not None:
                self._thread.call(self._copy.end_batch, *self._begun)
        except BaseException:
            if self._begun is not None:
                self._thread.call(self._copy.abandon, *self._begun)
            raise

    def _take(self, event: Index | BlockRun) -> None:
        if isinstance(event, BlockRun):
            self._runs.append(event)
            self._size += len(event.data)
            if self._size >= WRITTEN_TOGETHER or len(self._runs) >= RUNS_TOGETHER:
                self._write()
            return
        if event.number != self._number:
            raise MoveRequestInvalid(
                f"the batch has the number {event.number}, the path has {self._number}"
            )
        if event.kind is BatchKind.DATA:
            opened = self._thread.call(self._copy.begin_batch, event)
            self._begun = (opened, event) if opened is not None else None

    def _write(self) -> None:
        runs, self._runs, self._size = self._runs, [], 0
        if runs and self._begun is not None:
            self._await_writing()
            self._writing = self._thread.send(self._copy.write, *self._begun, runs)

    def _await_writing(self) -> None:
        if self._writing is not None:
            self._writing.result()
