"""An archive that is uploaded while it is being made."""

from __future__ import annotations

from twisted.internet.defer import Deferred

__all__ = ["GrowingArchive"]


class GrowingArchive:
    """How far an archive has been written to its file; for the reactor alone.

    Whoever makes it calls `grew` when bytes are in the file, and `complete` at the end.
    """

    def __init__(self) -> None:
        self._size = 0
        self._is_complete = False
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def grew(self, size: int) -> None:
        """Tell that the file has `size` bytes that do not change any more."""
        self._size = size
        self._wake()

    def complete(self, size: int) -> None:
        """Tell that it is made, with `size` bytes."""
        self._size, self._is_complete = size, True
        self._wake()

    async def reach(self, size: int) -> int:
        """Wait until it has so many bytes, or is complete; return how many it has."""
        while not self._has(size):
            grown: Deferred[None] = Deferred()
            self._waiting.append((size, grown))
            await grown
        return self._size

    def _has(self, size: int) -> bool:
        return self._size >= size or self._is_complete

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for size, grown in waiting:
            if not self._has(size):
                self._waiting.append((size, grown))
            elif not grown.called:  # it was cancelled
                grown.callback(None)
