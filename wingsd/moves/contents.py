"""Reads files and yields what of them is to be sent: blocks that are not as they were sent last.

Blocking. Each byte is read and hashed once; the digests go to the file's node on the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from attrs import frozen

from wingsd.filesystem.open_directories import FILE_FLAGS, OpenDirectories
from wingsd.filesystem.walk import unreadable
from wingsd.moves.blocks import block_count
from wingsd.moves.digests import DIGEST, UNKNOWN, block_digest, block_digests, zero_digest
from wingsd.moves.errors import SourceFileChanged
from wingsd.moves.frames import Content, DataFrame, WholeFrame, ZeroFrame
from wingsd.moves.plan import FileContent
from wingsd.moves.scan import stat_stamp
from wingsd.moves.tree import FileNode
from wingsd.util.text import display

__all__ = ["SEGMENT", "ContentReader", "FramedData"]

SEGMENT = 128 << 10
"""Bytes read at a time, and the most of one frame. A multiple of every block size."""

_SECTOR = 512


@frozen(eq=False, repr=False)
class FramedData:
    """A frame with its bytes, none for a `ZERO` frame."""

    frame: Content
    data: bytes | memoryview


class ContentReader:
    """Reads files below the descriptor `root`; no symlink is followed. `close` must be called.

    `count` gets the bytes of each piece when it was read; holes count. What it raises passes.
    """

    def __init__(self, root: int, count: Callable[[int], None] = lambda size: None) -> None:
        self._directories = OpenDirectories(root, lambda path: None)
        self._count = count

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close()

    def read(self, content: FileContent) -> Iterator[FramedData]:
        """Yield what is to be sent of a file, in the order of its blocks.

        Raises SourceFileChanged where the file is not as its node says, and StorageError.
        """
        *parents, name = content.path.split(b"/")
        try:
            parent = self._directories.get(tuple(parents), make=False)
            fd = os.open(name, FILE_FLAGS, dir_fd=parent)
            try:
                found = _checked(fd, content)
                if content.node.number:
                    yield from self._parts(fd, content, found.st_blocks * _SECTOR)
                else:
                    yield from self._whole(fd, content)
                _checked(fd, content)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise SourceFileChanged(display(content.path)) from None
        except OSError as error:
            unreadable(content.path, error)

    def _whole(self, fd: int, content: FileContent) -> Iterator[FramedData]:
        node, before = content.node, content.before
        data = _exactly(fd, 0, node.size, content)
        self._count(node.size)
        digest = block_digest(data)
        node.blocks.set(0, digest)
        content.tree.changed(node)
        if before is None or _known(before) != (node.mode, node.mtime, node.size, digest):
            frame = WholeFrame(content.path, node.mode, node.mtime, node.size, digest)
            yield FramedData(frame, data)

    def _parts(self, fd: int, content: FileContent, held: int) -> Iterator[FramedData]:
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
                data = _exactly(fd, at, length, content)
                digests = block_digests(data, node.block_size)
                node.blocks.set(first, digests)
            content.tree.changed(node)
            content.tree.trim()
            if digests != (sent := _sent(content, first, count)):
                yield from _changed(node, first, digests, sent, memoryview(data))


def _checked(fd: int, content: FileContent) -> os.stat_result:
    found, node = os.fstat(fd), content.node
    if node.identity != (found.st_dev, found.st_ino) or node.stamp != stat_stamp(found):
        raise SourceFileChanged(display(content.path))
    return found


def _exactly(fd: int, at: int, length: int, content: FileContent) -> bytes:
    data = os.pread(fd, length, at)
    while len(data) < length:
        more = os.pread(fd, length - len(data), at + len(data))
        if not more:
            raise SourceFileChanged(display(content.path))
        data += more
    return data


def _is_hole(fd: int, at: int, length: int) -> bool:
    try:
        return os.lseek(fd, at, os.SEEK_DATA) >= at + length
    except OSError:  # ENXIO: no data follows
        return True


def _known(node: FileNode) -> tuple[int, int, int, bytes]:
    return node.mode, node.mtime, node.size, node.blocks.get(0, 1)


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
    node: FileNode, first: int, digests: bytes, sent: bytes, data: memoryview
) -> Iterator[FramedData]:
    """Yield frames for the blocks whose digests are not as sent, with runs as long as can be."""
    size = node.block_size
    zero = zero_digest(size)
    count = len(digests) // DIGEST
    start = kind = 0
    for at in range(count + 1):
        here = slice(at * DIGEST, at * DIGEST + DIGEST)
        if at == count or digests[here] == sent[here]:
            found = 0
        else:
            # without data the whole segment is a hole
            found = 2 if digests[here] == zero or not data else 1
        if found == kind:
            continue
        if kind == 1:
            length = node.length(first + start, at - start)
            part = digests[start * DIGEST : at * DIGEST]
            frame = DataFrame(node.number, first + start, size, length, part)
            yield FramedData(frame, data[start * size : at * size])
        elif kind == 2:  # noqa: PLR2004
            yield FramedData(ZeroFrame(node.number, first + start, at - start), b"")
        start, kind = at, found
