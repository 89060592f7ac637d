"""The bytes of a server's files against its disk limit, counted while they are written.

A file's bytes are freed once, when its last name goes. Whether one that is deleted or replaced was
the last is decided under a lock, since the daemon and the SFTP process delete in many threads.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from wingsd.errors import DiskLimitExceeded
from wingsd.util.text import readable_size

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class DirectoryUsage:
    """Subtracts from `usage` the files deleted from a directory: each once, with its last name.

    `above` is the directory that all servers are in, which their programs cannot reach: it is
    locked while names are deleted and replaced. Without it nothing is locked. For one thread at a
    time.
    """

    def __init__(self, usage: UsageCounter, above: str = "") -> None:
        self._above = above
        self._is_locked = False
        self.add, self.free = usage.add, usage.free
        self.begin, self.end = usage.begin, usage.end

    @contextmanager
    def going(self, parent: int, name: bytes) -> Iterator[os.stat_result | None]:
        """Free the file that has this name, if that is its last one and goes in the context.

        Yields its stat result, None for a name that does not exist. Raises OSError.
        """
        fd = -1
        try:
            with self.locked():
                with suppress(FileNotFoundError):
                    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
                before = None if fd < 0 else os.fstat(fd)
                yield before
                if before is not None and stat.S_ISREG(before.st_mode) and before.st_nlink:
                    after = os.fstat(fd)
                    if not after.st_nlink:
                        self.free(after.st_size)
        finally:
            if fd >= 0:
                os.close(fd)  # Only now does a file's data go, which may take long.

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock, for a few names of which each would take it."""
        if self._is_locked or not self._above:
            yield
            return
        fd = -1
        try:
            with suppress(OSError):  # of a file system without locks
                fd = os.open(self._above, _DIRECTORY)
                fcntl.flock(fd, fcntl.LOCK_EX)
            self._is_locked = True
            yield
        finally:
            self._is_locked = False
            if fd >= 0:
                with suppress(OSError):  # Not by closing: a child that starts has it open, too.
                    fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)


class UsageCounter:
    """The bytes that a server's files take, and may take. Any thread may call it.

    `used` is None before they were measured: until then nothing is limited. `limit` is None for no
    limit. Only what grows is refused, so that files can be deleted above the limit. A file with
    holes counts with them, and one with several names once.
    """

    def __init__(self, used: int | None = None, limit: int | None = None) -> None:
        self.limit = limit
        #: The bytes by which the files have been changed here so far.
        self.total = 0
        self._used = used
        #: The bytes of new files that are not whole yet.
        self._begun = 0
        self._lock = Lock()

    @property
    def used(self) -> int | None:
        """The bytes, None before they were measured. It may be set to what was measured."""
        return self._used

    @used.setter
    def used(self, size: int | None) -> None:
        with self._lock:
            self._used = size

    def add(self, size: int, held: int = 0) -> None:
        """Count bytes that are about to be written. Raises DiskLimitExceeded; none count then.

        `held` are bytes on the disk that do not count here.
        """
        with self._lock:
            if size > 0:
                self._add(size, self.limit, held)

    def begin(self, size: int, replaced: int) -> None:
        """Count bytes of a new file, which is to replace one of `replaced` bytes.

        The limit holds for the server's files without the old one, which counts until it is gone.
        Raises DiskLimitExceeded; none count then.
        """
        with self._lock:
            limit = self.limit
            if limit is not None and self._used is not None:
                # Above the limit a file can be replaced by one that is no larger.
                limit = max(limit, self._used - self._begun)
            self._add(size, limit, -replaced)
            self._begun += size

    def end(self, begun: int, size: int) -> None:
        """Count `size` bytes for a new file that is whole, 0 if it was deleted.

        `begun` are the bytes that counted for it by `begin`.
        """
        with self._lock:
            self._begun -= begun
        self.free(begun - size)

    def _add(self, size: int, limit: int | None, others: int) -> None:
        if self._used is not None:
            used = self._used + size + others
            if limit is not None and used > limit:
                raise DiskLimitExceeded(
                    f"the server's files would take {readable_size(used)}, and its disk limit is "
                    f"{readable_size(self.limit or 0)}"
                )
            self._used += size
        self.total += size

    def free(self, size: int) -> None:
        """Count bytes that were deleted, or were not written after all."""
        with self._lock:
            self.total -= size
            if self._used is not None:
                self._used = max(self._used - size, 0)
