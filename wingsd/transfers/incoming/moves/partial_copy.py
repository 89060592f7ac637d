"""The files of a move as they arrive, and its ledger: `MoveDestination`, for several threads.

Calls come from worker threads and are made one at a time. After an error of the disk the ledger is
read again before the next call; batches that are being received then fail, and come again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from time import monotonic, time
from uuid import UUID

import attrs

from wingsd.errors import Conflict, StorageError, WingsdError
from wingsd.filesystem.openers import directory_opener
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import BatchKind, Index, frame_bytes
from wingsd.moves.batch_reader import BatchReader, BlockRun
from wingsd.moves.destination import MoveDestination
from wingsd.moves.errors import LedgerDamaged, LedgerVersionUnknown, RootMismatch
from wingsd.moves.ledger_file import LedgerFile
from wingsd.moves.reading_back import FileOpener, differing
from wingsd.moves.rebasing import Resumption
from wingsd.moves.snapshot import held_bytes
from wingsd.moves.tree import MoveLimits
from wingsd.transfers.incoming.moves.errors import (
    MoveNoSpace,
    MoveRequestInvalid,
    MoveResumeNeeded,
)
from wingsd.transfers.storage.partial_copies import CopyPaths, PartialCopies

__all__ = ["CopySettings", "MoveProgress", "PartialCopy", "boot_id"]

#: Seconds of work from one checkpoint to the next.
CHECKPOINT_EVERY = 0.5
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> bytes:
    """Return the 16 bytes that name the present boot; random ones where the kernel has none."""
    try:
        return UUID(_BOOT.read_text().strip()).bytes
    except (OSError, ValueError):
        return os.urandom(16)


@attrs.frozen(eq=False, repr=False)
class CopySettings:
    """What a copy may take, and whose its files are; `reserve` are bytes that stay free."""

    limits: MoveLimits
    owner: tuple[int, int]
    reserve: int


@attrs.frozen(eq=False, repr=False)
class MoveProgress:
    """How far the batches are: round, the highest number received, and that which is durable."""

    round: int = 1
    received: int = 0
    durable: int = 0


class PartialCopy:
    """The partial copy of one server, by the move with the id `move`.

    `sync` returns when all that was written is on stable storage. Methods raise `StorageError`,
    `MoveNoSpace` where there is no space, and what `MoveDestination` raises.
    """

    def __init__(
        self,
        server: str,
        move: bytes,
        copies: PartialCopies,
        settings: CopySettings,
        sync: Callable[[], None],
    ) -> None:
        self._server = server
        self._copies = copies
        self._settings = settings
        self._sync = sync
        self._move = move
        self._boot = boot_id()
        self._paths: CopyPaths | None = None
        self._lock = Lock()
        self._open = ExitStack()
        self._destination: MoveDestination | None = None
        self._applier: FileOpener
        #: Counts how often the ledger was opened: a batch of an earlier time is lost.
        self._opened = 0
        self._checked = monotonic()
        #: The paths of files that are not as they were sent, until the next round.
        self._wrong: list[bytes] = []
        #: How far it is; the reactor only looks at it.
        self.progress = MoveProgress()

    # Beginning and end

    def begin(self) -> int:
        """Begin with what is kept of an earlier move; return how many bytes, 0 for nothing.

        A kept copy that proves nothing is removed; one of a newer version is kept as it is.
        """
        with self._lock:
            return self._begin()

    def _begin(self) -> int:
        self._close()
        self._paths = self._copies.adopt(self._server)
        if self._paths is not None:
            try:
                return self._adopt(str(self._paths.ledger))
            except LedgerVersionUnknown:
                self._copies.keep(self._server, 0, time())
            except StorageError:
                self._close()
        self._paths = self._copies.create(self._server)
        self._open_ledger(self._move)
        return 0

    def _adopt(self, ledger: str) -> int:
        """Open a ledger that may be of an earlier move; return how many bytes are held."""
        self._open_ledger(LedgerFile.move_of(ledger) or self._move)
        assert self._destination is not None  # noqa: S101 - it is open
        return self._destination.rebase(self._move).bytes

    def reopen(self) -> int:
        """Go on with what an earlier daemon has left; return how many bytes.

        Begins with nothing where the ledger is damaged: it proves nothing then. Raises
        `LedgerVersionUnknown`.
        """
        with self._lock:
            self._close()
            self._paths = self._copies.reopen(self._server)
            if self._paths is None:
                return self._begin()
            ledger = str(self._paths.ledger)
            try:
                if LedgerFile.move_of(ledger) in (None, self._move):
                    self._open_ledger(self._move)
                else:
                    # An earlier daemon has just adopted it.
                    self._adopt(ledger)
            except LedgerDamaged:
                self._paths = self._copies.create(self._server)
                self._open_ledger(self._move)
            assert self._destination is not None  # noqa: S101 - it is open
            return held_bytes(self._destination.tree)

    def close(self) -> None:
        """Close all files, after a last checkpoint where that is possible.

        What still waits for its turn raises `MoveResumeNeeded`.
        """
        with self._lock:
            try:
                if self._destination is not None:
                    self._destination.checkpoint()
            finally:
                self._paths = None
                self._close()

    # Sessions

    def resume(self) -> Resumption:
        """Give up what is open, and begin a round with what is held; return that."""
        with self._used() as destination:
            wrong, self._wrong = self._wrong, []
            return destination.rebase(wrong=wrong)

    def page(self, number: int) -> bytes:
        """Return a page of what was held at `resume`. Raises `MoveResumeNeeded` for no page."""
        with self._used() as destination:
            try:
                return destination.page(number)
            except LookupError:
                raise MoveResumeNeeded(f"there is no page {number}; resume the move") from None

    # Batches

    def receive(
        self,
        number: int,
        reader: BatchReader,
        pieces: Iterator[bytes],
        count: Callable[[int], object],
    ) -> int:
        """Receive the batch `number`; return the number up to which all are durable.

        `count` is called with the bytes of the files that have arrived.
        """
        batch = _ArrivingBatch(self, number)
        try:
            for piece in pieces:
                for event in reader.feed(piece):
                    batch.take(event)
                    if isinstance(event, BlockRun):
                        count(len(event.data))
            batch.end(reader.finish())
        except BaseException:
            batch.abandon()
            raise
        return self._checkpoint_if_due()

    def begin_batch(self, index: Index) -> int:
        """Begin a batch; return by which opening of the ledger, 0 where it is here already."""
        with self._used() as destination:
            if not destination.received.has(index.number):
                size = sum(map(frame_bytes, index.frames)) + len(index.raw)
                self._require_space(size)
            is_new = destination.begin(index)
            return self._opened if is_new else 0

    def write(self, opened: int, index: Index, run: BlockRun) -> None:
        """Write blocks of a batch that was begun by that opening."""
        with self._used(opened) as destination:
            destination.write(index, run)

    def end_batch(self, opened: int, index: Index) -> None:
        """End a batch."""
        with self._used(opened) as destination:
            destination.end(index)

    def give_up(self, opened: int, index: Index) -> None:
        """Give up a batch that has not ended."""
        with self._lock:
            if self._destination is not None and self._opened == opened:
                try:
                    self._destination.abandon(index)
                except WingsdError:
                    self._close()

    def checkpoint(self) -> int:
        """Have all that has ended on stable storage; return up to which number.

        Other calls are made while the disk writes.
        """
        with self._used() as destination:
            opened, written = self._opened, destination.undurable
        if written:
            self._sync()
            with self._used() as destination:
                if self._opened == opened:
                    destination.proven(written)
        self._checked = monotonic()
        return self.progress.durable

    def close_round(self, in_round: int, last: int, root: bytes) -> None:
        """Close a round."""
        with self._used() as destination:
            destination.close_round(in_round, last, root)

    # The end

    def check_committable(self, in_round: int, root: bytes) -> None:
        """Raise `RootMismatch` unless that round was closed last, with that root."""
        with self._used() as destination:
            if destination.roots != {in_round: root} or destination.received.round != in_round + 1:
                raise RootMismatch(f"round {in_round} was not closed last, with this root")

    def differing(self, is_stopped: Callable[[], bool]) -> list[bytes]:
        """Read all files back from the disk; return the paths of those that are not as sent.

        What is wrong of them is not held in the next round. Raises `MoveResumeNeeded` as soon as
        `is_stopped`.
        """
        with self._used() as destination:
            destination.checkpoint()
            opener = _StoppableOpener(self._applier, is_stopped)
            self._wrong = list(differing(opener, destination.tree))
            return self._wrong

    def finish(self) -> int:
        """Set modes and times; return the bytes of all files, when all is on stable storage."""
        with self._used() as destination:
            destination.finish()
            return destination.tree.bytes

    @property
    def files(self) -> int:
        """How many names there are."""
        return self._destination.tree.members if self._destination is not None else 0

    # In threads

    def _checkpoint_if_due(self) -> int:
        if monotonic() - self._checked >= CHECKPOINT_EVERY:
            self._checked = monotonic()
            self.checkpoint()
        return self.progress.durable

    def _require_space(self, size: int) -> None:
        if not self._settings.reserve:
            return
        try:
            self._copies.make_room(self._settings.reserve, size)
        except StorageError as error:
            raise MoveNoSpace(error.detail) from error

    @contextmanager
    def _used(self, opened: int | None = None) -> Iterator[MoveDestination]:
        """Use the destination alone; with `opened` only if the ledger is still open since then."""
        with self._lock:
            if opened not in (None, self._opened) or self._paths is None:
                raise MoveResumeNeeded("the copy was opened anew; resume the move")
            if self._destination is None:
                self._open_ledger(self._move)
            destination = self._destination
            assert destination is not None  # noqa: S101 - for mypy
            try:
                yield destination
            except StorageError as error:
                self._close()
                raise _space_error(error) from error
            except Conflict:
                raise  # nothing was changed
            except BaseException:
                self._close()
                raise
            received = destination.received
            self.progress = MoveProgress(received.round, received.upto, destination.durable)

    def _open_ledger(self, move: bytes) -> None:
        paths = self._paths
        assert paths is not None  # noqa: S101 - for mypy
        settings = self._settings
        with ExitStack() as stack:
            fds = []
            for path in (paths.tree, paths.aside):
                fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
                stack.callback(os.close, fds[-1])
            applier = TreeApplier(fds[0], fds[1], settings.owner, directory_opener("auto"))
            stack.callback(applier.close)
            destination = MoveDestination.open(
                str(paths.ledger), (move, self._boot), settings.limits, applier, self._sync
            )
            stack.callback(destination.close)
            self._open = stack.pop_all()
        self._destination, self._applier = destination, applier
        self._opened += 1

    def _close(self) -> None:
        self._destination = None
        self._open.close()


class _StoppableOpener:
    """Opens files until it is stopped."""

    def __init__(self, opener: FileOpener, is_stopped: Callable[[], bool]) -> None:
        self._opener = opener
        self._is_stopped = is_stopped

    def open_file(self, path: bytes) -> int | None:
        """Return a descriptor. Raises `MoveResumeNeeded`."""
        if self._is_stopped():
            raise MoveResumeNeeded
        return self._opener.open_file(path)


class _ArrivingBatch:
    """One batch on its way into a copy."""

    def __init__(self, copy: PartialCopy, number: int) -> None:
        self._copy = copy
        self._number = number
        #: The data batch that was begun, and by which opening of the ledger.
        self._begun: tuple[int, Index] | None = None

    def take(self, event: Index | BlockRun) -> None:
        """Take what has arrived."""
        if isinstance(event, BlockRun):
            if self._begun is not None:
                self._copy.write(*self._begun, event)
            return
        if event.number != self._number:
            raise MoveRequestInvalid(
                f"the batch has the number {event.number}, the path has {self._number}"
            )
        # Of a shape batch nothing may be missing.
        if event.kind is BatchKind.DATA and (opened := self._copy.begin_batch(event)):
            self._begun = (opened, event)

    def end(self, index: Index) -> None:
        """Take the end."""
        if index.kind is BatchKind.SHAPE:
            self._copy.begin_batch(index)
        elif self._begun is not None:
            opened, begun = self._begun
            self._copy.end_batch(opened, begun)
            self._begun = None

    def abandon(self) -> None:
        """Give it up."""
        if self._begun is not None:
            self._copy.give_up(*self._begun)


def _space_error(error: StorageError) -> StorageError:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return MoveNoSpace(error.detail)
    return error
