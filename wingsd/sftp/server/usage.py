"""The disk usage of servers as the SFTP process counts it, corrected by the daemon.

The daemon's figure contains what this process has told it so far; what came since is added here.
"""

from __future__ import annotations

from threading import Lock

from wingsd.errors import DiskLimitExceeded
from wingsd.filesystem import UsageCounter
from wingsd.filesystem.writable_file import OpenFiles
from wingsd.sftp.messages import ServerState

__all__ = ["ServerUsage"]


class ServerUsage:
    """The usage of one server's files. Any thread may call it; see `filesystem.Usage`."""

    def __init__(self, total: int = 0) -> None:
        #: The bytes by which this process has changed it, since its start.
        self._total = total
        self._counter = UsageCounter()
        #: Its files that are open in this process.
        self.files = OpenFiles()
        self._lock = Lock()

    @property
    def total(self) -> int:
        """The bytes by which this process has changed it, since its start."""
        return self._total

    @property
    def limit(self) -> int | None:
        """The bytes that the files may take, None for no limit."""
        return self._counter.limit

    @property
    def used(self) -> int | None:
        """The bytes that the files take, with those that are deleted and open in this process.

        None before they were measured.
        """
        used = self._counter.used
        return None if used is None else used + self.files.held

    def correct(self, state: ServerState) -> None:
        """Take over the daemon's figures."""
        with self._lock:
            used = state.used
            if used is not None:
                used = max(used + self._total - state.acknowledged, 0)
            self._counter.limit = state.limit
            self._counter.used = used

    def add(self, size: int) -> None:
        """Count bytes that are about to be written. Raises DiskLimitExceeded; none count then."""
        with self._lock:
            self._counter.add(size, self.files.held)
            self._total += max(size, 0)

    def begin(self, size: int, replaced: int) -> None:
        """Count bytes of a new file, which is to replace one of `replaced` bytes."""
        with self._lock:
            self._counter.begin(size, replaced)
            self._total += size

    def end(self, begun: int, size: int) -> None:
        """Count `size` bytes for a new file that is whole, 0 if it was deleted."""
        with self._lock:
            self._counter.end(begun, size)
            self._total += size - begun

    def free(self, size: int) -> None:
        """Count bytes that were deleted, or were not written after all."""
        with self._lock:
            self._counter.free(size)
            self._total -= size

    def check(self, freed: int = 0) -> None:
        """Raise DiskLimitExceeded where nothing can be stored even when `freed` bytes are gone."""
        limit, used = self.limit, self.used
        if limit is not None and used is not None and used - freed >= limit:
            raise DiskLimitExceeded(
                "the server's files take as much as its disk limit allows; delete some first"
            )
