"""Plans a round: from the tree that was sent last and the tree now, the frames of the difference.

Contents come after the shape, by `contents`, as the files are read. Renamed files are found by
their identity, and files that were replaced under their name (written again and renamed over it)
by their path: of both only blocks that differ are sent. All is made as it is asked for, by passes
over both trees, so that memory does not grow with them: nothing is held of files that have one
name and keep it. `put_in_place` makes the last tree of a part that was changed, so that a round
costs what was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter

from attrs import frozen

from wingsd.moves.batch import (
    DirectoryFrame,
    FileFrame,
    GoneFrame,
    HardFrame,
    LinkFrame,
    PutFrame,
    TakeFrame,
)
from wingsd.moves.digests import DIGEST, MAX_BLOCKS, WHOLE, block_size_for
from wingsd.moves.nodes import (
    DirectoryNode,
    FileNode,
    Identity,
    LinkNode,
    Named,
    TreeEntry,
    block_count,
    tree_key,
)
from wingsd.moves.scan import ChangedPart
from wingsd.moves.tree import MoveTree

_TRIM = 64
#: What is equal, with their contents, in two trees of a file or symlink that is the same.
_OF_FILE = attrgetter("meta", "seen_as", "attributes", "number", "block_size", "names")
_OF_LINK = attrgetter("target", "mtime", "identity", "names")

Removal = TakeFrame | GoneFrame

Creation = DirectoryFrame | PutFrame | FileFrame | LinkFrame | HardFrame


def both(
    sent: MoveTree, now: MoveTree, *, plain: bool = True
) -> Iterator[tuple[bytes, TreeEntry | None, TreeEntry | None]]:
    """Yield every path of two trees, in the order of a walk, with what has it in each.

    Without `plain` files are left out that have one name and no number.
    What is in memory of both trees may be forgotten from one path to the next.
    """
    one, other = sent.walk(plain=plain), now.walk(plain=plain)
    before, after = next(one, None), next(other, None)
    passed = 0
    while before is not None or after is not None:
        if before is not None and after is not None and before[0] == after[0]:
            yield before[0], before[1], after[1]
            before, after = next(one, None), next(other, None)
        elif after is None or (before is not None and tree_key(before[0]) < tree_key(after[0])):
            assert before is not None  # noqa: S101 - by the loop
            yield before[0], before[1], None
            before = next(one, None)
        else:
            yield after[0], None, after[1]
            after = next(other, None)
        passed += 1
        if passed % _TRIM == 0:
            sent.trim()
            now.trim()


def is_first(path: bytes, node: TreeEntry | None) -> bool:
    """Return whether a path is the first one of a file or symlink."""
    return isinstance(node, Named) and node.names[0] == path


class Matches:
    """Pairs of a file of `now` and the file of `sent` whose blocks it can use."""

    def __init__(self, sent: MoveTree, now: MoveTree) -> None:
        self._sent = sent
        self._now = now
        #: First names of present files, by those of what they were; and the reverse. Of files
        #: with one name that keep it there is no entry.
        self._after: dict[bytes, bytes] = {}
        self._before: dict[bytes, bytes] = {}
        #: First names of files none of whose names stays, and the slot that they wait in.
        self.slots: dict[bytes, int] = {}
        if sent.members:
            self._match()

    def before(self, node: Named, at: TreeEntry | None) -> Named | None:
        """Return what a present file was; `at` is what had its first name."""
        path = self._before.get(node.names[0])
        if path is not None:
            return self._sent.named(path)
        if at is None or not _is_plain(node, at) or node.names[0] in self._after:
            return None
        return at if isinstance(at, Named) and _fits(node, at) else None

    def stays(self, path: bytes, sent: Named, node: TreeEntry | None) -> bool:
        """Return whether a name leads to the same file still; `node` has it now."""
        if not isinstance(node, Named):
            return False
        after = self._after.get(sent.names[0])
        if after is not None:
            return node.names[0] == after
        return _is_plain(node, sent) and path not in self._before and _fits(node, sent)

    def _match(self) -> None:
        loose, by_identity = self._loose()
        for path in loose:
            node = self._found(path)
            if node.identity in by_identity:
                self._try(node, self._sent.find(by_identity[node.identity]))
        for path in loose:
            node = self._found(path)
            for name in node.names:
                sent = self._sent.find(name)
                if path not in self._before and not (sent and _is_plain(node, sent)):
                    self._try(node, sent)
            self._sent.trim()
        for path, before in self._before.items():
            sent, node = self._sent.find(before), self._found(path)
            if isinstance(sent, FileNode) and not set(sent.names) & set(node.names):
                self.slots[path] = len(self.slots)
            self._sent.trim()

    def _loose(self) -> tuple[list[bytes], dict[Identity, bytes]]:
        """Return first names: of present files to be looked at, and of what was, by identity."""
        has_identities = self._sent.has_identities
        loose: list[bytes] = []
        by_identity: dict[Identity, bytes] = {}
        for path, sent, node in both(self._sent, self._now):
            is_same = not has_identities or _identity(sent) == _identity(node)
            if is_same and sent and node and _is_plain(node, sent):
                continue
            if is_first(path, sent) and (identity := _identity(sent)) is not None:
                by_identity[identity] = path
            if is_first(path, node) and (
                has_identities
                or any(len(each.names) > 1 for each in (node, sent) if isinstance(each, Named))
            ):
                loose.append(path)
        return loose, by_identity

    def _found(self, path: bytes) -> Named:
        self._now.trim()
        return self._now.named(path)

    def _try(self, node: Named, sent: TreeEntry | None) -> None:
        if isinstance(sent, Named) and sent.names[0] not in self._after and _fits(node, sent):
            self._before[node.names[0]] = sent.names[0]
            self._after[sent.names[0]] = node.names[0]


def _is_plain(node: TreeEntry, sent: TreeEntry) -> bool:
    """Return whether both are files or symlinks with one name, which is the same."""
    return (
        isinstance(node, Named)
        and isinstance(sent, Named)
        and len(node.names) == len(sent.names) == 1
        and node.names == sent.names
    )


def _identity(node: TreeEntry | None) -> Identity | None:
    return node.identity if isinstance(node, Named) else None


def _fits(node: Named, before: Named) -> bool:
    """Return whether a file can go on with what was sent of `before`."""
    if isinstance(node, LinkNode):
        # symlinks are small: one that gets another name is made again
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

    def __init__(self, sent: MoveTree, now: MoveTree) -> None:
        #: Bytes of the files that are to be read.
        self.unread = 0
        self._sent = sent
        self._now = now
        self._matches = Matches(sent, now)

    @property
    def removals(self) -> Iterator[Removal]:
        """The frames that take files out and remove names."""
        taken = set()
        for path, slot in self._matches.slots.items():
            before = self._matches.before(self._now.named(path), None)
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
            if isinstance(now, DirectoryNode) and not _is_directory_as(sent, now):
                yield DirectoryFrame(path, *now.meta)
        for path, slot in self._matches.slots.items():
            yield PutFrame(path, slot)
        has_links = False
        for node, before in self.named(plain=False):
            has_links = has_links or len(node.names) > 1
            yield from self._own(node, before)
        if has_links:
            for node, before in self.named(plain=False):
                yield from self._links(node, before)

    @property
    def contents(self) -> Iterator[FileContent]:
        """The files that are to be read."""
        for node, before in self.named():
            if isinstance(node, FileNode) and (node.blocks.missing or node.attributes is None):
                held = before if isinstance(before, FileNode) else None
                yield FileContent(node.names[0], node, held, self._now)

    def named(self, *, plain: bool = True) -> Iterator[tuple[Named, Named | None]]:
        """Yield the present files and symlinks, each with what it was; `plain` as in `both`."""
        for path, at, node in both(self._sent, self._now, plain=plain):
            if is_first(path, node):
                assert isinstance(node, Named)  # noqa: S101 - by `is_first`
                yield node, self._matches.before(node, at)

    def _own(self, node: Named, before: Named | None) -> Iterator[Creation]:
        if isinstance(node, LinkNode):
            if before is None:
                yield LinkFrame(node.names[0], node.target, node.mtime)
        elif node.number and (not isinstance(before, FileNode) or before.meta != node.meta):
            # an update names a path that is there already
            path = self._present(node, before)
            yield FileFrame(node.number, path, *node.meta, node.block_size)

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
    planned = Plan(sent, now)
    last, unread = sent.last_number, 0
    # Where nothing was sent, files with one name that come as a whole are only read.
    is_new = not sent.members
    for node, before in planned.named(plain=not is_new):
        if not isinstance(node, FileNode):
            continue
        known = before if isinstance(before, FileNode) and not before.blocks.missing else None
        carried = known if known is not None and unchanged(known, node) else None
        if known is not None and carried is None and left(known, node):
            now.resized(known.size - node.size, node.names[0])
            node.mode, node.mtime, node.size = known.meta
            node.stamp = b""  # it was not read as it is
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
    planned.unread = now.bytes if is_new else unread
    return planned


def carry_over(before: FileNode, node: FileNode) -> None:
    """Give a file the digests and attributes of another one with the same number of blocks."""
    node.attributes = before.attributes
    first = 0
    for digests in before.blocks.portions():
        node.blocks.set(first, digests)
        first += len(digests) // DIGEST


def put_in_place(tree: MoveTree, part: ChangedPart) -> None:
    """Make a tree the one that was found when `part` was, of which all files have been read.

    Raises StorageError. What is in memory of both trees may be forgotten.
    """
    removed: list[bytes] = []
    changed: list[bytes] = []
    part.narrow(tree)
    for path, old, new in both(tree, part.tree):
        if not path or _is_same(old, new):
            continue
        stays = isinstance(old, DirectoryNode) and isinstance(new, DirectoryNode)
        if old is not None and not stays:
            removed.append(path)
        if new is not None:
            changed.append(path)
    tree.only = part.tree.only = None
    for path in removed:
        tree.trim()
        if tree.find(path) is not None:  # else it went with its directory
            tree.remove(path)
    for path in changed:
        tree.trim()
        part.tree.trim()
        _set(tree, path, part.tree.find(path))
    top = part.tree.top
    if not _is_directory_as(tree.top, top):
        tree.updated(b"", tree.top, *top.meta)
        tree.touch(b"")
    tree.last_number = part.tree.last_number


def _set(tree: MoveTree, path: bytes, node: TreeEntry | None) -> None:
    if isinstance(node, DirectoryNode):
        there = tree.find(path)
        if isinstance(there, DirectoryNode):
            tree.updated(path, there, *node.meta)
        else:
            tree.add(path, DirectoryNode(*node.meta))
    elif isinstance(node, LinkNode):
        tree.add(path, LinkNode(node.target, node.mtime, node.identity))
    elif node is not None:
        file = FileNode(*node.meta, node.identity, node.stamp)
        tree.add(path, file)
        if node.number:
            tree.bind(file, node.number, node.block_size)
        carry_over(node, file)
        tree.changed(file)


def _is_directory_as(node: TreeEntry | None, now: DirectoryNode) -> bool:
    return isinstance(node, DirectoryNode) and node.meta == now.meta


def _is_same(old: TreeEntry | None, new: TreeEntry | None) -> bool:
    if isinstance(old, FileNode) and isinstance(new, FileNode):
        return _OF_FILE(old) == _OF_FILE(new) and old.value() == new.value()
    if isinstance(old, LinkNode) and isinstance(new, LinkNode):
        return _OF_LINK(old) == _OF_LINK(new)
    return isinstance(new, DirectoryNode) and _is_directory_as(old, new)
