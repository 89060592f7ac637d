"""A data batch that is being received: what its blocks were before, and what was written."""

from __future__ import annotations

from collections.abc import Sequence

from wingsd.moves.batch import Index
from wingsd.moves.batch_reader import BlockRun
from wingsd.moves.changes import Begun, begin, done
from wingsd.moves.frames import WholeFrame, ZeroFrame
from wingsd.moves.tree import MoveTree
from wingsd.moves.written import Written, WrittenBlocks

__all__ = ["OpenBatch"]


class OpenBatch:
    """A batch whose blocks are unknown in `tree` from now on. Raises what `begin` raises."""

    def __init__(self, index: Index, tree: MoveTree) -> None:
        self.index = index
        self._tree = tree
        tree.find_absent([each.path for each in index.contents if isinstance(each, WholeFrame)])
        self._begun = [begin(tree, frame) for frame in index.contents]
        #: Paths of files that were not there.
        self._new = {
            frame.path
            for frame, begun in zip(index.contents, self._begun, strict=True)
            if begun is Begun.NEW and isinstance(frame, WholeFrame)
        }
        self._written: list[Written] = []

    @property
    def is_told(self) -> bool:
        """Whether the ledger would be wrong without the batch once some of it is written.

        Of blocks that were unknown it tells nothing; but it has to know of each new name.
        """
        return any(begun is not Begun.UNKNOWN for begun in self._begun)

    def is_new(self, run: BlockRun) -> bool:
        """Whether blocks are of a file that comes as a whole and was not there."""
        return isinstance(run.frame, WholeFrame) and run.frame.path in self._new

    def note(self, run: BlockRun) -> None:
        """Note that blocks were written: together with those that have the same checksum."""
        frame, written = run.frame, self._written
        if isinstance(frame, ZeroFrame):
            written.append(frame)
            return
        of = frame.path if isinstance(frame, WholeFrame) else frame.number
        last = written[-1] if written else None
        if isinstance(last, WrittenBlocks) and (last.of, last.first) == (of, run.since):
            last.count += run.count
            last.size += len(run.data)
            last.crc = run.crc
        else:
            written.append(WrittenBlocks(of, run.first, run.count, len(run.data), run.crc))

    def end(self) -> Sequence[Written]:
        """Make the blocks known, all of which were written; return what is to be read back."""
        for frame, begun in zip(self.index.contents, self._begun, strict=True):
            done(self._tree, frame, begun)
        return self._written
