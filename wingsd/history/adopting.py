"""A history follows its server to another node: what is sent, and taken in there. Blocking.

The other node begins with a point of its own. From that point, the base, one delta leads to the
newest point of the history that follows: the bridge. It has what differs between the two, by
blocks, and is written at the source, which learns the entries of the base, and digests of the
blocks of those files that differ. Then the bridge and all older deltas are taken in, the newest
first: so the history is whole at each moment, and only its oldest points are still to come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple

from wingsd.errors import HistoryDamaged
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.history.capture import joined
from wingsd.history.format import (
    BLOCK,
    FormKind,
    FormReader,
    FormWriter,
    PastEntry,
    PastFile,
    PastNothing,
    RootHash,
    Section,
    encode_chunks,
)
from wingsd.history.newest import PIECE
from wingsd.history.rebuilding import (
    Contents,
    contents_of,
    overlaid,
    write_contents,
)
from wingsd.moves.digests import block_digest
from wingsd.util.text import display

DIGEST = 16
"""Bytes of the digest of a block."""

MOST_BLOCKS = 32_768
"""The most blocks whose digests are asked for at once."""

MOST_RANGES = 2048
"""The most ranges of blocks that are asked for at once."""

_PIECE_BLOCKS = PIECE // BLOCK


class BlockRange(NamedTuple):
    """Blocks of a file: so many from the number `first` on."""

    path: bytes
    first: int
    blocks: int


def entries_of(chain: Sequence[FormReader]) -> Iterator[tuple[PastEntry, Contents]]:
    """Yield the entries of the last point of a chain, and what the contents of files are."""
    for _, found in overlaid(chain):
        entry = next(each for each in reversed(found) if each is not None)[0]
        if not isinstance(entry, PastNothing):
            yield entry, contents_of(chain, found)


def write_catalogue(chain: Sequence[FormReader], fd: int) -> None:
    """Write the catalogue of the last point of a chain to a new file."""
    point = chain[-1].point
    writer = FormWriter(fd, FormKind.CATALOGUE, point.number)
    for entry, _ in entries_of(chain):
        writer.add(entry)
    writer.finish(point)


def block_digests(
    chain: Sequence[FormReader],
    tree: int,
    scratch: int,
    wanted: Iterable[BlockRange],
    check: Callable[[], None],
) -> bytes:
    """Return the digests of blocks at the last point of a chain, one after the other.

    Blocks beyond the end of a file, or of what is no file, have that of no bytes. `tree` is the
    newest one, `scratch` a file that is overwritten. The ranges are sorted as entries are.
    """
    by_path = groupby(wanted, key=lambda each: each.path)
    asked = ((path, list(ranges)) for path, ranges in by_path)
    directories = OpenDirectories(tree, lambda path: None)
    found: list[bytes] = []
    entries = ((entry.path, (entry, contents)) for entry, contents in entries_of(chain))
    try:
        for path, (described, ranges) in joined(entries, asked):
            if ranges is None:
                continue
            entry, contents = described or (PastNothing(path), (None, []))
            if not isinstance(entry, PastFile):
                found += (block_digest(b"") for each in ranges for _ in range(each.blocks))
            elif contents[1]:
                os.ftruncate(scratch, 0)
                write_contents(scratch, contents, directories, check)
                found += _digests(scratch, ranges, check)
            else:
                with closing_descriptor(directories.open_file(path)) as fd:
                    found += _digests(fd, ranges, check)
    finally:
        directories.close()
    return b"".join(found)


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


def bridge(
    own: FormReader, tree: int, base: FormReader, fd: int, check: Callable[[], None]
) -> Generator[list[BlockRange], bytes, list[bytes]]:
    """Write the bridge from the point of the catalogue `base` to the one of `own` to a new file.

    `tree` has the files of the latter. Yields blocks whose digests at the base are sent then, and
    returns the files that could not be read as they were. Raises HistoryDamaged and OSError.
    """
    made = _Bridge(own, tree, base, fd, check)
    try:
        for units in _grouped(_units(base, own)):
            ranges = [
                BlockRange(unit.now.path, unit.first, unit.known) for unit in units if unit.known
            ]
            digests = yield ranges
            if len(digests) != DIGEST * sum(each.blocks for each in ranges):
                raise ValueError("it has another number of digests")
            at = 0
            for unit in units:
                end = at + unit.known * DIGEST
                made.add(unit, digests[at:end])
                at = end
        made.finish()
    finally:
        made.close()
    return made.damaged


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


def _grouped(units: Iterable[_Unit]) -> Iterator[list[_Unit]]:
    """Yield units together, of which few enough blocks are asked for."""
    group: list[_Unit] = []
    blocks = 0
    for unit in units:
        if group and (blocks + unit.known > MOST_BLOCKS or len(group) >= MOST_RANGES):
            yield group
            group, blocks = [], 0
        group.append(unit)
        blocks += unit.known
    yield group


class _Bridge:
    """A bridge that is being written."""

    def __init__(
        self, own: FormReader, tree: int, base: FormReader, fd: int, check: Callable[[], None]
    ) -> None:
        self._point = own.point
        self._writer = FormWriter(fd, FormKind.DELTA, own.point.number, base.point.number)
        self._check = check
        self._directories = OpenDirectories(tree, lambda path: None)
        #: The file that is being compared, its digest so far, and where its section begins.
        self._fd = -1
        self._digest = sha256()
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
            self._offset, self._digest = self._writer.data_bytes, sha256()
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
            self._digest.update(data)
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
    """Yield runs of blocks that do not have their digests, or have none."""

    def differs(number: int) -> bool:
        digest = digests[number * DIGEST : (number + 1) * DIGEST]
        return block_digest(data[number * BLOCK : (number + 1) * BLOCK]) != digest

    start = 0
    for is_other, run in groupby(range(-(-len(data) // BLOCK)), differs):
        stop = start + sum(1 for _ in run)
        if is_other:
            yield start, stop
        start = stop


def check_bridge(
    chain: Sequence[FormReader], tree: int, scratch: int, check: Callable[[], None]
) -> list[bytes]:
    """Check that a chain makes its last point, and return the files of its last delta that differ.

    `tree` and `scratch` are as for `block_digests`. Raises HistoryDamaged where entries differ.
    """
    root = RootHash()
    damaged: list[bytes] = []
    directories = OpenDirectories(tree, lambda path: None)
    try:
        for path, found in overlaid(chain):
            entry = next(each for each in reversed(found) if each is not None)[0]
            if isinstance(entry, PastNothing):
                continue
            root.add(entry)
            if isinstance(entry, PastFile) and found[-1] is not None:
                os.ftruncate(scratch, 0)
                try:
                    digest = write_contents(scratch, contents_of(chain, found), directories, check)
                except (HistoryDamaged, OSError):
                    digest = b""
                if digest != entry.digest:
                    damaged.append(path)
    finally:
        directories.close()
    if root.digest() != chain[-1].point.root:
        number = chain[-1].point.number
        raise HistoryDamaged(f"point {number}", "its entries do not have its root")
    return damaged


def described(paths: Sequence[bytes]) -> str:
    """Return some paths as a text for a log."""
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{display(paths[0])}{more}"
