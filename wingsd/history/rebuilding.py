"""The contents of a history's points: read, verified, and merged into fewer deltas. Blocking."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

from attrs import define, field

from wingsd.errors import HistoryDamaged
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.history.capture import joined
from wingsd.history.format import (
    PIECE,
    SECTOR,
    Change,
    CheckedRoot,
    FileHash,
    FormKind,
    FormReader,
    FormWriter,
    Holes,
    PastEntry,
    PastFile,
    PastNothing,
    Section,
    Select,
    every_path,
    merge_chunks,
    pieces_of,
    read_fully,
)
from wingsd.history.newest import damage, write_chunks, write_data
from wingsd.moves.nodes import tree_key
from wingsd.util.text import display

EVERYTHING_DAMAGED = (b"",)
"""Stands for all files of a point, of which the structure is damaged."""


class FileVersion(NamedTuple):
    """A file as an entry of a delta has it, and the reader of its section."""

    entry: PastFile
    section: Section
    reader: FormReader


def overlaid(
    chain: Sequence[FormReader], select: Select = every_path
) -> Iterator[tuple[bytes, list[Change | None]]]:
    """Yield each selected path with what each point says of it, from the newest on."""
    streams = (((change[0].path, change) for change in delta.entries(select)) for delta in chain)
    return joined(*streams)


def only(*wanted: bytes) -> Select:
    """Return what selects these paths."""
    paths, last = frozenset(wanted), max(map(tree_key, wanted), default=b"")

    def select(path: bytes) -> bool | None:
        if path in paths:
            return True
        return None if tree_key(path) > last else False

    return select


def last_of(found: Sequence[Change | None]) -> PastEntry:
    """Return what is at a path in the last point of a chain."""
    return next(each for each in reversed(found) if each is not None)[0]


def merge_deltas(
    older: FormReader, removed: FormReader, fd: int, check: Callable[[], None]
) -> list[bytes]:
    """Write the delta by which the point before the removed one becomes the older one.

    `check` is called again and again, here and below, and may raise. Returns the files whose
    contents cannot be read: they become other ones than their digests say.
    """
    writer = FormWriter(fd, FormKind.DELTA, older.point.number, removed.newer)
    damaged = []
    for path, (last, first) in overlaid((older, removed)):
        change = last if last is not None else first
        assert change is not None  # noqa: S101 - one of them has the path
        entry, section = change
        if section is None or not isinstance(entry, PastFile):
            writer.add(entry)
            continue
        form, rest = (older, first) if last is not None else (removed, None)
        offset, is_based = writer.data_bytes, section.is_based
        try:
            if rest is not None and is_based:
                is_based = _merge_file(form, change, removed, rest, writer, check)
            else:
                for data in pieces(form, section):
                    check()
                    writer.data(data)
        except HistoryDamaged:
            damaged.append(path)
            # chunks that are not whole could not be read either
            is_based, offset = False, writer.data_bytes
        writer.add(entry, Section(is_based, offset, writer.data_bytes - offset))
    writer.finish(older.point)
    return damaged


def _merge_file(
    older: FormReader,
    last: Change,
    removed: FormReader,
    first: Change,
    writer: FormWriter,
    check: Callable[[], None],
) -> bool:
    """Write a section with the effect of that of the removed point and then of the older one.

    Return whether it is based on the file of the next newer point.
    """
    (entry, section), (below, rest) = last, first
    if section is None or not isinstance(entry, PastFile):
        raise older.damaged(f"{display(entry.path)} has no contents")
    if rest is None or not isinstance(below, PastFile):
        raise removed.damaged(f"{display(entry.path)} has no contents")
    chunks = removed.chunks(rest, below.size)
    for data in merge_chunks(older.chunks(section, entry.size), chunks, entry.size):
        check()
        writer.data(data)
    return rest.is_based


def pieces(form: FormReader, section: Section) -> Iterator[bytes]:
    """Return the data of a section, in pieces."""
    end = section.offset + section.length
    return (form.data(at, min(PIECE, end - at)) for at in range(section.offset, end, PIECE))


Contents = tuple[PastFile | None, list[FileVersion]]
"""The file of the tree that contents begin with, if any, and the versions that follow."""


def contents_of(chain: Sequence[FormReader], found: Sequence[Change | None]) -> Contents:
    """Return what a file is made of."""
    base: PastFile | None = None
    versions: list[FileVersion] = []
    for delta, change in zip(chain, found, strict=True):
        if change is None:
            continue
        entry, section = change
        if not isinstance(entry, PastFile) or section is None or not section.is_based:
            base, versions = None, []
        if isinstance(entry, PastFile) and section is not None:
            versions.append(FileVersion(entry, section, delta))
        elif isinstance(entry, PastFile):
            base = entry
    return base, versions


def _copied(path: bytes, source: int, target: int, size: int, check: Callable[[], None]) -> bytes:
    """Copy a file, by reference where the file system can, and return its digest."""
    digest = FileHash()
    is_cloned = _cloned(source, target)
    os.ftruncate(target, size)
    for at in pieces_of(Holes(source, size), digest):
        check()
        with damage(path):
            piece = read_fully(source, min(PIECE, size - at), at)
        digest.add(piece)
        if not is_cloned:
            write_data(target, piece, at)
    return digest.digest()


@contextmanager
def opened_copy(newest: OpenDirectories, path: bytes) -> Iterator[int]:
    """Open a file of the newest tree, to be read. Raises HistoryDamaged and OSError."""
    with damage(path):
        fd = newest.open_file(path)
    with closing_descriptor(fd):
        yield fd


_FICLONE = 0x40049409


def _cloned(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _digest(fd: int, size: int, check: Callable[[], None]) -> bytes:
    digest = FileHash()
    for at in pieces_of(Holes(fd, size), digest):
        check()
        digest.add(read_fully(fd, min(PIECE, size - at), at))
    return digest.digest()


def _apply(fd: int, version: FileVersion) -> None:
    """Make a file the next older one."""
    entry, section = version.entry, version.section
    if not section.is_based:
        os.ftruncate(fd, 0)
    os.ftruncate(fd, entry.size)
    write_chunks(fd, version.reader.chunks(section, entry.size))
    version.reader.forget()


def stored_size(contents: Contents, newest: OpenDirectories) -> int:
    """Return the bytes that a file takes on the disk, at most: holes take none.

    Raises HistoryDamaged and OSError.
    """
    base, versions = contents
    size = sum(each.section.length for each in versions)
    if base is not None:
        with opened_copy(newest, base.path) as source:
            size += os.fstat(source).st_blocks * SECTOR
    return size


def write_contents(
    fd: int, contents: Contents, newest: OpenDirectories, check: Callable[[], None]
) -> bytes:
    """Write the contents of a file to a new, empty one, and return their digest.

    `newest` are the directories of the newest tree. Raises HistoryDamaged and OSError.
    """
    base, versions = contents
    digest = b""
    if base is not None:
        with opened_copy(newest, base.path) as source:
            digest = _copied(base.path, source, fd, base.size, check)
    for version in versions:
        _apply(fd, version)
    return _digest(fd, versions[-1].entry.size, check) if versions else digest


def write_file(
    fd: int,
    entry: PastFile,
    contents: Contents,
    newest: OpenDirectories,
    check: Callable[[], None],
) -> None:
    """Write a file of a point to a new, empty one, which has its digest then; else as above."""
    if write_contents(fd, contents, newest, check) != entry.digest:
        raise HistoryDamaged(display(entry.path), "it does not have its digest")


MOST_DAMAGED = 10_000
"""Of a point with more damaged files, all count as damaged."""


@define(eq=False, repr=False, slots=False)
class Verification:
    """Checks all contents of a chain, and all roots; `scratch` is a file that is overwritten.

    `is_wanted` returns whether the contents of a path are checked. Errors that are raised say
    nothing about the history: OSError is of `scratch`, or of this process.
    """

    _chain: Sequence[FormReader]
    _tree: int
    _scratch: int
    _check: Callable[[], None]
    _is_wanted: Callable[[bytes], bool]
    _with_roots: bool
    _damaged: dict[int, list[bytes]] = field(init=False, factory=dict)

    @property
    def damaged(self) -> dict[int, tuple[bytes, ...]]:
        """The damaged files by the numbers of points."""
        return {
            number: tuple(paths) if len(paths) <= MOST_DAMAGED else EVERYTHING_DAMAGED
            for number, paths in self._damaged.items()
        }

    def run(self) -> None:
        """Check everything."""
        hashes = [CheckedRoot() for _ in self._chain] if self._with_roots else []
        with closing(OpenDirectories(self._tree)) as self._newest:
            for path, found in overlaid(self._chain):
                if hashes:
                    self._add(path, found, hashes)
                if self._is_wanted(path):
                    self._check_path(path, found)
        for delta, root in zip(self._chain, hashes, strict=False):
            if not root.matches(delta.point):
                self._damaged[delta.point.number] = [*EVERYTHING_DAMAGED]

    def _add(
        self, path: bytes, found: Sequence[Change | None], roots: Sequence[CheckedRoot]
    ) -> None:
        entry: PastEntry = PastNothing(path)
        for root, change in zip(roots, found, strict=True):
            entry = entry if change is None else change[0]
            if not isinstance(entry, PastNothing):
                root.add(entry)

    def _check_path(self, path: bytes, found: Sequence[Change | None]) -> None:
        is_touched = any(change is not None for change in found[1:])
        #: Whether the file in `scratch` can be the base of an older one.
        is_known = True
        is_bad = False
        for delta, change in zip(self._chain, found, strict=True):
            entry, section = change or (None, None)
            if entry is not None:
                is_bad = False
            if isinstance(entry, PastFile):
                try:
                    if section is None:
                        digest = self._newest_digest(entry, is_copied=is_touched)
                    else:
                        _apply(self._scratch, FileVersion(entry, section, delta))
                        is_known = is_known or not section.is_based
                        digest = _digest(self._scratch, entry.size, self._check)
                    is_bad = digest != entry.digest or not is_known
                except HistoryDamaged:
                    is_bad, is_known = True, False
            if is_bad:
                paths = self._damaged.setdefault(delta.point.number, [])
                if len(paths) <= MOST_DAMAGED:
                    paths.append(path)

    def _newest_digest(self, entry: PastFile, *, is_copied: bool) -> bytes:
        with opened_copy(self._newest, entry.path) as fd:
            if not is_copied:
                with damage(entry.path):
                    return _digest(fd, entry.size, self._check)
            os.ftruncate(self._scratch, 0)
            return _copied(entry.path, fd, self._scratch, entry.size, self._check)
