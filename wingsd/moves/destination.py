"""The destination of one move: batches are recorded, applied and proven. Blocking.

Of a data batch the index is in the ledger before anything is written, and durable there if that
changes what the ledger says. A shape batch is applied alone, after everything before it is on
stable storage, and is there itself at the end.

What was written is read back from the disk behind what arrives, and at the end what is left.
`Rereading` knows what was not read back since it was written. It looks at the tree, so that its
calls come one at a time with those of the destination. What it hands out is read in between by a
`PieceReader`, while more may be written: what differs then is looked at again by `settle`. After a
crash single batches are read back, by `is_held`. Bytes are compared with digests. What the disk
cannot read counts as something else than what was sent: it is sent again.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, groupby

from attrs import define, field, frozen

from wingsd.errors import BatchConflict, RootMismatch, RoundIncomplete, ShapeMissing, StorageError
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import (
    PIECE,
    AttributesFrame,
    BatchKind,
    BlockRun,
    Content,
    DataFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    Index,
    PutFrame,
    WholeFrame,
    Written,
    WrittenBlocks,
    ZeroFrame,
    checksum,
)
from wingsd.moves.digests import DIGEST, UNKNOWN, WHOLE, block_digest, block_digests, zero_digest
from wingsd.moves.ledger import (
    NO_ROOT,
    LedgerFile,
    LedgerState,
    ReceivedBatches,
    RecordType,
    Recovered,
    snapshot,
)
from wingsd.moves.nodes import DirectoryNode, FileNode, pack_file, tree_key
from wingsd.moves.tree import MoveLimits, MoveTree, Resumption, dirname
from wingsd.util.text import disk_advice, display

_SEGMENT = 1 << 20
#: Errors of a disk that has lost what is read; the second one where it has a checksum.
_LOST = (errno.EIO, errno.EBADMSG)
#: Files that are open at a time, and bytes that are read then.
FILES = 128
BYTES = 8 << 20
#: The maximum of remembered changes. When it is reached, everything from the lowest path of those
#: that were not remembered is read again. A path counts one more for each `PATH` bytes.
MOST, PATH = 32_768, 256


def is_held(applier: TreeApplier, tree: MoveTree, index: Index) -> bool:
    """Return whether all contents of a data batch are on the disk as it says.

    The page cache is passed, as far as it was flushed.
    """
    return all(_frame_is_held(applier, tree, frame) for frame in index.contents)


def _frame_is_held(applier: TreeApplier, tree: MoveTree, frame: Content) -> bool:
    if isinstance(frame, WholeFrame):
        return _passes(applier, frame.path, partial(_whole_fits, frame))
    if isinstance(frame, AttributesFrame):
        return True  # nothing of it is written yet
    node = tree.numbered(frame.number)
    return _passes(applier, node.names[0], partial(_blocks_fit, frame, node))


def _whole_fits(frame: WholeFrame, fd: int) -> bool:
    # one byte more, if it is longer
    data = os.pread(fd, frame.size + 1, 0)
    found = os.fstat(fd)
    is_same = (found.st_mode & 0o7777, found.st_mtime_ns) == (frame.mode, frame.mtime)
    return is_same and block_digest(data) == frame.digest


def _passes(applier: TreeApplier, path: bytes, check: Callable[[int], bool]) -> bool:
    """Return whether a file is there, can be read past the page cache, and passes a check."""
    opened = applier.open_file(path)
    if opened is None:
        return False
    with closing_descriptor(opened) as fd:
        try:
            with suppress(OSError):  # it is advice
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return check(fd)
        except OSError as error:
            _raise_unless_lost(path, error)
            return False


def _blocks_fit(frame: DataFrame | ZeroFrame, node: FileNode, fd: int) -> bool:
    """Return whether blocks are as a frame says."""
    first, at = frame.first, frame.first * node.block_size
    length = min(frame.count * node.block_size, node.size - at)
    for digests in _digests(fd, at, length, node.block_size):
        count = len(digests) // DIGEST
        if isinstance(frame, DataFrame):
            start = (first - frame.first) * DIGEST
            known = frame.digests[start : start + count * DIGEST]
        else:
            last = zero_digest(node.length(first, count))
            known = zero_digest(node.block_size) * (count - 1) + last
        if digests != known:
            return False
        first += count
    return first >= frame.first + frame.count


def _fits(digests: bytes, known: bytes) -> bool:
    """Return whether blocks have the digests that are known."""
    return digests == known or all(
        known[at : at + DIGEST] in (digests[at : at + DIGEST], UNKNOWN)
        for at in range(0, len(digests), DIGEST)
    )


def forget_differing(fd: int, node: FileNode) -> None:
    """Make the blocks of a file that comes in blocks unknown that are not as they should be."""
    first = 0
    try:
        for digests in _digests(fd, 0, node.size, node.block_size):
            count = len(digests) // DIGEST
            expected = node.blocks.get(first, count)
            for at in range(0, len(digests) if digests != expected else 0, DIGEST):
                if digests[at : at + DIGEST] != expected[at : at + DIGEST]:
                    node.blocks.forget(first + at // DIGEST, 1)
            first += count
    except OSError as error:
        _raise_unless_lost(node.names[0], error)
    # it may have been truncated meanwhile, or not be read from there on
    node.blocks.forget(first, node.blocks.count - first)


def _digests(fd: int, at: int, length: int, block_size: int) -> Iterator[bytes]:
    """Yield the digests of a file's blocks; fewer where it ends before."""
    end = at + length
    while at < end:
        data = os.pread(fd, min(_SEGMENT, end - at), at)
        if len(data) % block_size and at + len(data) < end:
            more = os.pread(fd, min(_SEGMENT, end - at), at)
            if len(more) <= len(data):
                return
            data = more
        if not data:
            return
        yield block_digests(data, block_size)
        at += len(data)


