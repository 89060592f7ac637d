"""One tree that several archives are extracted into at the same time, each in its own thread.

They share the directories, and the limits. A file is in one of them: where two bring the same
name, which of them is last would be chance, so neither is taken. What can only be done when all
are there is done by `finish`: hard links whose files came later, and the directories' times.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

from attrs import evolve

from wingsd.archive.latelinks import LateLinks
from wingsd.archive.limits import Limits
from wingsd.archive.space import Space
from wingsd.archive.tree import TreeWriter

__all__ = ["JointTree"]


class JointTree:
    """A tree below the existing `directory`, for as many as `archives`; `close` must be called.

    The owner of everything is `owner`, as `extract` has it. Every method raises StorageError.
    """

    def __init__(
        self, directory: str, owner: tuple[int, int] | None, limits: Limits, archives: int
    ) -> None:
        self._owner = owner
        # What one archive may take of the node's memory each of them may.
        self._limits = evolve(limits, directory_memory=limits.directory_memory * archives)
        with ExitStack() as stack:
            self._late = stack.enter_context(closing(LateLinks(directory)))
            first = TreeWriter(directory, owner, self._limits, late=self._late)
            self._first = stack.enter_context(closing(first))
            self._open = stack.pop_all()
        self._spaces: list[Space] = []

    def writer(self) -> TreeWriter:
        """Return what one archive is written with, in its thread."""
        first = self._first
        return TreeWriter(
            first.root, self._owner, self._limits, late=self._late, metadata=first.metadata
        )

    def space(self) -> Space:
        """Return what keeps account of one archive, and of all of them together."""
        space = Space(self._limits, self._first.file_system, self._spaces)
        self._spaces.append(space)
        return space

    def finish(self) -> None:
        """Make what only all archives together make possible; they must be there.

        Raises ArchiveError for a hard link to what is in none of them.
        """
        for path, target in self._late.take():
            self._first.hard_link(path, target)
        self._first.finish()

    def close(self) -> None:
        """Close every descriptor."""
        self._open.close()
