"""The entries of a tree: files with the digests of their blocks, symlinks, directories; packed.

Digests are held in pages of 256. Only pages that were changed are in memory until they are stored,
where there is a store; long runs of equal digests, those of zeros, share their memory.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterator
from functools import lru_cache
from struct import Struct

from attrs import define, field

from wingsd.moves.digests import DIGEST, UNKNOWN, WHOLE, file_digest, zero_digest

PAGE = 256
"""Digests of one page."""

_NO_CUT = 1 << 62

Identity = tuple[int, int]
"""Device and inode number."""

FILE, LINK, DIRECTORY, FILE_WITH_ATTRIBUTES = 1, 2, 3, 4
"""The first byte of what is packed of an entry."""

_FILE = Struct("<BHqQ16s")
_LINK = Struct("<Bq")
_DIRECTORY = Struct("<BHqB")
_LENGTH = Struct("<H")
_IDENTITY = Struct("<QQ")


def block_count(size: int, block_size: int) -> int:
    """Return the number of blocks of a file."""
    return -(-size // block_size)


@lru_cache(maxsize=8)
def _zero_page(block_size: int) -> bytes:
    return zero_digest(block_size) * PAGE


class BlockDigests:
    """The digests of `count` blocks, none of them known at first."""

    __slots__ = ("_cut", "_pages", "_stored", "count", "missing")

    def __init__(self, count: int) -> None:
        #: The number of blocks, and how many of them are unknown.
        self.count = self.missing = count
        #: Pages that were changed, None for those of which nothing is known.
        self._pages: dict[int, bytes | bytearray | None] = {}
        #: Returns a page that is stored. From the page `_cut` on there is none.
        self._stored: Callable[[int], bytes | None] | None = None
        self._cut = _NO_CUT

    @classmethod
    def loaded(
        cls, count: int, missing: int, first: bytes, stored: Callable[[int], bytes | None] | None
    ) -> BlockDigests:
        """Return digests that were stored: all of them in `first`, or pages of `stored`."""
        made = cls(count)
        made.missing = missing
        if count <= PAGE:
            made._pages[0] = first or None
        else:
            made._stored = stored
        return made

    def take_changes(self) -> tuple[int | None, list[tuple[int, bytes | None]]]:
        """Return pages that were changed since they were stored, to be stored now.

        From the page with the first number on, those that are stored are void.
        """
        cut = None if self._cut == _NO_CUT else self._cut
        found = [(n, None if page is None else bytes(page)) for n, page in self._pages.items()]
        return cut, found

    def were_stored(self, stored: Callable[[int], bytes | None]) -> None:
        """Forget the changes: they can be read by `stored` now."""
        self._pages.clear()
        self._stored, self._cut = stored, _NO_CUT

    def get(self, first: int, count: int) -> bytes:
        """Return joined digests, `UNKNOWN` for those that are not known."""
        if self.count == 1:  # most files have one block
            only = self._page(0) if count else b""
            return UNKNOWN if only is None else bytes(only)
        found = []
        for page, start, end in self._parts(first, count):
            held = self._page(page)
            length = (end - start) * DIGEST
            found.append(
                bytes(length) if held is None else bytes(held[start * DIGEST : end * DIGEST])
            )
        return b"".join(found)

    def set(self, first: int, digests: bytes) -> None:
        """Set the digests of consecutive blocks; `UNKNOWN` makes one unknown."""
        if self.count == 1:
            self._pages[0] = digests
            self.missing = int(digests == UNKNOWN)
            return
        at = 0
        for page, start, end in self._parts(first, len(digests) // DIGEST):
            length = (end - start) * DIGEST
            self._put(page, start, digests[at : at + length])
            at += length

    def set_zeros(self, first: int, count: int, block_size: int, last: int) -> None:
        """Set the digests of blocks of zeros; the last one is `last` bytes long."""
        if last != block_size:
            self.set(first + count - 1, zero_digest(last))
            count -= 1
        shared = _zero_page(block_size)
        for page, start, end in self._parts(first, count):
            self._put(page, start, shared[: (end - start) * DIGEST])

    def forget(self, first: int, count: int) -> None:
        """Make blocks unknown."""
        for page, start, end in self._parts(first, count):
            if self._page(page) is not None:
                self._put(page, start, bytes((end - start) * DIGEST))

    def resize(self, count: int) -> None:
        """Cut blocks off, or add unknown ones."""
        if count < self.count:
            self.forget(count, self.count - count)
            self.missing -= self.count - count
            end = -(-count // PAGE)
            self._cut = min(self._cut, end)
            for page in [page for page in self._pages if page >= end]:
                del self._pages[page]
        else:
            self.missing += count - self.count
        self.count = count

    def portions(self) -> Iterator[bytes]:
        """Yield all digests, in portions."""
        for at in range(0, self.count, PAGE):
            yield self.get(at, min(PAGE, self.count - at))

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """Yield runs of known blocks: the first one, and the digests of at most 256."""
        for at in range(0, self.count, PAGE):
            if self._page(at // PAGE) is None:
                continue
            digests = self.get(at, min(PAGE, self.count - at))
            if UNKNOWN not in digests:
                yield at, digests
                continue
            each = [digests[n : n + DIGEST] for n in range(0, len(digests), DIGEST)]
            start = None
            for number, digest in enumerate([*each, UNKNOWN]):
                if digest != UNKNOWN and start is None:
                    start = number
                elif digest == UNKNOWN and start is not None:
                    yield at + start, b"".join(each[start:number])
                    start = None

    def _parts(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at the pages; yield each page, and start and end in it."""
        end = first + count
        while first < end:
            page, start = divmod(first, PAGE)
            stop = min(PAGE, start + end - first)
            yield page, start, stop
            first += stop - start

    def _page(self, number: int) -> bytes | bytearray | None:
        """Return a page as long as it is now, None where nothing of it is known."""
        if number in self._pages:
            page = self._pages[number]
        elif self._stored is None or number >= self._cut:
            return None
        else:
            page = self._stored(number)
        length = min(PAGE, self.count - number * PAGE) * DIGEST
        if page is None or len(page) == length:
            return page
        # the file was resized meanwhile; what was cut off was forgotten
        return page[:length].ljust(length, b"\0")

    def _put(self, number: int, start: int, digests: bytes) -> None:
        page = self._page(number)
        length = min(PAGE, self.count - number * PAGE) * DIGEST
        if len(digests) == length:
            before, self._pages[number] = page, digests
        else:
            before = None if page is None else page[start * DIGEST : start * DIGEST + len(digests)]
            if not isinstance(page, bytearray):
                page = bytearray(page or length)
            page[start * DIGEST : start * DIGEST + len(digests)] = digests
            self._pages[number] = page
        self.missing += _known(before) - _known(digests)


