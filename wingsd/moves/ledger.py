"""The ledger of a move: the records, the file, and what it proves about the destination's tree.

A record has a head (length of its payload, type, CRC of both), the payload and its CRC. Each CRC
goes on from the one before, so records cannot be dropped or exchanged unseen. The header says how
much of the file was flushed: from there on a crash may leave anything, before that it is damage.

A record is durable before anything of its batch is written, unless all of its blocks were unknown
before. So each block is unknown, or as the last record says, or its batch is among those that are
not proven: those without CHECK. In the same boot the page cache has survived, but a flush that has
failed may have been reported to somebody else. `LedgerFile` blocks; all else is pure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

from attrs import Factory, define, frozen

from wingsd.archive.pipeline import Blocks
from wingsd.errors import (
    BatchConflict,
    BatchInvalid,
    Conflict,
    LedgerDamaged,
    LedgerVersionUnknown,
    RoundIncomplete,
    ShapeMissing,
    StorageError,
)
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.moves.batch import MAX_INDEX, BatchKind, Index, decode_index
from wingsd.moves.tree import MoveLimits, MoveTree
from wingsd.util.durable import storage_errors, sync_directory

VERSION = 2
"""The version of the records, and of the frames in them."""

_VERSIONS = (1, VERSION)  # in the first one there are no attributes

ID = 16
"""Bytes of a move's id, and of a boot's."""

HEADER = Struct("<8sHH16sIQI")
"""The file's header: magic, version, two zero bytes, the move's id, the CRC of these, the mark."""

MARK_AT = 32
"""The mark's place in the header: the bytes of the file that were flushed, and their CRC."""

NO_ROOT = bytes(32)
"""Stands for the root of a round that was given up."""

_MAGIC = b"WMVLEDGR"
_HEAD = Struct("<IB")
_CRC = Struct("<I")
RECORD_HEAD = _HEAD.size + _CRC.size
"""Bytes of a record before its payload."""

_BOOT = Struct(f"{ID}s")
_NUMBER = Struct("<Q")
_ROUND = Struct("<I32s")
_STATE = Struct("<IQIQ32s")


class RecordType(Enum):
    """The kinds of records."""

    OPENED = 1  #: a boot's id: the records that follow were written in this boot
    BATCH = 2  #: the index of a batch, before any of it is written
    DONE = 3  #: a batch's number: it is written
    CHECK = 4  #: numbers: these batches are on stable storage
    LOST = 5  #: a batch's number: it must come again, its blocks are unknown
    ROUND = 6  #: a round's number and root: the round is closed
    STATE = 7  #: round, last batch, last file number, last shape, root: a snapshot follows
    PART = 8  #: an index of a snapshot
    END = 9  #: the end of a snapshot


class LedgerState(NamedTuple):
    """The numbers after a round when the ledger was written again, and the round's root."""

    round: int
    batch: int
    number: int
    shape: int
    root: bytes

    def encode(self) -> bytes:
        """Return the payload of a STATE record."""
        return _STATE.pack(*self)


@frozen(repr=False)
class Record:
    """One record; `end` is the position after it."""

    type: RecordType
    payload: bytes
    end: int = 0

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        """Return the fields of a record of one form."""
        if len(self.payload) != form.size:
            raise self.damaged(f"a {self.type.name} record has {len(self.payload)} bytes")
        return form.unpack(self.payload)

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of a CHECK record."""
        if len(self.payload) % _NUMBER.size:
            raise self.damaged("a CHECK record has an odd length")
        return tuple(each[0] for each in _NUMBER.iter_unpack(self.payload))

    def damaged(self, detail: str) -> LedgerDamaged:
        """Return the error of a record that makes no sense."""
        return LedgerDamaged(self.end, detail)


class LedgerWriter:
    """Encodes records one after the other, from the first one or behind a reader's last one."""

    def __init__(self, chain: int = 0) -> None:
        self._chain = chain

    def header(self, move: bytes, flushed: int = 0) -> bytes:
        """Return the file's header for a move's id."""
        start = HEADER.pack(_MAGIC, VERSION, 0, move, 0, 0, 0)[: MARK_AT - _CRC.size]
        self._chain = crc32(start)
        return start + _CRC.pack(self._chain) + self.mark(flushed)

    @staticmethod
    def mark(flushed: int) -> bytes:
        """Return what is written at `MARK_AT` when so many bytes of the file were flushed."""
        number = _NUMBER.pack(flushed)
        return number + _CRC.pack(crc32(number))

    def record(self, kind: RecordType, payload: bytes = b"") -> bytes:
        """Return one record."""
        head = _HEAD.pack(len(payload), kind.value)
        middle = crc32(head, self._chain)
        self._chain = crc32(payload, middle)
        return b"".join((head, _CRC.pack(middle), payload, _CRC.pack(self._chain)))


