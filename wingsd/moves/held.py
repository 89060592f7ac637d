"""What a destination tells that it holds, as a tree to plan from. Pure, and for hostile answers.

The files of this tree have no identities: a plan matches them by their paths.
"""

from __future__ import annotations

from wingsd.errors import DiskLimitExceeded
from wingsd.moves.errors import BatchInvalid, HeldTreeInvalid
from wingsd.moves.snapshot import MAX_PART, add_part
from wingsd.moves.tree import MoveLimits, MoveTree

__all__ = ["HeldTree", "held_limits"]

_MEMBERS = 100_000
_BYTES = 64 << 30
_MAX_NUMBER = 1 << 31
_PATH = 512
_BLOCK = 4096
_FRAME = 20
_PAGES = 16 << 20
# smaller ones count as that: a destination has few
_LEAST_PAGE = 64 << 10


def held_limits(now: MoveTree) -> MoveLimits:
    """Return what a destination may hold of a server that has the tree `now`: twice and more."""
    return MoveLimits(2 * now.members + _MEMBERS, 2 * now.bytes + _BYTES)


class HeldTree:
    """Makes a tree of pages, whose file is in `scratch`. After an error it is of no use.

    All methods raise HeldTreeInvalid for what no destination tells, or more than `limits`.
    """

    def __init__(self, limits: MoveLimits, scratch: str | None = None) -> None:
        self._tree = MoveTree(limits, scratch)
        # of a file and each of its blocks; a path that is longer on average would be odd
        self._left = limits.members * _PATH + limits.bytes // _BLOCK * _FRAME + _PAGES

    def close(self) -> None:
        """Close the tree's file at once."""
        self._tree.close()

    def add(self, page: bytes) -> None:
        """Add the next page."""
        self._left -= max(len(page), _LEAST_PAGE)
        before = self._tree.attribute_bytes
        if len(page) > MAX_PART or self._left < -MAX_PART:
            raise HeldTreeInvalid("it is larger than the server can have made it")
        try:
            add_part(self._tree, page)
        except (BatchInvalid, DiskLimitExceeded) as error:
            raise HeldTreeInvalid(error.detail) from error
        self._left += self._tree.attribute_bytes - before  # which the tree itself bounds
        if self._left < 0:
            raise HeldTreeInvalid("it is larger than the server can have made it")

    def finish(self, last_number: int) -> MoveTree:
        """Return the tree, after the last page; `last_number` is the highest number of a file."""
        if not self._tree.last_number <= last_number < _MAX_NUMBER:
            raise HeldTreeInvalid(f"{last_number} is not its highest number of a file")
        self._tree.last_number = last_number
        return self._tree
