"""A file that is written beside its name and gets it when it is complete.

The name leads to the old file or to the new one, whole, also after a crash. An existing
file is never written to, since it may be a hard link to another one.

A `PartialFile` is uploaded in several requests. Its own name is made from the user's and the
file's, so that each user continues what he has begun. It is not listed, counts as a file does, and
is deleted when it was not continued for a day.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import time
from contextlib import ExitStack, suppress
from hashlib import sha256
from types import TracebackType
from typing import Self

import attrs

from wingsd.errors import FileTypeRefused, NameConflict, PathInvalid, UploadInProgress
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.filesystem.paths import file_error, file_errors
from wingsd.filesystem.syscalls import RENAME_NOREPLACE, renameat2
from wingsd.filesystem.usage import DirectoryUsage
from wingsd.util.text import display


class OpenDescriptor:
    """Holds one descriptor, which is its own to close. To be used as a context."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, -1 when it is closed."""
        return self._fd

    def close(self) -> None:
        """Close it; a second time nothing is done."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


Owner = tuple[int, int]
"""A user and a group id."""

#: The names of files that are being written, and of uploads that may be continued.
TEMPORARY = re.compile(rb"\.wingsd-[0-9a-f]{32}\.(part|upload)")
#: Seconds after which a file of that name was left over, if nothing holds a lock on it.
_LEFT_OVER_AGES = {b"part": 60.0, b"upload": 24 * 3600.0}
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_MODE = 0o644


@attrs.frozen(eq=False)
class NewFileOptions:
    """How a file is written.

    `size` are the bytes that are expected, counted at once. `mode` are the permission bits; None
    for those of the file that is replaced, else 0644. `modified` is its mtime in nanoseconds, None
    for the time of writing. With `replace` false an existing file is kept, and `commit` fails.
    With `durable` false a crash of the machine may leave the file empty or in part.
    """

    size: int = 0
    mode: int | None = None
    modified: int | None = None
    replace: bool = True
    durable: bool = True


DEFAULTS = NewFileOptions()


@attrs.define(eq=False, repr=False)
class NewFile(OpenDescriptor):
    """A file that is being written: `write`, then `commit`. To be used as a context.

    `parent` is the descriptor of its directory, which is closed with this.

    Without `commit` nothing is left of it. Its bytes count in `usage` as they are written, beside
    those of the file that it replaces until that is gone; the limit holds for what is there then.
    What is written by its descriptor counts by `reserve` alone. Methods raise the errors of
    `errors`, DiskLimitExceeded above the limit.
    """

    _parent: int
    _name: bytes
    _owner: Owner | None
    _usage: DirectoryUsage
    _options: NewFileOptions
    #: The bytes written so far.
    size: int = attrs.field(default=0, init=False)
    _temporary: bytes = attrs.field(default=b"", init=False)
    _counted: int = attrs.field(default=0, init=False)
    _mode: int = attrs.field(default=_MODE, init=False)

    def __attrs_post_init__(self) -> None:
        super().__init__(-1)
        try:
            with file_errors(self._name):
                self._look_at_old()
                self.reserve(self._options.size)
                temporary = f".wingsd-{secrets.token_hex(16)}.part".encode()
                self._fd = os.open(temporary, _CREATE, 0o600, dir_fd=self._parent)
                self._temporary = temporary
                with suppress(OSError):  # of a file system without locks: nothing is cleaned up
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.close()
            raise

    def reserve(self, size: int) -> None:
        """Count the file as `size` bytes long, if it counted less."""
        more = size - self._counted
        if more > 0:
            self._usage.begin(more, self._replaced())
            self._counted += more

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; return how many."""
        length = len(data)
        self.reserve(self.size + length)
        with file_errors(self._name):
            written = os.write(self._fd, data)
            while written < length:
                written += os.write(self._fd, memoryview(data)[written:])
        self.size += length
        return length

    def commit(self) -> os.stat_result:
        """Give the file its name; return its stat result.

        Raises NameConflict where that is a directory, or is in use and to be kept.
        """
        options, parent, name = self._options, self._parent, self._name
        try:
            if self._owner is not None:
                os.fchown(self._fd, *self._owner)
            # After the owner, whose change may clear bits of it.
            os.fchmod(self._fd, self._mode if options.mode is None else options.mode & 0o777)
            if options.modified is not None:
                os.utime(self._fd, ns=(options.modified, options.modified))
            if options.durable:
                os.fsync(self._fd)
            # Before others can cut it, and count that.
            size = os.fstat(self._fd).st_size
            if options.replace:
                with self._usage.going(parent, name):
                    os.rename(self._temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            else:
                rename_exclusively(parent, self._temporary, parent, name)
        except FileExistsError as error:
            raise NameConflict.renaming(display(self._name)) from error
        except IsADirectoryError as error:
            raise NameConflict.writing(display(self._name)) from error
        except OSError as error:
            raise file_error(error, self._name) from error
        self._temporary = b""
        self._usage.end(self._counted, size)
        self._counted = 0
        return os.fstat(self._fd)

    def close(self) -> None:
        """Close it; without `commit` delete it."""
        if self._temporary:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._parent)
            self._temporary = b""
        self._usage.end(self._counted, 0)
        self._counted = 0
        super().close()
        if self._parent >= 0:
            os.close(self._parent)
        self._parent = -1

    def _look_at_old(self) -> None:
        check_new_name(self._name)
        mode = old_mode(self._parent, self._name)
        if mode is not None:
            if not self._options.replace:
                raise NameConflict.renaming(display(self._name))
            self._mode = mode

    def _replaced(self) -> int:
        """Return the bytes that are freed when the file replaces the old one."""
        old = _old(self._parent, self._name)
        if old is None or not stat.S_ISREG(old.st_mode) or old.st_nlink > 1:
            return 0
        return old.st_size