def _raise_unless_lost(path: bytes, error: OSError) -> None:
    if error.errno not in _LOST:
        message = f"{display(path)} could not be read back: {disk_advice(error)}"
        raise StorageError.reading(message) from error


@frozen(eq=False, repr=False)
class Piece:
    """Blocks of a file that are to be read, none where only its size counts.

    `size` is that of the file, `number` 0 for one that came as a whole. `length` bytes are
    expected to have a CRC-32, or digests, which may be `UNKNOWN`.
    """

    path: bytes
    number: int
    size: int
    first: int
    count: int
    block_size: int
    length: int
    expected: int | bytes

    @property
    def at(self) -> int:
        """The position of its first byte."""
        return self.first * self.block_size


@define(eq=False, repr=False)
class _Blocks:
    """Blocks of a file that has a number."""

    number: int
    first: int
    end: int


class Rereading:
    """The parts of `tree` that are still to be read back; at first all of it."""

    def __init__(self, tree: MoveTree, applier: TreeApplier) -> None:
        self._tree = tree
        self._applier = applier
        #: What was changed, in order; of paths all contents if they came as a whole.
        self._changes: deque[WrittenBlocks | _Blocks | bytes] = deque()
        #: How many these count as.
        self._size = 0
        #: All paths from this one on, in the order of a walk, are to be read.
        self._from: bytes | None = None
        self._taken: list[Piece] = []
        #: Files that have lost a name by which they may have been to be read, or found wrong: one
        #: of their other names, by their ids.
        self._renamed: dict[int, bytes] = {}
        #: Whether anything was not as it was sent.
        self._has_differed = False
        tree.on_name_lost = self._name_lost
        if tree.members:
            self.restart()

    def restart(self) -> None:
        """Begin to read back all of the tree."""
        self._changes.clear()
        self._size = 0
        self._renamed.clear()
        self._from = b""

    @property
    def is_over(self) -> bool:
        """True if all was read back that is on stable storage."""
        is_left = self._changes or self._taken or self._renamed
        return not is_left and self._from is None

    def skip(self) -> None:
        """Count all as read: it was, before the tree was opened again, and nothing has changed."""
        self.restart()
        self._taken, self._from = [], None

    def changed(self, changes: Iterable[Frame | WrittenBlocks]) -> None:
        """Add contents that are on stable storage now, and files under new names."""
        for change in changes:
            match change:
                case WrittenBlocks():
                    self._add(change)
                case ZeroFrame(number, first, count):
                    self._add_blocks(number, first, first + count)
                case PutFrame(path) | HardFrame(path):
                    # what was to be read while it had no name, or another first one that a walk
                    # had still before it, was passed over
                    self._add_file(path)
                case FileFrame(path=path):
                    self._add(path)

    def _name_lost(self, node: FileNode) -> None:
        if not self.is_over or self._has_differed:
            self._renamed[node.id] = node.names[0]
            if len(self._renamed) > MOST:
                self.restart()  # the tree must not be looked at while it is changed

    def _add_file(self, path: bytes) -> None:
        self._add(path)
        node = self._tree.find(path)
        if isinstance(node, FileNode) and node.number:
            self._add_blocks(node.number, 0, node.blocks.count)

    def _add_blocks(self, number: int, first: int, end: int) -> None:
        last = self._changes[-1] if self._changes else None
        if isinstance(last, _Blocks) and (last.number, last.end) == (number, first):
            last.end = end
        else:
            self._add(_Blocks(number, first, end))

    def _add(self, change: WrittenBlocks | _Blocks | bytes) -> None:
        if self._size + _counts(change) <= MOST:
            self._push(change)
            return
        path = self._path(change)
        if path is not None and (self._from is None or tree_key(path) < tree_key(self._from)):
            self._from = path

    def _push(self, change: WrittenBlocks | _Blocks | bytes) -> None:
        self._changes.append(change)
        self._size += _counts(change)

    def _path(self, change: WrittenBlocks | _Blocks | bytes) -> bytes | None:
        if isinstance(change, bytes):
            return change
        of = change.of if isinstance(change, WrittenBlocks) else change.number
        if isinstance(of, bytes):
            return of
        node = self._named(of)
        return None if node is None else node.names[0]

    def _named(self, number: int) -> FileNode | None:
        """Return the file that has a number, if it has a path."""
        try:
            node = self._tree.numbered(number)
        except KeyError:
            return None
        return node if node.names else None

    def take(self) -> Sequence[Piece]:
        """Return what is to be read next, the same until `settle`; nothing at the end."""
        if self._taken:
            return self._taken
        for path in self._renamed.values():
            self._add_file(path)
            self._tree.trim()
        self._renamed.clear()
        size = 0
        while len(self._taken) < FILES and size < BYTES:
            if not self._changes and not self._walk():
                break
            change = self._changes.popleft()
            self._size -= _counts(change)
            piece = self._piece(change)
            self._tree.trim()
            if piece is not None:
                self._taken.append(piece)
                size += piece.length
        return self._taken

    def settle(self, differing: Iterable[Piece]) -> Iterator[bytes]:
        """Yield the paths of files that are not as they were sent, of those that have differed.

        Raises StorageError.
        """
        self._taken = []
        for piece in differing:
            node = self._node(piece)
            if node is not None:
                # a file that came as a whole may have several
                path = piece.path if piece.path in node.names else node.names[0]
                if not self._is_as_sent(path, node, piece.first, piece.count):
                    self._has_differed = True
                    yield path

    def _is_as_sent(self, path: bytes, node: FileNode, first: int, count: int) -> bool:
        """Return whether a file is there under one of its names, and has the size it should have.

        Of its blocks from `first` on, `count` are compared as far as they are known. The page
        cache is passed. A file that is still to come as a whole need not be there.
        """
        if not node.number and node.blocks.missing:
            return True
        known = node.blocks.get(first, max(min(count, node.blocks.count - first), 0))
        piece = _piece(node, path, first, known)
        return _passes(self._applier, path, partial(_is_equal, piece))

    def _node(self, piece: Piece) -> FileNode | None:
        """Return the file of a piece, if what is known of it now may be compared with that."""
        if piece.number:
            return self._named(piece.number)
        node = self._tree.find(piece.path)
        return node if isinstance(node, FileNode) and not node.number else None

    def _walk(self) -> bool:
        """Go on with the walk; return False at its end."""
        if self._from is None:
            return False
        for path, node in self._tree.walk(start=self._from):
            self._from = path + b"/"  # all that follows is behind it
            if isinstance(node, FileNode) and node.names[0] == path:
                self._push(path)
                if node.number:
                    self._push(_Blocks(node.number, 0, node.blocks.count))
            if len(self._changes) >= FILES:
                return True
        self._from = None
        return bool(self._changes)

    def _piece(self, change: WrittenBlocks | _Blocks | bytes) -> Piece | None:
        """Return what is to be read of a change, None for nothing; of blocks a part of them."""
        if isinstance(change, WrittenBlocks):
            return self._written(change)
        if isinstance(change, bytes):
            node = self._tree.find(change)
            if not isinstance(node, FileNode):
                return None
            known = b"" if node.number else node.blocks.get(0, 1)
            return _piece(node, change, 0, known)
        held = self._named(change.number)
        if held is None:
            return None
        first = change.first
        count = min(change.end, held.blocks.count) - first
        if count > PIECE // held.block_size:
            count = PIECE // held.block_size
            change.first += count
            self._changes.appendleft(change)
            self._size += 1
        return _piece(held, held.names[0], first, held.blocks.get(first, max(count, 0)))

    def _written(self, change: WrittenBlocks) -> Piece | None:
        extent = (change.first, change.count)
        if isinstance(change.of, bytes):
            return Piece(change.of, 0, change.size, *extent, WHOLE, change.size, change.crc)
        held = self._named(change.of)
        if held is None:
            return None
        meta = (held.names[0], held.number, held.size)
        return Piece(*meta, *extent, held.block_size, change.size, change.crc)


