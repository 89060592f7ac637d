"""Reads the files of a move and fills batches with the blocks that are to be sent. Blocking.

`ContentReader` yields the blocks that are not as they were sent last. Each byte is read and hashed
once; the digests go to the file's node on the way. Batches have frames up to a size, and are
packed as the bodies of requests. Their numbers count on through the move.

A reader of all files of a running server would fill the page cache with those that nothing else
reads, and the kernel would take pages for them that the game needs. So what was not there before
is given back behind the reader. What was there is left alone: somebody has read it. This is by
cachestat(2), which Linux has since 6.5; without it, and where it is refused, nothing is
given back.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby
from typing import Any, NamedTuple

import pyzstd
from attrs import frozen

from wingsd.errors import SourceFileChanged
from wingsd.filesystem.attributes import AttributeReader
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.filesystem.syscalls import cached_pages
from wingsd.filesystem.walk import gone, unreadable
from wingsd.moves.batch import (
    MAX_DATA,
    MAX_FRAMES,
    MAX_INDEX,
    AttributesFrame,
    BatchKind,
    Content,
    DataFrame,
    Frame,
    Index,
    WholeFrame,
    ZeroFrame,
    encode_batch,
    make_index,
)
from wingsd.moves.digests import DIGEST, UNKNOWN, Bytes, block_digest, block_digests, zero_digest
from wingsd.moves.nodes import FileNode, block_count
from wingsd.moves.plan import FileContent, Plan
from wingsd.moves.scan import seen_as
from wingsd.moves.unchanged import UnchangedFiles
from wingsd.util.text import display

REGION = 32 << 20
"""Bytes that are looked at together, and at least so far ahead of what is read: reading one part
of a file has the kernel read what follows."""

SEGMENT = 128 << 10
"""Bytes read at a time, and the most of one frame. A multiple of every block size."""

_SECTOR = 512
#: Errors of file systems that do not know where a file has data.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
#: Errors of opening a file whose place something of another kind has taken.
_REPLACED = (errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


class PageCacheKeeper:
    """Reads of one file, from its beginning to its end, in parts of at most `part` bytes.

    Call `before` before each part is read, and `give_back` after the last one.
    """

    def __init__(self, fd: int, size: int, part: int) -> None:
        self._fd = fd
        self._size = size
        self._part = part
        #: Up to where it was looked, and parts ahead that were not in the page cache.
        self._seen = 0
        self._cold: set[int] = set()
        #: Where what is to be given back begins and ends.
        self._start = self._end = 0

    def before(self, at: int) -> None:
        """Note that the part that begins at `at` is read next; those before it are not."""
        self._seen = max(self._seen, at)
        if at + REGION > self._seen and self._seen < self._size:
            self._look(at + 2 * REGION)
        if at != self._end or at not in self._cold or at - self._start >= REGION:
            self.give_back()
            self._start = self._end = at
        if at in self._cold:
            self._cold.remove(at)
            self._end = min(at + self._part, self._size)

    def _look(self, end: int) -> None:
        """Find out which parts before `end` are not in the page cache."""
        while self._seen < min(end, self._size):
            first = self._seen
            self._seen = min(first + self._part, self._size)
            if cached_pages(self._fd, first, self._seen - first) == 0:
                self._cold.add(first)

    def give_back(self) -> None:
        """Give back the last parts that were read."""
        length = self._end - self._start
        if length > 0:
            with suppress(OSError):
                os.posix_fadvise(self._fd, self._start, length, os.POSIX_FADV_DONTNEED)


class FramedData(NamedTuple):
    """A frame with its bytes; a `ZERO` frame has none.

    They are no view of what was read: that would be kept in memory until they are sent.
    """

    frame: Content
    data: bytes


class ContentReader:
    """Reads files below the descriptor `root`; no symlink is followed. `close` must be called.

    `count` gets the bytes of each piece when it was read; holes count. What it raises passes.
    """

    def __init__(
        self, root: int, attributes: AttributeReader, count: Callable[[int], None]
    ) -> None:
        self._directories = OpenDirectories(root, lambda path: None)
        self._attributes = attributes
        self._count = count

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close()

    def read(
        self, content: FileContent, rule: UnchangedFiles | None = None
    ) -> Generator[FramedData, None, bool]:
        """Yield what is to be sent of a file, in the order of its blocks.

        Raises SourceFileChanged where the file is not as its node says, and StorageError. With a
        `rule` the server runs: the file is sent as it is read, with zeros for what it lacks of
        the size in its node; if it is not the one that was seen, the node's stamp becomes empty.
        Returns whether the file is settled by the rule.
        """
        is_live = rule is not None
        try:
            fd = self._open(content.path, is_live=is_live)
            try:
                if rule is None:
                    found = _checked(fd, content)
                else:
                    found = rule.before_reading(fd)
                    if seen_as(found) != content.node.seen_as:
                        # the file that was seen may have another name by which it is settled
                        content.node.stamp = b""
                attributes, mode = self._attributes.read(fd, found, content.node.mode)
                content.node.attributes = attributes
                kept = PageCacheKeeper(fd, found.st_size, SEGMENT) if is_live else None
                if content.node.number:
                    before = content.before
                    if attributes != (before.attributes if before is not None else b""):
                        yield FramedData(AttributesFrame(content.node.number, attributes), b"")
                    content.tree.changed(content.node)
                    yield from self._parts(fd, content, found.st_blocks * _SECTOR, kept)
                else:
                    content.node.mode = mode
                    yield from self._whole(fd, content, kept)
                if kept is not None:
                    kept.give_back()
                if rule is not None:
                    return rule.after_reading(fd, content.node, found)
                _checked(fd, content)
                return False
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise SourceFileChanged(display(content.path)) from None
        except OSError as error:
            unreadable(content.path, error)

    def read_mode(self, path: bytes, node: FileNode) -> None:
        """Give a file that comes in parts the mode that it has without an ACL.

        It is sent before the file is read. One that is not as it was scanned is found then.
        """
        if not node.mode & stat.S_IRWXG:
            return
        try:
            with closing_descriptor(self._directories.open_file(path)) as fd:
                _, node.mode = self._attributes.read(fd, os.fstat(fd), node.mode)
        except OSError as error:
            if not _is_gone(error):
                unreadable(path, error)

    def _open(self, path: bytes, *, is_live: bool) -> int:
        try:
            fd = self._directories.open_file(path)
            if not is_live or stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        except OSError as error:
            if not (is_live and _is_gone(error)):
                raise
        # the next round has what is there now; until then zeros stand for the file
        return os.memfd_create("gone")

    def _whole(
        self, fd: int, content: FileContent, kept: PageCacheKeeper | None
    ) -> Iterator[FramedData]:
        node, before = content.node, content.before
        if kept is not None:
            kept.before(0)
        data = _exactly(fd, 0, node.size, content, kept is not None)
        self._count(node.size)
        digest = block_digest(data)
        node.blocks.set(0, digest)
        content.tree.changed(node)
        if before is None or _known(before) != _known(node):
            frame = WholeFrame(content.path, *node.meta, digest, node.attributes or b"")
            yield FramedData(frame, data)

    def _parts(
        self, fd: int, content: FileContent, held: int, kept: PageCacheKeeper | None
    ) -> Iterator[FramedData]:
        node = content.node
        per_segment = SEGMENT // node.block_size
        is_sparse = held < node.size
        for first in range(0, node.blocks.count, per_segment):
            count = min(per_segment, node.blocks.count - first)
            at = first * node.block_size
            length = min(SEGMENT, node.size - at)
            self._count(length)
            data = b""
            if is_sparse and _is_hole(fd, at, length):
                node.blocks.set_zeros(first, count, node.block_size, node.length(first, count))
                digests = node.blocks.get(first, count)
            else:
                if kept is not None:
                    kept.before(at)
                data = _exactly(fd, at, length, content, kept is not None)
                digests = block_digests(data, node.block_size)
                node.blocks.set(first, digests)
            content.tree.changed(node)
            content.tree.trim()
            if digests != (sent := _sent(content, first, count)):
                yield from _changed(node, first, digests, sent, data)


def _is_gone(error: OSError) -> bool:
    return gone(error) or error.errno in _REPLACED


def _checked(fd: int, content: FileContent) -> os.stat_result:
    found = os.fstat(fd)
    if seen_as(found) != content.node.seen_as:
        raise SourceFileChanged(display(content.path))
    return found


def _exactly(fd: int, at: int, length: int, content: FileContent, is_live: bool) -> bytes:
    data = os.pread(fd, length, at)
    while len(data) < length:
        more = os.pread(fd, length - len(data), at + len(data))
        if not more and is_live:
            return data.ljust(length, b"\0")
        if not more:
            raise SourceFileChanged(display(content.path))
        data += more
    return data


def _is_hole(fd: int, at: int, length: int) -> bool:
    try:
        return os.lseek(fd, at, os.SEEK_DATA) >= at + length
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data follows
            return True
        if error.errno in _UNSUPPORTED:
            return False
        raise  # zeros for data that cannot be found would be sent as what is there


def _known(node: FileNode) -> tuple[int, int, int, bytes, bytes | None]:
    return *node.meta, node.blocks.get(0, 1), node.attributes


def _sent(content: FileContent, first: int, count: int) -> bytes:
    """Return the digests of blocks as the destination has them, `UNKNOWN` for those it lacks."""
    before, node = content.before, content.node
    if before is None:
        return bytes(count * DIGEST)
    held = block_count(before.size, before.block_size)
    if before.size != node.size:
        # what was the last block is shorter or longer now
        held = min(before.size, node.size) // node.block_size
    known = max(min(held - first, count), 0)
    return before.blocks.get(first, known) + UNKNOWN * (count - known)


def _changed(
    node: FileNode, first: int, digests: bytes, sent: bytes, data: bytes
) -> Iterator[FramedData]:
    """Yield frames for the blocks whose digests are not as sent, with runs as long as can be."""
    size = node.block_size
    zero = zero_digest(size)

    def content(at: int) -> type[DataFrame | ZeroFrame] | None:
        here = slice(at * DIGEST, at * DIGEST + DIGEST)
        if digests[here] == sent[here]:
            return None
        # without data the whole segment is a hole
        return ZeroFrame if digests[here] == zero or not data else DataFrame

    end = 0
    for kind, run in groupby(range(len(digests) // DIGEST), content):
        start, end = end, end + len(list(run))
        if kind is DataFrame:
            length = node.length(first + start, end - start)
            part = digests[start * DIGEST : end * DIGEST]
            frame = DataFrame(node.number, first + start, size, length, part)
            yield FramedData(frame, data[start * size : end * size])
        elif kind is ZeroFrame:
            yield FramedData(ZeroFrame(node.number, first + start, end - start), b"")


LEAST_SIZE = 256 << 10
"""Bytes of the smallest limit of a batch: each frame with its bytes fits it."""

_HEADS = 128
#: Bytes of the smallest and the largest block of a body.
_SMALL, _LARGE = 64 << 10, 256 << 10
#: Bytes from the start of a batch by which it is decided whether it is compressed, and how much
#: they must shrink.
_SAMPLE, _WORTH = 256 << 10, 0.95


@frozen(eq=False, repr=False)
class Batch:
    """A batch that is ready to be sent."""

    index: Index
    data: Sequence[bytes]

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes."""
        return encode_batch(self.index, self.data)


