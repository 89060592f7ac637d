"""Plans a round: from the tree that was sent last and the tree now, the frames of the difference.

Contents come after the shape, by `contents`, as the files are read. Renamed files are told by
their identity, and files that were replaced under their name (written anew and renamed over it) by
their path: of both only blocks that differ are sent. All is made as it is asked for, by passes
over both trees, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import frozen

from wingsd.moves.digests import DIGEST, WHOLE, block_size_for
from wingsd.moves.frames import (
    DirectoryFrame,
    FileFrame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
)
from wingsd.moves.matching import Matches, both, is_first
from wingsd.moves.nodes import DirectoryNode, FileNode, LinkNode, Named
from wingsd.moves.tree import MoveTree

__all__ = ["FileContent", "Plan", "carry_over", "plan"]

Removal = TakeFrame | GoneFrame
Creation = DirectoryFrame | PutFrame | FileFrame | LinkFrame | HardFrame


@frozen(eq=False, repr=False)
class FileContent:
    """A file that is to be read: its node in `tree`, and what was sent of it, None for nothing."""

    path: bytes
    node: FileNode
    before: FileNode | None
    tree: MoveTree


class Plan:
    """A round: names that go, then names that come, then contents. Each may be iterated again.

    The trees stay as they are until the names were iterated; contents become known meanwhile.
    """

    def __init__(self, sent: MoveTree, now: MoveTree, matches: Matches, unread: int) -> None:
        #: Bytes of the files that are to be read.
        self.unread = unread
        self._sent = sent
        self._now = now
        self._matches = matches

    @property
    def removals(self) -> Iterator[Removal]:
        """The frames that take files out and remove names."""
        taken = set()
        for path, slot in self._matches.slots.items():
            node = self._now.find(path)
            assert isinstance(node, Named)  # noqa: S101 - by `Matches`
            before = self._matches.before(node, None)
            assert before is not None  # noqa: S101 - by `Matches`
            taken.add(before.names[0])
            yield TakeFrame(before.names[0], slot)
        if not self._sent.members:
            return
        below = b"\0"  # no path begins with it
        for path, sent, now in both(self._sent, self._now):
            if sent is None or path.startswith(below) or path in taken:
                continue
            if isinstance(sent, DirectoryNode):
                if isinstance(now, DirectoryNode):
                    continue
                below = path + b"/"
            elif self._matches.stays(path, sent, now):
                continue
            yield GoneFrame(path)

    @property
    def creations(self) -> Iterator[Creation]:
        """The frames that make names and set sizes and metadata."""
        for path, sent, now in both(self._sent, self._now, plain=False):
            if isinstance(now, DirectoryNode):
                meta = (now.mode, now.mtime, now.attributes)
                if (
                    not isinstance(sent, DirectoryNode)
                    or (sent.mode, sent.mtime, sent.attributes) != meta
                ):
                    yield DirectoryFrame(path, *meta)
        for path, slot in self._matches.slots.items():
            yield PutFrame(path, slot)
        has_links = False
        for node, before in self._named(plain=False):
            has_links = has_links or len(node.names) > 1
            yield from self._own(node, before)
        if has_links:
            for node, before in self._named(plain=False):
                yield from self._links(node, before)

    @property
    def contents(self) -> Iterator[FileContent]:
        """The files that are to be read."""
        for node, before in self._named():
            if isinstance(node, FileNode) and (node.blocks.missing or node.attributes is None):
                held = before if isinstance(before, FileNode) else None
                yield FileContent(node.names[0], node, held, self._now)

    def _named(self, *, plain: bool = True) -> Iterator[tuple[Named, Named | None]]:
        """Yield the present files and symlinks, each with what it was."""
        return _named(self._sent, self._now, self._matches, plain=plain)

    def _own(self, node: Named, before: Named | None) -> Iterator[Creation]:
        if isinstance(node, LinkNode):
            if before is None:
                yield LinkFrame(node.names[0], node.target, node.mtime)
        elif node.number and (not isinstance(before, FileNode) or _meta(before) != _meta(node)):
            # an update names a path that is there already
            path = self._present(node, before)
            yield FileFrame(node.number, path, *_meta(node), node.block_size)

    def _present(self, node: Named, before: Named | None) -> bytes:
        """Return the first of a node's names that is there before its hard links are made."""
        if before is None or node.names[0] in self._matches.slots:
            return node.names[0]
        there = set(before.names)
        return next(name for name in node.names if name in there)

    def _links(self, node: Named, before: Named | None) -> Iterator[HardFrame]:
        present = self._present(node, before)
        is_new = before is None or node.names[0] in self._matches.slots
        there = {present} if before is None or is_new else set(before.names)
        for name in node.names:
            if name not in there:
                yield HardFrame(name, present)


def plan(
    sent: MoveTree,
    now: MoveTree,
    unchanged: Callable[[FileNode, FileNode], bool] = lambda before, node: False,
    left: Callable[[FileNode, FileNode], bool] = lambda before, node: False,
    read_mode: Callable[[bytes, FileNode], object] = lambda path, node: None,
) -> Plan:
    """Return what makes `sent` equal to `now`.

    `read_mode` is called with the path of each file that comes in parts and is to be read: its
    mode is sent before that.

    The files of `now` get their numbers and block sizes. A file for which `unchanged` is true gets
    the digests that were sent and is not read, if all of its blocks are known. One for which
    `left` is true instead stays in `now` as it was sent, whatever it is.
    """
    matches = Matches(sent, now)
    last, unread = sent.last_number, 0
    # Where nothing was sent, files with one name that come as a whole are only read.
    is_new = not sent.members
    for node, before in _named(sent, now, matches, plain=not is_new):
        if not isinstance(node, FileNode):
            continue
        known = before if isinstance(before, FileNode) and not before.blocks.missing else None
        carried = known if known is not None and unchanged(known, node) else None
        if known is not None and carried is None and left(known, node):
            _leave(now, known, node)
            carried = known
        if isinstance(before, FileNode):
            if before.number:
                now.bind(node, before.number, before.block_size)
        elif node.size > WHOLE or len(node.names) > 1:
            # a name can only be linked to a file that is there before the contents come
            last += 1
            now.bind(node, last, block_size_for(node.size))
        if carried is not None:
            carry_over(carried, node)
            now.changed(node)
            continue
        unread += node.size
        if node.number:
            if not node.size:
                node.attributes = None
            read_mode(node.names[0], node)
            now.changed(node)
    now.last_number = last
    return Plan(sent, now, matches, now.bytes if is_new else unread)


def _leave(now: MoveTree, before: FileNode, node: FileNode) -> None:
    """Have a file be what was sent of it."""
    now.resized(before.size - node.size, node.names[0])
    node.mode, node.mtime, node.size = before.mode, before.mtime, before.size
    node.stamp = b""  # it was not read as it is


def carry_over(before: FileNode, node: FileNode) -> None:
    """Give a file the digests and attributes of another one with the same number of blocks."""
    node.attributes = before.attributes
    first = 0
    for digests in before.blocks.portions():
        node.blocks.set(first, digests)
        first += len(digests) // DIGEST


def _named(
    sent: MoveTree, now: MoveTree, matches: Matches, *, plain: bool = True
) -> Iterator[tuple[Named, Named | None]]:
    for path, at, node in both(sent, now, plain=plain):
        if is_first(path, node):
            assert isinstance(node, Named)  # noqa: S101 - by `is_first`
            yield node, matches.before(node, at)


def _meta(node: FileNode) -> tuple[int, int, int]:
    return node.mode, node.mtime, node.size