def _counts(change: WrittenBlocks | _Blocks | bytes) -> int:
    path = change.of if isinstance(change, WrittenBlocks) else change
    return 1 + len(path) // PATH if isinstance(path, bytes) else 1


def _piece(node: FileNode, path: bytes, first: int, digests: bytes) -> Piece:
    count = len(digests) // DIGEST
    length = max(min(count * node.block_size, node.size - first * node.block_size), 0)
    meta = (path, node.number, node.size)
    return Piece(*meta, first, count, node.block_size, length, digests)


class PieceReader:
    """Reads files below the descriptor `root`, which becomes its own. `close` must be called."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._directories = OpenDirectories(root, lambda path: None)

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close()
        os.close(self._root)

    def differing(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Read pieces past the page cache; return those that differ or could not be read."""
        # Of many small files together, reading costs a third of what it does of one at a time.
        opened = [self._open(piece) for piece in pieces]
        try:
            for fd, piece in zip(opened, pieces, strict=True):
                if fd >= 0:
                    _advise(fd, piece, os.POSIX_FADV_WILLNEED)
            found = []
            for fd, piece in zip(opened, pieces, strict=True):
                is_equal = False
                with suppress(OSError):
                    is_equal = fd >= 0 and _is_equal(piece, fd)
                if not is_equal:
                    found.append(piece)
        finally:
            for fd in opened:
                if fd >= 0:
                    os.close(fd)
        if found:
            self._directories.close()  # some may be those of directories that were removed
        return found

    def _open(self, piece: Piece) -> int:
        try:
            fd = self._directories.open_file(piece.path)
        except OSError:
            return -1
        _advise(fd, piece, os.POSIX_FADV_DONTNEED)
        return fd


