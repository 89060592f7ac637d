"""The files of one point, read from the newest tree and the deltas; nothing else is rebuilt.

The entries of other paths are skipped, so one file of many is found in some tenths of a second.
Blocking; memory does not depend on the size of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

from attrs import define

from wingsd.errors import DirectoryMissing, FileMissing
from wingsd.filesystem.open_directories import OpenDirectories
from wingsd.history.format import (
    Change,
    FormReader,
    PastDirectory,
    PastEntry,
    PastFile,
    PastHardLink,
    PastNothing,
    Select,
)
from wingsd.history.rebuilding import contents_of, last_of, only, overlaid, write_file
from wingsd.history.store import HistoryStore
from wingsd.moves.nodes import tree_key
from wingsd.util.durable import storage_errors

#: Entries between two calls of `check`.
_CHECKED = 1000


class Found(NamedTuple):
    """An entry, and what each point says of its path."""

    entry: PastEntry
    changes: Sequence[Change | None]


@define(eq=False, repr=False)
class PastFiles:
    """The files of the last point of a chain. `tree` are the directories of the newest tree.

    `check` is called after each piece, and may raise. Paths are relative to the server's
    directory, which is the empty one. Methods raise HistoryDamaged and OSError.
    """

    _chain: Sequence[FormReader]
    _tree: OpenDirectories
    _check: Callable[[], None]

    def entry(self, path: bytes) -> PastEntry:
        """Return what is at a path. Raises FileMissing."""
        return self.found(path).entry

    def directory(self, path: bytes) -> Iterator[PastEntry]:
        """Yield what is in a directory, sorted. Raises FileMissing and DirectoryMissing."""
        if not isinstance(self.entry(path), PastDirectory):
            raise DirectoryMissing
        for found in self._selected(_inside(path)):
            yield found.entry

    def below(self, path: bytes) -> Iterator[Found]:
        """Yield all that is below a directory, directories before their contents."""
        return self._selected(_below(path))

    def copy(self, path: bytes, target: int) -> PastFile:
        """Write a file to the new, empty one with the descriptor `target`; return its entry.

        A further name leads to its file. Nothing of the copy may be used before this has
        returned. Raises FileMissing.
        """
        found = self.found(path)
        if isinstance(found.entry, PastHardLink):
            found = self.found(found.entry.first)
        return self.write(found, target)

    def write(self, found: Found, target: int) -> PastFile:
        """Do the same with a file that was found, and is no further name."""
        entry = found.entry
        if not isinstance(entry, PastFile):
            raise FileMissing
        contents = contents_of(self._chain, found.changes)
        write_file(target, entry, contents, self._tree, self._check)
        return entry

    def found(self, path: bytes) -> Found:
        """Return what is at a path. Raises FileMissing."""
        if (found := self.all_found((path,)).get(path)) is None:
            raise FileMissing
        return found

    def all_found(self, paths: Collection[bytes]) -> Mapping[bytes, Found]:
        """Return what is at those of the paths at which something is, by one look at all."""
        return {found.entry.path: found for found in self._selected(only(*paths))}

    def _selected(self, select: Select) -> Iterator[Found]:
        for number, (_, changes) in enumerate(overlaid(self._chain, select)):
            if number % _CHECKED == 0:
                self._check()
            found = Found(last_of(changes), changes)
            if not isinstance(found.entry, PastNothing):
                yield found


@contextmanager
def past_files(
    store: HistoryStore,
    number: int,
    check: Callable[[], None] = lambda: None,
    chain: Sequence[FormReader] | None = None,
) -> Iterator[PastFiles]:
    """Open the files of a point; `check` is as in `PastFiles`, `chain` the store's if known.

    Raises NoSuchPoint, HistoryDamaged and StorageError.
    """
    with (
        storage_errors(f"point {number} of the history cannot be read"),
        store.opened(number, chain) as (needed, tree),
        closing(OpenDirectories(tree)) as directories,
    ):
        yield PastFiles(needed, directories, check)


def _below(directory: bytes) -> Select:
    """Return what selects all that is below a directory."""
    prefix = directory and directory + b"/"
    start = len(prefix)
    # of all paths below a directory, NUL follows its own
    end = tree_key(directory) + b"\1"

    def select(path: bytes) -> bool | None:
        if path.startswith(prefix):
            return len(path) > start
        return None if directory and tree_key(path) >= end else False

    return select


def _inside(directory: bytes) -> Select:
    """Return what selects the entries of a directory, but not of those below it."""
    below, start = _below(directory), len(directory and directory + b"/")

    def select(path: bytes) -> bool | None:
        return below(path) and b"/" not in path[start:]

    return select
