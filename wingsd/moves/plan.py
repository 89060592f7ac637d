"""Plans a round: from the tree that was sent last and the tree now, the frames of the difference.

Pure: trees in, frames out. Contents come after the shape, by `contents`, as the files are read.
Renamed files are told by their identity, and files that were replaced under their name (written
anew and renamed over it) by their path: of both only blocks that differ are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from attrs import frozen

from wingsd.moves.blocks import block_count
from wingsd.moves.digests import MAX_BLOCKS, WHOLE, block_size_for
from wingsd.moves.frames import (
    DirectoryFrame,
    FileFrame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
)
from wingsd.moves.tree import DirectoryNode, FileNode, LinkNode, MoveTree

__all__ = ["FileContent", "Plan", "plan"]

Named = FileNode | LinkNode
Removal = TakeFrame | GoneFrame
Creation = DirectoryFrame | PutFrame | FileFrame | LinkFrame | HardFrame


@frozen(eq=False, repr=False)
class FileContent:
    """A file that is to be read: its present node, and what was sent of it, None for nothing."""

    path: bytes
    node: FileNode
    before: FileNode | None


@frozen(eq=False, repr=False)
class Plan:
    """A round: names that go, then names that come, then contents."""

    removals: tuple[Removal, ...]
    creations: tuple[Creation, ...]
    contents: tuple[FileContent, ...]


def plan(
    sent: MoveTree,
    now: MoveTree,
    unchanged: Callable[[FileNode, FileNode], bool] = lambda before, node: False,
) -> Plan:
    """Return what makes `sent` equal to `now`.

    The files of `now` get their numbers and block sizes. A file for which `unchanged` is true gets
    the digests that were sent and is not read, if all of its blocks are known.
    """
    planner = _Planner(sent, now)
    planner.match()
    planner.number()
    removals = tuple(planner.removals())
    creations = tuple(planner.creations())
    return Plan(removals, creations, tuple(planner.contents(unchanged)))


class _Planner:
    def __init__(self, sent: MoveTree, now: MoveTree) -> None:
        self._sent = sent
        self._now = now
        self._nodes = list(_nodes(now))
        #: What each present node goes on with, and the reverse.
        self._before: dict[Named, Named] = {}
        self._after: dict[Named, Named] = {}
        #: Files none of whose names stays, by the slot that they wait in.
        self._slots: dict[Named, int] = {}

    def match(self) -> None:
        """Find what each present file was before: first by its identity, then by its path."""
        by_identity: dict[Hashable, Named] = {
            node.identity: node for node in _nodes(self._sent) if node.identity is not None
        }
        for node in self._nodes:
            self._try(node, by_identity.get(node.identity))
        for node in self._nodes:
            for name in node.names:
                if node not in self._before:
                    self._try(node, self._sent.find(name))
        for node, before in self._before.items():
            if isinstance(before, FileNode) and not set(before.names) & set(node.names):
                self._slots[node] = len(self._slots)

    def _try(self, node: Named, before: object) -> None:
        if before not in self._after and _fits(node, before):
            assert isinstance(before, Named)  # noqa: S101 - by `_fits`
            self._before[node] = before
            self._after[before] = node

    def number(self) -> None:
        """Give the present files numbers and block sizes: those from before, or new ones."""
        last = self._sent.last_number
        for node in self._nodes:
            if not isinstance(node, FileNode):
                continue
            before = self._before.get(node)
            if isinstance(before, FileNode):
                node.bind(before.number, before.block_size)
            elif node.size > WHOLE or len(node.names) > 1:
                # a name can only be linked to a file that is there before the contents come
                last += 1
                node.bind(last, block_size_for(node.size))
            else:
                node.bind(0, WHOLE)
            if node.number:
                self._now.numbers[node.number] = node
        self._now.last_number = last

    def removals(self) -> Iterator[Removal]:
        """Yield the frames that take files out and remove names."""
        taken = set()
        for node, slot in self._slots.items():
            path = self._before[node].names[0]
            taken.add(path)
            yield TakeFrame(path, slot)
        below = b"\0"  # no path begins with it
        for path, sent in self._sent.walk():
            if path.startswith(below) or path in taken or self._stays(path, sent):
                continue
            if isinstance(sent, DirectoryNode):
                below = path + b"/"
            yield GoneFrame(path)

    def _stays(self, path: bytes, node: Named | DirectoryNode) -> bool:
        if isinstance(node, DirectoryNode):
            return isinstance(self._now.find(path), DirectoryNode)
        after = self._after.get(node)
        return after is not None and self._now.find(path) is after

    def creations(self) -> Iterator[Creation]:
        """Yield the frames that make names and set sizes and metadata."""
        for path, node in self._now.walk():
            if isinstance(node, DirectoryNode):
                before = self._sent.find(path)
                meta = (node.mode, node.mtime)
                if not isinstance(before, DirectoryNode) or (before.mode, before.mtime) != meta:
                    yield DirectoryFrame(path, *meta)
        for moved, slot in self._slots.items():
            yield PutFrame(moved.names[0], slot)
        links: list[HardFrame] = []
        for each in self._nodes:
            yield from self._own(each)
            links += self._links(each)
        yield from links

    def _own(self, node: Named) -> Iterator[Creation]:
        before = self._before.get(node)
        if isinstance(node, LinkNode):
            if before is None:
                yield LinkFrame(node.names[0], node.target, node.mtime)
        elif node.number and (not isinstance(before, FileNode) or _meta(before) != _meta(node)):
            # an update names a path that is there already
            path = self._present(node)
            yield FileFrame(node.number, path, *_meta(node), node.block_size)

    def _present(self, node: Named) -> bytes:
        """Return the first of a node's names that is there before its hard links are made."""
        before = self._before.get(node)
        if before is None or node in self._slots:
            return node.names[0]
        there = set(before.names)
        return next(name for name in node.names if name in there)

    def _links(self, node: Named) -> Iterator[HardFrame]:
        before = self._before.get(node)
        present = self._present(node)
        there = {present} if before is None or node in self._slots else set(before.names)
        for name in node.names:
            if name not in there:
                yield HardFrame(name, present)

    def contents(self, unchanged: Callable[[FileNode, FileNode], bool]) -> Iterator[FileContent]:
        """Yield the files to be read; the others take over the digests that were sent."""
        for node in self._nodes:
            if not isinstance(node, FileNode):
                continue
            before = self._before.get(node)
            if not isinstance(before, FileNode):
                yield FileContent(node.names[0], node, None)
            elif not before.blocks.missing and unchanged(before, node):
                node.blocks = before.blocks
            else:
                yield FileContent(node.names[0], node, before)


def _nodes(tree: MoveTree) -> Iterator[Named]:
    for path, node in tree.walk():
        if not isinstance(node, DirectoryNode) and node.names[0] == path:
            yield node


def _meta(node: FileNode) -> tuple[int, int, int]:
    return node.mode, node.mtime, node.size


def _fits(node: Named, before: object) -> bool:
    """Return whether a node can go on with what was sent of `before`."""
    if isinstance(node, LinkNode):
        # symlinks are small: one that gets another name is made anew
        return (
            isinstance(before, LinkNode)
            and (node.target, node.mtime) == (before.target, before.mtime)
            and not set(node.names).isdisjoint(before.names)
        )
    if not isinstance(before, FileNode):
        return False
    if before.number:
        return block_count(node.size, before.block_size) <= MAX_BLOCKS
    return node.size <= WHOLE