def _advise(fd: int, piece: Piece, advice: int) -> None:
    if piece.count:
        with suppress(OSError):  # it is advice
            os.posix_fadvise(fd, piece.at, piece.length, advice)


def _is_equal(piece: Piece, fd: int) -> bool:
    """Return whether the blocks that are known are as they should be."""
    # Both fail for what is no file. One byte more of a whole file shows whether it is longer.
    is_whole = not piece.number
    if not is_whole and os.lseek(fd, 0, os.SEEK_END) != piece.size:
        return False
    data = os.pread(fd, piece.length + is_whole, piece.at)
    if is_whole and len(data) != piece.size:
        return False
    if isinstance(piece.expected, int):
        return len(data) == piece.length and checksum(data) == piece.expected
    if not piece.number:
        return piece.expected in (UNKNOWN, block_digest(data))
    found = block_digests(data, piece.block_size)
    return len(found) == len(piece.expected) and _fits(found, piece.expected)


class OpenBatch:
    """A batch whose blocks are unknown in `tree` from now on. Raises what `begin` raises.

    New files that come as a whole are counted in `tree` now, and stored in it by `end` or
    `abandon`: adding each now and changing it then takes twice the CPU time. Until then nothing
    else may make their names.
    """

    def __init__(self, index: Index, tree: MoveTree) -> None:
        self.index = index
        self._tree = tree
        wholes = [frame.path for frame in index.contents if isinstance(frame, WholeFrame)]
        #: The paths of files that come as a whole and were not there.
        self.new = tree.store.absent(wholes)
        #: Frames of new files, a list for each run of one directory; and all other frames.
        self._added: list[list[WholeFrame]] = []
        self._known: list[Content] = []
        #: Frames of contents that were known, or come as a whole and have a name already.
        self.overwritten: list[Content] = []
        # In the order of the frames, as a replay of the ledger: else one of the two might be above
        # the limits meanwhile, and the other not.
        for directory, frames in groupby(index.contents, self._directory_of_new):
            if directory is not None:
                added = [frame for frame in frames if isinstance(frame, WholeFrame)]
                self._added.append(added)
                tree.trim()
                size = sum(frame.size for frame in added)
                more = sum(len(frame.attributes) for frame in added)
                tree.reserve(added[0].path, len(added), size, more)
                continue
            for frame in frames:
                self._known.append(frame)
                if tree.begin(frame):
                    self.overwritten.append(frame)
        #: Whether the ledger would be wrong without the batch once some of it is written. Of
        #: blocks that were unknown it says nothing; but it has to know of each new name.
        self.must_be_durable = bool(self.new or self.overwritten)
        self._written: list[Written] = []

    def _directory_of_new(self, frame: Content) -> bytes | None:
        if isinstance(frame, WholeFrame) and frame.path in self.new:
            return dirname(frame.path)
        return None

    def note(self, run: BlockRun) -> None:
        """Note that blocks were written: together with those that have the same checksum."""
        frame, written = run.frame, self._written
        if isinstance(frame, ZeroFrame):
            written.append(frame)
            return
        of, last = _file(frame), written[-1] if written else None
        if isinstance(last, WrittenBlocks) and (last.of, last.first) == (of, run.since):
            last.count += run.count
            last.size += len(run.data)
            last.crc = run.crc
        else:
            written.append(WrittenBlocks(of, run.first, run.count, len(run.data), run.crc))

    def end(self) -> Sequence[Written]:
        """Make the blocks known, all of which were written; return what is to be read back."""
        for frame in self._known:
            self._tree.done(frame)
        self._add(is_known=True)
        return self._written

    def abandon(self) -> None:
        """Leave the blocks unknown: some may be written in part."""
        self._add(is_known=False)

    def _add(self, *, is_known: bool) -> None:
        for frames in self._added:
            directory = dirname(frames[0].path)
            at = len(directory) + 1 if directory else 0
            packed = ((frame.path[at:], _packed(frame, is_known)) for frame in frames)
            self._tree.trim()
            self._tree.add_reserved(directory, packed)


