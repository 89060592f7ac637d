"""The entries of a tree, and their store: files with digests of blocks, symlinks, directories.

Digests are held in pages of 256. Only pages that were changed are in memory until they are stored,
where there is a store; long runs of equal digests, those of zeros, share their memory.

`EntryStore` keeps them in a database, a file without a name: memory does not grow with them.
Entries that were looked up or changed are in memory until `trim`. What they have then is stored,
and an object that was handed out before is the entry no more, unless it is reported as changed.
"""

from __future__ import annotations

import marshal
import os
import sqlite3
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import groupby
from secrets import token_hex
from struct import Struct
from typing import Any

from attrs import define, field

from wingsd.errors import StorageError
from wingsd.moves.digests import DIGEST, UNKNOWN, WHOLE, file_digest, zero_digest

PAGE = 256
"""Digests of one page."""

_NO_CUT = 1 << 62

Identity = tuple[int, int]
"""Device and inode number."""

FILE, LINK, DIRECTORY, FILE_WITH_ATTRIBUTES = 1, 2, 3, 4
"""The first byte of what is packed of an entry."""

_FILE = Struct("<BHqQ16s")
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
            each = (digests[n : n + DIGEST] for n in range(0, len(digests), DIGEST))
            start = at
            for is_unknown, run in groupby(each, UNKNOWN.__eq__):
                known = list(run)
                if not is_unknown:
                    yield start, b"".join(known)
                start += len(known)

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

    @property
    def seen_as(self) -> tuple[Identity | None, bytes]:
        """Its identity and stamp."""
        return self.identity, self.stamp

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
        return b"%c" % DIRECTORY + marshal.dumps((*node.meta, node.digest))
    if isinstance(node, LinkNode):
        return b"%c" % LINK + marshal.dumps((node.target, node.mtime, node.identity))
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
    rest = (b"\0" if identity is None else b"\1" + _IDENTITY.pack(*identity)) + stamp
    if not attributes:
        return _FILE.pack(FILE, mode, mtime, size, digest) + rest
    head = _FILE.pack(FILE_WITH_ATTRIBUTES, mode, mtime, size, digest)
    return b"".join((head, _LENGTH.pack(len(attributes)), attributes, rest))


def unpack(data: bytes, path: bytes) -> TreeEntry:
    """Return the entry that has a path."""
    node: Named
    fields = file_fields(data)
    if fields is not None:
        mode, mtime, size, digest, attributes = fields
        at = _FILE.size + (_LENGTH.size + len(attributes) if attributes else 0)
        identity = _IDENTITY.unpack_from(data, at + 1) if data[at] else None
        stamp = data[at + 1 + (_IDENTITY.size if identity else 0) :]
        node = FileNode(mode, mtime, size, identity, stamp, attributes)
        node.blocks.set(0, digest)
    else:
        values = marshal.loads(data[1:])  # noqa: S302 - this process has written it
        if data[0] == DIRECTORY:
            *meta, digest = values
            directory = DirectoryNode(*meta)
            directory.digest = digest
            return directory
        node = LinkNode(*values)
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


Row = tuple[bytes, int | None, bytes]
"""A key, then an id, or what is packed of the entry."""

_SETTINGS = ("journal_mode=off", "synchronous=off", "cache_size=-2048", "locking_mode=exclusive")
_TABLES = (
    "CREATE TABLE entry (key BLOB PRIMARY KEY, id INTEGER, value BLOB) WITHOUT ROWID",
    "CREATE TABLE shared (id INTEGER PRIMARY KEY, value BLOB)",
    "CREATE TABLE page (id INTEGER, number INTEGER, value BLOB, PRIMARY KEY (id, number))"
    " WITHOUT ROWID",
)
_FIND = "SELECT id, value FROM entry WHERE key = ?"
_AMONG = "SELECT key FROM entry WHERE key IN (?)"
IN_MEMORY = 2048
#: Bytes of attributes that count as one more entry in memory.
_WEIGHS = 1024
_CHUNK = 512
#: Paths that are known to be nothing's, beside those of a batch.
_MOST_ABSENT = 2048
#: Rows that are asked for where many may be passed over.
_SOME = 64
_SELECT = "SELECT key, id, value FROM entry WHERE key >= ? AND key < ?"
_ROWS = f"{_SELECT} ORDER BY key LIMIT ?"
_NOT_PLAIN = (
    f"{_SELECT} AND (id IS NOT NULL OR substr(value, 1, 1) <> x'{FILE:02x}') ORDER BY key LIMIT ?"
)
_SHARED = "SELECT id, value FROM shared WHERE id > ? ORDER BY id LIMIT 64"
_END = b"\xff" * 256
"""After every key: names have at most 255 bytes."""


