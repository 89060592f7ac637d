"""The root of a tree: directories that have no digest get one, in one pass over what they have."""

from __future__ import annotations

from wingsd.moves.digests import (
    UNKNOWN,
    WHOLE,
    directory_entry,
    directory_hash,
    file_digest,
    file_entry,
    hard_link_entry,
    link_entry,
    root_digest,
)
from wingsd.moves.entry_store import EntryStore
from wingsd.moves.errors import RoundIncomplete
from wingsd.moves.nodes import DIRECTORY, DirectoryNode, LinkNode, file_fields, unpack
from wingsd.util.text import display

__all__ = ["tree_root"]


def tree_root(store: EntryStore, top: DirectoryNode) -> bytes:
    """Return the root. Raises RoundIncomplete where blocks are unknown.

    What is in memory of the store may be forgotten.
    """
    if top.digest is None:
        _Pass(store, top).run()
    return root_digest(top.mode, top.mtime, top.digest or b"", top.attributes)


class _OpenDirectory:
    """A directory whose entries are being looked at."""

    __slots__ = ("hash", "key", "node")

    def __init__(self, key: bytes, node: DirectoryNode) -> None:
        self.key = key
        self.node = node
        self.hash = directory_hash()


class _Pass:
    def __init__(self, store: EntryStore, top: DirectoryNode) -> None:
        self._store = store
        self._open = [_OpenDirectory(b"", top)]
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
                self._open.append(_OpenDirectory(key, node))
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
            raise _missing(key)
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
            raise _missing(key)
        if node.digest is None:
            node.value()
            self._store.changed(node)
        meta = (node.mode, node.mtime, node.size)
        return file_entry(name, *meta, node.value(), node.attributes or b"")

    def _close(self) -> None:
        closed = self._open.pop()
        node = closed.node
        node.digest = closed.hash.digest()
        if self._open:
            _, _, name = closed.key.rpartition(b"\0")
            self._store.set(closed.key.replace(b"\0", b"/"), node)
            entry = directory_entry(name, node.mode, node.mtime, node.digest, node.attributes)
            self._open[-1].hash.update(entry)


def _missing(key: bytes) -> RoundIncomplete:
    path = display(key.replace(b"\0", b"/"))
    return RoundIncomplete(f"blocks of {path} are missing; send them")
