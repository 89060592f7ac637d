"""A data batch that is being received: what its blocks were before, and what was written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from wingsd.moves.batch import Index
from wingsd.moves.batch_reader import BlockRun
from wingsd.moves.changes import begin, done
from wingsd.moves.digests import UNKNOWN
from wingsd.moves.frames import WholeFrame, ZeroFrame
from wingsd.moves.nodes import pack_file
from wingsd.moves.tree import MoveTree, dirname
from wingsd.moves.written import Written, WrittenBlocks

__all__ = ["OpenBatch"]


class OpenBatch:
    """A batch whose blocks are unknown in `tree` from now on. Raises what `begin` raises.

    Files that are new and come as a whole are counted by `tree`, and in it when the batch has
    ended or was given up: so each costs half as much.
    """

    def __init__(self, index: Index, tree: MoveTree) -> None:
        self.index = index
        self._tree = tree
        wholes = [frame for frame in index.contents if isinstance(frame, WholeFrame)]
        self._new = tree.absent([frame.path for frame in wholes])
        #: New files of a directory, each time that some follow one another.
        self._added = [
            (path, list(frames))
            for path, frames in groupby(
                (frame for frame in wholes if frame.path in self._new),
                key=lambda frame: dirname(frame.path),
            )
        ]
        self._known = [
            frame
            for frame in index.contents
            if not isinstance(frame, WholeFrame) or frame.path not in self._new
        ]
        #: Whether the ledger would be wrong without the batch once some of it is written. Of
        #: blocks that were unknown it tells nothing; but it has to know of each new name.
        self.is_told = bool(self._new)
        for frame in self._known:
            if begin(tree, frame):
                self.is_told = True
        for _, frames in self._added:
            tree.reserve([frame.path for frame in frames], sum(frame.size for frame in frames))
        self._written: list[Written] = []

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
        for frame in self._known:
            done(self._tree, frame)
        self._add(is_known=True)
        return self._written

    def give_up(self) -> None:
        """Leave the blocks unknown: some may be written, in part or not."""
        self._add(is_known=False)

    def _add(self, *, is_known: bool) -> None:
        for path, frames in self._added:
            at = len(path) + 1 if path else 0
            packed = []
            for frame in frames:
                digest = frame.digest if is_known else UNKNOWN
                value = pack_file(frame.mode, frame.mtime, frame.size, None, b"", digest)
                packed.append((frame.path[at:], value))
            self._tree.add_reserved(path, packed)
