"""A tree of names, metadata and block digests, changed by frames, and its root.

The same class is the source's catalogue, filled by a walk, and what the destination holds: one
meaning of each frame for both, `apply`, and for contents `begin` and `done`. Between these
two the blocks of a frame are unknown: they may be written, in part or not. All three raise
FrameRefused for frames that do not fit the tree. A change drops the digests of the directories
above it, all others are kept; a root is made in one pass over what has none. Most of a tree is in
a temporary file (`nodes.EntryStore`), the rest in memory.

A tree is also written as frames, which make an empty tree equal to it: in a ledger, and between
two nodes. They come in parts: indexes of batches without bytes, of about a MiB each. At the source
a `HeldTree` is made of them, for a plan: it takes hostile answers. The files of that tree have no
identities: a plan matches them by their paths.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from struct import Struct
from typing import NamedTuple

from attrs import frozen

from wingsd.errors import (
    BatchInvalid,
    DiskLimitExceeded,
    FrameRefused,
    HeldTreeInvalid,
    RoundIncomplete,
)
from wingsd.moves.batch import (
    MAX_FRAMES,
    AttributesFrame,
    BatchKind,
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
    decode_index,
    make_index,
)
from wingsd.moves.digests import (
    DIGEST,
    UNKNOWN,
    WHOLE,
    file_digest,
    zero_digest,
)
from wingsd.moves.nodes import (
    DIRECTORY,
    BlockDigests,
    DirectoryNode,
    EntryStore,
    FileNode,
    LinkNode,
    Named,
    TreeEntry,
    block_count,
    file_fields,
    unpack,
)
from wingsd.util.text import display

#: Bytes that the attributes of any tree may have, and bytes of files for which it may be one more.
_ATTRIBUTES, _BYTES_FOR_ATTRIBUTE = 64 << 20, 16


_DIRECTORY_META = Struct("<Hq")
_NAME = Struct("<BH")
_FILE_META = Struct("<HqQ")
_LINK_META = Struct("<qH")
_LENGTH = Struct("<H")
_TAG_DIRECTORY = b"wingsd move 1 directory\n"
_TAG_ROOT = b"wingsd move 1 root\n"


def file_entry(
    name: bytes, mode: int, mtime: int, size: int, digest: bytes, attributes: bytes = b""
) -> bytes:
    """Return a directory's entry of a file, under its first name."""
    entry = name + _FILE_META.pack(mode, mtime, size) + digest
    if attributes:
        return _NAME.pack(5, len(name)) + entry + sha256(attributes).digest()
    return _NAME.pack(1, len(name)) + entry


def link_entry(name: bytes, mtime: int, target: bytes) -> bytes:
    """Return a directory's entry of a symlink, under its first name."""
    return _NAME.pack(2, len(name)) + name + _LINK_META.pack(mtime, len(target)) + target


def hard_link_entry(name: bytes, first: bytes) -> bytes:
    """Return a directory's entry of a further name of what has the path `first`."""
    return _NAME.pack(3, len(name)) + name + _LENGTH.pack(len(first)) + first


def directory_entry(
    name: bytes, mode: int, mtime: int, digest: bytes, attributes: bytes = b""
) -> bytes:
    """Return a directory's entry of a directory."""
    entry = name + _DIRECTORY_META.pack(mode, mtime) + digest
    if attributes:
        return _NAME.pack(6, len(name)) + entry + sha256(attributes).digest()
    return _NAME.pack(4, len(name)) + entry


def directory_hash() -> hashlib._Hash:
    """Return a hash for a directory's entries, sorted by the bytes of their names."""
    return sha256(_TAG_DIRECTORY)


class _OpenDirectory(NamedTuple):
    """A directory whose entries are being looked at."""

    key: bytes
    node: DirectoryNode
    hash: hashlib._Hash


