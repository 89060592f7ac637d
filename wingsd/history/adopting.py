"""A history follows its server to another node: what is sent, and taken in there. Blocking.

The other node begins with a point of its own. From that point, the base, one delta leads to the
newest point of the history that follows: the bridge. It has what differs between the two, by
blocks, and is written at the source, which learns the entries of the base, and digests of the
blocks of those files that differ. Then the bridge and all older deltas are taken in, the newest
first: so the history is whole at each moment, and only its oldest points are still to come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import groupby
from typing import Any, NamedTuple

from attrs import define, frozen

from wingsd.errors import HistoryDamaged
from wingsd.filesystem.open_directories import OpenDirectories
from wingsd.history.capture import joined
from wingsd.history.format import (
    BLOCK,
    PIECE,
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
    differences,
    encode_chunks,
    every_path,
    hole_differences,
    parts_of,
    runs,
)
from wingsd.history.rebuilding import (
    Contents,
    contents_of,
    last_of,
    only,
    opened_copy,
    overlaid,
    pieces,
    stored_size,
    write_contents,
)
from wingsd.moves.digests import DIGEST, block_digest

MOST_BLOCKS = 32_768
"""The most blocks whose digests are asked for at once."""

MOST_RANGES = 2048
"""The most ranges of blocks that are asked for at once."""

MOST_PATHS = 1 << 16
"""The most bytes of their paths, if there are several."""

NEW = "-part"
"""The end of the name of a file that is not complete."""

_PIECE_BLOCKS = PIECE // BLOCK
#: The digest of a block beyond the end of a file.
_BEYOND = block_digest(b"")


class BlockRange(NamedTuple):
    """Blocks of a file: so many from the number `first` on."""

    path: bytes
    first: int
    blocks: int


def entries_of(
    chain: Sequence[FormReader], select: Select = every_path
) -> Iterator[tuple[PastEntry, Contents]]:
    """Yield the entries of the last point of a chain, and what the contents of files are."""
    for _, found in overlaid(chain, select):
        entry = last_of(found)
        if not isinstance(entry, PastNothing):
            yield entry, contents_of(chain, found)


def write_catalogue(chain: Sequence[FormReader], fd: int) -> None:
    """Write the catalogue of the last point of a chain to a new file."""
    point = chain[-1].point
    writer = FormWriter(fd, FormKind.CATALOGUE, point.number)
    for entry, _ in entries_of(chain):
        writer.add(entry)
    writer.finish(point)


@frozen(eq=False, repr=False)
class Scratch:
    """The file `fd`, in which one file at a time is put together.

    `require_room` is called with the bytes that it will take on the disk, and may raise.
    """

    fd: int
    require_room: Callable[[int], None]

    def fill(self, contents: Contents, tree: OpenDirectories, check: Callable[[], None]) -> bytes:
        """Write a file, and return its digest. Raises HistoryDamaged and OSError."""
        os.ftruncate(self.fd, 0)
        self.require_room(stored_size(contents, tree))
        return write_contents(self.fd, contents, tree, check)


@define(eq=False, repr=False)
class BlockDigests:
    """Digests of the blocks of files at the last point of a chain.

    `tree` is that of the newest point. Those of a large file that is not as in the newest point
    are kept in the file that `place` returns: it is put together once, and asked about often.
    """

    _chain: Sequence[FormReader]
    _tree: int
    _scratch: Scratch
    _place: Callable[[bytes], str]
    _check: Callable[[], None]

    def of(self, wanted: Sequence[BlockRange]) -> bytes:
        """Return the digests of blocks, one after the other. The ranges are sorted as entries are.

        Blocks beyond the end of a file, or of what is no file, have that of no bytes.
        """
        by_path = groupby(wanted, key=lambda each: each.path)
        asked = {path: list(ranges) for path, ranges in by_path}
        chosen = entries_of(self._chain, only(*asked))
        entries = ((entry.path, (entry, contents)) for entry, contents in chosen)
        found: list[bytes] = []
        with closing(OpenDirectories(self._tree)) as directories:
            for path, (described, ranges) in joined(entries, asked.items()):
                entry, contents = described or (PastNothing(path), (None, []))
                if isinstance(entry, PastFile):
                    found += self._of_file(entry, contents, directories, ranges)
                else:
                    found += (_BEYOND for each in ranges for _ in range(each.blocks))
        return b"".join(found)

    def _of_file(
        self,
        entry: PastFile,
        contents: Contents,
        directories: OpenDirectories,
        ranges: Sequence[BlockRange],
    ) -> Iterator[bytes]:
        if not contents[1]:
            with opened_copy(directories, entry.path) as fd:
                yield from _digests(fd, ranges, self._check)
        elif entry.size <= MOST_BLOCKS * BLOCK:
            self._scratch.fill(contents, directories, self._check)
            yield from _digests(self._scratch.fd, ranges, self._check)
        else:
            path = self._place(entry.path)
            if not os.path.exists(path):
                self._keep(entry, contents, directories, path)
            with open(path, "rb") as file:
                for each in ranges:
                    file.seek(each.first * DIGEST)
                    digests = file.read(each.blocks * DIGEST)
                    yield digests + _BEYOND * (each.blocks - len(digests) // DIGEST)

    def _keep(
        self, entry: PastFile, contents: Contents, directories: OpenDirectories, path: str
    ) -> None:
        """Write the digests of all blocks of a file."""
        self._scratch.fill(contents, directories, self._check)
        whole = BlockRange(entry.path, 0, -(-entry.size // BLOCK))
        self._scratch.require_room(whole.blocks * DIGEST)
        new = f"{path}{NEW}"
        with open(new, "wb") as file:
            file.writelines(_digests(self._scratch.fd, [whole], self._check))
        os.rename(new, path)
        os.ftruncate(self._scratch.fd, 0)


def _digests(fd: int, ranges: Iterable[BlockRange], check: Callable[[], None]) -> Iterator[bytes]:
    for _, first, blocks in ranges:
        for start in range(first, first + blocks, _PIECE_BLOCKS):
            check()
            length = min(_PIECE_BLOCKS, first + blocks - start)
            data = os.pread(fd, length * BLOCK, start * BLOCK)
            yield from (block_digest(data[at * BLOCK : (at + 1) * BLOCK]) for at in range(length))


class _Unit(NamedTuple):
    """A part of the work of a bridge: an entry, or so many blocks of a file from `first` on.

    `known` of them are in the file at the base, too.
    """

    was: PastEntry
    now: PastEntry
    first: int = 0
    blocks: int = 0
    known: int = 0


def _units(base: FormReader, own: FormReader) -> Iterator[_Unit]:
    """Yield what is to be done for each path that is not the same in both."""
    streams = (((entry.path, entry) for entry, _ in each.entries()) for each in (base, own))
    for path, (first, second) in joined(*streams):
        was, now = first or PastNothing(path), second or PastNothing(path)
        if was == now:
            continue
        if not isinstance(now, PastFile) or _has_same_bytes(was, now):
            yield _Unit(was, now)
            continue
        count = -(-now.size // BLOCK)
        known = -(-was.size // BLOCK) if isinstance(was, PastFile) else 0
        for at in range(0, max(count, 1), MOST_BLOCKS):
            blocks = min(MOST_BLOCKS, count - at)
            yield _Unit(was, now, at, blocks, max(min(blocks, known - at), 0))


def _has_same_bytes(was: PastEntry, now: PastFile) -> bool:
    return isinstance(was, PastFile) and (was.size, was.digest) == (now.size, now.digest)


def wanted_blocks(base: FormReader, own: FormReader) -> Iterator[list[BlockRange]]:
    """Yield the blocks of which a bridge needs the digests at its base, some at a time.

    `base` and `own` are the catalogues. Raises HistoryDamaged and OSError.
    """
    group: list[BlockRange] = []
    blocks = length = 0
    for unit in _units(base, own):
        if not unit.known:
            continue
        blocks, length = blocks + unit.known, length + len(unit.now.path)
        if group and (blocks > MOST_BLOCKS or length > MOST_PATHS or len(group) >= MOST_RANGES):
            yield group
            group, blocks, length = [], unit.known, len(unit.now.path)
        group.append(BlockRange(unit.now.path, unit.first, unit.known))
    if group:
        yield group


def write_bridge(
    base: FormReader,
    own: FormReader,
    tree: int,
    digests: Callable[[int], bytes],
    fd: int,
    check: Callable[[], None],
) -> list[bytes]:
    """Write the bridge from the point of the catalogue `base` to that of `own` to a new file.

    `tree` has the files of the latter, `digests` returns the next ones of `wanted_blocks`, so many
    bytes. Return the files that could not be read as they were. Raises HistoryDamaged and OSError.
    """
    with closing(_Bridge(base, own, tree, fd, check)) as bridge:
        for unit in _units(base, own):
            bridge.add(unit, digests(unit.known * DIGEST))
        bridge.finish()
    return bridge.damaged


class _Bridge:
    """A bridge that is being written."""

    def __init__(
        self, base: FormReader, own: FormReader, tree: int, fd: int, check: Callable[[], None]
    ) -> None:
        self._point = own.point
        self._writer = FormWriter(fd, FormKind.DELTA, own.point.number, base.point.number)
        self._check = check
        self._directories = OpenDirectories(tree)
        #: The file that is being compared, its digest so far, and where its section begins.
        self._fd = -1
        self._digest = FileHash()
        self._offset = 0
        #: Files that could not be read as they were.
        self.damaged: list[bytes] = []

    def add(self, unit: _Unit, digests: bytes) -> None:
        """Write what a unit has. `digests` are those of the blocks at the base."""
        now, was = unit.now, unit.was
        if not isinstance(now, PastFile):
            self._writer.add(now)
            return
        if _has_same_bytes(was, now):
            self._writer.add(now, Section(True, self._writer.data_bytes, 0))
            return
        if not unit.first:
            self._offset, self._digest = self._writer.data_bytes, FileHash()
        self._compare(unit, now, digests)
        if unit.first + unit.blocks < -(-now.size // BLOCK):
            return
        if self._digest.digest() != now.digest:
            self.damaged.append(now.path)
        section = self._writer.data_bytes - self._offset
        self._writer.add(now, Section(isinstance(was, PastFile), self._offset, section))

    def _compare(self, unit: _Unit, now: PastFile, digests: bytes) -> None:
        if not unit.first:
            self._close_file()
            with suppress(OSError):
                self._fd = self._directories.open_file(now.path)
        end = unit.first + unit.blocks
        for first in range(unit.first, end, _PIECE_BLOCKS):
            self._check()
            length = min(_PIECE_BLOCKS, end - first) * BLOCK
            data = b""
            with suppress(OSError):  # its digest differs then
                data = os.pread(self._fd, length, first * BLOCK)[: now.size - first * BLOCK]
            self._digest.add(data)
            at = (first - unit.first) * DIGEST
            for start, stop in _differing(data, digests[at : at + _PIECE_BLOCKS * DIGEST]):
                for chunk in encode_chunks(first + start, data[start * BLOCK : stop * BLOCK]):
                    self._writer.data(chunk)

    def finish(self) -> None:
        """Write the end."""
        self._writer.finish(self._point)

    def close(self) -> None:
        """Close every descriptor."""
        self._close_file()
        self._directories.close()

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _differing(data: bytes, digests: bytes) -> Iterator[tuple[int, int]]:
    """Return the runs of blocks that do not have their digests, or have none."""

    def differs(number: int) -> bool:
        digest = digests[number * DIGEST : (number + 1) * DIGEST]
        return block_digest(data[number * BLOCK : (number + 1) * BLOCK]) != digest

    found = runs(-(-len(data) // BLOCK), differs)
    return ((start, stop) for start, stop, is_other in found if is_other)


def check_bridge(
    chain: Sequence[FormReader], tree: int, scratch: Scratch, check: Callable[[], None]
) -> tuple[bytes, ...]:
    """Check that a chain makes its last point, and return the files of its last delta that differ.

    `tree` is that of the newest point. Raises HistoryDamaged where entries differ.
    """
    root = CheckedRoot()
    damaged: list[bytes] = []
    with closing(OpenDirectories(tree)) as directories:
        for path, found in overlaid(chain):
            entry = last_of(found)
            if isinstance(entry, PastNothing):
                continue
            root.add(entry)
            if isinstance(entry, PastFile) and found[-1] is not None:
                try:
                    digest = scratch.fill(contents_of(chain, found), directories, check)
                except HistoryDamaged:
                    digest = b""
                if digest != entry.digest:
                    damaged.append(path)
    root.require(chain[-1].point)
    return tuple(damaged)


def rebase_delta(
    chain: Sequence[FormReader],
    older: FormReader,
    tree: int,
    fd: int,
    scratches: tuple[Scratch, Scratch],
    check: Callable[[], None],
) -> None:
    """Write the delta by which the last point of a chain becomes an older one.

    `older` is the delta by which the point before the last becomes it. `tree` is the newest one.
    """
    writer = FormWriter(fd, FormKind.DELTA, older.point.number, chain[-1].point.number)

    def contents(
        scratch: Scratch, forms: Sequence[FormReader], found: Sequence[Any], size: int
    ) -> Holes:
        with suppress(HistoryDamaged):  # it stays damaged
            scratch.fill(contents_of(forms, found), directories, check)
        os.ftruncate(scratch.fd, size)
        return Holes(scratch.fd, size)

    with closing(OpenDirectories(tree)) as directories:
        for path, (*upper, between, last) in overlaid([*chain, older]):
            if between is None and last is None:
                continue
            common = next((each[0] for each in reversed(upper) if each), PastNothing(path))
            now, was = last[0] if last else common, between[0] if between else common
            offset = writer.data_bytes
            if now == was:
                continue
            if not isinstance(now, PastFile):
                writer.add(now)
                continue
            is_based = isinstance(was, PastFile)
            if between is None and last is not None and last[1] is not None:
                is_based = last[1].is_based
                for data in pieces(older, last[1]):
                    check()
                    writer.data(data)
            elif not _has_same_bytes(was, now):
                size = was.size if isinstance(was, PastFile) else 0
                new = contents(scratches[0], [*chain[:-1], older], [*upper, last], now.size)
                old = contents(scratches[1], chain, [*upper, between], size)
                for data in _chunks_between(old, new):
                    check()
                    writer.data(data)
            writer.add(now, Section(is_based, offset, writer.data_bytes - offset))
        writer.finish(older.point)


def _chunks_between(old: Holes, new: Holes) -> Iterator[bytes]:
    """Yield the chunks by which one file becomes another one."""
    for at, end, is_hole in parts_of(old, new):
        if is_hole:
            yield hole_differences(old.size, new.size, at, end)[0]
        else:
            base, target = (os.pread(each.fd, PIECE, at) for each in (old, new))
            yield differences(base, target, at)[0]
