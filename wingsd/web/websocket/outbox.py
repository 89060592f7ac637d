"""What happens to messages for a browser that reads too slowly. Pure.

The transport takes what it is given and says when that is too much (`pause`) and when all of it is
gone (`resume`). In between, only so much more is given to it.
"""

from __future__ import annotations

from enum import Enum, auto

__all__ = ["Fate", "Outbox"]

#: Bytes that may wait beyond what the transport likes to hold. There is room for all the lines
#: of `send logs`, which come at once.
LINES_MAX = 512 * 1024
#: ... and with the messages that must not be dropped. A browser that leaves more is given up.
ALL_MAX = 1024 * 1024


class Fate(Enum):
    """What is to be done with a message."""

    SEND = auto()
    DROP = auto()
    GIVE_UP = auto()


class Outbox:
    """Counts what waits for one browser."""

    def __init__(self) -> None:
        self.paused = False
        #: Bytes given to the transport since it paused, and the most there ever were.
        self.waiting = 0
        self.waiting_most = 0
        self._dropping = False
        self._lines = 0

    def fate(self, size: int, *, droppable: bool, line: bool = False) -> Fate:
        """Return what is to be done with a message of `size` bytes, and count it.

        A `line` is one that people miss when it is dropped.
        """
        if not self.paused:
            return Fate.SEND
        if droppable and (self._dropping or self.waiting + size > LINES_MAX):
            self._dropping = True
            self._lines += line
            return Fate.DROP
        if self.waiting + size > ALL_MAX:
            return Fate.GIVE_UP
        self.waiting += size
        self.waiting_most = max(self.waiting_most, self.waiting)
        return Fate.SEND

    def pause(self) -> None:
        """The transport has more than it likes. It may say so many times."""
        self.paused = True

    def resume(self) -> int:
        """The transport has nothing left. Returns how many lines were dropped since `pause`."""
        lines, self._lines = self._lines, 0
        self.paused = self._dropping = False
        self.waiting = 0
        return lines
