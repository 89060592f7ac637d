"""Reads the files of a server that differ from the newest point, to make the next point. Blocking.

Each file is taken as it was at one moment: it is read, and was not changed meanwhile, by the rule
of `moves.unchanged`. One that was is read again, a few times, and is then left as it was in the
newest point: it is unsettled. New contents are put aside until the delta is durable: whole files
in a directory, changed blocks of others in a file without a name.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from hashlib import sha256
from heapq import merge
from itertools import groupby
from random import Random
from struct import Struct
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from attrs import astuple, define, evolve, field, frozen

from wingsd.archive.policy import member_mode
from wingsd.errors import FrameRefused, StorageError
from wingsd.filesystem.attributes import EVERYTHING, AttributeReader
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.filesystem.walk import gone, opened, unreadable
from wingsd.history.format import (
    BLOCK,
    FileChunk,
    FormWriter,
    PastDirectory,
    PastEntry,
    PastFile,
    PastHardLink,
    PastLink,
    PastNothing,
    Section,
    differences,
    encode_chunks,
    read_chunks,
)
from wingsd.history.newest import NewestTree, write_data
from wingsd.moves.applier import write_at
from wingsd.moves.filling import PageCacheKeeper
from wingsd.moves.nodes import DirectoryNode, FileNode, LinkNode, TreeEntry, tree_key
from wingsd.moves.scan import Scan, clamped_mtime, seen_as
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import MoveTree
from wingsd.moves.unchanged import KERNEL, KernelCalls, MeasuredFileSystems, UnchangedFiles
from wingsd.util.text import display

PIECE = 1 << 20
"""Bytes that are read and compared at a time."""

TRIES = 4
"""How often a file is read that is changed meanwhile."""

REREAD = 1 / 500
"""The share of unchanged files that are read nevertheless: so each of them is, some day."""

MOST_UNSETTLED = 10_000
"""The most files that are read again, and that are listed as unsettled."""

_PAUSE = 0.3
#: Errors of opening a file whose place something of another kind has taken.
_REPLACED = (errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_SCANS = 5
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_LENGTH = Struct("<I")
_BUFFER = 256 << 10
_TYPES = (PastNothing, PastFile, PastLink, PastHardLink, PastDirectory)
_STAMP = 16


class Spooled(NamedTuple):
    """New contents of a file that were put aside: a new file with a name, or chunks of one."""

    incoming: bytes
    offset: int = 0
    length: int = 0


NOTHING_SPOOLED = Spooled(b"")


@frozen(eq=False, repr=False)
class Record:
    """A path that was looked at: how it was in the newest point, and how it is.

    `reverse` is the section of a file that was there, in the data of the delta. `stamp` is what a
    settled file was seen as, empty for others.
    """

    old: PastEntry
    new: PastEntry
    spooled: Spooled = NOTHING_SPOOLED
    reverse: Section | None = None
    stamp: bytes = b""

    def packed(self) -> bytes:
        """Return it as bytes, for `unpacked`."""
        old, new = (
            (_TYPES.index(type(each)), *astuple(each, recurse=False))
            for each in (self.old, self.new)
        )
        section = None if self.reverse is None else tuple(self.reverse)
        return marshal.dumps((old, new, tuple(self.spooled), section, self.stamp))

    @classmethod
    def unpacked(cls, data: bytes) -> Record:
        """Return what was packed."""
        old, new, spooled, section, stamp = marshal.loads(data)  # noqa: S302 - by this process
        return cls(
            _TYPES[old[0]](*old[1:]),
            _TYPES[new[0]](*new[1:]),
            Spooled(*spooled),
            None if section is None else Section(*section),
            stamp,
        )


def joined(*streams: Iterable[tuple[bytes, Any]]) -> Iterator[tuple[bytes, list[Any]]]:
    """Yield each path of some sorted streams, with what each of them has, None for nothing."""

    def tagged(number: int, stream: Iterable[tuple[bytes, Any]]) -> Iterator[Any]:
        return ((tree_key(path), number, path, item) for path, item in stream)

    each = [tagged(number, stream) for number, stream in enumerate(streams)]
    for _, group in groupby(merge(*each, key=lambda one: one[:2]), key=lambda one: one[0]):
        found: list[Any] = [None] * len(streams)
        path = b""
        for _, number, each_path, item in group:
            path, found[number] = each_path, item
        yield path, found


class HistorySource:
    """The directory of a server, open from point to point, and which files are settled.

    `close` must be called. Raises StorageError.
    """

    def __init__(
        self,
        directory: str,
        file_systems: MeasuredFileSystems,
        log: Callable[[str], None],
        kernel: KernelCalls = KERNEL,
        rng: Random | None = None,
    ) -> None:
        self._file_systems = file_systems
        #: Draws the unchanged files that are read.
        self.rng = rng or Random()  # noqa: S311 - nothing is to be kept secret
        self._stack = ExitStack()
        self._directory = directory
        self.root = self._stack.enter_context(opened(directory))
        found = os.fstat(self.root)
        #: The ids of the server's user and group.
        self.owner = (found.st_uid, found.st_gid)
        self.kernel = kernel
        self.log = log
        self.rule = UnchangedFiles(self.root, file_systems, log, kernel)
        self.attributes = AttributeReader(self.owner, EVERYTHING)
        #: Whether what was settled before a restart was looked at.
        self.is_restored = False
        #: Whether a point may begin with the flush of another one some seconds before.
        self.shares_flushes = False

    def close(self) -> None:
        """Close the directory."""
        self._stack.close()

    def is_of(self, directory: str) -> bool:
        """Return whether the directory at that path is the one that is read."""
        with suppress(OSError):
            return os.path.samestat(os.stat(directory), os.fstat(self.root))
        return False

    def check(self) -> None:
        """Raise StorageError where another directory has taken the place of this one."""
        if not self.is_of(self._directory):
            raise StorageError(f"{self._directory} was replaced while it was read")

    def distrust(self, path: bytes) -> None:
        """Trust nothing here from now on: a file was changed, and its stat result is the same."""
        reason = f"{display(path)} was changed there without a change of its ctime"
        self._file_systems.distrust(self.root, reason)
        self.log(f"all files are read: {reason}")

    def scan(self, scratch: str) -> MoveTree:
        """Read names and metadata. Raises StorageError and TreeTooLarge."""
        for _ in range(_SCANS - 1):
            with suppress(FrameRefused):  # a directory was seen twice, or as something else
                return self._scanned(scratch)
        return self._scanned(scratch)

    def _scanned(self, scratch: str) -> MoveTree:
        return Scan(lambda line: None, self.attributes, scratch, SeenDirectories()).run(self.root)


class _Unstable(Exception):
    """A file was changed while it was read, or something else has taken its place."""


@define(eq=False, repr=False, slots=False)
class Capture:
    """Finds what is not as in the newest point, whose files are in `newest`, and puts it aside.

    `writer` is that of the delta, and gets what is replaced; without one there is no point yet.
    `incoming` is the directory for new files. `check` is called with the bytes that were put
    aside, after each piece that was read, and may raise. `close` must be called. Methods raise
    StorageError.
    """

    _source: HistorySource
    _newest: NewestTree
    _writer: FormWriter | None
    _incoming: int
    _scratch: str
    _check: Callable[[int], None]
    #: Paths of files that were changed each time that they were read.
    unsettled: list[bytes] = field(init=False, factory=list)
    #: Files whose copy in the newest tree was not as it was written, and is to be replaced.
    healed: list[bytes] = field(init=False, factory=list)
    #: Bytes of new contents, and those in the file without a name.
    _spooled: int = field(init=False, default=0)
    _spool_end: int = field(init=False, default=0)
    #: Records are sorted no more: files are read again.
    _is_late: bool = field(init=False, default=False)
    _late: dict[bytes, Record] = field(init=False, factory=dict)
    #: Files that are to be read again, with what they were.
    _again: dict[bytes, PastEntry] = field(init=False, factory=dict)
    #: Paths at which nothing is, to which further names may lead.
    _lost: set[bytes] = field(init=False, factory=set)
    _incoming_number: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._stack = ExitStack()
        self._spool, self._old = self._temporary(), self._temporary()
        self._records = FrameFile(self._temporary())
        self._directories = OpenDirectories(self._source.root, lambda path: None)
        self._stack.callback(self._directories.close)

    def _temporary(self) -> int:
        made = TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 - by `close`
        return self._stack.enter_context(made).fileno()

    def close(self) -> None:
        """Drop what was put aside without a name."""
        self._stack.close()

    def run(
        self,
        catalogue: Callable[[], Iterable[tuple[bytes, PastEntry]]],
        stamps: Iterable[tuple[bytes, bytes]],
    ) -> None:
        """Look at all files. `catalogue` has the newest point, `stamps` its settled files."""
        rule = self._source.rule
        rule.begin(shares=self._source.shares_flushes)
        tree = self._source.scan(self._scratch)
        with closing(tree.store):
            for path, (node, old, stamp) in joined(tree.walk(), catalogue(), stamps):
                if node is not None or old is not None:
                    self._look(path, node, old or PastNothing(path), stamp)
        rule.end()
        self._is_late = True
        for attempt in range(1, TRIES):
            if not self._again:
                break
            self._source.kernel.pause(_PAUSE * attempt)
            rule.begin()
            again, self._again = self._again, {}
            for path, old in again.items():
                self._file(path, old)
            rule.end(keeps=True)
        for path, old in self._again.items():
            self._leave(path, old)
        self._records.flush()

    def records(self) -> Iterator[Record]:
        """Yield what was found, sorted; what is as it was may be among it."""
        written = ((record.new.path, record) for record in map(Record.unpacked, self._records))
        late = sorted(self._late.items(), key=lambda item: tree_key(item[0]))
        for _, (first, second) in joined(written, late):
            record: Record = second or first
            if isinstance(record.new, PastHardLink) and record.new.first in self._lost:
                record = evolve(record, new=PastNothing(record.new.path))
            yield record

    @property
    def growth(self) -> int:
        """The bytes by which the newest tree grows, at most."""
        return self._spooled

    def chunks(self, spooled: Spooled, size: int) -> Iterator[FileChunk]:
        """Yield chunks that were put aside, of a file with `size` bytes."""
        return read_chunks(self._read_spool, spooled.offset, spooled.length, size)

    def _read_spool(self, offset: int, length: int) -> bytes:
        return os.pread(self._spool, length, offset)

    def _look(
        self, path: bytes, node: TreeEntry | None, old: PastEntry, stamp: bytes | None
    ) -> None:
        if node is None:
            self._add(old, PastNothing(path))
        elif isinstance(node, DirectoryNode):
            self._add(old, PastDirectory(path, *node.meta))
        elif node.names[0] != path:
            self._add(old, PastHardLink(path, node.names[0]), is_kept=True)
        elif isinstance(node, LinkNode):
            self._add(old, PastLink(path, node.mtime, node.target))
        elif stamp is None or not isinstance(old, PastFile) or not self._is_unchanged(stamp, node):
            self._file(path, old)
        elif self._source.rng.random() < REREAD:
            self._file(path, old, is_unchanged=True)

    def _is_unchanged(self, stamp: bytes, node: FileNode) -> bool:
        identity = (int.from_bytes(stamp[:8], "little"), int.from_bytes(stamp[8:_STAMP], "little"))
        before = FileNode(0, 0, 0, identity, stamp[_STAMP:])
        return self._source.rule.unchanged(before, node)

    def _file(self, path: bytes, old: PastEntry, *, is_unchanged: bool = False) -> None:
        before = (self._incoming_number, self._spool_end, self._spooled)
        try:
            record = self._read(path, old)
        except _Unstable:
            self._drop(*before)
            if len(self._again) < MOST_UNSETTLED:
                self._again[path] = old
            else:
                self._leave(path, old)
            return
        if record is not None:
            if record.new == old and record.spooled.length:
                self.healed.append(path)
            elif record.new != old and is_unchanged:
                self._source.distrust(path)
            self._keep(record)
        else:
            self._lost.add(path)
            self._add(old, PastNothing(path))

    def _drop(self, incoming_number: int, spool_end: int, spooled: int) -> None:
        """Forget what was put aside since."""
        while self._incoming_number > incoming_number:
            os.unlink(b"%d" % self._incoming_number, dir_fd=self._incoming)
            self._incoming_number -= 1
        self._spool_end, self._spooled = spool_end, spooled

    def _leave(self, path: bytes, old: PastEntry) -> None:
        """Leave an unsettled file as it was in the newest point, where it was a file."""
        if len(self.unsettled) < MOST_UNSETTLED:
            self.unsettled.append(path)
        if isinstance(old, PastFile):
            self._keep(Record(old, old))
        else:
            self._lost.add(path)
            self._add(old, PastNothing(path))

    def _add(self, old: PastEntry, new: PastEntry, *, is_kept: bool = False) -> None:
        """Note what is no file now."""
        if old == new and not is_kept:
            return
        section = None
        if isinstance(old, PastFile) and self._writer is not None:
            section = self._old_file(self._writer, old)
        self._keep(Record(old, new, reverse=section))

    def _keep(self, record: Record) -> None:
        if self._is_late:
            self._late[record.new.path] = record
        else:
            self._records.add(record.packed())

    def _old_file(self, writer: FormWriter, old: PastFile) -> Section:
        """Write a file of the newest point, which is one no more, to the delta."""
        offset = writer.data_bytes
        with closing_descriptor(self._newest.open_file(old.path)) as fd:
            reads = _Reads(fd, old.size)
            for at in range(0, old.size, PIECE):
                for chunk in encode_chunks(at // BLOCK, reads.piece(at)):
                    writer.data(chunk)
                self._count(0)
            reads.end()
        return Section(False, offset, writer.data_bytes - offset)

    def _read(self, path: bytes, old: PastEntry) -> Record | None:
        """Read a file; return None where there is none any more."""
        source = self._source
        try:
            fd = self._directories.open_file(path)
        except OSError as error:
            if gone(error):
                self._directories.close()
                return None
            if error.errno in _REPLACED:
                self._directories.close()
                raise _Unstable from error
            unreadable(path, error)
        try:
            with closing_descriptor(fd):
                first = source.rule.before_reading(fd)
                if not stat.S_ISREG(first.st_mode):
                    raise _Unstable
                mode, _ = member_mode(stat.S_IMODE(first.st_mode))
                attributes, mode = source.attributes.read(fd, first, mode)
                spooled, reverse, digest = self._contents(path, fd, first.st_size, old)
                identity, stamp = seen_as(first)
                node = FileNode(0, 0, 0, identity, stamp)
                is_settled = source.rule.after_reading(fd, node, first)
                if not is_settled and not source.rule.is_steady(fd, first):
                    raise _Unstable
        except OSError as error:
            unreadable(path, error)
        if reverse is not None:
            reverse = self._written(reverse.length)
        new = PastFile(path, mode, clamped_mtime(first), first.st_size, digest, attributes)
        inode = first.st_dev.to_bytes(8, "little") + first.st_ino.to_bytes(8, "little")
        return Record(old, new, spooled, reverse, inode + stamp if is_settled else b"")

    def _written(self, length: int) -> Section:
        """Write the chunks of what is replaced in a file to the delta."""
        writer = self._writer
        assert writer is not None  # noqa: S101 - where a file was, there is a point
        offset = writer.data_bytes
        for at in range(0, length, PIECE):
            writer.data(os.pread(self._old, min(PIECE, length - at), at))
        if length > PIECE:
            os.ftruncate(self._old, 0)
        return Section(True, offset, length)

    def _contents(
        self, path: bytes, fd: int, size: int, old: PastEntry
    ) -> tuple[Spooled, Section | None, bytes]:
        """Put aside what is new of a file; return that, what is old in `_old`, and the digest."""
        if not isinstance(old, PastFile):
            return self._whole(fd, size)
        digest = sha256()
        begin, kept = self._spool_end, 0
        with closing_descriptor(self._newest.open_file(path)) as copy:
            reads = (_Reads(copy, old.size), _Reads(fd, size))
            for at in range(0, max(size, old.size), PIECE):
                before, now = (each.piece(at) for each in reads)
                if len(now) < min(PIECE, max(size - at, 0)):
                    raise _Unstable
                digest.update(now)
                self._count(0)
                forward, reverse = differences(before, now, at)
                if reverse:
                    write_at(self._old, memoryview(reverse), kept)
                    kept += len(reverse)
                if forward:
                    write_at(self._spool, memoryview(forward), self._spool_end)
                    self._spool_end += len(forward)
                    self._count(len(forward))
            for each in reads:
                each.end()
        spooled = Spooled(b"", begin, self._spool_end - begin)
        return spooled, Section(True, 0, kept), digest.digest()

    def _whole(self, fd: int, size: int) -> tuple[Spooled, Section | None, bytes]:
        """Copy a new file."""
        digest = sha256()
        self._incoming_number += 1
        name = b"%d" % self._incoming_number
        reads = _Reads(fd, size)
        with closing_descriptor(os.open(name, _MAKE, 0o600, dir_fd=self._incoming)) as target:
            os.ftruncate(target, size)
            for at in range(0, size, PIECE):
                piece = reads.piece(at)
                if len(piece) < min(PIECE, size - at):
                    raise _Unstable
                digest.update(piece)
                write_data(target, piece, at)
                self._count(len(piece))
        reads.end()
        return Spooled(name), None, digest.digest()

    def _count(self, size: int) -> None:
        self._spooled += size
        self._check(self._spooled)


class _Reads:
    """Reads a file in pieces, from its beginning, and leaves the page cache as it was."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._kept = PageCacheKeeper(fd, size, PIECE)

    def piece(self, at: int) -> bytes:
        """Return a piece, which is shorter where the file has less than its size."""
        length = min(PIECE, self._size - at)
        if length <= 0:
            return b""
        self._kept.before(at)
        data = os.pread(self._fd, length, at)
        while len(data) < length and (
            more := os.pread(self._fd, length - len(data), at + len(data))
        ):
            data += more
        return data

    def end(self) -> None:
        """Give back the last pieces."""
        self._kept.give_back()


class FrameFile:
    """Values, as bytes, in the new file `fd`, which stays the caller's: written, and then read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = 0
        self._pending = bytearray()

    def add(self, value: bytes) -> None:
        """Add a value."""
        self._pending += _LENGTH.pack(len(value)) + value
        if len(self._pending) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        write_at(self._fd, memoryview(bytes(self._pending)), self._size)
        self._size += len(self._pending)
        self._pending.clear()

    def __iter__(self) -> Iterator[bytes]:
        at, buffer, start = 0, b"", 0
        while True:
            end = start + _LENGTH.size
            if end <= len(buffer):
                end += _LENGTH.unpack_from(buffer, start)[0]
            if end > len(buffer):
                more = os.pread(self._fd, max(_BUFFER, end - len(buffer)), at)
                if not more:
                    return
                buffer, start, at = buffer[start:] + more, 0, at + len(more)
                continue
            yield buffer[start + _LENGTH.size : end]
            start = end
