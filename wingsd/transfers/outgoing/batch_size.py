"""The size of the bodies of a move: by the line's rate, and by what proxies let through."""

from __future__ import annotations

from wingsd.moves.filling import LEAST_SIZE
from wingsd.transfers.errors import DestinationError

__all__ = ["BatchSize"]

#: Bytes of the first batches.
FIRST = 1 << 20
#: Seconds in which a body is to be sent: it passes every proxy, and a break costs little.
SECONDS = 10.0
#: How often the same body is cut on its way until it is made smaller.
CUTS = 2
#: How many bodies are sent until a size is tried again that was cut before. It doubles each time
#: that the larger body is cut as well, since that costs a resumption.
TRIED_AFTER = 64


class BatchSize:
    """The bytes of the next body: what is sent in ten seconds, from `least` up to `most`.

    They count before compression: a body that was compressed is smaller.
    """

    def __init__(self, most: int, *, first: int | None = None, least: int = LEAST_SIZE) -> None:
        self.value = min(FIRST if first is None else first, most)
        self._least = least
        #: Above which nothing is taken, and above which bodies were cut lately.
        self._most = self._uncut = most
        #: Bodies that were taken since, and after how many larger ones are tried.
        self._taken, self._tried_after = 0, TRIED_AFTER // 2

    def taken(self, size: int, seconds: float) -> None:
        """A body of so many bytes was taken after so many seconds."""
        self._taken += 1
        if self._taken >= self._tried_after and self._uncut < self._most:
            self._uncut, self._taken = min(2 * self._uncut, self._most), 0
        if 2 * size < self.value:
            return  # it says little about the line
        wanted = min(size / max(seconds, 0.001) * SECONDS, 2 * self.value, self._uncut)
        self.value = max(int(wanted), self._least)

    def cut(self, size: int, times: int) -> bool:
        """Return whether a body that was cut on its way `times` times is to be made smaller.

        Once may be chance: then it comes again as it is, and only the next ones are smaller.
        """
        half = self._halve(size)
        if times < CUTS or size <= self._least:
            return False
        if half < self._uncut:  # else another one of that size was cut at the same time
            self._uncut, self._tried_after = half, 2 * self._tried_after
        self._taken = 0
        return True

    def refused(self, size: int, error: DestinationError) -> None:
        """A body was too large for the destination. Raises `error` for the smallest."""
        if size <= self._least:
            raise error
        half = self._halve(size)
        self._most, self._uncut = min(self._most, half), min(self._uncut, half)

    def _halve(self, size: int) -> int:
        """Have bodies of at most half of `size`: several of that size may fail at once."""
        half = max(size // 2, self._least)
        self.value = min(self.value, half)
        return half