def _packed(frame: WholeFrame, is_known: bool) -> bytes:
    digest = frame.digest if is_known else UNKNOWN
    meta = (frame.mode, frame.mtime, frame.size)
    return pack_file(*meta, None, b"", digest, frame.attributes)


def overlap(some: Sequence[Content | Written], others: Sequence[Content | Written]) -> bool:
    """Return whether two batches have a path, or blocks of a file, in common."""
    shared = {_file(each) for each in some} & {_file(each) for each in others}
    if not shared:
        return False
    theirs = _ranges(others, shared)
    at = 0
    for file, first, end in _ranges(some, shared):
        while at < len(theirs) and theirs[at][::2] <= (file, first):
            at += 1
        if at < len(theirs) and theirs[at][:2] < (file, end):
            return True
    return False


def _file(part: Content | Written) -> int | bytes:
    """Return the number of the file that some contents are of, or its path."""
    if isinstance(part, WrittenBlocks):
        return part.of
    return part.path if isinstance(part, WholeFrame) else part.number


def _ranges(
    parts: Sequence[Content | Written], files: set[int | bytes]
) -> list[tuple[str, int, int]]:
    """Return files with the first of some blocks and the end of these, sorted."""
    found = []
    for part in parts:
        if (file := _file(part)) in files:
            if isinstance(part, AttributesFrame):
                found.append((repr(file), -1, 0))
            else:
                found.append((repr(file), part.first, part.first + part.count))
    return sorted(found)


