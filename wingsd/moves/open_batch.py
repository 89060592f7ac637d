"""A data batch that is being received: what of it is new in the tree, and what was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from wingsd.moves.batch import Index
from wingsd.moves.batch_reader import BlockRun
from wingsd.moves.changes import begin, done
from wingsd.moves.digests import UNKNOWN
from wingsd.moves.frames import AttributesFrame, Content, WholeFrame, ZeroFrame
from wingsd.moves.nodes import pack_file
from wingsd.moves.tree import MoveTree, dirname
from wingsd.moves.written import Written, WrittenBlocks

__all__ = ["OpenBatch", "overlap"]


class OpenBatch:
    """A batch whose blocks are unknown in `tree` from now on. Raises what `begin` raises.

    New files that come as a whole are counted in `tree` now, and stored in it by `end` or
    `abandon`: adding each now and changing it then takes twice the CPU time. Until then nothing
    else may make their names.
    """

    def __init__(self, index: Index, tree: MoveTree) -> None:
        self.index = index
        self._tree = tree
        self._new = tree.absent([f.path for f in index.contents if isinstance(f, WholeFrame)])
        #: Frames of new files, a list for each run of one directory; and all other frames.
        self._added: list[list[WholeFrame]] = []
        self._known: list[Content] = []
        #: Frames of contents that were known, or come as a whole and have a name already.
        self.overwritten: list[Content] = []
        # In the order of the frames, as a replay of the ledger: else one of the two might be above
        # the limits meanwhile, and the other not.
        for directory, frames in groupby(index.contents, self._directory_of_new):
            if directory is None:
                self._begin(frames)
            else:
                self._reserve([frame for frame in frames if isinstance(frame, WholeFrame)])
        self._written: list[Written] = []

    def _directory_of_new(self, frame: Content) -> bytes | None:
        if isinstance(frame, WholeFrame) and frame.path in self._new:
            return dirname(frame.path)
        return None

    def _begin(self, frames: Iterator[Content]) -> None:
        for frame in frames:
            self._known.append(frame)
            if begin(self._tree, frame):
                self.overwritten.append(frame)

    def _reserve(self, frames: list[WholeFrame]) -> None:
        self._added.append(frames)
        self._tree.trim()
        size, more = (
            sum(each) for each in zip(*((f.size, len(f.attributes)) for f in frames), strict=True)
        )
        self._tree.reserve(frames[0].path, len(frames), size, more)

    @property
    def must_be_durable(self) -> bool:
        """Whether the ledger would be wrong without the batch once some of it is written.

        Of blocks that were unknown it tells nothing; but it has to know of each new name.
        """
        return bool(self._new or self.overwritten)

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

    def abandon(self) -> None:
        """Leave the blocks unknown: some may be written in part."""
        self._add(is_known=False)

    def _add(self, *, is_known: bool) -> None:
        for frames in self._added:
            directory = dirname(frames[0].path)
            self._tree.trim()
            self._tree.add_reserved(directory, _packed(directory, frames, is_known=is_known))


def _packed(
    directory: bytes, frames: Sequence[WholeFrame], *, is_known: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the names of files of a directory, and what is stored of each."""
    at = len(directory) + 1 if directory else 0
    for frame in frames:
        digest = frame.digest if is_known else UNKNOWN
        meta = (frame.mode, frame.mtime, frame.size)
        packed = pack_file(*meta, None, b"", digest, frame.attributes)
        yield frame.path[at:], packed


def overlap(some: Sequence[Content | Written], others: Sequence[Content | Written]) -> bool:
    """Return whether two batches have a path, or blocks of a file, in common."""
    shared = {_file(each) for each in some} & {_file(each) for each in others}
    if not shared:
        return False
    theirs = _ranges(others, shared)
    at = 0
    for file, first, end in _ranges(some, shared):
        while at < len(theirs) and theirs[at][::2] <= (file, first):
            at += 1
        if at < len(theirs) and theirs[at][:2] < (file, end):
            return True
    return False


def _file(part: Content | Written) -> int | bytes:
    """Return the number of the file that some contents are of, or its path."""
    if isinstance(part, WrittenBlocks):
        return part.of
    return part.path if isinstance(part, WholeFrame) else part.number


def _ranges(
    parts: Sequence[Content | Written], files: set[int | bytes]
) -> list[tuple[str, int, int]]:
    """Return files with the first of some blocks and the end of these, sorted."""
    found = []
    for part in parts:
        if (file := _file(part)) in files:
            if isinstance(part, AttributesFrame):
                first, count = -1, 1
            else:
                first, count = (0, 1) if isinstance(part, WholeFrame) else (part.first, part.count)
            found.append((repr(file), first, first + count))
    return sorted(found)
