"""An archive that is uploaded while it is being made."""

from __future__ import annotations

from twisted.internet.defer import Deferred

__all__ = ["GrowingArchive"]


class GrowingArchive:
    """How far an archive has been written to its file; for the reactor alone.

    Whoever makes it calls `grew` when bytes are in the file, and at the end `complete` or `fail`.
    """

    def __init__(self) -> None:
        self._size = 0
        self._is_complete = False
        self._error: Exception | None = None
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def grew(self, size: int) -> None:
        """Tell that the file has `size` bytes that do not change any more."""
        self._size = size
        self._wake()

    def complete(self, size: int) -> None:
        """Tell that it is made, with `size` bytes."""
        self._size, self._is_complete = size, True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Tell that it is not made: `reach` raises `error`."""
        self._error = error
        self._wake()

    async def reach(self, size: int) -> int:
        """Wait until it has so many bytes, or is complete; return how many it has."""
        while not self._has(size):
            grown: Deferred[None] = Deferred()
            self._waiting.append((size, grown))
            await grown
        if self._error is not None:
            raise self._error
        return self._size

    def _has(self, size: int) -> bool:
        return self._size >= size or self._is_complete or self._error is not None

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for size, grown in waiting:
            if not self._has(size):
                self._waiting.append((size, grown))
            elif not grown.called:  # it was cancelled
                grown.callback(None)
