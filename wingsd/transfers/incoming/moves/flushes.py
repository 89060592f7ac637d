"""Flushes of a partial copy: an error is reported once by the kernel, and does not say of what."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from wingsd.errors import StorageError

__all__ = ["Flushes"]


class Flushes:
    """Calls `sync` in several threads, and counts how often it has failed."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._turn = Lock()
        self.failures = 0

    def flush(self, known: int) -> None:
        """Return when all that was written is on stable storage.

        Raises what `sync` raises, and StorageError where more than the `known` failures have been:
        of two flushes at a time the kernel tells one of an error.
        """
        with self._turn:
            if self.failures != known:
                raise StorageError("what has arrived could not be written to the disk")
            try:
                self._sync()
            except BaseException:
                self.failures += 1
                raise
