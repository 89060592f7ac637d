"""Reads back what was written: after a crash single batches, before a commit single files.

Blocking. Bytes are compared with digests. `rereading` tells what is to be read before a commit.
What the disk cannot read counts as something else than what was sent: it is sent again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from wingsd.errors import StorageError
from wingsd.moves.batch import Index
from wingsd.moves.digests import DIGEST, UNKNOWN, block_digest, block_digests, zero_digest
from wingsd.moves.frames import AttributesFrame, Content, DataFrame, WholeFrame, ZeroFrame
from wingsd.moves.tree import FileNode, MoveTree
from wingsd.util.text import disk_advice, display

__all__ = ["FileOpener", "fits", "forget_differing", "is_as_sent", "is_held"]

_SEGMENT = 1 << 20
#: Errors of a disk that has lost what is read; the second one where it has a checksum.
_LOST = (errno.EIO, errno.EBADMSG)


class FileOpener(Protocol):
    """Opens files of the tree that was written."""

    def open_file(self, path: bytes) -> int | None:
        """Return a new descriptor to read a file, None where there is no regular file."""


def is_held(opener: FileOpener, tree: MoveTree, index: Index) -> bool:
    """Return whether all contents of a data batch are on the disk as it says.

    The page cache is passed, as far as it was flushed.
    """
    return all(_frame_is_held(opener, tree, frame) for frame in index.contents)


def _frame_is_held(opener: FileOpener, tree: MoveTree, frame: Content) -> bool:
    if isinstance(frame, WholeFrame):
        return _whole_is_held(opener, frame)
    if isinstance(frame, AttributesFrame):
        return True  # nothing of it is written yet
    node = tree.numbers[frame.number]
    at = frame.first * node.block_size
    length = min(frame.count * node.block_size, node.size - at)
    fd = opener.open_file(node.names[0])
    if fd is None:
        return False
    done = 0
    try:
        _pass_cache(fd)
        for digests in _digests(fd, at, length, node.block_size):
            count = len(digests) // DIGEST
            if digests != _expected(frame, node, done, count):
                return False
            done += count
    except OSError as error:
        _raise_unless_lost(node.names[0], error)
        return False
    finally:
        os.close(fd)
    return done == frame.count


def _expected(frame: DataFrame | ZeroFrame, node: FileNode, done: int, count: int) -> bytes:
    """Return the digests of some blocks of a frame."""
    if isinstance(frame, DataFrame):
        return frame.digests[done * DIGEST : (done + count) * DIGEST]
    last = node.length(frame.first + done, count)
    return zero_digest(node.block_size) * (count - 1) + zero_digest(last)


def _whole_is_held(opener: FileOpener, frame: WholeFrame) -> bool:
    fd = opener.open_file(frame.path)
    if fd is None:
        return False
    try:
        _pass_cache(fd)
        # one byte more, if it is longer
        data = os.pread(fd, frame.size + 1, 0)
        found = os.fstat(fd)
    except OSError as error:
        _raise_unless_lost(frame.path, error)
        return False
    finally:
        os.close(fd)
    is_same = (found.st_mode & 0o7777, found.st_mtime_ns) == (frame.mode, frame.mtime)
    return is_same and block_digest(data) == frame.digest


def is_as_sent(opener: FileOpener, path: bytes, node: FileNode, first: int, count: int) -> bool:
    """Return whether a file is there under one of its names, and has the size that it should have.

    Of its blocks from `first` on, `count` are compared as far as they are known. The page cache is
    passed. A file that is still to come as a whole need not be there. Raises StorageError.
    """
    if not node.number and node.blocks.missing:
        return True
    fd = opener.open_file(path)
    if fd is None:
        return False
    try:
        if os.fstat(fd).st_size != node.size:
            return False
        _pass_cache(fd)
        return _is_equal(fd, node, first, count)
    except OSError as error:
        _raise_unless_lost(path, error)
        return False
    finally:
        os.close(fd)


def _is_equal(fd: int, node: FileNode, first: int, count: int) -> bool:
    count = min(count, node.blocks.count - first)
    if not node.number:
        known = node.blocks.get(0, 1)
        return known == UNKNOWN or block_digest(os.pread(fd, node.size, 0)) == known
    at = first * node.block_size
    length = min(count * node.block_size, node.size - at)
    for digests in _digests(fd, at, length, node.block_size):
        found = len(digests) // DIGEST
        if not fits(digests, node.blocks.get(first, found)):
            return False
        first, count = first + found, count - found
    return count <= 0


def fits(digests: bytes, known: bytes) -> bool:
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


def _pass_cache(fd: int) -> None:
    with suppress(OSError):  # it is advice
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


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
