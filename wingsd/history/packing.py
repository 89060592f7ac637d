"""A point of a history, or a part of it, as a tar. Blocking.

It is read in batches, each of which is whole before anything of it is sent: so a slow client does
not keep the history from being used, and each file that is sent has its digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from tempfile import TemporaryFile
from typing import NamedTuple

from attrs import define, field

from wingsd.archive.pack import GO_PORTION, LEAST_HOLES, data_segments
from wingsd.archive.tar_headers import (
    DIRECTORY,
    END,
    FILE,
    HARD_LINK,
    LATEST,
    NO_OWNER,
    SYMLINK,
    Segments,
    attribute_records,
    member_header,
    padding,
    sparse_header,
)
from wingsd.filesystem.new_file import Owner
from wingsd.filesystem.open_directories import OpenDirectories
from wingsd.history.format import (
    PIECE,
    SECTOR,
    FormReader,
    PastDirectory,
    PastFile,
    PastHardLink,
    PastLink,
    read_fully,
)
from wingsd.history.rebuilding import contents_of, stored_size, write_file
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted, WantedEntry
from wingsd.moves.applier import write_at
from wingsd.util.durable import storage_errors

BATCH = 64 << 20
"""The bytes of files in a batch, but for one larger file."""

MOST = 10_000
"""The most members of a batch."""

#: A larger file is in a file of its own.
_LARGE = 8 << 20
_LATEST = LATEST * 1_000_000_000
_SYMLINK_MODE, _LINK_MODE = 0o777, 0o644


class _Member(NamedTuple):
    """A member of the tar: its headers, and where its data is in the open file `fd`."""

    head: bytes
    fd: int = -1
    segments: Segments = ()


@define(eq=False, repr=False)
class Batch:
    """A part of the tar; the last one has its `end`. `close` must be called."""

    members: list[_Member] = field(init=False, factory=list)
    _stack: ExitStack = field(init=False, factory=ExitStack)
    end: bytes = b""
    #: Bytes of its members.
    size: int = field(init=False, default=0)

    @property
    def is_last(self) -> bool:
        """True if no other one follows."""
        return self.end != b""

    def add(self, head: bytes, fd: int = -1, segments: Segments = ()) -> None:
        """Add a member."""
        stored = sum(length for _, length in segments)
        self.size += len(head) + stored + len(padding(stored))
        self.members.append(_Member(head, fd, segments))

    def open(self, directory: str) -> int:
        """Open a file without a name, until `close`."""
        with ExitStack() as failing:
            file = failing.enter_context(TemporaryFile(dir=directory, buffering=0))
            self._stack.push(failing.pop_all())
        return file.fileno()

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes. Raises OSError."""
        for head, fd, segments in self.members:
            yield head
            stored = 0
            for offset, length in segments:
                for at in range(offset, offset + length, PIECE):
                    yield read_fully(fd, min(PIECE, offset + length - at), at)
                stored += length
            yield padding(stored)
        yield self.end

    def close(self) -> None:
        """Close its files."""
        self._stack.close()


@define(eq=False, repr=False)
class PointArchive:
    """The tar of what is wanted of a point, batch by batch.

    `owner` are the ids that stand for the server's own in ACLs.
    """

    _wanted: Wanted
    _owner: Owner
    _after: bytes | None = field(init=False, default=None)
    _size: int = field(init=False, default=0)
    _root_head: bytes = field(init=False, default=b"")

    def next(self, store: HistoryStore) -> Batch:
        """Return the next batch.

        Raises NoSuchPoint, HistoryDamaged and StorageError, also where the disk has no room, and
        FileWorkCancelled after `stop` of the store.
        """
        number, batch = self._wanted.number, Batch()
        with (
            ExitStack() as failing,
            storage_errors(f"point {number} of the history cannot be read"),
            store.opened(number) as (chain, tree),
            closing(OpenDirectories(tree)) as newest,
        ):
            failing.callback(batch.close)
            filling = _Filling(batch, store, chain, newest)
            is_last = True
            for each in self._wanted.entries(chain, self._after):
                store.check()
                if each.is_there:
                    self._add(each, filling)
                self._after = each.path
                if filling.is_full:
                    is_last = False
                    break
            failing.pop_all()
        self._size += batch.size
        if is_last:
            # as of the archives of moves, which Go nodes read; without effect on what is extracted
            is_moved = (self._size + len(END)) % GO_PORTION == 0
            batch.end = self._root_head + END if is_moved else END
        return batch

    def _add(self, each: WantedEntry, filling: _Filling) -> None:
        batch = filling.batch
        match each.entry:
            case PastDirectory(path, mode, mtime, attributes):
                records, owner = self._records(attributes)
                name = (path or b".") + b"/"
                head = member_header(name, DIRECTORY, mode, 0, _t(mtime), b"", records, owner)
                self._root_head = self._root_head or head
                batch.add(head)
            case PastLink(path, mtime, target):
                batch.add(member_header(path, SYMLINK, _SYMLINK_MODE, 0, _t(mtime), link=target))
            case PastHardLink(path, first):
                batch.add(member_header(path, HARD_LINK, _LINK_MODE, 0, 0, link=first))
            case PastFile() as file:
                records, owner = self._records(file.attributes)
                fd, offset, holes = filling.file(each, file)
                meta = (file.mode, file.size, _t(file.mtime))
                if holes is not None:
                    head = sparse_header(file.path, *meta, holes, records, owner)
                    batch.add(head, fd, holes)
                else:
                    head = member_header(file.path, FILE, *meta, b"", records, owner)
                    batch.add(head, fd, ((offset, file.size),))

    def _records(self, attributes: bytes) -> tuple[bytes, Owner]:
        return attribute_records(attributes, self._owner) if attributes else (b"", NO_OWNER)


@define(eq=False, repr=False)
class _Filling:
    """Writes the contents of files for a batch."""

    batch: Batch
    _store: HistoryStore
    _chain: Sequence[FormReader]
    _newest: OpenDirectories
    _all: int = field(init=False, default=-1)
    _one: int = field(init=False, default=-1)
    _filled: int = field(init=False, default=0)

    @property
    def is_full(self) -> bool:
        """True if the batch has enough."""
        return self._filled >= BATCH or len(self.batch.members) >= MOST

    def file(self, each: WantedEntry, file: PastFile) -> tuple[int, int, Segments | None]:
        """Write a file; return where it is, and where it has data if it is sparse."""
        store = self._store
        if self._all < 0:
            store.require_room(BATCH + _LARGE)
            self._all, self._one = (self.batch.open(store.scratch) for _ in range(2))
        contents = contents_of(self._chain, each.found)
        if is_large := file.size > _LARGE:
            store.require_room(stored_size(contents, self._newest))
            fd = self.batch.open(store.scratch)
        else:
            fd = self._one
            os.ftruncate(fd, 0)
        write_file(fd, file, contents, self._newest, store.check)
        at, self._filled = self._filled, self._filled + file.size
        if is_large:
            holes = os.fstat(fd).st_blocks * SECTOR + LEAST_HOLES <= file.size
            return fd, 0, data_segments(fd, file.size) if holes else None
        write_at(self._all, memoryview(read_fully(fd, file.size, 0)), at)
        return self._all, at, None


def _t(mtime: int) -> int:
    """Return a time that a header can have."""
    return min(max(mtime, -_LATEST), _LATEST)
