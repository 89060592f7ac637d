"""The entries of a tree, and how they are packed: files, symlinks and directories."""

from __future__ import annotations

import marshal
from collections.abc import Callable
from struct import Struct

from wingsd.moves.blocks import PAGE, BlockDigests, block_count
from wingsd.moves.digests import UNKNOWN, WHOLE, file_digest

__all__ = [
    "DIRECTORY",
    "FILE",
    "DirectoryNode",
    "FileNode",
    "Identity",
    "LinkNode",
    "Named",
    "TreeEntry",
    "file_fields",
    "pack",
    "pack_file",
    "pack_shared",
    "unpack",
    "unpack_shared",
]

Identity = tuple[int, int]
"""Device and inode number."""

FILE, LINK, DIRECTORY, FILE_WITH_ATTRIBUTES = 1, 2, 3, 4
"""The first byte of what is packed of an entry."""

_FILE = Struct("<BHqQ16s")
_LINK = Struct("<Bq")
_DIRECTORY = Struct("<BHqB")
_LENGTH = Struct("<H")
_IDENTITY = Struct("<QQ")


class FileNode:
    """A regular file: its metadata, its names and the digests of its blocks.

    `number` is 0 for one that is sent as a whole. At the source `identity` tells whether two
    catalogues mean the same file, and `stamp` whether its stat result is the same. `id` is 0 for
    what has one name and no number, but at the source not for files that are to get one.

    `attributes` are as `filesystem.attributes` has them; None at the source until they are read
    of a file that has no block to be read.
    """

    __slots__ = (
        "attributes",
        "block_size",
        "blocks",
        "digest",
        "id",
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
        self,
        mode: int,
        mtime: int,
        size: int,
        identity: Identity | None = None,
        stamp: bytes = b"",
        attributes: bytes | None = b"",
    ) -> None:
        self.mode = mode
        self.attributes = attributes
        self.mtime = mtime
        self.size = size
        self.identity = identity
        self.stamp = stamp
        self.names: list[bytes] = []
        self.slots = self.id = 0
        self.digest: bytes | None = None
        self.number = 0
        self.block_size = WHOLE
        self.blocks = BlockDigests(1)

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

    __slots__ = ("id", "identity", "mtime", "names", "slots", "target")

    def __init__(self, target: bytes, mtime: int, identity: Identity | None = None) -> None:
        self.target = target
        self.mtime = mtime
        self.identity = identity
        self.names: list[bytes] = []
        self.slots = self.id = 0


class DirectoryNode:
    """A directory, its attributes, and the digest of its entries while that is known."""

    __slots__ = ("attributes", "digest", "mode", "mtime")

    def __init__(self, mode: int, mtime: int, attributes: bytes = b"") -> None:
        self.mode = mode
        self.mtime = mtime
        self.attributes = attributes
        self.digest: bytes | None = None


Named = FileNode | LinkNode
TreeEntry = FileNode | LinkNode | DirectoryNode


def pack(node: TreeEntry) -> bytes:
    """Return what is stored of a directory, or of what has one name and no number."""
    if isinstance(node, DirectoryNode):
        digest = node.digest or b""
        head = _DIRECTORY.pack(DIRECTORY, node.mode, node.mtime, len(digest))
        return head + digest + node.attributes
    if isinstance(node, LinkNode):
        return _LINK.pack(LINK, node.mtime) + _packed(node.identity) + node.target
    meta = (node.mode, node.mtime, node.size)
    digest = node.blocks.get(0, 1)
    return pack_file(*meta, node.identity, node.stamp, digest, node.attributes or b"")


def pack_file(
    mode: int,
    mtime: int,
    size: int,
    identity: Identity | None,
    stamp: bytes,
    digest: bytes = UNKNOWN,
    attributes: bytes = b"",
) -> bytes:
    """Return what is stored of a file that has one name and no number."""
    rest = _packed(identity) + stamp
    if not attributes:
        return _FILE.pack(FILE, mode, mtime, size, digest) + rest
    head = _FILE.pack(FILE_WITH_ATTRIBUTES, mode, mtime, size, digest)
    return b"".join((head, _LENGTH.pack(len(attributes)), attributes, rest))


def _packed(identity: Identity | None) -> bytes:
    return b"\0" if identity is None else b"\1" + _IDENTITY.pack(*identity)


def unpack(data: bytes, path: bytes) -> TreeEntry:
    """Return the entry that has a path."""
    kind = data[0]
    if kind == DIRECTORY:
        _, mode, mtime, length = _DIRECTORY.unpack_from(data)
        at = _DIRECTORY.size + length
        directory = DirectoryNode(mode, mtime, data[at:])
        directory.digest = data[_DIRECTORY.size : at] or None
        return directory
    node: Named
    fields = file_fields(data)
    if fields is not None:
        mode, mtime, size, digest, attributes = fields
        at = _FILE.size + (_LENGTH.size + len(attributes) if kind == FILE_WITH_ATTRIBUTES else 0)
        identity, rest = _identity(data, at)
        node = FileNode(mode, mtime, size, identity, rest, attributes)
        node.blocks.set(0, digest)
    else:
        identity, rest = _identity(data, _LINK.size)
        node = LinkNode(rest, _LINK.unpack_from(data)[1], identity)
    node.names.append(path)
    return node


def file_fields(data: bytes) -> tuple[int, int, int, bytes, bytes] | None:
    """Return mode, time, size, digest and attributes of a packed file, None of anything else."""
    if data[0] not in (FILE, FILE_WITH_ATTRIBUTES):
        return None
    kind, mode, mtime, size, digest = _FILE.unpack_from(data)
    if kind == FILE:
        return mode, mtime, size, digest, b""
    at = _FILE.size + _LENGTH.size
    (length,) = _LENGTH.unpack_from(data, _FILE.size)
    return mode, mtime, size, digest, data[at : at + length]


def _identity(data: bytes, at: int) -> tuple[Identity | None, bytes]:
    if not data[at]:
        return None, data[at + 1 :]
    device, inode = _IDENTITY.unpack_from(data, at + 1)
    return (device, inode), data[at + 1 + _IDENTITY.size :]


def pack_shared(node: Named) -> bytes:
    """Return what is stored of a file or symlink with several names, or with a number."""
    if isinstance(node, LinkNode):
        return marshal.dumps((LINK, node.target, node.mtime, node.identity, node.names))
    blocks = node.blocks
    first = blocks.get(0, blocks.count) if blocks.count <= PAGE else b""
    if blocks.missing == blocks.count:
        first = b""
    meta = (node.mode, node.mtime, node.size, node.identity, node.stamp, node.attributes)
    held = (node.number, node.block_size, blocks.missing, first, node.digest)
    return marshal.dumps((FILE, meta, node.names, node.slots, held))


def unpack_shared(data: bytes, of: int, stored: Callable[[int], bytes | None]) -> Named:
    """Return the file or symlink with the id `of`; `stored` returns pages of its digests."""
    kind, *fields = marshal.loads(data)  # noqa: S302 - this process has written it
    node: Named
    if kind == LINK:
        target, mtime, identity, names = fields
        node = LinkNode(target, mtime, identity)
    else:
        meta, names, slots, (number, block_size, missing, first, digest) = fields
        node = FileNode(*meta)
        node.slots, node.number, node.block_size = slots, number, block_size
        count = block_count(node.size, block_size) if number else 1
        node.blocks = BlockDigests.loaded(count, missing, first, stored)
        node.digest = digest
    node.names, node.id = names, of
    return node
