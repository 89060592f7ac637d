"""How far a transfer is, in figures."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from wingsd.transfers.lifecycle import ReceiveStep, SendStep

__all__ = ["Meter", "Progress"]


@attrs.frozen
class Progress:
    """A transfer under way: what it does, and since when, in seconds.

    `entry` is its number in the journal, None before it is there. `bytes` are those that have gone
    by: of a server that comes its upload's, of one that goes its files' and backups'; `total` is
    how many they will be, 0 where that is not known; `rate` is bytes a second on average.
    `pool` is the storage pool by which both nodes may have the files, empty without.
    """

    server: str
    entry: int | None
    step: ReceiveStep | SendStep
    words: str
    by_hand: bool
    pool: str
    seconds: float
    bytes: int
    total: int
    rate: float


class Meter:
    """Tells of bytes, and of the seconds between `start` and `stop`.

    `seconds` is the clock, and `count` tells how many bytes have gone by so far.
    """

    def __init__(self, seconds: Callable[[], float], count: Callable[[], int]) -> None:
        self._clock = seconds
        self._count = count
        self._begun: float | None = None
        self._ended: float | None = None

    @property
    def done(self) -> int:
        """How many bytes have gone by."""
        return self._count()

    def start(self) -> None:
        """The first byte may come."""
        self._begun = self._clock()

    def stop(self) -> None:
        """The last one has gone by."""
        self._ended = self._clock()

    @property
    def seconds(self) -> float:
        """How long it has taken, 0 before it begins."""
        if self._begun is None:
            return 0.0
        return (self._clock() if self._ended is None else self._ended) - self._begun

    @property
    def rate(self) -> float:
        """Bytes a second on average."""
        return self.done / self.seconds if self.seconds > 0 else 0.0