class _Pass:
    def __init__(self, store: EntryStore, top: DirectoryNode) -> None:
        self._store = store
        self._open = [_OpenDirectory(b"", top, directory_hash())]
        #: Keys below this one are in a directory that has its digest.
        self._skipped = b""

    def run(self) -> None:
        self._store.flush()
        start = b""
        while rows := self._store.rows_from(start):
            for key, of, value in rows:
                if key >= self._skipped:
                    parent, _, name = key.rpartition(b"\0")
                    while self._open[-1].key != parent:
                        self._close()
                    self._open[-1].hash.update(self._entry(key, name, of, value))
            self._store.trim()
            start = max(self._skipped, rows[-1][0] + b"\0")
        while self._open:
            self._close()

    def _entry(self, key: bytes, name: bytes, of: int | None, value: bytes) -> bytes:
        """Return what a directory's digest has of an entry; nothing yet of one that is opened."""
        if of is not None:
            return self._shared(key, name, of)
        if value[0] == DIRECTORY:
            path = key.replace(b"\0", b"/")
            node = self._store.get(path)
            assert isinstance(node, DirectoryNode)  # noqa: S101 - as it is stored
            if node.digest is None:
                self._open.append(_OpenDirectory(key, node, directory_hash()))
                return b""
            self._skipped = key + b"\1"
            return directory_entry(name, node.mode, node.mtime, node.digest, node.attributes)
        fields = file_fields(value)
        if fields is None:
            link = unpack(value, b"")
            assert isinstance(link, LinkNode)  # noqa: S101 - the only other kind
            return link_entry(name, link.mtime, link.target)
        mode, mtime, size, digest, attributes = fields
        if digest == UNKNOWN:
            raise _missing(key.replace(b"\0", b"/"))
        whole = file_digest(size, WHOLE, (digest,))
        return file_entry(name, mode, mtime, size, whole, attributes)

    def _shared(self, key: bytes, name: bytes, of: int) -> bytes:
        node = self._store.peek(of)
        first = node.names[0]
        if first != key.replace(b"\0", b"/"):
            return hard_link_entry(name, first)
        if isinstance(node, LinkNode):
            return link_entry(name, node.mtime, node.target)
        if node.blocks.missing:
            raise _missing(key.replace(b"\0", b"/"))
        if node.digest is None:
            node.value()
            self._store.changed(node)
        return file_entry(name, *node.meta, node.value(), node.attributes or b"")

    def _close(self) -> None:
        closed = self._open.pop()
        node = closed.node
        node.digest = closed.hash.digest()
        if self._open:
            _, _, name = closed.key.rpartition(b"\0")
            self._store.set(closed.key.replace(b"\0", b"/"), node)
            entry = directory_entry(name, node.mode, node.mtime, node.digest, node.attributes)
            self._open[-1].hash.update(entry)


def _missing(path: bytes) -> RoundIncomplete:
    return RoundIncomplete(f"blocks of {display(path)} are missing; send them")


@frozen(repr=False)
class MoveLimits:
    """The limits of one move: names, directories included, and bytes of files with their holes.

    Files in slots count as names. `advice` says what to do about less than usual.
    """

    members: int
    bytes: int
    advice: str = ""


_UNLIMITED = MoveLimits(1 << 62, 1 << 62)


def dirname(path: bytes) -> bytes:
    """Return the path of the directory that a path is in."""
    return path.rpartition(b"/")[0]


def _components(path: bytes) -> list[bytes]:
    return path.split(b"/")


