"""Deletes files and directories of a server with all that is in them, by descriptors.

No symlink and no mount point is entered. The depth of a tree is limited by nothing: a few
descriptors are open, and the directories on the way back up are opened again by their names from
the top, since their ".." may lead elsewhere by then.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from itertools import islice

from wingsd.errors import FileWorkCancelled
from wingsd.filesystem.new_file import TEMPORARY
from wingsd.filesystem.openers import DirectoryOpener
from wingsd.filesystem.usage import DirectoryUsage

#: Directories of the present path that stay open; as many more may be on the way to them.
_LAST_OPEN = 64
#: Names of directories that are kept of one directory, and of all.
_MAX_NAMES = 1024
_MAX_ALL_NAMES = 1 << 16
#: How often directories may get new files while they are deleted.
_MAX_REFILLED = 64
#: Names that are deleted under the lock, and between two looks whether the work is cancelled.
_BATCH = 64
#: A directory has got new entries, or was replaced by something else.
_CHANGED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ELOOP)


_MAX_MESSAGE = 300


def remove_tree(path: str) -> None:
    """Delete a directory and all below it, if it exists; symlinks are not followed.

    Mounts below it are not deleted and make it fail. Raises OSError with rm's first message.
    """
    # Not shutil.rmtree: its depth is limited by the stack and the open files of this process, and
    # a server can nest directories without limit.
    command = ["/bin/rm", "-rf", "--one-file-system", "--", path]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        message = done.stderr.decode(errors="replace").partition("\n")[0]
        raise OSError(message.removeprefix("/bin/rm: ")[:_MAX_MESSAGE] or "it was not deleted")


class _Moved(Exception):
    """A parent of the present directory was moved or deleted meanwhile."""


class _Chain:
    """The directories from `top` down to the present one.

    The last ones are open, and before them one in `_spacing` levels, which grows with the depth.
    """

    def __init__(self, opener: DirectoryOpener, top: int) -> None:
        self._opener = opener
        self._top = top
        self._names: list[bytes] = []
        self._open: dict[int, int] = {}
        self._spacing = 1

    @property
    def fd(self) -> int:
        return self._open[len(self._names)] if self._names else self._top

    def down(self, name: bytes) -> None:
        fd = self._opener.subdirectory(self.fd, name)
        self._names.append(name)
        self._add(len(self._names), fd)

    def up(self) -> bytes:
        """Leave the present directory; return its name. Raises _Moved."""
        os.close(self._open.pop(len(self._names)))
        name = self._names.pop()
        if self._names and len(self._names) not in self._open:
            self._open_again()
        return name

    def close(self) -> None:
        """Go back to the top."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._names.clear()

    def _open_again(self) -> None:
        level = len(self._names)
        while level and level not in self._open:
            level -= 1
        fd = self._open[level] if level else self._top
        try:
            for each in range(level, len(self._names)):
                fd = self._opener.subdirectory(fd, self._names[each])
                self._add(each + 1, fd)
        except OSError as error:
            raise _Moved from error

    def _add(self, level: int, fd: int) -> None:
        self._open[level] = fd
        before = level - _LAST_OPEN
        self._close(before)
        if len(self._open) > 2 * _LAST_OPEN:
            self._spacing *= 2
            for each in [other for other in self._open if other <= before]:
                self._close(each)

    def _close(self, level: int) -> None:
        if level % self._spacing and level in self._open:
            os.close(self._open.pop(level))


class TreeRemover:
    """Deletes entries of the directory `parent`, each with all that is below it.

    `usage` counts each file whose last name is deleted.
    """

    def __init__(
        self,
        opener: DirectoryOpener,
        parent: int,
        usage: DirectoryUsage,
        cancelled: Callable[[], bool],
    ) -> None:
        self._chain = _Chain(opener, parent)
        self._usage = usage
        self._cancelled = cancelled
        #: Of each level, the names of directories that are still to be deleted, and whether these
        #: were all.
        self._levels: list[tuple[list[bytes], bool]] = []
        self._kept = self._refilled = 0

    def remove(self, name: bytes) -> None:
        """Delete an entry.

        Raises OSError: EXDEV or EBUSY for a mount point, ENOTEMPTY where others create files
        faster than they are deleted; and FileWorkCancelled. What was deleted before stays so.
        """
        os.lstat(name, dir_fd=self._chain.fd)
        if self._unlinked(self._chain.fd, name):
            return
        moved = 0
        while True:
            self._levels.clear()
            self._kept = 0
            self._enter_level([name], complete=True)
            try:
                while self._levels:
                    self._step()
            except _Moved:
                moved += 1
                if moved > _MAX_REFILLED:
                    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY)) from None
            else:
                return
            finally:
                self._chain.close()

    def _step(self) -> None:
        names, complete = self._levels[-1]
        if names:
            self._kept -= 1
            self._enter(names.pop())
            return
        self._levels.pop()
        if not self._levels:
            return
        name = self._chain.up()
        try:
            os.rmdir(name, dir_fd=self._chain.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _CHANGED:
                raise
            if complete:
                self._count_refilled(error)
            self._again(name)

    def _enter(self, name: bytes) -> None:
        try:
            self._chain.down(name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _CHANGED:
                raise
            self._count_refilled(error)
            if not self._unlinked(self._chain.fd, name):
                self._again(name)
            return
        self._enter_level(*self._cleared())

    def _again(self, name: bytes) -> None:
        self._levels[-1][0].append(name)
        self._kept += 1

    def _enter_level(self, names: list[bytes], complete: bool) -> None:
        self._levels.append((names, complete))
        self._kept += len(names)

    def _count_refilled(self, error: OSError) -> None:
        self._refilled += 1
        if self._refilled > _MAX_REFILLED:
            raise error

    def _cleared(self) -> tuple[list[bytes], bool]:
        """Delete all but directories in the present one; return the names of these.

        At most some are returned, and then False.
        """
        fd = self._chain.fd
        most = _MAX_NAMES if self._kept < _MAX_ALL_NAMES else 1
        directories: list[bytes] = []
        with os.scandir(fd) as entries:
            while True:
                if self._cancelled():
                    raise FileWorkCancelled
                batch = list(islice(entries, _BATCH))
                if not batch:
                    return directories, True
                with self._usage.locked():
                    for entry in batch:
                        name = os.fsencode(entry.name)
                        if not entry.is_dir(follow_symlinks=False) and self._unlinked(fd, name):
                            continue
                        if len(directories) == most:
                            return directories, False
                        directories.append(name)

    def _unlinked(self, parent: int, name: bytes) -> bool:
        """Delete anything but a directory; return False for a directory.

        A file that is deleted counts if this was its last name.
        """
        try:
            if TEMPORARY.fullmatch(name):  # What is writing it frees it.
                os.unlink(name, dir_fd=parent)
                return True
            with self._usage.going(parent, name) as found:
                if found is not None and stat.S_ISDIR(found.st_mode):
                    return False
                os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return True
        except IsADirectoryError:
            return False
        return True
