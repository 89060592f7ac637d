"""The files of the newest point: regular files under their first names, and directories.

Metadata, symlinks and further names are in the catalogue alone. So changes need no order but that
of `change`, and each of them may be made again, at whatever place it was broken off. Blocking.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from wingsd.errors import HistoryDamaged
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.history.format import (
    BLOCK,
    DISK_ERRORS,
    PIECE,
    SECTOR,
    FileChunk,
    FileHash,
    Holes,
    pieces_of,
    read_fully,
    zero_runs,
)
from wingsd.moves.applier import write_at, write_zeros
from wingsd.moves.filling import PageCacheKeeper
from wingsd.util.text import display, reading_advice

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class TreeStep(NamedTuple):
    """A path as it is to be: nothing, a directory, or a file of `size` bytes.

    A file is one in the directory for new ones, with the name `incoming`, or the one that has the
    path, if it `is_based`, or an empty one; then it gets the chunks.
    """

    path: bytes
    is_directory: bool = False
    is_file: bool = False
    size: int = 0
    is_based: bool = False
    chunks: Iterable[FileChunk] = ()
    incoming: bytes = b""


Steps = Callable[[], Iterator[TreeStep]]


class NewestTree:
    """The tree below the descriptor `root`; new files come from the directory `incoming`.

    Both stay the caller's. `close` must be called.
    """

    def __init__(self, root: int, incoming: int) -> None:
        self.incoming = incoming
        self._directories = OpenDirectories(root)
        #: Bytes on the disk by which it has grown.
        self.grown = 0

    def close(self) -> None:
        """Close every descriptor."""
        self._directories.close()

    def copy(self, path: bytes, size: int) -> CopyOfFile:
        """Return a file, to be read; a context. Raises OSError, but not for a damaged one."""
        return CopyOfFile(self._directories, path, size)

    def change(self, steps: Steps, *, in_place: bool = True) -> None:
        """Make paths as they are to be; without `in_place` files are replaced. Raises OSError."""
        directories = []
        for step in steps():
            if not step.path:
                continue
            if not step.is_file:
                self._unlink(step.path)
            if not step.is_directory and self._is_directory(step.path):
                directories.append(step.path)
        self._directories.close()
        for path in reversed(directories):
            parent, name = self._directories.place(path)
            remove_entry(parent, name)
        self._directories.close()
        for step in steps():
            if step.is_directory and step.path:
                self._make_directory(step.path)
            elif step.is_file and (in_place or step.incoming):
                self._write(step)
            elif step.is_file:
                self._replace(step)

    def _found(self, path: bytes) -> os.stat_result | None:
        try:
            parent, name = self._directories.place(path)
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return None

    def _is_directory(self, path: bytes) -> bool:
        found = self._found(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _unlink(self, path: bytes) -> None:
        found = self._found(path)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            parent, name = self._directories.place(path)
            os.unlink(name, dir_fd=parent)
            self.grown -= found.st_blocks * SECTOR

    def _make_directory(self, path: bytes) -> None:
        if not self._is_directory(path):
            self._unlink(path)
            parent, name = self._place(path)
            os.mkdir(name, 0o700, dir_fd=parent)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        """Return the same as `place`; of a damaged tree the directory is made, if need be."""
        *parts, name = path.split(b"/")
        with suppress(NotADirectoryError):
            return self._directories.get(tuple(parts)), name
        for end in range(1, len(parts) + 1):
            self._unlink(b"/".join(parts[:end]))
        return self._directories.get(tuple(parts)), name

    def _write(self, step: TreeStep) -> None:
        parent, name = self._place(step.path)
        if step.incoming:
            os.rename(step.incoming, name, src_dir_fd=self.incoming, dst_dir_fd=parent)
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            self.grown += found.st_blocks * SECTOR
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with closing_descriptor(os.open(name, flags, 0o600, dir_fd=parent)) as fd:
            before = os.fstat(fd)
            if not step.is_based:
                os.ftruncate(fd, 0)
            if not step.is_based or before.st_size != step.size:
                os.ftruncate(fd, step.size)
            write_chunks(fd, step.chunks)
            self.grown += (os.fstat(fd).st_blocks - before.st_blocks) * SECTOR

    def _replace(self, step: TreeStep) -> None:
        """Write a file elsewhere, where a sector of the one that is there cannot be written."""
        name = b"replaced"
        found = self._found(step.path)
        size = found.st_size if found is not None and step.is_based else 0
        with closing_descriptor(os.open(name, _MAKE, 0o600, dir_fd=self.incoming)) as fd:
            os.ftruncate(fd, size)
            with self.copy(step.path, size) as copy:
                for at in pieces_of(copy.holes, FileHash()):
                    write_data(fd, copy.piece(at, b""), at)
            os.ftruncate(fd, step.size)
            write_chunks(fd, step.chunks)
        parent, last = self._place(step.path)
        os.rename(name, last, src_dir_fd=self.incoming, dst_dir_fd=parent)


def remove_entry(parent: int, name: bytes) -> None:
    """Remove a file, or a directory with all that is in it, that is this program's own."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    with closing_descriptor(os.open(name, _DIRECTORY, dir_fd=parent)) as fd:
        for each in names_in(fd):
            remove_entry(fd, each)
    os.rmdir(name, dir_fd=parent)


