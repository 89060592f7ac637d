"""Reads back what was written: after a crash single batches, before a commit the whole tree.

Blocking. Bytes are compared with digests; the page cache is passed where the system allows it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from wingsd.errors import StorageError
from wingsd.moves.batch import Index
from wingsd.moves.digests import DIGEST, block_digest, block_digests, zero_digest
from wingsd.moves.frames import Content, DataFrame, WholeFrame, ZeroFrame
from wingsd.moves.tree import FileNode, MoveTree
from wingsd.util.text import disk_advice, display

__all__ = ["FileOpener", "differing", "forget_differing", "is_held"]

_SEGMENT = 1 << 20


class FileOpener(Protocol):
    """Opens files of the tree that was written."""

    def open_file(self, path: bytes) -> int | None:
        """Return a new descriptor to read a file, None where there is no regular file."""


def is_held(opener: FileOpener, tree: MoveTree, index: Index) -> bool:
    """Return whether all contents of a data batch are on the disk as it says."""
    return all(_frame_is_held(opener, tree, frame) for frame in index.contents)


def _frame_is_held(opener: FileOpener, tree: MoveTree, frame: Content) -> bool:
    if isinstance(frame, WholeFrame):
        return _whole_is_held(opener, frame)
    node = tree.numbers[frame.number]
    at = frame.first * node.block_size
    length = min(frame.count * node.block_size, node.size - at)
    fd = opener.open_file(node.names[0])
    if fd is None:
        return False
    done = 0
    try:
        for digests in _digests(fd, at, length, node.block_size):
            count = len(digests) // DIGEST
            if digests != _expected(frame, node, done, count):
                return False
            done += count
    except OSError as error:
        raise _failed(node.names[0], error) from error
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
        # one byte more, if it is longer
        data = os.pread(fd, frame.size + 1, 0)
        found = os.fstat(fd)
    except OSError as error:
        raise _failed(frame.path, error) from error
    finally:
        os.close(fd)
    is_same = (found.st_mode & 0o7777, found.st_mtime_ns) == (frame.mode, frame.mtime)
    return is_same and block_digest(data) == frame.digest


def differing(opener: FileOpener, tree: MoveTree) -> Iterator[bytes]:
    """Yield the paths of files whose contents on the disk are not those of the tree."""
    for path, node in tree.walk():
        if isinstance(node, FileNode) and node.names[0] == path:
            fd = opener.open_file(path)
            if fd is None:
                yield path
                continue
            try:
                if not _is_equal(fd, node):
                    yield path
            except OSError as error:
                raise _failed(path, error) from error
            finally:
                os.close(fd)


def _is_equal(fd: int, node: FileNode) -> bool:
    if os.fstat(fd).st_size != node.size:
        return False
    with suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if not node.number:
        return block_digest(os.pread(fd, node.size, 0)) == node.blocks.get(0, 1)
    first = 0
    for digests in _digests(fd, 0, node.size, node.block_size):
        count = len(digests) // DIGEST
        if digests != node.blocks.get(first, count):
            return False
        first += count
    return first == node.blocks.count


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
        raise _failed(node.names[0], error) from error
    # it may have been truncated meanwhile
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


def _failed(path: bytes, error: OSError) -> StorageError:
    return StorageError.reading(f"{display(path)} could not be read back: {disk_advice(error)}")