def _forget_wrong(applier: TreeApplier, tree: MoveTree, paths: Iterable[bytes]) -> None:
    """Make unknown what a reread has found wrong in some files; their names may have gone."""
    for path in paths:
        node = tree.find(path)
        if not isinstance(node, FileNode):
            continue
        opened = applier.open_file(node.names[0]) if node.number else None
        if opened is None:
            _remove(applier, tree, tuple(node.names))
            continue
        with closing_descriptor(opened) as fd:
            # the size that it should have
            frame = FileFrame(node.number, node.names[0], *node.meta, node.block_size)
            applier.shape(frame, makes=False, again=True)
            forget_differing(fd, node)
        tree.changed(node)


def _remove(applier: TreeApplier, tree: MoveTree, names: Iterable[bytes]) -> None:
    for name in names:
        tree.trim()
        applier.shape(GoneFrame(name), makes=False, again=True)
        tree.remove(name)


@define(eq=False, repr=False, slots=False)
class MoveDestination:
    """A partial copy that grows by batches. Calls come one at a time; several batches may be open.

    `sync` returns when all that was written is on stable storage, such as syncfs(2). After a batch
    that was applied in part, be it refused or the disk full, every method raises StorageError: the
    move must be opened again, by a new object. `close` must be called; `applier` stays the
    caller's. `ids` are those of the move and of the present boot.
    """

    _path: str
    _ids: tuple[bytes, bytes]
    _limits: MoveLimits
    _applier: TreeApplier
    _sync: Callable[[], None]
    _loses: bool = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Begin a move, or go on with it.

        What a crash has left unproven is read back; batches that are not held count as not
        received. With `loses`, after a flush that has failed, all that is unproven does. Raises
        LedgerDamaged, LedgerVersionUnknown and StorageError.
        """
        #: Its parts are pages of the tree as it was at `rebase`.
        self.ledger, found = LedgerFile.open(self._path, *self._ids, self._limits)
        self.tree: MoveTree = found.tree
        self.received: ReceivedBatches = found.received
        #: The root of the round that was closed last.
        self.roots = found.roots
        #: What is to be read back from the disk.
        self.rereading = Rereading(found.tree, self._applier)
        #: Batches that are written and not known to be on stable storage, with what of them is to
        #: be read back then.
        self._undurable: dict[int, Sequence[Written]] = dict.fromkeys(found.undurable, ())
        #: Data batches that have begun and not ended.
        self._open: dict[int, OpenBatch] = {}
        self._is_finished = False
        #: Whether a batch was applied in part, so that the tree is not what the ledger says.
        self._is_partial = False
        try:
            self._applier.reopen(found.tree)
            self._resume(found)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the ledger, and the file of the tree."""
        self.ledger.close()
        self.tree.store.close()

    @property
    def durable(self) -> int:
        """The highest number up to which all batches are on stable storage."""
        upto = self.received.upto
        return min(upto, min(self._undurable, default=upto + 1) - 1)

    @property
    def is_between_rounds(self) -> bool:
        """True if nothing of a round has come since the last one was closed.

        Of a batch that was given up some may be on the disk.
        """
        received = self.received
        return received.highest == received.upto == received.closed

    def begin(self, index: Index) -> bool:
        """Begin a batch when its index has arrived; return False where it is here already.

        A shape batch is applied at once, so its end must have arrived as well. Of a data batch
        each run follows, and `end`. Raises FrameRefused, BatchConflict, ShapeMissing,
        DiskLimitExceeded and StorageError.
        """
        self._check_usable()
        if not self.received.admit(index):
            return False
        if index.number in self._open:
            raise ShapeMissing(f"batch {index.number} is being received already; send it later")
        self._check_open(index)
        self._reopen()
        if index.kind is BatchKind.SHAPE:
            if self._open:
                raise ShapeMissing(
                    f"shape {index.number} is applied alone, and other batches are being "
                    "received; send it again"
                )
            self.checkpoint()
            self._is_partial = True
            self._shape(index)
        else:
            self._is_partial = True
            self._data(index)
        self._is_partial = False
        return True

    def write(self, index: Index, runs: Iterable[BlockRun]) -> None:
        """Write blocks of a batch that was begun. Raises BatchConflict where `rebase` ended it."""
        batch = self._begun(index)
        for run in runs:
            is_new = isinstance(run.frame, WholeFrame) and run.frame.path in batch.new
            self._applier.content(run, self.tree, is_new=is_new)
            batch.note(run)

    def end(self, index: Index) -> None:
        """End a data batch, all of which was written. Raises BatchConflict as `write`."""
        self._check_usable()
        batch = self._begun(index)
        self._is_partial = True
        written = batch.end()
        self.ledger.append_numbers(RecordType.DONE, index.number)
        del self._open[index.number]
        self.received.add(index.number)
        self._undurable[index.number] = written
        self._is_partial = False

    def abandon(self, index: Index) -> None:
        """Give a data batch up that has not ended: it may come again, with other contents too.

        Raises StorageError.
        """
        batch = self._open.get(index.number)
        if batch is None or batch.index is not index:
            return
        self._check_usable()
        self._is_partial = True
        self._open.pop(index.number).abandon()
        self._lost(index.number)
        self._is_partial = False

    def checkpoint(self) -> None:
        """Return when all batches that have ended are on stable storage."""
        if self._undurable:
            self._sync()
            self.proven(self.undurable)

    def lose(self) -> None:
        """Count all as lost that is not proven, after a flush that has failed.

        It does not say what was lost, and the next one says nothing. The move must be opened
        again.
        """
        self._is_partial = True
        unproven = sorted({*self._undurable, *self._open})
        self._undurable.clear()
        self._open.clear()
        for number in unproven:
            self._lost(number)

    @property
    def undurable(self) -> frozenset[int]:
        """The batches that have ended and are not known to be on stable storage."""
        return frozenset(self._undurable)

    def proven(self, numbers: Iterable[int]) -> None:
        """Record that batches are on stable storage, by a flush that began after they ended."""
        if found := sorted(self._undurable.keys() & set(numbers)):
            self.ledger.append_numbers(RecordType.CHECK, *found)
            for number in found:
                self.rereading.changed(self._undurable.pop(number))

    def close_round(self, in_round: int, last: int, root: bytes) -> None:
        """Close a round whose last batch is `last`; doing so twice is allowed.

        Raises RootMismatch where the root is not the same, RoundIncomplete and BatchConflict.
        """
        self._check_usable()
        if not self.received.check_round(in_round, last):
            if self.roots.get(in_round) != root:
                raise RootMismatch(f"round {in_round} was closed with another root")
            return
        if self._open or self.tree.slots:
            raise RoundIncomplete("batches are still being received; ask again when they ended")
        found = self.tree.root()
        if found != root:
            raise RootMismatch(
                f"the root of round {in_round} is {found.hex()} here and {root.hex()} at the "
                "source; compare the directories and send what differs"
            )
        self.checkpoint()
        self.ledger.append_round(in_round, root)
        self.received.close(in_round, last)
        self.roots = {in_round: root}

    def compact(self) -> None:
        """Replace the ledger by one without what a closed round has made obsolete.

        Raises BatchConflict within a round.
        """
        self._check_usable()
        if not self.is_between_rounds:
            raise BatchConflict("a round is open; the ledger is written again between rounds only")
        if in_round := self.received.round - 1:
            self._rewrite(in_round, self.received.closed)

    def drop_attributes(self) -> None:
        """Forget all attributes, before `rebase`: the source does not know any."""
        for path, node in self.tree.walk(plain=False):
            self.tree.trim()
            if isinstance(node, DirectoryNode) and node.attributes:
                self.tree.updated(path, node, node.mode, node.mtime, b"")
            elif isinstance(node, FileNode) and node.attributes and node.names[0] == path:
                self.tree.set_attributes(node, b"")

    def rebase(self, move: bytes | None = None, wrong: Iterable[bytes] = ()) -> Resumption:
        """Give up what is open, and begin a new round with what is held.

        Batches that have not ended are lost, and files that are in slots, or should have come as a
        whole and did not, are removed. Of the files with the paths `wrong`, which `rereading`
        has found, the blocks that are not as they should be become unknown. The ledger is
        replaced, with `move` as the id of the move; after a crash it is the old or the new one.
        Raises StorageError; the move must be opened again then.
        """
        self._check_usable()
        self._is_partial = True
        self._reopen()
        for batch in self._open.values():
            batch.abandon()
        _forget_wrong(self._applier, self.tree, wrong)
        # files in slots, and those that should have come as a whole and did not
        self._applier.empty_slots()
        self.tree.drop_slots()
        missing = (node for _, node in self.tree.missing() if not node.number)
        names = [name for node in missing for name in node.names]
        _remove(self._applier, self.tree, names)
        # what the new ledger does not have is gone, and what it has is on stable storage, before
        self._sync()
        self._open.clear()
        received, last = self.received, self.received.highest
        self._ids = (move or self._ids[0], self._ids[1])
        self._rewrite(received.round, last)
        received.restore(received.round, last, received.shape)
        for written in self._undurable.values():
            self.rereading.changed(written)
        self._undurable.clear()
        self.roots = {}
        self._is_partial = False
        numbers = (received.round, last + 1, received.shape, self.tree.last_number)
        return Resumption(*numbers, self.ledger.parts, self.tree.held_bytes())

    def _rewrite(self, in_round: int, last: int) -> None:
        root = self.roots.get(in_round, NO_ROOT)
        numbers = (in_round, last, self.tree.last_number, self.received.shape)
        move, boot = self._ids
        state = LedgerState(*numbers, root)
        self.ledger.replace(move, snapshot(boot, state, self.tree))

    def finish(self) -> None:
        """Set modes and times, after the last round; return when all is on stable storage."""
        self._applier.finish(self.tree)
        self._is_finished = True
        self._sync()

    def _reopen(self) -> None:
        """Undo `finish` as far as it is in the way."""
        if self._is_finished:
            self._applier.reopen(self.tree)
            self._is_finished = False

    def _data(self, index: Index) -> None:
        batch = OpenBatch(index, self.tree)
        undurable = list(chain.from_iterable(self._undurable.values()))
        if batch.overwritten and overlap(batch.overwritten, undurable):
            # else a crash could leave two unproven batches, of which one does not fit the disk
            self.checkpoint()
        self.ledger.append(RecordType.BATCH, index.raw, durable=batch.must_be_durable)
        self.received.recorded(index)
        self._open[index.number] = batch

    def _shape(self, index: Index) -> None:
        makes = [self.tree.apply(frame) for frame in index.shapes]
        self.ledger.append(RecordType.BATCH, index.raw, durable=True)
        self.received.recorded(index)
        self._apply(index, makes, again=False)
        self._shape_done(index)

    def _apply(self, index: Index, makes: Iterable[bool], *, again: bool) -> None:
        for frame, made in zip(index.shapes, makes, strict=True):
            self._applier.shape(frame, makes=made, again=again)

    def _shape_done(self, index: Index) -> None:
        self._sync()
        self.ledger.append_numbers(RecordType.DONE, index.number)
        self.ledger.append_numbers(RecordType.CHECK, index.number)
        self.received.add(index.number)
        self.rereading.changed(index.frames)

    def _check_usable(self) -> None:
        if self._is_partial:
            raise StorageError("a batch was applied in part; the move must be resumed")

    def _begun(self, index: Index) -> OpenBatch:
        batch = self._open.get(index.number)
        if batch is None or batch.index is not index:
            raise BatchConflict(f"batch {index.number} was given up meanwhile")
        return batch

    def _check_open(self, index: Index) -> None:
        """Refuse contents that another open batch has, too: which comes last would be chance."""
        for other in (batch.index for batch in self._open.values()):
            if overlap(index.contents, other.contents):
                raise ShapeMissing(
                    f"batch {index.number} has contents of batch {other.number}, which is being "
                    "received; send it again"
                )

    def _lost(self, number: int) -> None:
        self.ledger.append_numbers(RecordType.LOST, number)
        self.received.forget(number)

    def _resume(self, found: Recovered) -> None:
        if found.unfinished is not None:
            index, makes = found.unfinished
            self._apply(index, makes, again=True)
            self._shape_done(index)
        # Nothing is to be left of a file in a slot that the tree does not have there.
        self._applier.empty_slots(self.tree.slots)
        if found.unproven and not self._loses:
            self._sync()  # what is read back is on the disk then, or this fails
        for index in found.unproven:
            was_done = index.number in self._undurable
            if self._loses or not is_held(self._applier, self.tree, index):
                self._undurable.pop(index.number, None)
                self._lost(index.number)
                continue
            for frame in index.contents:
                self.tree.done(frame)
            if not was_done:
                self.ledger.append_numbers(RecordType.DONE, index.number)
                self.received.add(index.number)
                self._undurable[index.number] = ()
        self.checkpoint()