def names_in(directory: int) -> list[bytes]:
    """Return the names in an open directory."""
    # of a descriptor that stays open, btrfs lists what there was when it was last rewound
    os.lseek(directory, 0, os.SEEK_SET)
    return [os.fsencode(name) for name in os.listdir(directory)]


class CopyOfFile:
    """A file of the newest tree that may be damaged: a context, in which its pieces are read.

    `size` are the bytes that it should have. The page cache is left as it was.
    """

    def __init__(self, directories: OpenDirectories, path: bytes, size: int) -> None:
        self._size = size
        #: The bytes that it takes on the disk.
        self.on_disk = 0
        self._fd = -1
        try:
            self._fd = directories.open_file(path)
            self.on_disk = os.fstat(self._fd).st_blocks * SECTOR
        except OSError as error:
            if error.errno not in (*_NOT_THERE, *DISK_ERRORS):
                raise
        #: Whether all that was read is there; it may be other bytes than were written.
        self.is_whole = self._fd >= 0
        self._kept = PageCacheKeeper(self._fd, size, PIECE)
        self.holes = Holes(self._fd, size)

    def __enter__(self) -> CopyOfFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self._kept.give_back()
            os.close(self._fd)

    def piece(self, at: int, instead: bytes) -> bytes:
        """Return a piece. Blocks that cannot be read are those of `instead`, or zeros."""
        length = min(PIECE, self._size - at)
        if length <= 0:
            return b""
        if self._fd >= 0:
            self._kept.before(at)
            with suppress(OSError, EOFError):
                return self._exactly(at, length)
        self.is_whole = False
        found = bytearray(instead[:length].ljust(length, b"\0"))
        for start in range(0, length if self._fd >= 0 else 0, BLOCK):
            end = min(start + BLOCK, length)
            with suppress(OSError, EOFError):
                found[start:end] = self._exactly(at + start, end - start)
        return bytes(found)

    def _exactly(self, at: int, length: int) -> bytes:
        data = read_fully(self._fd, length, at)
        if len(data) < length:
            raise EOFError
        return data


@contextmanager
def damage(path: bytes) -> Iterator[None]:
    """Raise HistoryDamaged for a file of the newest tree that is missing or cannot be read."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*_NOT_THERE, *DISK_ERRORS):
            raise
        raise HistoryDamaged(display(path), reading_advice(error)) from error


def write_chunks(fd: int, chunks: Iterable[FileChunk]) -> None:
    """Write chunks to a file that has its size. Zeros are not written into holes."""
    for chunk in chunks:
        if chunk.data is None:
            write_zeros(fd, chunk.at, chunk.at + chunk.length)
        else:
            write_at(fd, memoryview(chunk.data), chunk.at)


def write_data(fd: int, data: bytes, at: int) -> None:
    """Write data to a new file, from the multiple `at` of a block on; zeros are left as holes."""
    for start, end, is_zero in zero_runs(data):
        if not is_zero:
            write_at(fd, memoryview(data)[start * BLOCK : end * BLOCK], at + start * BLOCK)
