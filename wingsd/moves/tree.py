"""A tree of names, metadata and block digests in memory, changed by frames, and its root.

The same class is the source's catalogue, filled by a walk, and what the destination holds: one
meaning of each frame for both. A change drops the digests of the directories above it, all others
are kept. Nothing here reads a disk.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator

from attrs import frozen

from wingsd.errors import DiskLimitExceeded
from wingsd.moves.blocks import BlockDigests, block_count
from wingsd.moves.digests import (
    WHOLE,
    directory_digest,
    directory_entry,
    file_digest,
    file_entry,
    hard_link_entry,
    link_entry,
    root_digest,
)
from wingsd.moves.errors import RoundIncomplete, refused
from wingsd.util.text import display

__all__ = [
    "DirectoryNode",
    "FileNode",
    "LinkNode",
    "MoveLimits",
    "MoveTree",
    "TreeEntry",
    "dirname",
]


@frozen(repr=False)
class MoveLimits:
    """What one move may take: names, directories included, and bytes of files with their holes."""

    members: int
    bytes: int


class FileNode:
    """A regular file: its metadata, its names and the digests of its blocks.

    `number` is 0 for one that is sent as a whole. At the source `identity` tells whether two
    catalogues mean the same file, and `stamp` whether its stat result is the same.
    """

    __slots__ = (
        "block_size",
        "blocks",
        "digest",
        "identity",
        "mode",
        "mtime",
        "names",
        "number",
        "size",
        "slots",
        "stamp",
    )

    def __init__(
        self, mode: int, mtime: int, size: int, identity: Hashable = None, stamp: bytes = b""
    ) -> None:
        self.mode = mode
        self.mtime = mtime
        self.size = size
        self.identity = identity
        self.stamp = stamp
        self.names: list[bytes] = []
        self.slots = 0
        self.digest: bytes | None = None
        self.bind(0, WHOLE)

    def bind(self, number: int, block_size: int) -> None:
        """Set number and block size; no block is known then."""
        self.number = number
        self.block_size = block_size
        self.blocks = BlockDigests(block_count(self.size, block_size) if number else 1)

    def length(self, first: int, count: int) -> int:
        """Return the bytes in the last one of some blocks."""
        return min(self.block_size, self.size - (first + count - 1) * self.block_size)

    def value(self) -> bytes:
        """Return the file's digest. All blocks must be known."""
        if self.digest is None:
            self.digest = file_digest(self.size, self.block_size, self.blocks.portions())
        return self.digest


class LinkNode:
    """A symlink, and its names."""

    __slots__ = ("identity", "mtime", "names", "slots", "target")

    def __init__(self, target: bytes, mtime: int, identity: Hashable = None) -> None:
        self.target = target
        self.mtime = mtime
        self.identity = identity
        self.names: list[bytes] = []
        self.slots = 0


class DirectoryNode:
    """A directory, its entries by name, and its digest while that is known."""

    __slots__ = ("digest", "entries", "mode", "mtime")

    def __init__(self, mode: int, mtime: int) -> None:
        self.mode = mode
        self.mtime = mtime
        self.entries: dict[bytes, TreeEntry] = {}
        self.digest: bytes | None = None


TreeEntry = FileNode | LinkNode | DirectoryNode
Named = FileNode | LinkNode

_UNLIMITED = MoveLimits(1 << 62, 1 << 62)


def dirname(path: bytes) -> bytes:
    """Return the path of the directory that a path is in."""
    return path.rpartition(b"/")[0]


def _components(path: bytes) -> list[bytes]:
    return path.split(b"/")


