"""The source of one move: what of a directory the destination does not hold, in batches.

Blocking; calls come one at a time. Each round begins with `scan`, then come the pages of what the
destination holds, `plan`, the batches and at last `root`. What was read in an earlier round, and
arrived, is not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

from attrs import frozen

from wingsd.filesystem.walk import opened
from wingsd.moves.contents import ContentReader, FramedData
from wingsd.moves.filling import Batch, BatchFiller
from wingsd.moves.held import HeldTree, held_limits
from wingsd.moves.plan import FileContent, plan
from wingsd.moves.scan import scan
from wingsd.moves.tree import FileNode, MoveTree

__all__ = ["MoveNumbers", "MoveSource", "SourceStopped"]


@frozen(repr=False)
class MoveNumbers:
    """Where a destination goes on: the round, the first batch of it, the last shape batch.

    `file` is the highest number of a file.
    """

    round: int
    next: int
    shape: int
    file: int


class SourceStopped(Exception):
    """The source was stopped."""


class MoveSource:
    """Reads the tree in `directory`. `close` must be called.

    `warn` gets a line for what is left out or changed. Methods raise StorageError, TreeTooLarge
    and SourceFileChanged.
    """

    def __init__(self, directory: str, warn: Callable[[str], None]) -> None:
        self._stack = ExitStack()
        self._root = self._stack.enter_context(opened(directory))
        self._reader = ContentReader(self._root, self._count)
        self._stack.callback(self._reader.close)
        self._warn = warn
        #: Bytes of files that are read in this round, or need not be; and how many files.
        self.read = self.files = 0
        #: Bytes of all files, as scanned.
        self.total = 0
        #: The bytes of a batch; may be changed at any time.
        self.size = 1 << 20
        self._now = MoveTree()
        #: The last tree that was planned from: of files that were read it has the digests.
        self._last = MoveTree()
        self._held: HeldTree | None = None
        self._filler = BatchFiller(self.size)
        self._shapes: Iterator[Batch] = iter(())
        self._data: Iterator[Batch] = iter(())
        self._reading: Generator[FramedData, None, None] | None = None
        self._is_stopped = False

    def close(self) -> None:
        """Close every descriptor."""
        self._end_round()
        self._stack.close()

    def stop(self) -> None:
        """Have what is being read fail soon, by SourceStopped. From any thread."""
        self._is_stopped = True

    @property
    def last(self) -> int:
        """The number of the last batch."""
        return self._filler.number

    def scan(self) -> None:
        """Begin a round: read all names and metadata."""
        self._end_round()
        self._now = scan(self._root, self._warn)
        self._warn = _ignore  # the same lines in each round
        self._held = HeldTree(held_limits(self._now))
        self.total = self._now.bytes
        self.read = self.files = 0

    def add_page(self, page: bytes) -> None:
        """Take a page of what the destination holds. Raises HeldTreeInvalid."""
        assert self._held is not None  # noqa: S101 - by `scan`
        self._held.add(page)

    def plan(self, numbers: MoveNumbers) -> None:
        """Compare the tree with what the destination holds. Raises HeldTreeInvalid."""
        assert self._held is not None  # noqa: S101 - by `scan`
        held, self._held = self._held.finish(numbers.file), None
        planned = plan(held, self._now, self._is_held)
        self._filler = BatchFiller(
            self.size,
            number=numbers.next - 1,
            in_round=numbers.round - 1,
            shape=numbers.shape,
        )
        self.read = self.total - planned.unread
        self._last = self._now
        self._shapes = self._filler.shapes(planned)
        self._reading = self._contents(planned.contents)
        self._data = self._filler.data(self._reading)

    def next_shape(self) -> Batch | None:
        """Return the next shape batch, None after the last."""
        self._filler.size = self.size
        return next(self._shapes, None)

    def next_data(self) -> Batch | None:
        """Read and return the next data batch, None after the last."""
        self._filler.size = self.size
        return next(self._data, None)

    def root(self) -> bytes:
        """Return the root, when all was read."""
        return self._now.root()

    def _end_round(self) -> None:
        """Drop what the next round does not need."""
        if self._reading is not None:
            self._reading.close()  # which closes a file
            self._reading = None
        self._shapes = self._data = iter(())
        self._now, self._held = MoveTree(), None

    def _contents(self, contents: Iterator[FileContent]) -> Generator[FramedData, None, None]:
        for content in contents:
            yield from self._reader.read(content)
            self.files += 1

    def _is_held(self, held: FileNode, node: FileNode) -> bool:
        """Return whether the destination holds what was read of a file that is as it was then."""
        if held.blocks.missing or held.size != node.size:
            return False
        # of a file that comes as a whole, the metadata comes with it
        if not held.number and (held.mode, held.mtime) != (node.mode, node.mtime):
            return False
        self._last.trim()
        read = self._last.find(node.names[0])
        return (
            isinstance(read, FileNode)
            and (read.identity, read.stamp) == (node.identity, node.stamp)
            and not read.blocks.missing
            and read.value() == held.value()
        )

    def _count(self, size: int) -> None:
        if self._is_stopped:
            raise SourceStopped
        self.read += size


def _ignore(_: str) -> None:
    pass