class BatchFiller:
    """Makes the batches of a move: for each round `shapes`, then `data`.

    `size` is the most bytes of a batch, before it is compressed, and may be changed at any time.
    """

    def __init__(self, size: int, number: int = 0, in_round: int = 0, shape: int = 0) -> None:
        self.size = size
        #: The number of the last batch, the present round, and the last shape batch.
        self.number = number
        self.round = in_round
        self.shape = shape

    def shapes(self, plan: Plan) -> Iterator[Batch]:
        """Begin a round; yield its shape batches. Each needs the one before it."""
        self.round += 1
        each: tuple[Iterable[Frame], ...] = (plan.removals, plan.creations)
        for frames in each:
            for batch in self._filled(BatchKind.SHAPE, ((frame, b"") for frame in frames)):
                self.shape = batch.index.number
                yield batch

    def data(self, contents: Iterable[FramedData]) -> Iterator[Batch]:
        """Yield batches of contents, which need the shape so far."""
        return self._filled(BatchKind.DATA, contents)

    def _filled(self, kind: BatchKind, framed: Iterable[tuple[Frame, bytes]]) -> Iterator[Batch]:
        frames, encoded, contents = list[Frame](), list[bytes](), list[bytes]()
        index = size = 0  # bytes of the encoded frames, and with those of their contents
        for frame, data in framed:
            raw = frame.encode()
            index += len(raw)
            size += len(raw) + len(data)
            if frames and (
                len(frames) >= MAX_FRAMES
                or index > MAX_INDEX - _HEADS
                or size > min(self.size, MAX_DATA) - _HEADS
            ):
                yield self._batch(kind, frames, encoded, contents)
                index, size = len(raw), len(raw) + len(data)
            frames.append(frame)
            encoded.append(raw)
            if data:
                contents.append(data)
        if frames:
            yield self._batch(kind, frames, encoded, contents)

    def _batch(
        self, kind: BatchKind, frames: list[Frame], encoded: list[bytes], contents: list[bytes]
    ) -> Batch:
        """Make a batch, and empty the lists: its bytes are not to be held twice."""
        self.number += 1
        numbers = (self.number, self.round, self.shape)
        batch = Batch(make_index(kind, *numbers, frames, encoded), tuple(contents))
        for each in (frames, encoded, contents):
            each.clear()
        return batch


