"""The files that a server is to have, or an archive: those of a point, in whole or in part.

A backup that is a point leaves out what its ignore list has. Where it is laid over the present
files, these stay as far as it has nothing in their place. Nothing here reads contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from attrs import define, field

from wingsd.errors import HistoryDamaged
from wingsd.history.format import (
    Change,
    CheckedRoot,
    FormReader,
    PastDirectory,
    PastEntry,
    PastFile,
    PastHardLink,
    PastLink,
    PastNothing,
    Select,
    every_path,
)
from wingsd.history.rebuilding import last_of, only, overlaid
from wingsd.moves.nodes import tree_key

LeavesOut = Callable[[bytes, bool], bool]
"""Returns whether a backup leaves out a path, which may be that of a directory."""

#: Directories of which it is remembered whether they are left out.
_REMEMBERED = 4096


class WantedEntry(NamedTuple):
    """A path: what is there in the newest point, and what is to be there.

    The contents of a file are `contents_of` the chain and `found`. With `is_kept` what is there
    stays, whatever it is.
    """

    path: bytes
    now: PastEntry
    entry: PastEntry
    found: Sequence[Change | None]
    is_kept: bool = False

    @property
    def is_there(self) -> bool:
        """True if something is to be there."""
        return not isinstance(self.entry, PastNothing)


def leaves_out_nothing(path: bytes, is_directory: bool) -> bool:
    """Leave out nothing."""
    return False


@define(eq=False, repr=False, slots=False)
class Wanted:
    """The files of the point `number`, without what `leaves_out` has.

    With `keeps_present` they are laid over those of the newest point: a present file goes only
    where another one takes its place, and a directory that both have stays as it is. A file whose
    first name goes has its next one as the first.
    """

    number: int
    _leaves_out: LeavesOut = leaves_out_nothing
    keeps_present: bool = False
    _directories: dict[bytes, bool] = field(init=False, factory=dict)
    #: The first names that files have here, by those that they have in the point.
    _heads: dict[bytes, bytes] = field(init=False, factory=dict)

    def entries(
        self, chain: Sequence[FormReader], after: bytes | None = None
    ) -> Iterator[WantedEntry]:
        """Yield all paths, or those `after` one; `chain` ends with the form of the point.

        Raises HistoryDamaged where all entries do not have the root of the point.
        """
        root = CheckedRoot()
        select = every_path if after is None else _after(after)
        if after is None:
            self._heads.clear()
        laid_over = _LaidOver(len(chain)) if self.keeps_present else None
        for path, found in overlaid(chain, select):
            entry = last_of(found)
            if not isinstance(entry, PastNothing):
                root.add(entry)
            now = found[0][0] if found[0] is not None else PastNothing(path)
            wanted = self._of_the_point(chain, WantedEntry(path, now, entry, found))
            yield wanted if laid_over is None else laid_over.over(wanted, found[0])
        if after is None:
            root.require(chain[-1].point)

    def _of_the_point(self, chain: Sequence[FormReader], each: WantedEntry) -> WantedEntry:
        path, entry = each.path, each.entry
        if isinstance(entry, PastNothing) or self._leaves_out is leaves_out_nothing:
            return each
        if self.is_left_out(path, is_directory=isinstance(entry, PastDirectory)):
            return each._replace(entry=PastNothing(path))
        if not isinstance(entry, PastHardLink) or not self.is_left_out(entry.first):
            return each
        head = self._heads.setdefault(entry.first, path)
        if head != path:
            return each._replace(entry=PastHardLink(path, head))
        for _, found in overlaid(chain, only(entry.first)):
            return each._replace(entry=last_of(found)._replace(path=path), found=found)
        raise HistoryDamaged(f"point {self.number}", "a hard link has no file")

    def is_left_out(self, path: bytes, *, is_directory: bool = False) -> bool:
        """Return whether a path is left out, by itself or with a directory that it is in."""
        at = path.find(b"/")
        while at >= 0:
            if self._is_directory_left_out(path[:at]):
                return True
            at = path.find(b"/", at + 1)
        return bool(path) and self._leaves_out(path, is_directory)

    def _is_directory_left_out(self, path: bytes) -> bool:
        known = self._directories.get(path)
        if known is None:
            if len(self._directories) >= _REMEMBERED:
                self._directories.clear()
            known = self._directories[path] = self._leaves_out(path, True)
        return known


class _LaidOver:
    """Lays entries over those of the newest point, one after the other."""

    def __init__(self, count: int) -> None:
        self._count = count
        #: A directory that something else takes the place of, with a slash.
        self._gone = b""
        #: Files and symlinks that others take the place of, and the new first names of these.
        self._replaced: dict[bytes, Change] = {}
        self._heads: dict[bytes, bytes] = {}

    def over(self, each: WantedEntry, present: Change | None) -> WantedEntry:
        """Return the entry, or the present one where that stays.

        `present` is what the newest point says of the path; the entry's contents may be those of
        another one.
        """
        path, now, entry, _, _ = each
        if self._gone and not path.startswith(self._gone):
            self._gone = b""
        is_directory = isinstance(now, PastDirectory)
        if self._gone:
            pass
        elif isinstance(entry, PastNothing) or (is_directory and isinstance(entry, PastDirectory)):
            return self._kept(WantedEntry(path, now, now, self._found(present)))
        elif is_directory:
            self._gone = path + b"/"
        if present is not None and isinstance(now, PastFile | PastLink) and now != entry:
            self._replaced[path] = present
        return each

    def _found(self, present: Change | None) -> Sequence[Change | None]:
        return [present, *[None] * (self._count - 1)]

    def _kept(self, each: WantedEntry) -> WantedEntry:
        """Return a present entry; a further name of what goes becomes the first one."""
        entry = each.entry
        if not isinstance(entry, PastHardLink) or entry.first not in self._replaced:
            return each._replace(is_kept=True)
        head = self._heads.setdefault(entry.first, each.path)
        if head != each.path:
            return each._replace(entry=PastHardLink(each.path, head))
        replaced = self._replaced[entry.first]
        now = replaced[0]._replace(path=each.path)
        return each._replace(entry=now, found=self._found(replaced))


def _after(last: bytes) -> Select:
    """Return what selects the paths that come after one."""
    key = tree_key(last)
    return lambda path: tree_key(path) > key