class LedgerReader:
    """Reads records from the bytes of a ledger, in pieces of any size.

    `end` is the position after the last whole record: what follows had not been flushed.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._blocks = Blocks(iter(pieces))
        #: The move's id, None where not even the header is whole.
        self.move: bytes | None = None
        self.end = self.chain = 0
        #: Bytes of the file that had been flushed when the mark was written.
        self.flushed = 0

    def records(self) -> Iterator[Record]:
        """Yield every record.

        Raises LedgerDamaged where what was flushed is not whole, and LedgerVersionUnknown.
        """
        self.header()
        try:
            yield from self._whole()
        except LedgerDamaged:
            if self.end < self.flushed:
                raise
        if self.end < self.flushed:
            raise self._damaged("it is shorter than it was")

    def _whole(self) -> Iterator[Record]:
        while (head := self._take(RECORD_HEAD)) is not None:
            length, kind = _HEAD.unpack_from(head)
            chain = crc32(head[: _HEAD.size], self.chain)
            if _CRC.pack(chain) != head[_HEAD.size :] or length > MAX_INDEX:
                raise self._damaged("the head of a record does not fit its CRC")
            body = self._take(length + _CRC.size)
            if body is None:
                return
            payload = body[:length]
            chain = crc32(payload, chain)
            if _CRC.pack(chain) != body[length:]:
                raise self._damaged("a record does not fit its CRC")
            if kind not in _TYPES:
                raise self._damaged(f"a record has the unknown type {kind}")
            self.chain, self.end = chain, self.end + RECORD_HEAD + len(body)
            yield Record(RecordType(kind), payload, self.end)

    def header(self) -> None:
        """Read the header alone: `move` and `flushed`. Raises as `records` does."""
        header = self._take(HEADER.size)
        # a crash may have left zeros in the place of a new file's
        if header is None or not any(header):
            self._blocks = Blocks(iter(()))
            return
        magic, version, reserved, move, crc, flushed, _ = HEADER.unpack(header)
        if magic != _MAGIC or crc != crc32(header[: MARK_AT - _CRC.size]):
            raise self._damaged("it does not begin as a ledger does")
        if version not in _VERSIONS or reserved:
            raise LedgerVersionUnknown(version, VERSION)
        if header[MARK_AT:] != LedgerWriter.mark(flushed):
            raise self._damaged("how much of it was flushed does not fit its CRC")
        self.move, self.end, self.chain, self.flushed = move, HEADER.size, crc, flushed

    def _take(self, size: int) -> bytes | None:
        """Return the next bytes, None where the file ends before."""
        try:
            return bytes(self._blocks.take(size))
        except EOFError:
            return None

    def _damaged(self, detail: str) -> LedgerDamaged:
        return LedgerDamaged(self.end, detail)


_TYPES = frozenset(each.value for each in RecordType)


WINDOW = 64
"""The most by which a batch is above the highest contiguous number."""

REMEMBERED = 1024
"""Numbers below the highest contiguous one whose contents are compared when they come again."""

_PIECE = 1 << 20
#: Zeros that are written ahead, for the records that follow.
_AHEAD = bytes(1 << 20)
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class ReceivedBatches:
    """The batches of one move, from 1, and its rounds, from 1."""

    def __init__(self) -> None:
        #: All up to this number were received, and these beyond it.
        self.upto = 0
        self.beyond: set[int] = set()
        #: The highest number that is in the ledger, of a batch that was lost, too.
        self.highest = 0
        #: The round that is open, and the last shape batch that was applied.
        self.round = 1
        self.shape = 0
        #: The last batch of closed rounds.
        self.closed = 0
        self._digests: dict[int, bytes] = {}

    def has(self, number: int) -> bool:
        """Return whether a batch was received."""
        return number <= self.upto or number in self.beyond

    def admit(self, index: Index) -> bool:
        """Return whether a batch is to be applied: False for a repetition.

        Raises BatchConflict, and ShapeMissing for one that may come again later.
        """
        number = index.number
        known = self._digests.get(number)
        if known is not None and known != index.digest:
            raise BatchConflict(f"batch {number} came before with other contents")
        if self.has(number):
            return False
        if index.round != self.round:
            raise BatchConflict(
                f"batch {number} is of round {index.round}, and round {self.round} is open"
            )
        if number > self.upto + WINDOW:
            raise ShapeMissing(
                f"batch {number} is more than {WINDOW} above {self.upto}; send those before it"
            )
        if index.kind is BatchKind.SHAPE and index.needs < self.shape:
            raise BatchConflict(f"batch {number} is of a shape that another has changed")
        if index.needs > self.shape:
            raise ShapeMissing(f"batch {number} needs shape {index.needs}; send that first")
        return True

    def recorded(self, index: Index) -> None:
        """Remember the contents of a batch that is in the ledger."""
        self._digests[index.number] = index.digest
        self.highest = max(self.highest, index.number)
        if index.kind is BatchKind.SHAPE:
            self.shape = index.number

    def add(self, number: int) -> None:
        """Count a batch as received."""
        self.beyond.add(number)
        while self.upto + 1 in self.beyond:
            self.upto += 1
            self.beyond.remove(self.upto)
            self._digests.pop(self.upto - REMEMBERED, None)

    def forget(self, number: int) -> None:
        """Count a batch as not received, which may come with other contents."""
        if number <= self.upto:
            self.beyond |= set(range(number + 1, self.upto + 1))
            self.upto = number - 1
        self.beyond.discard(number)
        self._digests.pop(number, None)

    def check_round(self, in_round: int, last: int) -> bool:
        """Return whether a round can be closed after batch `last`: False if it is closed already.

        Raises RoundIncomplete where batches are missing, and BatchConflict.
        """
        if in_round == self.round - 1 and last == self.closed:
            return False
        highest = max(self.beyond, default=self.upto)
        if in_round != self.round or last < max(self.closed, highest):
            raise BatchConflict(
                f"round {in_round} with the last batch {last} is not what is open: round "
                f"{self.round}, and batches up to {highest}"
            )
        if last > self.upto:
            raise RoundIncomplete(
                f"of its batches up to {last} those up to {self.upto} are here, and "
                f"{len(self.beyond)} more; send the others"
            )
        return True

    def close(self, in_round: int, last: int) -> None:
        """Close a round."""
        self.round, self.closed = in_round + 1, last

    def restore(self, in_round: int, last: int, shape: int) -> None:
        """Go on from a snapshot, made after `in_round` had ended with the batch `last`."""
        self.upto, self.beyond, self.shape = last, set(), shape
        self.highest = last
        self.close(in_round, last)
        self._digests.clear()


@define(eq=False, repr=False)
class Recovered:
    """The state that a ledger proves.

    `unproven` are data batches in the order of their records, which are to be read back.
    `unfinished` is a shape batch to be applied once more, with whether each frame makes a name.
    `undurable` are batches that are written and not known to be on stable storage.
    """

    tree: MoveTree
    received: ReceivedBatches = Factory(ReceivedBatches)
    roots: dict[int, bytes] = Factory(dict)
    unproven: list[Index] = Factory(list)
    unfinished: tuple[Index, tuple[bool, ...]] | None = None
    undurable: set[int] = Factory(set)


def recover(reader: LedgerReader, limits: MoveLimits, directory: str | None = None) -> Recovered:
    """Read a ledger to its end. The tree's file is in `directory`.

    Raises LedgerDamaged and LedgerVersionUnknown.
    """
    tree = MoveTree(limits, directory)
    replay = _Replay(tree)
    try:
        for record in reader.records():
            try:
                replay.add(record)
            except LedgerDamaged:
                raise
            except (BatchInvalid, Conflict) as error:
                raise record.damaged(f"a record does not fit those before it ({error})") from error
        return replay.result(reader.end)
    except BaseException:
        tree.store.close()
        raise


class _Replay:
    def __init__(self, tree: MoveTree) -> None:
        self._found = Recovered(tree)
        #: Batches without CHECK in the order of their records: the index, and DONE.
        self._open: dict[int, tuple[Index, bool]] = {}
        self._made: tuple[bool, ...] = ()
        self._state: LedgerState | None = None
        self._handlers: dict[RecordType, Callable[[Record], object]] = {
            # which boot it was does not matter
            RecordType.OPENED: lambda record: record.unpack(_BOOT),
            RecordType.BATCH: self._batch,
            RecordType.DONE: self._done,
            RecordType.CHECK: self._check,
            RecordType.LOST: self._lost,
            RecordType.ROUND: self._round,
            RecordType.STATE: self._begin_snapshot,
            RecordType.PART: lambda record: tree.add_part(record.payload),
            RecordType.END: self._end_snapshot,
        }

    def add(self, record: Record) -> None:
        kind = record.type
        if (self._state is not None) is not (kind in (RecordType.PART, RecordType.END)):
            raise record.damaged("a snapshot is not whole")
        self._handlers[kind](record)

    def result(self, end: int) -> Recovered:
        if self._state is not None:
            raise LedgerDamaged(end, "its snapshot has no end")
        found = self._found
        for index, is_done in self._open.values():
            if index.kind is BatchKind.SHAPE:
                # DONE is written when all of it is on stable storage
                found.unfinished = None if is_done else (index, self._made)
            else:
                found.unproven.append(index)
                self._forget(index)
            if is_done:
                found.undurable.add(index.number)
        return found

    def _batch(self, record: Record) -> None:
        index = decode_index(record.payload)
        again = self._open.pop(index.number, None)
        if again is not None and (again[0].digest != index.digest or again[1]):
            raise record.damaged(f"batch {index.number} is in it with other contents")
        if again is None and not self._found.received.admit(index):
            raise record.damaged(f"batch {index.number} is in it twice")
        if index.kind is BatchKind.SHAPE:
            if self._open or again is not None:
                raise record.damaged(f"shape {index.number} was applied beside other batches")
            self._made = tuple(self._found.tree.apply(frame) for frame in index.shapes)
        else:
            self._forget(index)
        self._found.received.recorded(index)
        self._open[index.number] = (index, False)

    def _forget(self, index: Index) -> None:
        for frame in index.contents:
            self._found.tree.begin(frame)

    def _done(self, record: Record) -> None:
        (number,) = record.unpack(_NUMBER)
        entry = self._open.get(number)
        if entry is None or entry[1]:
            raise record.damaged(f"batch {number} was written and is not in it")
        for frame in entry[0].contents:
            self._found.tree.done(frame)
        self._found.received.add(number)
        self._open[number] = (entry[0], True)

    def _check(self, record: Record) -> None:
        for number in record.numbers():
            entry = self._open.pop(number, None)
            if entry is None or not entry[1]:
                raise record.damaged(f"batch {number} is durable and was not written")

    def _lost(self, record: Record) -> None:
        (number,) = record.unpack(_NUMBER)
        entry = self._open.pop(number, None)
        if entry is None or entry[0].kind is BatchKind.SHAPE:
            raise record.damaged(f"batch {number} was lost and is not in it")
        self._forget(entry[0])
        self._found.received.forget(number)

    def _round(self, record: Record) -> None:
        number, root = record.unpack(_ROUND)
        received = self._found.received
        if self._open or received.beyond or number != received.round:
            raise record.damaged(f"round {number} was closed with batches open")
        received.close(number, received.upto)
        self._found.roots = {number: root}

    def _begin_snapshot(self, record: Record) -> None:
        state = LedgerState(*record.unpack(_STATE))
        if self._found.received.upto or self._open:
            raise record.damaged("a snapshot is not at its beginning")
        self._state = state

    def _end_snapshot(self, record: Record) -> None:
        state = self._state
        assert state is not None  # noqa: S101 - by `add`
        if state.number < self._found.tree.last_number:
            raise record.damaged(f"it has a file above the last number, {state.number}")
        self._found.tree.last_number = state.number
        self._found.received.restore(state.round, state.batch, state.shape)
        if state.root != NO_ROOT:
            self._found.roots = {state.round: state.root}
        self._state = None


def snapshot(
    boot: bytes, state: LedgerState, tree: MoveTree
) -> Iterator[tuple[RecordType, bytes]]:
    """Yield the records of a ledger that begins with a tree."""
    yield RecordType.OPENED, boot
    yield RecordType.STATE, state.encode()
    for part in tree.parts():
        yield RecordType.PART, part
    yield RecordType.END, b""


class LedgerFile:
    """The ledger of one move. `close` must be called. Methods raise StorageError.

    After an error nothing more can be appended: the file must be opened again.
    """

    _write: Callable[[int, bytes], int] = staticmethod(os.write)

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._writer = LedgerWriter()
        self._is_usable = True
        #: Bytes of the records, and of the file: zeros follow.
        self.size = self._end = 0
        #: Bytes of it that were flushed, and how many its header says.
        self._flushed = self._marked = 0
        #: The PART records of the last `replace`: position of the payload, length, CRC.
        self._parts: list[tuple[int, int, int]] = []

    @classmethod
    def open(
        cls, path: str, move: bytes, boot: bytes, limits: MoveLimits
    ) -> tuple[LedgerFile, Recovered]:
        """Open the ledger of the move with the id `move`, or make it; return what it proves.

        Raises LedgerDamaged, also for the ledger of another move, and LedgerVersionUnknown. The
        file is not changed then.
        """
        with storage_errors(path):
            fd = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        ledger = cls(path, fd)
        try:
            return ledger, ledger._recover(move, boot, limits)
        except BaseException:
            ledger.close()
            raise

    @staticmethod
    def move_of(path: str) -> bytes | None:
        """Return the id of the move that a ledger is of; None where there is no ledger yet.

        Raises StorageError, LedgerDamaged and LedgerVersionUnknown.
        """
        with storage_errors(path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with closing_descriptor(fd):
                reader = LedgerReader([os.pread(fd, HEADER.size, 0)])
        reader.header()
        return reader.move

    def _recover(self, move: bytes, boot: bytes, limits: MoveLimits) -> Recovered:
        reader = LedgerReader(self._pieces())
        found = recover(reader, limits, os.path.dirname(self._path) or ".")
        if reader.move not in (None, move):
            raise LedgerDamaged(0, "it is of another move")
        with storage_errors(self._path):
            os.ftruncate(self._fd, reader.end)
            os.lseek(self._fd, reader.end, os.SEEK_SET)
        self.size = self._end = reader.end
        self._flushed = self._marked = reader.flushed
        self._writer = LedgerWriter(reader.chain)
        if reader.move is None:
            self._append(self._writer.header(move))
        self.append(RecordType.OPENED, boot, durable=True)
        if reader.move is None:
            self._sync_directory()
        return found

    def append(self, kind: RecordType, payload: bytes, *, durable: bool = False) -> None:
        """Append a record; with `durable` return when it is on stable storage."""
        self._append(self._writer.record(kind, payload))
        if durable:
            self._flush()

    def append_numbers(self, kind: RecordType, *numbers: int) -> None:
        """Append a DONE, LOST or CHECK record."""
        self.append(kind, b"".join(map(_NUMBER.pack, numbers)))

    def append_round(self, in_round: int, root: bytes) -> None:
        """Append a ROUND record; return when it is on stable storage."""
        self.append(RecordType.ROUND, _ROUND.pack(in_round, root), durable=True)

    def replace(self, move: bytes, records: Iterable[tuple[RecordType, bytes]]) -> None:
        """Replace the file, for the move with the id `move`: records of types and payloads.

        The old file stays until the new one is whole and on stable storage.
        """
        new, writer = f"{self._path}.new", LedgerWriter()
        parts: list[tuple[int, int, int]] = []
        with storage_errors(self._path):
            fd = os.open(new, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                self._write_all(fd, writer.header(move))
                size = HEADER.size
                for kind, payload in records:
                    record = writer.record(kind, payload)
                    self._write_all(fd, record)
                    if kind is RecordType.PART:
                        parts.append((size + RECORD_HEAD, len(payload), crc32(payload)))
                    size += len(record)
                os.pwrite(fd, writer.mark(size), MARK_AT)
                os.fsync(fd)
                os.rename(new, self._path)
            except BaseException:
                os.close(fd)
                with suppress(OSError):
                    os.unlink(new)
                raise
        os.close(self._fd)
        self._fd, self._writer, self._parts = fd, writer, parts
        self.size = self._end = size
        self._flushed = self._marked = size
        self._sync_directory()

    @property
    def parts(self) -> int:
        """The number of PART records, 0 before the first `replace` of this object."""
        return len(self._parts)

    def part(self, number: int) -> bytes:
        """Return the payload of a PART record, from 1. Raises LedgerDamaged, and LookupError."""
        if not 0 < number <= len(self._parts):
            raise LookupError(number)
        at, length, crc = self._parts[number - 1]
        with storage_errors(self._path):
            payload = os.pread(self._fd, length, at)
        if crc32(payload) != crc:
            raise LedgerDamaged(at, "a part of it is not as it was written")
        return payload

    def close(self) -> None:
        """Close the file, without the zeros at its end."""
        if self._end > self.size:
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
        os.close(self._fd)

    def _append(self, data: bytes) -> None:
        if not self._is_usable:
            raise StorageError(
                "the ledger of the move could not be written before; the move must be resumed"
            )
        self._is_usable = False
        with storage_errors(self._path):
            self._write_all(self._fd, data)
        self._is_usable = True
        self.size += len(data)
        if self.size > self._end:
            # Write zeros behind the records, which no reader takes for one. Where neither size nor
            # blocks of the file change, a flush need not wait for the journal of the file system,
            # and so for what else is in that.
            self._end = self.size
            with suppress(OSError):  # without them it only takes longer
                self._end += os.pwrite(self._fd, _AHEAD, self.size)

    def _write_all(self, fd: int, data: bytes) -> None:
        written = self._write(fd, data)
        while written < len(data):
            written += self._write(fd, data[written:])

    def _flush(self) -> None:
        self._is_usable = False
        with storage_errors(self._path):
            if self._flushed > self._marked:
                # It goes to the disk with this flush, and is true already.
                os.pwrite(self._fd, self._writer.mark(self._flushed), MARK_AT)
                self._marked = self._flushed
            os.fdatasync(self._fd)
        self._flushed = self.size
        self._is_usable = True

    def _sync_directory(self) -> None:
        with storage_errors(self._path):
            sync_directory(Path(self._path).parent)

    def _pieces(self) -> Iterator[bytes]:
        at = 0
        with storage_errors(self._path):
            while piece := os.pread(self._fd, _PIECE, at):
                at += len(piece)
                yield piece
