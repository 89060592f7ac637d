"""The partial copy of a move: its files as they arrive, and its ledger, for several threads.

Calls of `MoveDestination` come from worker threads and are made one at a time. After an error of
the disk the ledger is read again before the next call; batches that are being received then fail,
and come again. `CopyUpkeep` flushes a copy and reads it back meanwhile.

A flush that fails says so once, and not what it has lost: all batches that are not known to be on
stable storage are lost then, and the source has to resume.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock, RLock
from time import time
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from wingsd.errors import (
    Conflict,
    DiskLimitExceeded,
    LedgerDamaged,
    LedgerVersionUnknown,
    MoveNoSpace,
    MoveRequestInvalid,
    MoveResumeNeeded,
    RootMismatch,
    RoundIncomplete,
    StorageError,
    WingsdError,
)
from wingsd.filesystem.openers import directory_opener
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import (
    BatchKind,
    BatchReader,
    BlockRun,
    DirectoryFrame,
    FileFrame,
    Index,
    LinkFrame,
    WholeFrame,
    frame_bytes,
)
from wingsd.moves.destination import MOST as MOST_CHANGES
from wingsd.moves.destination import MoveDestination, Piece, PieceReader
from wingsd.moves.ledger import LedgerFile
from wingsd.moves.nodes import is_full
from wingsd.moves.tree import MoveLimits, Resumption
from wingsd.moves.unchanged import KERNEL
from wingsd.threadio import Workers, relayed
from wingsd.transfers.storage.staging import LEAST_FILE, CopyPaths, PartialCopies
from wingsd.util.deferreds import when_fired
from wingsd.util.reactor import ThreadedReactor, Timer
from wingsd.util.text import display

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
#: Seconds from the end of a checkpoint to the next one.
CHECKPOINT_EVERY = 0.5
_NO_MORE = (
    "the pair may bring no more here: remove copies of other servers with wingsctl forget, or "
    "make a pair with larger limits"
)
#: Frames that may make a file, directory or symlink.
_MAKES = (WholeFrame, FileFrame, DirectoryFrame, LinkFrame)


@attrs.frozen(eq=False, repr=False)
class MoveProgress:
    """The numbers of a copy: its round, the highest batch received, and the highest durable one.

    `bytes` and `files` are those of the whole tree, the holes of sparse files included.
    """

    round: int = 1
    received: int = 0
    durable: int = 0
    bytes: int = 0
    files: int = 0


def space_error(error: StorageError) -> StorageError:
    """Return the error of a full disk as `MoveNoSpace`, and any other as it is."""
    cause = error.__cause__
    is_no_space = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_no_space or is_full(cause):
        return MoveNoSpace(error.detail)
    return error


@contextmanager
def room_errors() -> Iterator[None]:
    """Raise a `StorageError`, that of a look for space, as `MoveNoSpace`."""
    try:
        yield
    except StorageError as error:
        raise MoveNoSpace(error.detail) from error


@attrs.define(eq=False, repr=False, slots=False)
class PartialCopy:
    """The partial copy of one server, by the move with the id `move`.

    `attributes` is whether the source knows extended attributes. `room` returns the bytes that it
    may take by the limit of the `pair` that it comes by, None without one; called in threads. It
    goes on only with a kept copy of the same pair. Methods raise `StorageError`,
    `MoveNoSpace` where there is no space, and what `MoveDestination` raises.
    """

    _server: str
    _move: bytes
    _copies: PartialCopies
    _limits: MoveLimits
    _owner: tuple[int, int]
    _attributes: bool = True
    _room: Callable[[], int | None] = attrs.field(default=lambda: None, kw_only=True)
    _pair: str = attrs.field(default="", kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._boot = os.urandom(16)
        with suppress(OSError, ValueError):  # a kernel may not have it
            self._boot = KERNEL.boot_id()
        self._paths: CopyPaths | None = None
        self._lock = RLock()
        self._open = ExitStack()
        self._destination: MoveDestination | None = None
        self._applier: TreeApplier | None = None
        #: How many files lack extended attributes that they should have, after `finish`.
        self.without_attributes = 0
        #: The descriptor of the files' directory while the ledger is open.
        self._root = -1
        #: Held for a checkpoint; and the bytes that were written and not flushed.
        self._flushing = Lock()
        self._unflushed = 0
        #: Held while the disk is flushed: `_lock` is not held for a checkpoint, but for others.
        self._syncing = Lock()
        #: How many flushes have failed, and how many had when the ledger was opened.
        self._failures = self._known_failures = 0
        #: Whether one has failed since the source has resumed.
        self._is_lost = False
        #: Bytes of the ledger when it was last rewritten, or opened.
        self._compacted = 0
        #: The paths of files that are not as they were sent, in order, until the next round.
        self._wrong: dict[bytes, None] = {}
        #: Whether all of it had been read back from the disk when it was closed.
        self.is_read = False
        #: The pair that has brought what is held; empty without one.
        self.pair = self._pair
        #: Bytes of the ledger.
        self._ledger_bytes = 0
        #: How far it is, and how many bytes of files have arrived. The reactor only looks at them.
        self.progress = MoveProgress()
        self.arrived = 0

    # Beginning and end

    def begin(self) -> int:
        """Begin with what is kept of an earlier move; return how many bytes, 0 for nothing.

        A kept copy that proves nothing is removed; one of a newer version is kept as it is. Raises
        `MoveNoSpace` where there is no space to read it.
        """
        with self._lock:
            self._close()
            why: StorageError | None = None
            self._paths = self._copies.adopt(self._server, self._pair)
            if self._paths is not None:
                self.pair = self._paths.pair
                try:
                    return self._adopt(self._paths.ledger, is_read=self._paths.is_read)
                except LedgerVersionUnknown:
                    self._copies.keep(self._server, 0, time(), pair=self._paths.pair)
                except StorageError as error:
                    self._close()
                    if isinstance(full := space_error(error), MoveNoSpace):
                        raise full from error
                    why = error
            self._create(why)
            return 0

    def _create(self, why: Exception | None) -> MoveDestination:
        self._paths, self.pair = self._copies.create(self._server, why), self._pair
        return self._open_ledger(self._move)

    def _adopt(self, ledger: Path, *, is_read: bool = False) -> int:
        """Open a ledger that may be of an earlier move; return how many bytes are held.

        With `is_read` nothing of it need be read back again.
        """
        destination = self._open_ledger(LedgerFile.move_of(str(ledger)) or self._move)
        held = destination.rebase(self._move).bytes
        if is_read:
            destination.rereading.skip()
        return held

    def reopen(self) -> int:
        """Go on with what an earlier daemon has left; return how many bytes.

        Begins with nothing where the ledger is damaged: it proves nothing then. Raises
        `LedgerVersionUnknown`.
        """
        with self._lock:
            self._close()
            self._paths = self._copies.reopen(self._server)
            if self._paths is None:
                return self.begin()
            self.pair = self._paths.pair or self._pair
            try:
                if LedgerFile.move_of(str(self._paths.ledger)) not in (None, self._move):
                    # An earlier daemon has just adopted it.
                    return self._adopt(self._paths.ledger)
                destination = self._open_ledger(self._move)
            except LedgerDamaged as error:
                destination = self._create(error)
            return destination.tree.held_bytes()

    def close(self) -> None:
        """Close all files, after a last checkpoint where that is possible.

        What still waits for its turn raises `MoveResumeNeeded`.
        """
        with self._lock:
            try:
                self._note_failure()
                if self._destination is not None:
                    self._destination.checkpoint()
                    self.is_read = self._destination.rereading.is_over and not self._wrong
            finally:
                self._note_failure()
                self._paths = None
                self._close()

    # Sessions

    def resume(self) -> Resumption:
        """Give up what is open, and begin a round with what is held; return that."""
        with self._used(renew=True) as destination:
            wrong, self._wrong = self._wrong, {}
            resumption = destination.rebase(wrong=wrong)
            self._compacted = destination.ledger.size
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
                return destination.ledger.part(number)
            except LookupError:
                raise MoveResumeNeeded(f"there is no page {number}; resume the move") from None

    # Batches

    def receive(self, number: int, reader: BatchReader, pieces: Iterator[bytes]) -> int:
        """Receive the batch `number`; return the number up to which all are durable."""
        begun: tuple[MoveDestination, Index] | None = None
        runs, size = list[BlockRun](), 0
        try:
            for piece in pieces:
                for event in reader.feed(piece):
                    if isinstance(event, Index):
                        begun = self._begun(event, number)
                        continue
                    runs.append(event)
                    size += len(event.data)
                    if size >= WRITTEN_TOGETHER or len(runs) >= RUNS_TOGETHER:
                        self._write(begun, runs)
                        runs, size = [], 0
                self._write(begun, runs)
                runs, size = [], 0
            index = reader.finish()
            if index.kind is BatchKind.SHAPE:
                self.begin_batch(index)
            elif begun is not None:
                with self._used(begun[0]) as destination:
                    destination.end(index)
        except BaseException:
            if begun is not None:
                self._abandon(*begun)
            raise
        if self._unflushed >= MOST_UNFLUSHED:
            return self.checkpoint(MOST_UNFLUSHED)
        return self.progress.durable

    def _begun(self, index: Index, number: int) -> tuple[MoveDestination, Index] | None:
        """Begin a data batch; None for one that is here, and for a shape, all of which must be."""
        if index.number != number:
            raise MoveRequestInvalid(
                f"the batch has the number {index.number}, the path has {number}"
            )
        opened = self.begin_batch(index) if index.kind is BatchKind.DATA else None
        return None if opened is None else (opened, index)

    def begin_batch(self, index: Index) -> MoveDestination | None:
        """Begin a batch; return what takes it, None where it is here already."""
        with self._used() as destination:
            if not destination.received.has(index.number):
                size = sum(map(frame_bytes, index.frames)) + len(index.raw)
                files = sum(isinstance(each, _MAKES) for each in index.frames)
                room = self._room()
                if room is not None and self.charge + len(index.raw) > room:
                    raise DiskLimitExceeded(_NO_MORE)
                with room_errors():
                    self._copies.make_room(size, files)
                if destination.ledger.size + len(index.raw) > 2 * _needed(destination):
                    # No source repeats so much within a round; the ledger is written again then.
                    raise MoveResumeNeeded("the ledger of the move has grown; resume the move")
            return destination if destination.begin(index) else None

    def _write(
        self, begun: tuple[MoveDestination, Index] | None, runs: Sequence[BlockRun]
    ) -> None:
        """Write blocks of a batch that was begun."""
        if begun is None or not runs:
            return
        opened, index = begun
        with self._used(opened) as destination:
            self._unflushed += sum(max(len(run.data), LEAST_UNFLUSHED) for run in runs)
            destination.write(index, runs)
            self.arrived += sum(len(run.data) for run in runs)

    def _abandon(self, opened: MoveDestination, index: Index) -> None:
        """Give up a batch that has not ended."""
        with self._lock:
            if self._destination is opened:
                try:
                    opened.abandon(index)
                except WingsdError:
                    self._close()

    def checkpoint(self, least: int = 0, writing: Callable[[], object] = lambda: None) -> int:
        """Bring all that has ended to stable storage; return up to which number.

        Other calls are made while the disk writes, from when `writing` was called, but not this
        one. Nothing is flushed where less than `least` bytes have to be, as after the call that
        was waited for.
        """
        with self._flushing:
            with self._used() as destination:
                opened, written = destination, destination.undurable
                failures, unflushed = self._known_failures, self._unflushed
            writing()
            if written and unflushed >= least:
                try:
                    self._flush(failures)
                except StorageError as error:
                    with self._lock:
                        self._note_failure()
                    raise space_error(error) from error
                with self._used() as destination:
                    self._unflushed -= unflushed
                    if destination is opened:
                        destination.proven(written)
        return self.progress.durable

    def _flush(self, known: int) -> None:
        """Return when all that was written is on stable storage.

        Raises `StorageError`, also where more than the `known` failures have been:
        of two flushes at a time the kernel reports an error to one.
        """
        with self._syncing:
            if self._failures != known:
                raise StorageError("what has arrived could not be written to the disk")
            try:
                self._copies.staging.sync(self._server)
            except BaseException:
                self._failures += 1
                raise

    def prepare_root(self) -> None:
        """Make the digests that a root is made of, as far as all is here."""
        with suppress(RoundIncomplete), self._used() as destination:
            destination.tree.root()

    def close_round(self, in_round: int, last: int, root: bytes) -> None:
        """Close a round. Raises `RootMismatch` also for what was read back and is wrong."""
        with self._used() as destination:
            self.check_read_back()
            is_first = not destination.roots
            destination.close_round(in_round, last, root)
            if destination.ledger.size > 2 * self._compacted + LEDGER_GROWS:
                if not is_first:  # all is new in the first round: a new ledger would be as large
                    destination.compact()
                self._compacted = destination.ledger.size

    # The end

    def check_committable(self, in_round: int, root: bytes) -> None:
        """Raise `RootMismatch` unless that round was closed last, with that root."""
        with self._used() as destination:
            is_last = destination.is_between_rounds and destination.received.round == in_round + 1
            if destination.roots != {in_round: root} or not is_last:
                raise RootMismatch(f"round {in_round} was not closed last, with this root")

    def read_back(self, is_stopped: Callable[[], bool]) -> None:
        """Read back from the disk what is durable and was not read back since it was written.

        Other calls are made meanwhile, but not this one. It ends early when `is_stopped`.
        """
        opened: MoveDestination | None = None
        differing = list[Piece]()
        with ExitStack() as stack:
            while True:
                with self._used() as destination:
                    rereading = destination.rereading
                    if destination is opened:
                        self._wrong |= dict.fromkeys(rereading.settle(differing))
                    else:
                        opened = destination
                        reader = PieceReader(os.dup(self._root))
                        stack.enter_context(closing(reader))
                    pieces = () if is_stopped() else rereading.take()
                if not pieces:
                    return
                differing = reader.differing(pieces)

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
    def charge(self) -> int:
        """The bytes that count to the limit of a pair: of small files more than they have."""
        progress = self.progress
        return progress.bytes + LEAST_FILE * progress.files + self._ledger_bytes

    def _limits_now(self, destination: MoveDestination) -> MoveLimits:
        room, most, tree = self._room(), self._limits, destination.tree
        if room is None:
            return most
        room -= destination.ledger.size
        return MoveLimits(
            min(most.members, max(room - tree.bytes, 0) // LEAST_FILE),
            min(most.bytes, max(room - LEAST_FILE * tree.members, 0)),
            _NO_MORE,
        )

    @property
    def steps(self) -> int:
        """Grows while the tree is gone through, as for its root."""
        destination = self._destination  # which other threads close
        return destination.tree.store.steps if destination is not None else 0

    # In threads

    def _note_failure(self) -> None:
        """After a flush that has failed: have the source resume, and send what may be lost."""
        if self._failures == self._known_failures:
            return
        self._known_failures, self._is_lost = self._failures, True
        if self._destination is not None:
            with suppress(WingsdError):  # else they are lost when the ledger is opened
                self._destination.lose()
            self._close()

    @contextmanager
    def _used(
        self, opened: MoveDestination | None = None, *, renew: bool = False
    ) -> Iterator[MoveDestination]:
        """Use the destination alone; with `opened` only if that is it still.

        With `renew`, a copy that was removed or damaged is begun again.
        """
        with self._lock:
            if self._paths is None or (opened is not None and opened is not self._destination):
                raise MoveResumeNeeded("the copy was opened again; resume the move")
            self._note_failure()
            if self._is_lost and not renew:
                raise MoveResumeNeeded("the disk has lost what was written to it; resume the move")
            destination = self._destination or self._open_again(renew=renew)
            destination.tree.limits = self._limits_now(destination)
            try:
                yield destination
            except StorageError as error:
                self._note_failure()
                self._close()
                raise space_error(error) from error
            except Conflict:
                raise  # nothing was changed
            except BaseException:
                self._close()
                raise
            if renew:
                self._is_lost = False
            received, tree = destination.received, destination.tree
            numbers = (received.round, received.upto, destination.durable)
            self.progress = MoveProgress(*numbers, tree.bytes, tree.members)
            self._ledger_bytes = destination.ledger.size

    def _open_again(self, *, renew: bool) -> MoveDestination:
        try:
            return self._open_ledger(self._move)
        except (FileNotFoundError, LedgerDamaged) as error:
            if not renew:
                raise MoveResumeNeeded("the copy is gone; resume the move") from None
            return self._create(error)

    def _open_ledger(self, move: bytes) -> MoveDestination:
        paths = self._paths
        assert paths is not None  # noqa: S101 - for mypy
        # Those that failed before have been heeded when this is open.
        self._note_failure()
        sync = partial(self._flush, self._known_failures)
        with ExitStack() as stack:
            fds = []
            for path in (paths.tree, paths.aside):
                fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
                stack.callback(os.close, fds[-1])
            applier = TreeApplier(fds[0], fds[1], self._owner, directory_opener("auto"))
            stack.callback(applier.close)
            ids = (move, self._boot)
            destination = MoveDestination(
                str(paths.ledger), ids, self._limits, applier, sync, loses=self._is_lost
            )
            stack.callback(destination.close)
            if not self._attributes:
                destination.drop_attributes()
            self._open = stack.pop_all()
        self._destination, self._root, self._applier = destination, fds[0], applier
        tree = destination.tree
        self.progress = attrs.evolve(self.progress, bytes=tree.bytes, files=tree.members)
        self._compacted = destination.ledger.size
        return destination

    def _close(self) -> None:
        self._destination = None
        self._open.close()


def _needed(destination: MoveDestination) -> int:
    """Return the bytes of a ledger that is enough for a whole tree in a round, and one before."""
    tree = destination.tree
    names, files = NAME_TAKES * tree.members, tree.bytes // FILES_FOR_BYTE
    return LEDGER_GROWS + 2 * (names + files + tree.attribute_bytes)


@attrs.define(eq=False, repr=False, slots=False)
class CopyUpkeep:
    """The flushes of a partial copy, and its reading back, while more arrives.

    `disk` flushes, and `rereaders` read back what is durable, unless they are None. An error is
    only logged: `copy` has the source resume after a flush that has failed, as the disk reports it
    only once, and what cannot be read is found again at the end.
    """

    _log = Logger()

    _server: str
    _copy: PartialCopy
    _disk: Workers
    _rereaders: Workers | None
    _reactor: ThreadedReactor

    def __attrs_post_init__(self) -> None:
        self._next = Timer(self._reactor)
        self._is_flushing = self._is_stopped = False
        #: Fires at the end of what is being read back; and whether that is to end now.
        self._reading: Deferred[Exception | None] | None = None
        self._is_ending = False
        #: Whether what is durable is read back at once.
        self.reads_behind = True

    def stop(self) -> None:
        """Flush no more, and begin to read nothing back."""
        self._is_stopped, self.reads_behind = True, False
        self._next.cancel()

    # Flushes

    def flush_soon(self) -> None:
        """Flush in a moment, and again as long as more has ended meanwhile."""
        if not (self._next.is_running or self._is_flushing or self._is_stopped):
            self._next.start(CHECKPOINT_EVERY, lambda: Deferred.fromCoroutine(self._flush_next()))

    async def prepare_root(self) -> None:
        """Flush now, and make the digests of a root in another thread while the disk writes.

        The flush goes on when this is cancelled.
        """
        writing: Deferred[None] = Deferred()
        relay = relayed(self._reactor, lambda: writing.callback(None))
        flushing = Deferred.fromCoroutine(self._flush(relay))
        either = [writing, when_fired(flushing)]
        done = await DeferredList(either, fireOnOneCallback=True, consumeErrors=True)
        if isinstance(done, list):  # both were cancelled with this
            raise CancelledError
        await self._disk.run(self._copy.prepare_root)
        await when_fired(flushing)

    async def _flush_next(self) -> None:
        self._is_flushing = True
        is_done = await self._flush()
        self._is_flushing = False
        progress = self._copy.progress
        if is_done and progress.durable < progress.received:  # what has ended meanwhile
            self.flush_soon()

    async def _flush(self, writing: Callable[[], object] = lambda: None) -> bool:
        """Flush; return whether that was done.

        `writing` is called in the thread from which on the copy may be used by others.
        """
        try:
            await self._disk.run(self._copy.checkpoint, 0, writing)
        except Exception as error:
            self._log_error(error)
            return False
        self.read_behind()
        return True

    # Reading back

    def read_behind(self) -> None:
        """Begin to read back what is durable, unless that is under way, or not wanted now."""
        if self.reads_behind:
            self._go_on()

    async def catch_up(self) -> None:
        """Return when all was read back that was there to be read."""
        self._go_on()
        if self._reading is not None:
            await when_fired(self._reading)

    async def end_reading(self) -> None:
        """Return when nothing is read back."""
        while self._reading is not None:
            self._is_ending = True
            await when_fired(self._reading)

    async def read_back(self, workers: Workers, is_stopped: Callable[[], bool]) -> None:
        """Read back the rest, in a thread of `workers`; end early when `is_stopped`."""
        await self.end_reading()
        reading = self._read(workers, is_stopped)
        await when_fired(reading)  # which goes on if this is cancelled
        if isinstance(reading.result, Exception):
            raise reading.result

    def _go_on(self) -> None:
        if self._reading is None and self._rereaders is not None:
            self._is_ending = False
            self._read(self._rereaders, lambda: self._is_ending).addCallback(self._log_error)

    def _read(
        self, workers: Workers, is_stopped: Callable[[], bool]
    ) -> Deferred[Exception | None]:
        """Read back, in one thread at a time; fire with the error, if there is one."""
        reading: Deferred[Any] = workers.run(self._copy.read_back, is_stopped)
        self._reading = reading
        reading.addErrback(lambda failure: failure.value)
        return reading.addCallback(self._read_over)

    def _read_over(self, error: T) -> T:
        self._reading = None
        return error

    def _log_error(self, error: Exception | None) -> None:
        if error is not None:
            self._log.warn("{server}: {error}", server=self._server, error=error)