def _known(digests: bytes | bytearray | None) -> int:
    if digests is None:
        return 0
    count = len(digests) // DIGEST
    if UNKNOWN not in digests:
        return count
    return sum(digests[n : n + DIGEST] != UNKNOWN for n in range(0, len(digests), DIGEST))


@define(eq=False, repr=False, weakref_slot=False)
class FileNode:
    """A regular file: its metadata, its names and the digests of its blocks.

    `number` is 0 for one that is sent as a whole. At the source two catalogues mean the same
    file by the same `identity`, and its stat result is the same by the same `stamp`. `id` is 0 for
    what has one name and no number, but at the source not for files that are to get one.

    `attributes` are as `filesystem.attributes` has them; None at the source until they are read
    of a file that has no block to be read.
    """

    mode: int
    mtime: int
    size: int
    identity: Identity | None = None
    stamp: bytes = b""
    attributes: bytes | None = b""
    names: list[bytes] = field(init=False, factory=list)
    slots: int = field(init=False, default=0)
    id: int = field(init=False, default=0)
    digest: bytes | None = field(init=False, default=None)
    number: int = field(init=False, default=0)
    block_size: int = field(init=False, default=WHOLE)
    blocks: BlockDigests = field(init=False, factory=lambda: BlockDigests(1))

    @property
    def meta(self) -> tuple[int, int, int]:
        """Its mode, time and size."""
        return self.mode, self.mtime, self.size

    def length(self, first: int, count: int) -> int:
        """Return the bytes in the last one of some blocks."""
        return min(self.block_size, self.size - (first + count - 1) * self.block_size)

    def value(self) -> bytes:
        """Return the file's digest. All blocks must be known."""
        if self.digest is None:
            self.digest = file_digest(self.size, self.block_size, self.blocks.portions())
        return self.digest


@define(eq=False, repr=False, weakref_slot=False)
class LinkNode:
    """A symlink, and its names."""

    target: bytes
    mtime: int
    identity: Identity | None = None
    names: list[bytes] = field(init=False, factory=list)
    slots: int = field(init=False, default=0)
    id: int = field(init=False, default=0)


@define(eq=False, repr=False, weakref_slot=False)
class DirectoryNode:
    """A directory, its attributes, and the digest of its entries while that is known."""

    mode: int
    mtime: int
    attributes: bytes = b""
    digest: bytes | None = field(init=False, default=None)

    @property
    def meta(self) -> tuple[int, int, bytes]:
        """Its mode, time and attributes."""
        return self.mode, self.mtime, self.attributes


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
    digest = node.blocks.get(0, 1)
    return pack_file(*node.meta, node.identity, node.stamp, digest, node.attributes or b"")


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
    meta = (*node.meta, node.identity, node.stamp, node.attributes)
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