def _old(parent: int, name: bytes) -> os.stat_result | None:
    # Not by a descriptor, which would hold on the disk what is deleted meanwhile.
    with suppress(FileNotFoundError):
        return os.lstat(name, dir_fd=parent)
    return None


def old_mode(parent: int, name: bytes) -> int | None:
    """Return the mode of the file that a new one is to replace, None without one.

    Raises NameConflict for a directory, and FileTypeRefused for what is no file.
    """
    found = _old(parent, name)
    if found is None:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise NameConflict.writing(display(name))
    if not stat.S_ISREG(found.st_mode):
        raise FileTypeRefused(f"{display(name)} is not a regular file")
    return found.st_mode & 0o777


def check_new_name(name: bytes) -> None:
    """Raise PathInvalid for a name in the form of `TEMPORARY`.

    The file would not be listed, nor be in backups, and be deleted as one that was left over.
    """
    if TEMPORARY.fullmatch(name):
        raise PathInvalid("this name is for files that are being written.", "choose another name")


def rename_exclusively(source: int, name: bytes, target: int, new_name: bytes) -> None:
    """Rename a name in the directory `source` to one in `target` that is not in use.

    Raises FileExistsError, and other OSError. Where the file system cannot do this (NFS), a name
    that is created in the same moment is replaced.
    """
    try:
        renameat2(source, name, target, new_name, RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
        with suppress(FileNotFoundError):
            os.lstat(new_name, dir_fd=target)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def remove_left_over(parent: int, name: bytes) -> None:
    """Delete a file of a `TEMPORARY` name if the process that wrote it has died."""
    with suppress(OSError), ExitStack() as cleanup:
        looked_at = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
        cleanup.callback(os.close, looked_at)
        found = os.fstat(looked_at)
        # A time in the future is none of a file that is being written.
        age = _LEFT_OVER_AGES[name.rpartition(b".")[2]]
        is_new = 0 <= time.time() - found.st_mtime < age
        if not stat.S_ISREG(found.st_mode) or is_new:
            return
        # The very file that was looked at: a device in its place must not be opened.
        fd = os.open(f"/proc/self/fd/{looked_at}", os.O_RDONLY | os.O_NONBLOCK)
        cleanup.callback(os.close, fd)
        # A writer holds a lock as long as it lives.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=parent)


#: A program with a lease of the file is not waited for, fcntl(2).
_OPEN = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK
_MAKE = _OPEN | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@attrs.define(eq=False, repr=False)
class PartialFile(OpenDescriptor):
    """The part of the file `name` in a directory that `user` uploads. To be used as a context.

    Only one of them may be open at a time. Methods raise the errors of `errors`.

    `parent` is the descriptor of the directory, which is closed with this. Without `make`, raises
    FileMissing where nothing was uploaded. Raises `UploadInProgress`, and for the first part what
    `commit` does.
    """

    _parent: int
    _name: bytes
    _user: str
    _owner: Owner | None
    _usage: DirectoryUsage
    _make: bool = attrs.field(kw_only=True)
    #: The bytes so far.
    size: int = attrs.field(default=0, init=False)
    _own_name: bytes = attrs.field(init=False)
    _committed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        super().__init__(-1)
        digest = sha256(b"\0".join((self._user.encode(), self._name))).hexdigest()[:32]
        self._own_name = f".wingsd-{digest}.upload".encode()
        try:
            check_new_name(self._name)
            self._fd = self._opened()
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.size = os.fstat(self._fd).st_size
        except BlockingIOError as error:
            self.close()
            raise UploadInProgress from error
        except OSError as error:
            self.close()
            raise file_error(error, self._own_name) from error
        except BaseException:
            self.close()
            raise

    def _opened(self) -> int:
        try:
            looked_at = os.open(self._own_name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._parent)
        except FileNotFoundError:
            if not self._make:
                raise
            old_mode(self._parent, self._name)
            return os.open(self._own_name, _MAKE, 0o600, dir_fd=self._parent)
        with closing_descriptor(looked_at):
            found = os.fstat(looked_at)
            # The server's program could have put something else there.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise FileTypeRefused(f"{display(self._own_name)} is not a regular file")
            return os.open(f"/proc/self/fd/{looked_at}", _OPEN)

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
            mode = old_mode(self._parent, self._name)
            if self._owner is not None:
                os.fchown(self._fd, *self._owner)
            os.fchmod(self._fd, _MODE if mode is None else mode)
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
        with file_errors(self._name):
            os.unlink(self._own_name, dir_fd=self._parent)

    def close(self) -> None:
        """Close it; what was uploaded stays, unless it was deleted."""
        if self._fd >= 0 and not self._committed:
            found = os.fstat(self._fd)
            self._usage.free(0 if found.st_nlink else found.st_size)
        for fd in (self._fd, self._parent):
            if fd >= 0:
                os.close(fd)
        self._fd = self._parent = -1