@frozen(eq=False, repr=False)
class BatchBody:
    """The body of a request with a batch; `data` are its bytes of files."""

    number: int
    data: int
    blocks: list[bytes | memoryview]
    zstd: bool

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(len(block) for block in self.blocks)


def batch_body(batch: Batch, *, zstd: bool, level: int = 1) -> BatchBody:
    """Return the body of a batch; with `zstd` it is compressed if its beginning shrinks."""
    pieces: Iterator[Bytes] = batch.pieces()
    if zstd:
        sample, taken = bytearray(), []
        for piece in pieces:
            taken.append(piece)
            sample += piece[: _SAMPLE - len(sample)]
            if len(sample) == _SAMPLE:
                break
        zstd = shrinks(sample)
        pieces = chain(taken, pieces)
    size = sum(len(piece) for piece in batch.data)
    blocks = list(_blocks(deflated(pieces, level) if zstd else pieces))
    return BatchBody(batch.index.number, size, blocks, zstd)


def _blocks(pieces: Iterable[Bytes]) -> Iterator[bytes | memoryview]:
    """Join small pieces, so that each costs less, and cut large ones; others are not copied."""
    joined = bytearray()
    for piece in pieces:
        is_small = len(piece) < _SMALL
        if is_small:
            joined += piece
        if joined and not (is_small and len(joined) < _SMALL):
            yield bytes(joined)
            joined.clear()
        if not is_small:
            view = memoryview(piece)
            for at in range(0, len(view), _LARGE):
                yield view[at : at + _LARGE]
    if joined:
        yield bytes(joined)


def deflated(pieces: Iterable[Bytes], level: int = 1) -> Iterator[bytes]:
    """Yield pieces as one zstd frame; levels up to 3 keep the window below 8 MiB."""
    option: Any = {
        pyzstd.CParameter.compressionLevel: level,
        pyzstd.CParameter.checksumFlag: 0,  # blocks and the index have digests
    }
    compressor = pyzstd.ZstdCompressor(option)
    for piece in pieces:
        if out := compressor.compress(piece):
            yield out
    yield compressor.flush()


def shrinks(sample: Bytes) -> bool:
    """Return whether a batch that begins with this is worth being compressed."""
    if not sample:
        return False
    return len(pyzstd.compress(sample, 1)) < _WORTH * len(sample)
