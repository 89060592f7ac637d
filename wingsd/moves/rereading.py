"""Reads back from the disk what was written, behind what arrives, and at the end what is left.

`Rereading` knows what was not read back since it was written. It looks at the tree, so that its
calls come one at a time with those of the destination. What it hands out is read in between by a
`PieceReader`, while more may be written: what differs then is looked at again by `settle`. After a
crash single batches are read back, by `is_held`.

Blocking. Bytes are compared with digests. What the disk cannot read counts as something else than
what was sent: it is sent again.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial

from attrs import define, frozen

from wingsd.errors import StorageError
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.moves.applier import TreeApplier
from wingsd.moves.batch import (
    PIECE,
    AttributesFrame,
    Content,
    DataFrame,
    FileFrame,
    Frame,
    HardFrame,
    Index,
    PutFrame,
    WholeFrame,
    WrittenBlocks,
    ZeroFrame,
    checksum,
)
from wingsd.moves.digests import DIGEST, UNKNOWN, WHOLE, block_digest, block_digests, zero_digest
from wingsd.moves.nodes import FileNode, tree_key
from wingsd.moves.tree import MoveTree
from wingsd.util.text import disk_advice, display

_SEGMENT = 1 << 20
#: Errors of a disk that has lost what is read; the second one where it has a checksum.
_LOST = (errno.EIO, errno.EBADMSG)
#: Files that are open at a time, and bytes that are read then.
FILES = 128
BYTES = 8 << 20
#: Changes that are remembered; of more, all paths from theirs on are read. One with a long path
#: counts as several, for so many bytes each.
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


def _is_as_sent(applier: TreeApplier, path: bytes, node: FileNode, first: int, count: int) -> bool:
    """Return whether a file is there under one of its names, and has the size that it should have.

    Of its blocks from `first` on, `count` are compared as far as they are known. The page cache is
    passed. A file that is still to come as a whole need not be there. Raises StorageError.
    """
    if not node.number and node.blocks.missing:
        return True
    known = node.blocks.get(first, max(min(count, node.blocks.count - first), 0))
    return _passes(applier, path, partial(_is_equal, _piece(node, path, first, known)))


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
                if not _is_as_sent(self._applier, path, node, piece.first, piece.count):
                    self._has_differed = True
                    yield path

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