class MoveTree:
    """A tree below one directory. Paths are as in frames.

    An entry may be changed until `trim` is called, which moves what is in memory to the file, in
    `directory`; it is reported by `changed`, or `touch`. Methods that add raise FrameRefused for a
    path that is in use or leads through something else than directories, and for more than the
    limits; DiskLimitExceeded for more bytes. All raise StorageError.
    """

    def __init__(self, limits: MoveLimits = _UNLIMITED, directory: str | None = None) -> None:
        self.top = DirectoryNode(0o755, 0)
        #: All entries but the top directory. `store.close` closes the file at once; otherwise it
        #: is closed when the tree is collected.
        self.store = EntryStore(directory)
        #: The highest number ever given to a file that comes in parts.
        self.last_number = 0
        #: Ids of files that were taken out of the tree and have no new path yet.
        self.slots: dict[int, int] = {}
        self.members = self.bytes = 0
        #: Bytes of all attributes.
        self.attribute_bytes = 0
        #: Called with each file that loses a name and has others.
        self.on_name_lost: Callable[[FileNode], object] = lambda node: None
        #: Whether files have identities.
        self.has_identities = False
        self.limits = limits
        #: The only directories that `walk` yields, with what is directly in them, in the order of
        #: a walk; None for all.
        self.only: Sequence[bytes] | None = None
        #: Ids of files and symlinks with several names that were changed since the last root.
        self._changed: set[int] = set()

    def find(self, path: bytes) -> TreeEntry | None:
        """Return what has a path, None where nothing has it."""
        return self.store.get(path) if path else self.top

    def named(self, path: bytes) -> Named:
        """Return the file or symlink that has a path."""
        node = self.find(path)
        assert isinstance(node, Named)  # noqa: S101 - by the caller
        return node

    def numbered(self, number: int) -> FileNode:
        """Return the file that has a number. Raises KeyError."""
        node = self.store.shared(number)
        assert isinstance(node, FileNode)  # noqa: S101 - symlinks have negative ids
        return node

    def walk(self, *, plain: bool = True, start: bytes = b"") -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield every path with what has it: a directory before its entries, sorted by bytes.

        Without `plain` those are left out that are files with one name and no number, unless
        they have an id; all before the path `start` are left out in any case.
        """
        if not start:
            yield b"", self.top
        if self.only is None:
            yield from self.store.below(b"", plain=plain, start=start)
        else:
            yield from self.store.narrowly(self.only, plain=plain)

    def trim(self) -> None:
        """Let what is in memory be forgotten: entries that were returned are so no more."""
        self.store.trim()

    def add(self, path: bytes, node: TreeEntry) -> None:
        """Add a directory, or a name of a file or symlink."""
        self._place(path)
        if self.store.get(path) is not None:
            raise FrameRefused(f"{display(path)} is there already")
        self._count(1)
        self.store.set(path, node)
        if isinstance(node, DirectoryNode):
            self._count_attributes(len(node.attributes))
            return
        if isinstance(node, FileNode) and not node.names and not node.slots:
            self.resized(node.size, path)
            self._count_attributes(len(node.attributes or b""))
        if node.names and not node.id:
            self.store.share(node)
        self.has_identities = self.has_identities or node.identity is not None
        if node.names or node.id:
            insort(node.names, path, key=_components)
            self.changed(node)
        else:  # nothing above it has a digest: by `_place`
            node.names.append(path)

    def reserve(self, path: bytes, count: int, size: int, attributes: int = 0) -> None:
        """Count files that `add_reserved` is to add to a directory: `path` is the first of them.

        Nothing has their names. They have `size` bytes together, and their attributes as many.
        Raises as `add`.
        """
        self._place(path)
        self._count(count)
        self.resized(size, path)
        self._count_attributes(attributes)

    def add_reserved(self, path: bytes, packed: Iterable[tuple[bytes, bytes]]) -> None:
        """Add files that were counted by `reserve` to a directory.

        They have one name each, and come as names and what `pack_file` has made of them.
        """
        self.touch(path)
        self.store.insert(path, packed)

    def _count(self, more: int) -> None:
        self.members += more
        if more > 0 and self.members + len(self.slots) > self.limits.members:
            advice = (
                self.limits.advice
                or "raise system.transfers.max_members on this node if they are to be received"
            )
            raise FrameRefused(
                f"there are more than {self.limits.members} files, directories and links; {advice}"
            )

    def _count_attributes(self, more: int) -> None:
        self.attribute_bytes += more
        most = _ATTRIBUTES + self.limits.bytes // _BYTES_FOR_ATTRIBUTE
        if more > 0 and self.attribute_bytes > most:
            raise DiskLimitExceeded(
                f"the extended attributes of the server's files take more than {most >> 20} MiB; "
                "remove some of them, or raise its disk limit in the Panel, and move it again"
            )

    def set_attributes(self, node: FileNode | DirectoryNode, attributes: bytes) -> None:
        """Give a file its attributes, or a directory, for which `updated` is called as well."""
        self._count_attributes(len(attributes) - len(node.attributes or b""))
        node.attributes = attributes
        if isinstance(node, FileNode):
            self.changed(node)

    def bind(self, node: FileNode, number: int, block_size: int) -> None:
        """Give a file of the tree a number and the size of its blocks; none is known then."""
        node.number, node.block_size = number, block_size
        node.blocks = BlockDigests(block_count(node.size, block_size))
        if node.id:
            self.store.delete_shared(node.id)
            self._changed.discard(node.id)
        self.store.share(node, number)
        self.changed(node)

    def remove(self, path: bytes) -> None:
        """Remove a name, of a directory with all below it."""
        self._place(path)
        node = self.store.get(path)
        if node is None:
            raise FrameRefused(f"{display(path)} does not exist")
        self.store.delete(path)
        self.members -= 1
        if not isinstance(node, DirectoryNode):
            self._removed(path, node)
            return
        self._count_attributes(-len(node.attributes))
        for each, below in self.store.below(path):
            self.members -= 1
            if isinstance(below, DirectoryNode):
                self._count_attributes(-len(below.attributes))
            else:
                # of what has several names it may be another object for each
                self._removed(each, self.store.shared(below.id) if below.id else below)
                self.store.trim()
        self.store.delete_below(path)

    def _removed(self, path: bytes, node: Named) -> None:
        """Note that a file or symlink lost a name."""
        if node.id:
            del node.names[bisect_left(node.names, _components(path), key=_components)]
            if node.names or node.slots:
                self.changed(node)
                if node.names and isinstance(node, FileNode):
                    self.on_name_lost(node)
                return
        self._dropped(node)

    def _dropped(self, node: Named) -> None:
        """Count a file or symlink no more that has no name and is in no slot."""
        if node.id:
            self.store.delete_shared(node.id)
            self._changed.discard(node.id)
        if isinstance(node, FileNode):
            self.bytes -= node.size
            self._count_attributes(-len(node.attributes or b""))

    def take(self, path: bytes, slot: int) -> None:
        """Take a file out of the tree, from its path to a slot."""
        node = self.find(path)
        if not isinstance(node, FileNode):
            raise FrameRefused(f"{display(path)} is to be moved and is no file")
        if not node.number and node.blocks.missing:
            raise FrameRefused(f"{display(path)} is to be moved and has not come")
        if slot in self.slots:
            raise FrameRefused(f"slot {slot} is in use")
        if not node.id:
            self.store.share(node)
        node.slots += 1
        self.slots[slot] = node.id
        self.store.changed(node)
        self.remove(path)

    def put(self, path: bytes, slot: int) -> None:
        """Give what is in a slot a path."""
        if slot not in self.slots:
            raise FrameRefused(f"{display(path)} is to come from slot {slot}, which is empty")
        node = self.store.shared(self.slots.pop(slot))
        self.add(path, node)
        node.slots -= 1

    def drop_slots(self) -> None:
        """Give up the files that were taken out of the tree and have no new path."""
        for of in self.slots.values():
            node = self.store.shared(of)
            assert isinstance(node, FileNode)  # noqa: S101 - by `take`
            node.slots -= 1
            self.store.changed(node)
            if not node.names and not node.slots:
                self._dropped(node)
        self.slots.clear()

    def resized(self, more: int, path: bytes) -> None:
        """Count the bytes that a file has grown by."""
        self.bytes += more
        if more > 0 and self.bytes > self.limits.bytes:
            advice = (
                self.limits.advice
                or "raise the server's disk limit in the Panel, or delete files, and move it again"
            )
            raise DiskLimitExceeded(
                f"with {display(path)} the files of the move take {self.bytes >> 20} MiB, of "
                f"{self.limits.bytes >> 20} MiB that they may take; {advice}"
            )

    def changed(self, node: Named) -> None:
        """Drop the digests that a node's contents, metadata and names are in."""
        if isinstance(node, FileNode):
            node.digest = None
        self.store.changed(node)
        if len(node.names) == 1:
            self.touch(dirname(node.names[0]))
        else:  # there may be thousands of names, and of such changes
            self._changed.add(node.id)

    def touch(self, path: bytes) -> None:
        """Drop the digests of a directory and of those above it, as far as they exist."""
        while path:
            node = self.store.get(path)
            if isinstance(node, DirectoryNode):
                if node.digest is None:
                    return  # those above it have none either
                node.digest = None
                self.store.set(path, node)
            path = dirname(path)
        self.top.digest = None

    def updated(
        self, path: bytes, node: DirectoryNode, mode: int, mtime: int, attributes: bytes
    ) -> None:
        """Give a directory another mode and time, and other attributes."""
        node.mode, node.mtime = mode, mtime
        self.set_attributes(node, attributes)
        if path:
            self.store.set(path, node)
            self.touch(dirname(path))

    def files(self, start: bytes = b"") -> Iterator[tuple[bytes, FileNode]]:
        """Yield the files by their first names, those before the path `start` left out."""
        for path, node in self.walk(start=start):
            if isinstance(node, FileNode) and node.names[0] == path:
                yield path, node

    def missing(self) -> Iterator[tuple[bytes, FileNode]]:
        """Yield the files some of whose blocks are unknown, by their first names."""
        return ((path, node) for path, node in self.files() if node.blocks.missing)

    def root(self) -> bytes:
        """Return the root. Raises RoundIncomplete where blocks are unknown.

        What is in memory may be forgotten.
        """
        for of in self._changed:
            for name in self.store.shared(of).names:
                self.touch(dirname(name))
            self.store.trim()
        self._changed.clear()
        top = self.top
        if top.digest is None:
            _Pass(self.store, top).run()
        last = sha256(top.attributes).digest() if top.attributes else b""
        directory = _DIRECTORY_META.pack(top.mode, top.mtime) + (top.digest or b"")
        return sha256(_TAG_ROOT + directory + last).digest()

    def _place(self, path: bytes) -> None:
        """Drop the digests above a path, which must be of directories."""
        if not path:
            raise FrameRefused("the root is no file and stays")
        parent = dirname(path)
        node = self.store.get(parent) if parent else self.top
        if not isinstance(node, DirectoryNode):
            raise FrameRefused(f"{display(path)} leads through what is no directory")
        if node.digest is not None:
            self.touch(parent)

    def apply(self, frame: Shape) -> bool:
        """Change names, kinds, sizes and metadata by a frame; return whether it makes a name."""
        self.trim()
        match frame:
            case DirectoryFrame():
                return self._apply_directory(frame)
            case FileFrame():
                return self._apply_file(frame)
            case LinkFrame(path, target, mtime):
                self.add(path, LinkNode(target, mtime))
            case HardFrame(path, first):
                self._apply_hard(path, first)
            case PutFrame(path, slot):
                self.put(path, slot)
            case TakeFrame(path, slot):
                self.take(path, slot)
                return False
            case GoneFrame(path):
                self.remove(path)
                return False
        return True

    def _apply_directory(self, frame: DirectoryFrame) -> bool:
        node = self.find(frame.path)
        if node is None:
            self.add(frame.path, DirectoryNode(frame.mode, frame.mtime, frame.attributes))
            return True
        if not isinstance(node, DirectoryNode):
            raise FrameRefused(f"{display(frame.path)} is there already, and no directory")
        self.updated(frame.path, node, frame.mode, frame.mtime, frame.attributes)
        return False

    def _apply_file(self, frame: FileFrame) -> bool:
        node = self.find(frame.path)
        if node is None:
            if frame.number <= self.last_number:
                path = display(frame.path)
                raise FrameRefused(f"the number {frame.number} of {path} was given before")
            node = FileNode(frame.mode, frame.mtime, frame.size)
            self.add(frame.path, node)
            self.bind(node, frame.number, frame.block_size)
            self.last_number = frame.number
            return True
        if not isinstance(node, FileNode) or node.number != frame.number:
            raise FrameRefused(
                f"{display(frame.path)} is there already, and not file {frame.number}"
            )
        if node.block_size != frame.block_size:
            raise FrameRefused(f"the blocks of file {frame.number} cannot change their size")
        if node.size != frame.size:
            # what was the last block is shorter or longer now
            kept = min(node.size, frame.size) // node.block_size
            node.blocks.forget(kept, node.blocks.count - kept)
            node.blocks.resize(block_count(frame.size, node.block_size))
            self.resized(frame.size - node.size, frame.path)
        node.mode, node.mtime, node.size = frame.mode, frame.mtime, frame.size
        self.changed(node)
        return False

    def _apply_hard(self, path: bytes, first: bytes) -> None:
        node = self.find(first)
        if node is None or isinstance(node, DirectoryNode):
            raise FrameRefused(
                f"{display(path)} is a hard link to {display(first)}, which is no file"
            )
        if isinstance(node, FileNode) and not node.number and node.blocks.missing:
            raise FrameRefused(
                f"{display(path)} is a hard link to {display(first)}, which has not come"
            )
        self.add(path, node)

    def begin(self, frame: Content) -> bool:
        """Make the blocks of a frame unknown; a `WHOLE` frame also gives the file its metadata.

        Return False where they were unknown, and True for a file that comes as a whole in any
        case.
        """
        self.trim()
        if isinstance(frame, WholeFrame):
            self._begin_whole(frame)
            return True
        if isinstance(frame, AttributesFrame):
            self._of_number(frame.number)
            return False  # nothing of it is written before the end
        node = self._of_number(frame.number)
        if frame.first + frame.count > node.blocks.count:
            raise FrameRefused(f"blocks of file {frame.number} are beyond its end")
        if isinstance(frame, DataFrame):
            if frame.block_size != node.block_size:
                raise FrameRefused(f"file {frame.number} has blocks of {node.block_size} bytes")
            if frame.last != node.length(frame.first, frame.count):
                raise FrameRefused(
                    f"the last block of file {frame.number} is not as long as it must be"
                )
        missing = node.blocks.missing
        node.blocks.forget(frame.first, frame.count)
        if node.blocks.missing == missing:
            return False
        self.changed(node)
        return True

    def done(self, frame: Content) -> None:
        """Set the digests of a frame's blocks, which are written."""
        self.trim()
        if isinstance(frame, WholeFrame):
            node = self.find(frame.path)
            assert isinstance(node, FileNode)  # noqa: S101 - by `begin`
            node.blocks.set(0, frame.digest)
        else:
            node = self.numbered(frame.number)  # which fits, by `begin`
            if isinstance(frame, AttributesFrame):
                self.set_attributes(node, frame.attributes)
            elif isinstance(frame, DataFrame):
                node.blocks.set(frame.first, frame.digests)
            else:
                last = node.length(frame.first, frame.count)
                node.blocks.set_zeros(frame.first, frame.count, node.block_size, last)
        self.changed(node)

    def _begin_whole(self, frame: WholeFrame) -> None:
        node = self.find(frame.path)
        if node is None:
            meta = (frame.mode, frame.mtime, frame.size)
            self.add(frame.path, FileNode(*meta, attributes=frame.attributes))
            return
        if not isinstance(node, FileNode) or node.number:
            raise FrameRefused(
                f"{display(frame.path)} is there already, and no file that comes as a whole"
            )
        self.resized(frame.size - node.size, frame.path)
        node.mode, node.mtime, node.size = frame.mode, frame.mtime, frame.size
        node.blocks.set(0, UNKNOWN)
        self.set_attributes(node, frame.attributes)
        self.changed(node)

    def _of_number(self, number: int) -> FileNode:
        with suppress(KeyError):
            node = self.numbered(number)
            if node.names:
                return node
        raise FrameRefused(f"no file has the number {number}")

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of the tree. Blocks that are unknown are in none of them.

        Raises RoundIncomplete where a file that comes as a whole is unknown, or one is in a slot.
        """
        if self.slots:
            raise RoundIncomplete(f"{len(self.slots)} files were taken and not put; send the rest")
        for path, entry in self.walk():
            if isinstance(entry, DirectoryNode):
                yield DirectoryFrame(path, *entry.meta)
            elif isinstance(entry, LinkNode) and entry.names[0] == path:
                yield LinkFrame(path, entry.target, entry.mtime)
        for node in self.store.numbered():
            yield FileFrame(node.number, node.names[0], *node.meta, node.block_size)
        yield from self._contents()
        for path, entry in self.walk():
            if not isinstance(entry, DirectoryNode) and entry.names[0] != path:
                yield HardFrame(path, entry.names[0])

    def _contents(self) -> Iterator[Content]:
        for path, node in self.files():
            if node.number:
                continue
            if node.blocks.missing:
                raise _missing(path)
            rest = (node.blocks.get(0, 1), node.attributes or b"")
            yield WholeFrame(path, *node.meta, *rest)
        for node in self.store.numbered():
            if node.attributes:
                yield AttributesFrame(node.number, node.attributes)
            for first, digests in node.blocks.runs():
                count = len(digests) // DIGEST
                if digests == zero_digest(node.block_size) * count:
                    yield ZeroFrame(node.number, first, count)
                else:
                    last = node.length(first, count)
                    yield DataFrame(node.number, first, node.block_size, last, digests)

    def parts(self) -> Iterator[bytes]:
        """Yield the parts of the tree. Raises RoundIncomplete as `frames` does."""
        gathered: list[Frame] = []
        size = 0
        for frame in self.frames():
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

    def add_part(self, part: bytes) -> None:
        """Add what is in a part.

        Raises BatchInvalid, FrameRefused and DiskLimitExceeded; some of it may be added then.
        """
        index = decode_index(part, most_data=_MOST_DATA)
        if (index.number, index.round, index.needs) != (1, 1, 0):
            raise BatchInvalid("it is no part of a tree")
        for frame in index.frames:
            if isinstance(frame, Content):
                self.begin(frame)
                self.done(frame)
            elif isinstance(frame, TakeFrame | PutFrame | GoneFrame):
                raise BatchInvalid("a part of a tree removes names")
            else:
                self.apply(frame)

    def held_bytes(self) -> int:
        """Return the bytes of the blocks that are known."""
        held = 0
        for _, node in self.files():
            if not node.blocks.missing:
                held += node.size
            elif (known := node.blocks.count - node.blocks.missing) > 0:
                last = node.blocks.count - 1
                is_last_known = node.blocks.get(last, 1) != UNKNOWN
                held += (known - is_last_known) * node.block_size
                held += node.length(last, 1) if is_last_known else 0
        return held


MAX_PART = 4 << 20
"""No part has more bytes."""

_PART = 1 << 20
_MOST_DATA = 1 << 63
#: What a destination may hold beside twice the server: members, and bytes.
_MEMBERS = 100_000
_BYTES = 64 << 30
_MAX_NUMBER = 1 << 31
#: Bytes reserved for each path; the size of a block of data, and the bytes of its frame.
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


def _part(frames: list[Frame]) -> bytes:
    kind = BatchKind.DATA if isinstance(frames[0], Content) else BatchKind.SHAPE
    return make_index(kind, 1, 1, 0, frames).raw


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
        self._tree.store.close()

    def add(self, page: bytes) -> None:
        """Add the next page."""
        self._left -= max(len(page), _LEAST_PAGE)
        before = self._tree.attribute_bytes
        if len(page) > MAX_PART or self._left < -MAX_PART:
            raise HeldTreeInvalid("it is larger than the server can have made it")
        try:
            self._tree.add_part(page)
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
