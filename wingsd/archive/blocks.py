"""A cursor over a stream of blocks: exact amounts out of whatever amounts come in."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Blocks"]


class Blocks:
    """Takes exact numbers of bytes from an iterator of bytes blocks of any size.

    Within one block nothing is copied: what is handed out are views of it. Every method raises
    EOFError where the stream has fewer bytes than asked for.
    """

    __slots__ = ("_at", "_blocks", "_size", "_view")

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._view = memoryview(b"")
        self._at = 0
        self._size = 0

    def at_end(self) -> bool:
        """Tell whether nothing is left, waiting for the next block if need be."""
        while self._at == self._size:
            block = next(self._blocks, None)
            if block is None:
                return True
            self._view = memoryview(block)
            self._at = 0
            self._size = len(block)
        return False

    def ready(self, size: int) -> memoryview | None:
        """Return the next `size` bytes where all of them lie in the current block."""
        start = self._at
        end = start + size
        if end > self._size:
            return None
        self._at = end
        return self._view[start:end]

    def take(self, size: int) -> memoryview:
        """Return exactly `size` bytes, joined where they lie in several blocks."""
        start = self._at
        end = start + size
        if end <= self._size:
            self._at = end
            return self._view[start:end]
        return memoryview(b"".join(self.pieces(size)))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield exactly `size` bytes as they come."""
        while size:
            if self.at_end():
                raise EOFError
            start = self._at
            self._at = end = min(start + size, self._size)
            size -= end - start
            yield self._view[start:end]

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        if self._at + size <= self._size:
            self._at += size
            return
        for _ in self.pieces(size):
            pass

    def rest(self) -> Iterator[memoryview]:
        """Yield everything that is left."""
        while not self.at_end():
            start = self._at
            self._at = self._size
            yield self._view[start:]
