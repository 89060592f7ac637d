"""A regular file that is written in place: at any offset, appended to, and truncated.

For clients that continue an upload, and for those that look at a file while it is uploaded. What
it grows by counts before it is written. A file that is deleted while it is open takes disk until
it is closed, and `OpenFiles` counts it until then.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import attrs

from wingsd.filesystem.directory import Entry
from wingsd.filesystem.new_file import OpenDescriptor
from wingsd.filesystem.paths import file_error, file_errors
from wingsd.filesystem.usage import DirectoryUsage

#: The largest offset that Linux has.
MAX_FILE_SIZE = (1 << 63) - 1


@attrs.define(eq=False)
class _Inode:
    """A file that some descriptors are open for. `held` are its bytes when it has no name."""

    key: tuple[int, int]
    fds: set[int] = attrs.Factory(set)
    held: int = 0
    #: Of the size: two that write or cut a file must not count the same bytes.
    lock: Lock = attrs.Factory(Lock)

    def look(self, fd: int) -> os.stat_result:
        """Note whether it is held; return its stat result."""
        found = os.fstat(fd)
        self.held = 0 if found.st_nlink else found.st_size
        return found


class OpenFiles:
    """The files of one server that are open in this process. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inodes: dict[tuple[int, int], _Inode] = {}
        #: By their descriptors.
        self._opened: dict[int, _Inode] = {}

    @property
    def held(self) -> int:
        """The bytes of files that have been deleted, as of the last look at each."""
        with self._lock:
            return sum(inode.held for inode in self._inodes.values())

    def look(self) -> None:
        """Look which have been deleted, by another process as well."""
        with self._lock:
            for inode in self._inodes.values():
                inode.look(next(iter(inode.fds)))

    def add(self, fd: int) -> _Inode:
        """Return the file of a descriptor that was opened."""
        found = os.fstat(fd)
        key = (found.st_dev, found.st_ino)
        with self._lock:
            inode = self._inodes.setdefault(key, _Inode(key))
            inode.fds.add(fd)
            self._opened[fd] = inode
            return inode

    def discard(self, fd: int) -> None:
        """Note that a descriptor is about to be closed."""
        with self._lock:
            inode = self._opened.pop(fd)
            inode.fds.discard(fd)
            if not inode.fds:
                del self._inodes[inode.key]


class WritableFile(OpenDescriptor):
    """A file that is open for reading and writing. To be used as a context.

    Methods raise the errors of `errors`, DiskLimitExceeded above the limit.
    """

    def __init__(self, fd: int, name: bytes, usage: DirectoryUsage, files: OpenFiles) -> None:
        super().__init__(fd)
        self._name = name
        self._usage = usage
        self._files = files
        self._inode = files.add(fd)

    def close(self) -> None:
        """Close it; a second time nothing is done."""
        if self._fd >= 0:
            self._files.discard(self._fd)
        super().close()

    def stat(self) -> Entry:
        """Return its entry as it is now."""
        return Entry.of(self._name, os.fstat(self._fd))

    def read_at(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from an offset."""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise file_error(error, self._name) from error

    def write_at(self, offset: int | None, data: bytes | memoryview) -> None:
        """Write bytes at an offset; at the end for None."""
        if not data:
            return  # A file grows by bytes, and not by an offset behind its end.
        with self._inode.lock:
            before = self._inode.look(self._fd)
            start = before.st_size if offset is None else offset
            with self._counted(before, start + len(data)):
                if start + len(data) > MAX_FILE_SIZE:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
                left = memoryview(data)
                while left:
                    written = os.pwrite(self._fd, left, start)
                    start += written
                    left = left[written:]

    def truncate(self, size: int) -> None:
        """Cut it to a size, or extend it with a hole."""
        with self._inode.lock, self._counted(self._inode.look(self._fd), size):
            os.ftruncate(self._fd, min(size, MAX_FILE_SIZE))

    @contextmanager
    def _counted(self, before: os.stat_result, size: int) -> Iterator[None]:
        """Count a change to this size, or as far as it comes. To be used under the lock."""
        begun = max(size - before.st_size, 0)
        self._usage.add(begun)
        if not before.st_nlink:
            with self._usage.locked():
                pass  # What deleted it has freed it by now, as large as it is.
        try:
            yield
        except OSError as error:
            raise file_error(error, self._name) from error
        finally:
            after = self._inode.look(self._fd)
            kept = after.st_size - before.st_size
            if not before.st_nlink:
                kept = 0  # It counts as held.
            elif not after.st_nlink:
                kept = max(kept, 0)  # What it was cut by was freed by what deleted it.
            self._usage.free(begun - kept)

    def set_mode(self, mode: int) -> None:
        """Set its permission bits, without set-id and sticky bits."""
        with file_errors(self._name):
            os.fchmod(self._fd, mode & 0o777)

    def set_times(self, accessed: int, modified: int) -> None:
        """Set its times, in nanoseconds since 1970."""
        with file_errors(self._name):
            os.utime(self._fd, ns=(accessed, modified))

    def sync(self) -> None:
        """Write its bytes to stable storage."""
        with file_errors(self._name):
            os.fsync(self._fd)
