"""A file that is uploaded in several requests: kept beside its name until it is whole.

Its own name is made from the user's and the file's, so that each user continues what he has begun.
It is not listed, counts as a file does, and is deleted when nobody has continued it for a day.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from hashlib import sha256
from types import TracebackType
from typing import Self

from wingsd.errors import FileTypeRefused, NameConflict, UploadInProgress
from wingsd.filesystem.errors import file_error
from wingsd.filesystem.new_file import Owner, check_new_name
from wingsd.filesystem.usage import DirectoryUsage
from wingsd.util.text import display

__all__ = ["PartialFile"]

#: A program with a lease of the file is not waited for, fcntl(2).
_OPEN = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK
_MAKE = _OPEN | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_MODE = 0o644


class PartialFile:
    """What `user` has uploaded of the file `name` in a directory. To be used as a context.

    Only one of them may be open at a time. Methods raise the errors of `errors`.
    """

    def __init__(
        self,
        parent: int,
        name: bytes,
        user: str,
        owner: Owner | None,
        usage: DirectoryUsage,
        *,
        make: bool,
    ) -> None:
        """`parent` is the descriptor of the directory, which is closed with this.

        Without `make`, raises FileMissing where nothing was uploaded. Raises `UploadInProgress`,
        and for the first part what `commit` does.
        """
        self._parent = parent
        self._name = name
        self._owner = owner
        self._usage = usage
        self._fd = -1
        self._committed = False
        digest = sha256(b"\0".join((user.encode(), name))).hexdigest()[:32]
        self._own_name = f".wingsd-{digest}.upload".encode()
        try:
            check_new_name(name)
            self._fd = self._opened(make=make)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            #: The bytes so far.
            self.size = os.fstat(self._fd).st_size
        except BlockingIOError as error:
            self.close()
            raise UploadInProgress from error
        except IsADirectoryError as error:
            self.close()
            raise NameConflict.writing(display(name)) from error
        except OSError as error:
            self.close()
            raise file_error(error, self._own_name) from error
        except BaseException:
            self.close()
            raise

    def _opened(self, *, make: bool) -> int:
        try:
            looked_at = os.open(self._own_name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._parent)
        except FileNotFoundError:
            if not make:
                raise
            self._look_at_old()
            return os.open(self._own_name, _MAKE, 0o600, dir_fd=self._parent)
        try:
            found = os.fstat(looked_at)
            # The server's program could have put something else there.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise FileTypeRefused(f"{display(self._own_name)} is not a regular file")
            return os.open(f"/proc/self/fd/{looked_at}", _OPEN)
        finally:
            os.close(looked_at)

    def write(self, data: bytes) -> None:
        """Append bytes. Raises DiskLimitExceeded; what was written before stays."""
        self._usage.add(len(data))
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError as error:
            raise file_error(error, self._name) from error
        finally:
            self._usage.free(len(data) - written)
            self.size += written

    def commit(self) -> None:
        """Give the file its name, in place of an existing one.

        Raises NameConflict for a directory, and FileTypeRefused for what is no file.
        """
        try:
            mode = self._look_at_old()
            if self._owner is not None:
                os.fchown(self._fd, *self._owner)
            os.fchmod(self._fd, mode)
            os.fsync(self._fd)
            parent = self._parent
            with self._usage.going(parent, self._name):
                os.rename(self._own_name, self._name, src_dir_fd=parent, dst_dir_fd=parent)
                self._committed = True
        except IsADirectoryError as error:
            raise NameConflict.writing(display(self._name)) from error
        except OSError as error:
            raise file_error(error, self._name) from error

    def discard(self) -> None:
        """Delete what was uploaded."""
        try:
            os.unlink(self._own_name, dir_fd=self._parent)
        except OSError as error:
            raise file_error(error, self._name) from error

    def close(self) -> None:
        """Close it; what was uploaded stays, unless it was deleted."""
        if self._fd >= 0 and not self._committed:
            found = os.fstat(self._fd)
            self._usage.free(0 if found.st_nlink else found.st_size)
        for fd in (self._fd, self._parent):
            if fd >= 0:
                os.close(fd)
        self._fd = self._parent = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look_at_old(self) -> int:
        """Return the mode of the file that is replaced, or of a new one."""
        with suppress(FileNotFoundError):
            found = os.lstat(self._name, dir_fd=self._parent)
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(found.st_mode):
                raise FileTypeRefused(f"{display(self._name)} is not a regular file")
            return found.st_mode & 0o777
        return _MODE
