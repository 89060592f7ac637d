"""Files of a running server that change all the time: sending them in each round is for nothing.

Only files that come in blocks are looked at, by their numbers, which they keep in a move.
"""

from __future__ import annotations

from wingsd.moves.nodes import FileNode

__all__ = ["ALL_EVERY", "HotFiles"]

#: Rounds of a server that is followed for long of which some also have these files.
ALL_EVERY = 10


class HotFiles:
    """The files that were changed in each of the last two rounds that have ended."""

    def __init__(self) -> None:
        self._earlier: set[int] = set()
        self._last: set[int] = set()
        self._changed: set[int] = set()
        self._is_leaving = False
        #: Bytes of the files that are left out of this round.
        self.left = 0

    def begin(self, *, leave: bool) -> None:
        """Begin a round; `leave` is whether hot files are left out of it."""
        self._changed, self._is_leaving, self.left = set(), leave, 0

    def is_left(self, before: FileNode, node: FileNode) -> bool:
        """Note a file that is to be read; return whether it is left as it was sent."""
        number = before.number
        if not number or before.stamp == node.stamp:
            return False  # it was not changed, but is not settled
        self._changed.add(number)
        is_left = self._is_leaving and number in self._last and number in self._earlier
        if is_left:
            self.left += node.size
        return is_left

    def end(self) -> None:
        """End a round whose files are all at the destination."""
        self._earlier, self._last, self._changed = self._last, self._changed, set()
