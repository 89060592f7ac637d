"""Reads directories and files of a server: entries, listings and the bytes of regular files.

Nothing but a regular file is ever opened for its bytes: to open a FIFO may wait for ever, and to
open a device may do anything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import NamedTuple

from wingsd.errors import FileInUse, FileTypeRefused, IsDirectory, WingsdError
from wingsd.filesystem.new_file import TEMPORARY, OpenDescriptor, remove_left_over
from wingsd.filesystem.paths import ServerPath, file_errors, name_text
from wingsd.filesystem.walk import Listing, unreadable_for_user, walk
from wingsd.util.text import display

#: Bytes of `st_blocks`, whatever the block size of the file system; stat(2).
_BLOCK = 512


class Entry(NamedTuple):
    """One entry of a directory, as lstat(2) has it: a symlink is the link itself.

    `size` is in bytes, and `allocated` the bytes on the disk; times are in nanoseconds since 1970;
    `changed` is the ctime. What `is_virtual` is not on the disk of the server.
    """

    name: bytes
    mode: int
    size: int
    modified: int
    changed: int
    accessed: int
    links: int
    uid: int
    gid: int
    allocated: int = 0
    is_virtual: bool = False

    @classmethod
    def of(cls, name: bytes, found: os.stat_result) -> Entry:
        """Return the entry of a stat result."""
        return cls(
            name,
            found.st_mode,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_atime_ns,
            found.st_nlink,
            found.st_uid,
            found.st_gid,
            found.st_blocks * _BLOCK,
        )

    @property
    def text(self) -> str:
        """The name for users; see `paths`."""
        return name_text(self.name)

    @property
    def permissions(self) -> int:
        """The permission bits, with set-id and sticky bits."""
        return stat.S_IMODE(self.mode)

    @property
    def is_directory(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        """True for a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        """True for a symlink."""
        return stat.S_ISLNK(self.mode)


def entry_at(parent: int, name: bytes) -> Entry:
    """Return the entry `name` of the directory `parent`, or of itself without a name.

    Raises OSError.
    """
    return Entry.of(name, os.lstat(name, dir_fd=parent) if name else os.fstat(parent))


class OpenFile(OpenDescriptor):
    """A regular file that is open for reading, and its `entry` from when it was opened.

    To be used as a context. Methods raise OSError where the disk fails.
    """

    def __init__(self, fd: int, entry: Entry) -> None:
        super().__init__(fd)
        self.entry = entry

    def stat(self) -> Entry:
        """Return its entry as it is now."""
        return Entry.of(self.entry.name, os.fstat(self._fd))

    def read(self, size: int) -> bytes:
        """Return at most `size` next bytes, none at the end."""
        return os.read(self._fd, size)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return at most `size` bytes from an offset; the position stays."""
        return os.pread(self._fd, size, offset)


def open_regular(parent: int, name: bytes) -> OpenFile:
    """Open the regular file `name` in the directory `parent` for reading.

    Raises FileTypeRefused, IsDirectory, FileInUse and OSError.
    """
    fd, found = regular_descriptor(parent, name, os.O_RDONLY, IsDirectory)
    return OpenFile(fd, Entry.of(name, found))


def regular_descriptor(
    parent: int, name: bytes, flags: int, is_directory: Callable[[str], WingsdError]
) -> tuple[int, os.stat_result]:
    """Open the regular file `name` in the directory `parent`; return its stat result as well.

    `is_directory` makes the error of a directory. Raises FileTypeRefused, FileInUse and OSError.
    """
    looked_at = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    try:
        found = os.fstat(looked_at)
        if stat.S_ISDIR(found.st_mode):
            raise is_directory(display(name))
        if not stat.S_ISREG(found.st_mode):
            raise FileTypeRefused(f"{display(name)} is not a regular file")
        # The very file that was looked at, whatever has its name by now. A program with a lease of
        # it is not waited for, fcntl(2).
        flags |= os.O_NOCTTY | os.O_NONBLOCK
        return os.open(f"/proc/self/fd/{looked_at}", flags), found
    except BlockingIOError as error:
        raise FileInUse(display(name)) from error
    finally:
        os.close(looked_at)


class Directory(OpenDescriptor):
    """An open directory of a server: `path` is where it was opened, its descriptor can be read.

    To be used as a context. Names are those of entries, and not paths. Methods raise the errors of
    `errors`.
    """

    def __init__(self, fd: int, path: ServerPath) -> None:
        super().__init__(fd)
        self.path = path

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, in no order; one that is deleted meanwhile is left out.

        Memory does not grow with their number. Files that are being written are not listed, and
        those of a node that died meanwhile are deleted.
        """
        with file_errors(self.path), os.scandir(self._fd) as found:
            for each in found:
                name = os.fsencode(each.name)
                if TEMPORARY.fullmatch(name) and each.is_file(follow_symlinks=False):
                    remove_left_over(self._fd, name)
                    continue
                try:
                    entry = entry_at(self._fd, name)
                except FileNotFoundError:
                    continue
                yield entry

    def own_entry(self) -> Entry:
        """Return the entry of the directory itself."""
        with file_errors(self.path):
            return Entry.of(self.path.name, os.fstat(self._fd))

    def open_file(self, name: bytes) -> OpenFile:
        """Open a regular file for reading. Raises FileMissing, IsDirectory and FileTypeRefused."""
        with file_errors(self.path.child(name)):
            return open_regular(self._fd, name)

    def tree(
        self, select: Callable[[Listing], Listing]
    ) -> AbstractContextManager[Iterator[Listing]]:
        """Walk through all below that `select` leaves, in a context; see `walk`.

        Directories that vanish meanwhile are left out. Raises FileNotPermitted and StorageError.
        """
        return closing(walk(self._fd, lambda name, why: None, select, unreadable_for_user))