class EntryStore:
    """Entries by path. Keys are paths with NUL for each slash: so they sort as a walk goes.

    The file is in `directory`, or where SQLite has its temporary files. It is made when there is
    too much for memory, or all of it is asked for. Methods raise StorageError.
    """

    def __init__(self, directory: str | None = None) -> None:
        #: Grows while entries are gone through, or many are stored.
        self.steps = 0
        self._directory = directory
        self._opened: sqlite3.Connection | None = None
        self._close: Callable[[], object] = lambda: None
        #: Entries in memory, by path and by id; those that have to be stored.
        self._entries: dict[bytes, TreeEntry] = {}
        self._shared: dict[int, Named] = {}
        self._changed: dict[bytes, TreeEntry] = {}
        self._changed_shared: dict[int, Named] = {}
        self._last_id = 0
        #: Paths that nothing has.
        self._absent: set[bytes] = set()
        #: How often digests of blocks may have been changed since the last `flush`.
        self._block_changes = 0

    def get(self, path: bytes) -> TreeEntry | None:
        """Return what has a path."""
        node = self._entries.get(path)
        if node is not None or self._opened is None or path in self._absent:
            return node
        try:  # a context would cost as much as all of it
            row = self._opened.execute(_FIND, (tree_key(path),)).fetchone()
        except sqlite3.Error as error:
            raise _failed(error) from error
        if row is None:
            if len(self._absent) >= _MOST_ABSENT:
                self._absent.clear()
            self._absent.add(path)
            return None
        node = unpack(row[1], path) if row[0] is None else self.shared(row[0])
        self._entries[path] = node
        self._weigh(node)
        return node

    def absent(self, paths: Sequence[bytes]) -> set[bytes]:
        """Return those of some paths that nothing has.

        One question for many costs less, and has other threads run less often in between.
        """
        found = {path for path in paths if path not in self._entries}
        asked = list(found)
        for at in range(0, len(asked), _CHUNK):
            keys = {tree_key(path): path for path in asked[at : at + _CHUNK]}
            query = _AMONG.replace("?", ",".join("?" * len(keys)))
            found.difference_update(keys[row[0]] for row in self._rows(query, *keys))
        return found

    def shared(self, of: int) -> Named:
        """Return what has an id. Raises KeyError."""
        if of not in self._shared:
            self._shared[of] = self.peek(of)
            self._weigh(self._shared[of])
        return self._shared[of]

    def set(self, path: bytes, node: TreeEntry) -> None:
        """Set what has a path."""
        self._entries[path] = self._changed[path] = node
        self._absent.discard(path)
        self._weigh(node)

    def insert(self, directory: bytes, packed: Iterable[tuple[bytes, bytes]]) -> None:
        """Store what is new in a directory, by names: what `pack_file` has made of each."""
        prefix = tree_key(directory + b"/") if directory else b""
        rows = ((prefix + name, value) for name, value in packed)
        self.steps += 1
        with _errors():
            self._database().executemany("INSERT INTO entry VALUES (?, NULL, ?)", rows)
        self._absent.clear()

    def changed(self, node: Named) -> None:
        """Note that a file or symlink was changed."""
        if node.id:
            self._block_changes += 1
            self._weigh(node)
            self._shared[node.id] = self._changed_shared[node.id] = node
        else:
            self.set(node.names[0], node)

    def share(self, node: Named, of: int = 0) -> None:
        """Give a file or symlink an id, a negative one if none is given."""
        if not of:
            self._last_id -= 1
        node.id = of or self._last_id
        for name in node.names:
            self.set(name, node)
        self.changed(node)

    def delete(self, path: bytes) -> None:
        """Remove a path."""
        self._entries.pop(path, None)
        self._changed.pop(path, None)
        self._rows("DELETE FROM entry WHERE key = ?", tree_key(path))

    def delete_shared(self, of: int) -> None:
        """Remove an id."""
        self._shared.pop(of, None)
        self._changed_shared.pop(of, None)
        self._rows("DELETE FROM shared WHERE id = ?", of)
        self._rows("DELETE FROM page WHERE id = ?", of)

    def delete_below(self, path: bytes) -> None:
        """Remove all paths below one."""
        prefix = path + b"/"
        for each in [each for each in self._entries if each.startswith(prefix)]:
            del self._entries[each]
            self._changed.pop(each, None)
        self._rows("DELETE FROM entry WHERE key >= ? AND key < ?", *_below(path))

    def _weigh(self, node: TreeEntry) -> None:
        """Count an entry with many attributes as several."""
        if not isinstance(node, LinkNode) and node.attributes:
            self._block_changes += len(node.attributes) // _WEIGHS

    def trim(self) -> None:
        """Store what was changed, and have nothing in memory, if there is much in it."""
        self.steps += 1
        if len(self._entries) + len(self._shared) + self._block_changes > IN_MEMORY:
            self.flush()
            self._entries.clear()
            self._shared.clear()

    def rest(self) -> None:
        """Store what was changed, and have nothing in memory, nor in SQLite's cache."""
        self.flush()
        self._entries.clear()
        self._shared.clear()
        self._absent.clear()
        with _errors():
            for statement in ("COMMIT", "PRAGMA shrink_memory", "BEGIN"):
                self._database().execute(statement)

    def flush(self) -> None:
        """Store what was changed."""
        database = self._database()
        rows = [
            (tree_key(path), node.id, None)
            if not isinstance(node, DirectoryNode) and node.id
            else (tree_key(path), None, pack(node))
            for path, node in self._changed.items()
        ]
        with _errors():
            database.executemany("REPLACE INTO entry VALUES (?, ?, ?)", rows)
            for of, node in self._changed_shared.items():
                if isinstance(node, FileNode):
                    self._store_pages(database, of, node)
                database.execute("REPLACE INTO shared VALUES (?, ?)", (of, pack_shared(node)))
        self._changed.clear()
        self._changed_shared.clear()
        self._block_changes = 0

    def rows_from(
        self, start: bytes, end: bytes = _END, *, plain: bool = True, most: int = _CHUNK
    ) -> list[Row]:
        """Return some of what is stored from one key to another. Call `flush` before."""
        self.steps += 1
        return self._rows(_ROWS if plain else _NOT_PLAIN, start, end, most)

    def below(
        self, path: bytes, *, plain: bool = True, start: bytes = b""
    ) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield the entries below a path, in the order of a walk, from the path `start` on.

        Without `plain` those are left out that are files with one name and no number.
        """
        self.flush()
        first, end = _below(path)
        at = max(first, tree_key(start))
        while rows := self.rows_from(at, end, plain=plain):
            for row in rows:
                if (entry := self.entry(row)) is not None:
                    yield entry
            self.flush()
            at = rows[-1][0] + b"\0"

    def narrowly(
        self, directories: Sequence[bytes], *, plain: bool
    ) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield these directories, as far as they exist, and what is directly in them.

        In the order of a walk, without the root itself; `plain` as in `below`.
        """
        wanted = deque(map(tree_key, directories))
        while wanted:
            yield from self._next_wanted(wanted, b"", plain)

    def _next_wanted(
        self, wanted: deque[bytes], known: bytes, plain: bool
    ) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield the next wanted directory and what is in it, with others that are below it.

        It is not yielded itself if it has the key `known`.
        """
        key = wanted.popleft()
        path = key.replace(b"\0", b"/")
        if key != known and isinstance(node := self.get(path), DirectoryNode):
            yield path, node
        start, end = _below(path)
        while start < end:
            self.flush()
            rows = self.rows_from(start, end, plain=plain, most=_SOME)
            start = rows[-1][0] + b"\0" if rows else end
            for row in rows:
                key, of, value = row
                while wanted and wanted[0] < key:
                    wanted.popleft()  # it is not in this tree
                if (entry := self.entry(row)) is not None:
                    yield entry
                if of is None and value[0] == DIRECTORY:
                    while wanted and (wanted[0] == key or wanted[0].startswith(key + b"\0")):
                        yield from self._next_wanted(wanted, key, plain)
                    start = key + b"\1"  # behind what is in it
                    break

    def entry(self, row: Row) -> tuple[bytes, TreeEntry] | None:
        """Return what a row is of, None where that was removed meanwhile."""
        key, of, value = row
        path = key.replace(b"\0", b"/")
        node = self._entries.get(path)
        try:
            node = node or (unpack(value, path) if of is None else self.peek(of))
        except KeyError:  # its id was changed meanwhile
            node = self.get(path)
        return None if node is None else (path, node)

    def numbered(self) -> Iterator[FileNode]:
        """Yield the files that have numbers, in their order."""
        self.flush()
        last = 0
        while True:
            self.steps += 1
            found = self._rows(_SHARED, last)
            for of, value in found:
                node = self._shared.get(of) or unpack_shared(value, of, partial(self._page, of))
                if isinstance(node, FileNode):
                    yield node
            if not found:
                return
            last = found[-1][0]

    def peek(self, of: int) -> Named:
        """Return what has an id, and do not keep it in memory."""
        if of in self._shared:
            return self._shared[of]
        rows = self._rows("SELECT value FROM shared WHERE id = ?", of)
        if not rows:
            raise KeyError(of)
        return unpack_shared(rows[0][0], of, partial(self._page, of))

    def _store_pages(self, database: sqlite3.Connection, of: int, node: FileNode) -> None:
        cut, pages = node.blocks.take_changes()
        if cut is not None:
            database.execute("DELETE FROM page WHERE id = ? AND number >= ?", (of, cut))
        if node.blocks.count <= PAGE:
            return  # it is stored with the file
        for number, page in pages:
            if page is None:
                database.execute("DELETE FROM page WHERE id = ? AND number = ?", (of, number))
            else:
                row = (of, number, _short(page))
                database.execute("REPLACE INTO page VALUES (?, ?, ?)", row)
        node.blocks.were_stored(partial(self._page, of))

    def _page(self, of: int, number: int) -> bytes | None:
        rows = self._rows("SELECT value FROM page WHERE id = ? AND number = ?", of, number)
        return _long(rows[0][0]) if rows else None

    def _rows(self, query: str, *values: bytes | int) -> list[Any]:
        """Return the rows that a statement gives, none as long as nothing is stored."""
        if self._opened is None:
            return []
        with _errors():
            return self._opened.execute(query, values).fetchall()

    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = _open(self._directory)
            self._close = weakref.finalize(self, self._opened.close)
        return self._opened

    def close(self) -> None:
        """Close the file, which takes no space then. Nothing else may be called after that."""
        self._close()


def _open(directory: str | None) -> sqlite3.Connection:
    # an empty name is a file without one, in a directory for temporary files
    path = "" if directory is None else os.path.join(directory, f".tree-{token_hex(8)}")
    with _errors():
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            for setting in _SETTINGS:
                database.execute(f"PRAGMA {setting}")
            for table in _TABLES:
                database.execute(table)
            database.execute("BEGIN")
            if path:
                os.unlink(path)
        except BaseException:
            database.close()
            raise
    return database


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _failed(error) from error


def is_full(error: BaseException | None) -> bool:
    """Return whether a cause of `StorageError` is that SQLite has found the disk full."""
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL


def _failed(error: Exception) -> StorageError:
    return StorageError(
        f"names and digests of a move could not be kept in a temporary file: {error}; free disk "
        "space on this node"
    )


def tree_key(path: bytes) -> bytes:
    """Return what sorts as a walk goes: a path with NUL for each slash."""
    return path.replace(b"/", b"\0")


def _below(path: bytes) -> tuple[bytes, bytes]:
    key = tree_key(path)
    return (key + b"\0", key + b"\1") if key else (b"", _END)


def _short(page: bytes) -> bytes:
    """Return a page for the store: of equal digests one, and how many there are."""
    count = len(page) // DIGEST
    if count > 1 and page == page[:DIGEST] * count:
        return page[:DIGEST] + count.to_bytes(2, "little")
    return page


def _long(stored: bytes) -> bytes:
    if len(stored) == DIGEST + 2:
        return stored[:DIGEST] * int.from_bytes(stored[DIGEST:], "little")
    return stored