class MoveTree:
    """A tree below one directory. Paths are as in frames.

    Methods that add raise FrameRefused for a path that is in use or leads through something else
    than directories, and for more than the limits; DiskLimitExceeded for more bytes.
    """

    def __init__(self, limits: MoveLimits = _UNLIMITED) -> None:
        self.top = DirectoryNode(0o755, 0)
        #: Files that come in parts, by their numbers, and the highest number ever given.
        self.numbers: dict[int, FileNode] = {}
        self.last_number = 0
        #: Files that were taken out of the tree and have no new path yet.
        self.slots: dict[int, FileNode] = {}
        self.members = self.bytes = 0
        self._limits = limits
        #: Files and symlinks with several names that were changed since the last root.
        self._changed: set[Named] = set()

    def find(self, path: bytes) -> TreeEntry | None:
        """Return what has a path, None where nothing has it."""
        node: TreeEntry = self.top
        if not path:
            return node
        for part in _components(path):
            if not isinstance(node, DirectoryNode):
                return None
            child = node.entries.get(part)
            if child is None:
                return None
            node = child
        return node

    def walk(self) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield every path with what has it: a directory before its entries, sorted by bytes."""
        yield b"", self.top
        yield from self.below(b"", self.top)

    def below(self, path: bytes, directory: DirectoryNode) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield the same for what is in one directory."""
        pending: list[Iterator[tuple[bytes, TreeEntry]]] = [_sorted(path, directory)]
        while pending:
            found = next(pending[-1], None)
            if found is None:
                pending.pop()
                continue
            inner, node = found
            yield inner, node
            if isinstance(node, DirectoryNode):
                pending.append(_sorted(inner, node))

    def add(self, path: bytes, node: TreeEntry) -> None:
        """Add a directory, or a name of a file or symlink."""
        directory, name = self._place(path)
        if name in directory.entries:
            raise refused(f"{display(path)} is there already")
        self.members += 1
        if self.members > self._limits.members:
            raise refused(
                f"there are more than {self._limits.members} files, directories and links; raise "
                "system.transfers.max_members on this node if they are to be received"
            )
        if not isinstance(node, DirectoryNode):
            if isinstance(node, FileNode) and not node.names and not node.slots:
                self.resized(node.size, path)
            insort(node.names, path, key=_components)
            self.changed(node)
        directory.entries[name] = node

    def remove(self, path: bytes) -> TreeEntry:
        """Remove a name, of a directory with all below it; return what had it."""
        directory, name = self._place(path)
        node = directory.entries.get(name)
        if node is None:
            raise refused(f"{display(path)} does not exist")
        found = [(path, node)]
        if isinstance(node, DirectoryNode):
            found += self.below(path, node)
        del directory.entries[name]
        self.members -= len(found)
        for each, below in found:
            if not isinstance(below, DirectoryNode):
                at = bisect_left(below.names, _components(each), key=_components)
                del below.names[at]
                self.changed(below)
                self._drop(below)
        return node

    def drop_slots(self) -> None:
        """Give up the files that were taken out of the tree and have no new path."""
        for node in self.slots.values():
            node.slots -= 1
            self._drop(node)
        self.slots.clear()

    def _drop(self, node: Named) -> None:
        """Have a file that has neither name nor slot count no more."""
        if node.names or node.slots or isinstance(node, LinkNode):
            return
        self.bytes -= node.size
        self.numbers.pop(node.number, None)

    def resized(self, more: int, path: bytes) -> None:
        """Count the bytes that a file has grown by."""
        self.bytes += more
        if more > 0 and self.bytes > self._limits.bytes:
            raise DiskLimitExceeded(
                f"with {display(path)} the files of the move take {self.bytes >> 20} MiB, of "
                f"{self._limits.bytes >> 20} MiB that they may take; raise the server's disk "
                "limit in the Panel, or delete files, and move it again"
            )

    def changed(self, node: Named) -> None:
        """Drop the digests that a node's contents, metadata and names are in."""
        if isinstance(node, FileNode):
            node.digest = None
        if len(node.names) == 1:
            self.touch(dirname(node.names[0]))
        else:  # there may be thousands of names, and of such changes
            self._changed.add(node)

    def touch(self, path: bytes) -> None:
        """Drop the digests of a directory and of those above it, as far as they exist."""
        node: TreeEntry | None = self.top
        for part in [b"", *_components(path)] if path else [b""]:
            node = node.entries.get(part) if part and isinstance(node, DirectoryNode) else node
            if not isinstance(node, DirectoryNode):
                return
            node.digest = None

    def missing(self) -> Iterator[tuple[bytes, FileNode]]:
        """Yield the files some of whose blocks are unknown, by their first names."""
        for path, node in self.walk():
            if isinstance(node, FileNode) and node.blocks.missing and node.names[0] == path:
                yield path, node

    def root(self) -> bytes:
        """Return the root. Raises RoundIncomplete where blocks are unknown."""
        self._touch_changed()
        return root_digest(self.top.mode, self.top.mtime, self._digest(b"", self.top))

    def packed(self, path: bytes) -> bytes | None:
        """Return the entries of a directory as its digest has them, None where there is none."""
        node = self.find(path)
        if not isinstance(node, DirectoryNode):
            return None
        self._touch_changed()
        return b"".join(self._entries(path, node))

    def _touch_changed(self) -> None:
        for node in self._changed:
            for name in node.names:
                self.touch(dirname(name))
        self._changed.clear()

    def _digest(self, path: bytes, directory: DirectoryNode) -> bytes:
        if directory.digest is None:
            directory.digest = directory_digest(self._entries(path, directory))
        return directory.digest

    def _entries(self, path: bytes, directory: DirectoryNode) -> Iterator[bytes]:
        for full, node in _sorted(path, directory):
            name = full[len(path) + 1 :] if path else full
            if isinstance(node, DirectoryNode):
                yield directory_entry(name, node.mode, node.mtime, self._digest(full, node))
            elif node.names[0] != full:
                yield hard_link_entry(name, node.names[0])
            elif isinstance(node, LinkNode):
                yield link_entry(name, node.mtime, node.target)
            elif node.blocks.missing:
                raise RoundIncomplete(f"blocks of {display(full)} are missing; send them")
            else:
                yield file_entry(name, node.mode, node.mtime, node.size, node.value())

    def _place(self, path: bytes) -> tuple[DirectoryNode, bytes]:
        """Return the directory of a path, and the name in it; its digests are dropped."""
        parts = _components(path)
        node = self.top
        node.digest = None
        for part in parts[:-1]:
            child = node.entries.get(part)
            if not isinstance(child, DirectoryNode):
                raise refused(f"{display(path)} leads through what is no directory")
            node = child
            node.digest = None
        if not parts[-1]:
            raise refused("the root is no file and stays")
        return node, parts[-1]


def _sorted(path: bytes, directory: DirectoryNode) -> Iterator[tuple[bytes, TreeEntry]]:
    prefix = path + b"/" if path else b""
    return iter([(prefix + name, directory.entries[name]) for name in sorted(directory.entries)])
