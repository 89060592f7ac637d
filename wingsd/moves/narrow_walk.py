"""A walk through some directories of a tree, which passes over all the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence

from wingsd.moves.entry_store import ALL_KEYS, SOME_NOT_PLAIN, SOME_ROWS, EntryStore
from wingsd.moves.nodes import DIRECTORY, DirectoryNode, TreeEntry

__all__ = ["narrow_walk"]


def narrow_walk(
    store: EntryStore, directories: Sequence[bytes], *, plain: bool
) -> Iterator[tuple[bytes, TreeEntry]]:
    """Yield these directories, as far as they exist, and what is directly in them.

    In the order of a walk, without the root itself; `plain` as in `EntryStore.below`.
    """
    wanted = deque(path.replace(b"/", b"\0") for path in directories)
    walk = _Walk(store, wanted, plain=plain)
    while wanted:
        yield from walk.next_wanted(b"")


class _Walk:
    def __init__(self, store: EntryStore, wanted: deque[bytes], *, plain: bool) -> None:
        self._store = store
        self._wanted = wanted
        self._query = SOME_ROWS if plain else SOME_NOT_PLAIN

    def next_wanted(self, known: bytes) -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield the next wanted directory and what is in it; not itself if it has the key `known`.

        With others that are below it.
        """
        key = self._wanted.popleft()
        if key != known:
            path = key.replace(b"\0", b"/")
            node = self._store.get(path)
            if isinstance(node, DirectoryNode):
                yield path, node
        start, end = (key + b"\0", key + b"\1") if key else ALL_KEYS
        while start < end:
            start = yield from self._some(start, end)

    def _some(self, start: bytes, end: bytes) -> Generator[tuple[bytes, TreeEntry], None, bytes]:
        """Yield some entries of a directory; return where to go on, `end` at the end of it."""
        self._store.flush()
        rows = self._store.rows_from(start, end, self._query)
        for row in rows:
            key, of, value = row
            while self._wanted and self._wanted[0] < key:
                self._wanted.popleft()  # it is not in this tree
            entry = self._store.entry(row)
            if entry is not None:
                yield entry
            if of is None and value[0] == DIRECTORY:
                below = key + b"\0"
                while self._wanted and (
                    self._wanted[0] == key or self._wanted[0].startswith(below)
                ):
                    yield from self.next_wanted(key)
                return key + b"\1"
        return rows[-1][0] + b"\0" if rows else end
