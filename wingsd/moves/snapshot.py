"""A tree as frames, which make an empty tree equal to it: in a ledger, and between two nodes.

The frames come in parts: indexes of batches without bytes, of about a MiB each. At the source a
`HeldTree` is made of them, for a plan: it takes hostile answers. The files of that tree have no
identities: a plan matches them by their paths.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from wingsd.errors import BatchInvalid, DiskLimitExceeded, HeldTreeInvalid, RoundIncomplete
from wingsd.moves.batch import MAX_FRAMES, BatchKind, decode_index, make_index
from wingsd.moves.digests import DIGEST, UNKNOWN, zero_digest
from wingsd.moves.frames import (
    AttributesFrame,
    Content,
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    Shape,
    TakeFrame,
    WholeFrame,
    ZeroFrame,
)
from wingsd.moves.nodes import DirectoryNode, FileNode, LinkNode
from wingsd.moves.tree import MoveLimits, MoveTree, apply_shape, begin, done
from wingsd.util.text import display

MAX_PART = 4 << 20
"""No part has more bytes."""

_PART = 1 << 20
_MOST_DATA = 1 << 63
#: What a destination may hold beside twice the server: members, and bytes.
_MEMBERS = 100_000
_BYTES = 64 << 30
_MAX_NUMBER = 1 << 31
#: Bytes for each path and each block of so many bytes, and some more.
_PATH = 512
_BLOCK = 4096
_FRAME = 20
_PAGES = 16 << 20
# smaller ones count as that: a destination has few
_LEAST_PAGE = 64 << 10


@frozen(repr=False)
class Resumption:
    """The answer to `resume`: what the destination holds, in pages of indexes, and its numbers.

    `next` is the first batch of the `round`, `shape` the last shape batch, and `file` the highest
    number of a file.
    """

    round: int
    next: int
    shape: int
    file: int
    pages: int
    bytes: int


def snapshot(tree: MoveTree) -> Iterator[Frame]:
    """Yield the frames of a tree. Blocks that are unknown are in none of them.

    Raises RoundIncomplete where a file that comes as a whole is unknown, or one is in a slot.
    """
    if tree.slots:
        raise RoundIncomplete(f"{len(tree.slots)} files were taken and not put; send the rest")
    yield from _names(tree)
    for node in tree.all_numbered():
        yield FileFrame(node.number, node.names[0], *node.meta, node.block_size)
    yield from _wholes(tree)
    for node in tree.all_numbered():
        if node.attributes:
            yield AttributesFrame(node.number, node.attributes)
        for first, digests in node.blocks.runs():
            yield _blocks(node, first, digests)
    yield from _links(tree)


def parts(tree: MoveTree) -> Iterator[bytes]:
    """Yield the parts of a tree. Raises RoundIncomplete as `snapshot` does."""
    gathered: list[Frame] = []
    size = 0
    for frame in snapshot(tree):
        is_data = isinstance(frame, Content)
        if gathered and (
            size >= _PART
            or len(gathered) >= MAX_FRAMES
            or isinstance(gathered[0], Content) is not is_data
        ):
            yield _part(gathered)
            gathered, size = [], 0
        gathered.append(frame)
        size += len(frame.encode())
    if gathered:
        yield _part(gathered)


def _part(frames: list[Frame]) -> bytes:
    kind = BatchKind.DATA if isinstance(frames[0], Content) else BatchKind.SHAPE
    return make_index(kind, 1, 1, 0, frames).raw


def add_part(tree: MoveTree, part: bytes) -> None:
    """Add what is in a part to a tree.

    Raises BatchInvalid, FrameRefused and DiskLimitExceeded; some of it may be in the tree then.
    """
    index = decode_index(part, most_data=_MOST_DATA)
    if (index.number, index.round, index.needs) != (1, 1, 0):
        raise BatchInvalid("it is no part of a tree")
    for frame in index.frames:
        if isinstance(frame, Content):
            begin(tree, frame)
            done(tree, frame)
        elif isinstance(frame, TakeFrame | PutFrame | GoneFrame):
            raise BatchInvalid("a part of a tree removes names")
        else:
            apply_shape(tree, frame)


def held_bytes(tree: MoveTree) -> int:
    """Return the bytes of the blocks that are known."""
    held = 0
    for path, node in tree.walk():
        if not isinstance(node, FileNode) or node.names[0] != path:
            continue
        if not node.blocks.missing:
            held += node.size
        elif (known := node.blocks.count - node.blocks.missing) > 0:
            last = node.blocks.count - 1
            is_last_known = node.blocks.get(last, 1) != UNKNOWN
            held += (known - is_last_known) * node.block_size
            held += node.length(last, 1) if is_last_known else 0
    return held


def _names(tree: MoveTree) -> Iterator[Shape]:
    for path, node in tree.walk():
        if isinstance(node, DirectoryNode):
            yield DirectoryFrame(path, *node.meta)
        elif isinstance(node, LinkNode) and node.names[0] == path:
            yield LinkFrame(path, node.target, node.mtime)


def _wholes(tree: MoveTree) -> Iterator[WholeFrame]:
    for path, node in tree.walk():
        if isinstance(node, FileNode) and not node.number and node.names[0] == path:
            if node.blocks.missing:
                raise RoundIncomplete(f"blocks of {display(path)} are missing; send them")
            rest = (node.blocks.get(0, 1), node.attributes or b"")
            yield WholeFrame(path, *node.meta, *rest)


def _blocks(node: FileNode, first: int, digests: bytes) -> DataFrame | ZeroFrame:
    count = len(digests) // DIGEST
    if digests == zero_digest(node.block_size) * count:
        return ZeroFrame(node.number, first, count)
    return DataFrame(node.number, first, node.block_size, node.length(first, count), digests)


def _links(tree: MoveTree) -> Iterator[HardFrame]:
    for path, node in tree.walk():
        if not isinstance(node, DirectoryNode) and node.names[0] != path:
            yield HardFrame(path, node.names[0])


def held_limits(now: MoveTree) -> MoveLimits:
    """Return what a destination may hold of a server that has the tree `now`: twice and more."""
    return MoveLimits(2 * now.members + _MEMBERS, 2 * now.bytes + _BYTES)


class HeldTree:
    """Makes a tree of pages, whose file is in `scratch`. After an error it is of no use.

    All methods raise HeldTreeInvalid for what no destination sends, or more than `limits`.
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
