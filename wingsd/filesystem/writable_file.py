"""A regular file that is written in place: at any offset, appended to, and truncated.

For clients that continue an upload, and for those that look at a file while it is uploaded. What
it grows by counts before it is written.
"""

from __future__ import annotations

import errno
import os
import stat
from threading import Lock

from wingsd.filesystem.directory import Entry
from wingsd.filesystem.errors import FileInUse, FileTypeRefused, NameConflict, file_error
from wingsd.filesystem.new_file import Owner, check_new_name
from wingsd.filesystem.open_descriptor import OpenDescriptor
from wingsd.filesystem.usage import Usage
from wingsd.util.text import display

__all__ = ["MAX_FILE_SIZE", "WritableFile", "create_writable", "open_writable"]

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_OPEN = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY
#: The largest offset that Linux has.
MAX_FILE_SIZE = (1 << 63) - 1


class WritableFile(OpenDescriptor):
    """A file that is open for reading and writing. To be used as a context.

    Methods raise the errors of `errors`, DiskLimitExceeded above the limit.
    """

    def __init__(self, fd: int, name: bytes, usage: Usage) -> None:
        super().__init__(fd)
        self._name = name
        self._usage = usage
        #: Of the size: two writers of one descriptor must not count the same growth.
        self._lock = Lock()

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
        with self._lock:
            size = os.fstat(self._fd).st_size
            start = size if offset is None else offset
            growth = start + len(data) - size
            self._usage.add(growth)
            try:
                self._write(start, memoryview(data))
            except OSError as error:
                if growth > 0:
                    written = os.fstat(self._fd).st_size - size
                    self._usage.free(growth - max(written, 0))
                raise file_error(error, self._name) from error

    def _write(self, start: int, data: memoryview) -> None:
        if start + len(data) > MAX_FILE_SIZE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        while data:
            written = os.pwrite(self._fd, data, start)
            start += written
            data = data[written:]

    def truncate(self, size: int) -> None:
        """Cut it to a size, or extend it with a hole."""
        with self._lock:
            growth = size - os.fstat(self._fd).st_size
            self._usage.add(growth)
            try:
                os.ftruncate(self._fd, min(size, MAX_FILE_SIZE))
            except OSError as error:
                self._usage.free(max(growth, 0))
                raise file_error(error, self._name) from error
            self._usage.free(max(-growth, 0))

    def set_mode(self, mode: int) -> None:
        """Set its permission bits, without set-id and sticky bits."""
        try:
            os.fchmod(self._fd, mode & 0o777)
        except OSError as error:
            raise file_error(error, self._name) from error

    def set_times(self, accessed: int, modified: int) -> None:
        """Set its times, in nanoseconds since 1970."""
        try:
            os.utime(self._fd, ns=(accessed, modified))
        except OSError as error:
            raise file_error(error, self._name) from error

    def sync(self) -> None:
        """Have its bytes on stable storage."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise file_error(error, self._name) from error


def create_writable(
    parent: int, name: bytes, owner: Owner | None, mode: int, usage: Usage
) -> WritableFile:
    """Create the file `name` in the directory `parent`.

    Raises NameConflict for a name in use, PathInvalid, and OSError.
    """
    check_new_name(name)
    try:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
    except FileExistsError as error:
        raise NameConflict.renaming(display(name)) from error
    try:
        if owner is not None:
            os.fchown(fd, *owner)
        os.fchmod(fd, mode & 0o777)
    except BaseException:
        os.close(fd)
        raise
    return WritableFile(fd, name, usage)


def open_writable(parent: int, name: bytes, usage: Usage) -> WritableFile:
    """Open the regular file `name` of the directory `parent`.

    Raises NameConflict for a directory, FileTypeRefused, FileInUse and OSError.
    """
    looked_at = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    try:
        mode = os.fstat(looked_at).st_mode
        if stat.S_ISDIR(mode):
            raise NameConflict.writing(display(name))
        if not stat.S_ISREG(mode):
            raise FileTypeRefused(f"{display(name)} is not a regular file")
        # The very file that was looked at; a program with a lease of it is not waited for.
        fd = os.open(f"/proc/self/fd/{looked_at}", _OPEN)
    except BlockingIOError as error:
        raise FileInUse(display(name)) from error
    finally:
        os.close(looked_at)
    return WritableFile(fd, name, usage)
