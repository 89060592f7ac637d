"""Reads the files of a server that differ from the newest point, to make the next point. Blocking.

Each file is taken as it was at one moment: it is read, and was not changed meanwhile, by the rule
of `moves.unchanged`. One that was is read again, a few times, and is then left as it was in the
newest point: it is unsettled. New contents are put aside until the delta is durable: whole files
in a directory, changed blocks of others in a file without a name.

The copy of a file that has changed becomes its past, so its digest is checked as well. A copy that
is damaged is replaced by the whole file.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from heapq import heapify, heappop, heapreplace
from random import Random
from struct import Struct
from tempfile import TemporaryFile
from typing import Any, NamedTuple, NoReturn

from attrs import define, field, frozen

from wingsd.archive.policy import member_mode
from wingsd.errors import FrameRefused, StorageError
from wingsd.filesystem.attributes import EVERYTHING, AttributeReader
from wingsd.filesystem.open_directories import OpenDirectories, closing_descriptor
from wingsd.filesystem.walk import FirstNames, gone, opened, unreadable
from wingsd.history.format import (
    BLOCK,
    DISK_ERRORS,
    ENTRY_TYPES,
    MAX_SIZE,
    PIECE,
    SECTOR,
    FileChunk,
    FileHash,
    FormWriter,
    Holes,
    PastDirectory,
    PastEntry,
    PastFile,
    PastHardLink,
    PastLink,
    PastNothing,
    Section,
    differences,
    encode_chunks,
    hole_differences,
    parts_of,
    piece_digest,
    pieces_of,
    read_chunks,
    read_fully,
)
from wingsd.history.newest import NewestTree, write_data
from wingsd.moves.applier import write_at
from wingsd.moves.filling import PageCacheKeeper
from wingsd.moves.nodes import (
    DirectoryNode,
    FileNode,
    LinkNode,
    TreeEntry,
    tree_key,
)
from wingsd.moves.scan import Scan, clamped_mtime, seen_as
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import MoveTree
from wingsd.moves.unchanged import KERNEL, KernelCalls, MeasuredFileSystems, UnchangedFiles
from wingsd.util.text import disk_advice, display

TRIES = 4
"""How often a file is read that is changed meanwhile."""

REREAD = 1 / 500
"""The share of unchanged files that are read nevertheless: so each of them is, some day."""

MOST_UNSETTLED, MOST_PATHS = 10_000, 8 << 20
"""The most files that are read again, and that are listed as unsettled; bytes of their paths."""

_PAUSE = 0.3
#: Errors of opening a file whose place something of another kind has taken.
_REPLACED = (errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_SCANS = 5
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_LENGTH = Struct("<I")
_BUFFER = 256 << 10
#: Device and inode number, before each stamp.
_IDENTITY = Struct("<QQ")


class Spooled(NamedTuple):
    """New contents of a file that were put aside: a new file with a name, or chunks of one."""

    incoming: bytes
    offset: int = 0
    length: int = 0

    @property
    def is_empty(self) -> bool:
        """True if the contents are those of the newest point."""
        return not self.incoming and not self.length


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
        old, new = ((ENTRY_TYPES.index(type(each)), *each) for each in (self.old, self.new))
        section = None if self.reverse is None else tuple(self.reverse)
        return marshal.dumps((old, new, tuple(self.spooled), section, self.stamp))

    @classmethod
    def unpacked(cls, data: bytes) -> Record:
        """Return what was packed."""
        old, new, spooled, section, stamp = marshal.loads(data)  # noqa: S302 - by this process
        return cls(
            ENTRY_TYPES[old[0]](*old[1:]),
            ENTRY_TYPES[new[0]](*new[1:]),
            Spooled(*spooled),
            None if section is None else Section(*section),
            stamp,
        )


def joined(*streams: Iterable[tuple[bytes, Any]]) -> Iterator[tuple[bytes, list[Any]]]:
    """Yield each path of some sorted streams, with what each of them has, None for nothing."""
    heads: list[tuple[bytes, int, bytes, Any, Iterator[tuple[bytes, Any]]]] = []
    for number, rest in enumerate(map(iter, streams)):
        if (first := next(rest, None)) is not None:
            heads.append((tree_key(first[0]), number, *first, rest))
    # a stream has a path once: nothing behind the number is compared
    heapify(heads)
    while heads:
        key, _, path, _, _ = heads[0]
        found: list[Any] = [None] * len(streams)
        while heads and heads[0][0] == key:
            _, number, _, item, rest = heads[0]
            found[number] = item
            if (following := next(rest, None)) is None:
                heappop(heads)
            else:
                heapreplace(heads, (tree_key(following[0]), number, *following, rest))
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
        #: Files that were unsettled when they were read last: while a server runs, read once.
        self.hot: frozenset[bytes] = frozenset()
        #: Those of them that could not be read, since the server's disk has lost a part of them.
        self.lost: frozenset[bytes] = frozenset()
        #: Called again and again while names are read, and what is noted of them; it may raise.
        self.check_work: Callable[[], None] = lambda: None
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
        seen = SeenDirectories(most=0)
        scan = Scan(lambda line: None, self.attributes, scratch, seen, most_plain=MAX_SIZE)
        scan.check = self.check_work
        return scan.run(self.root)


class _Unstable(Exception):
    """A file was changed while it was read, or something else has taken its place."""


class _Unreadable(Exception):
    """The server's disk has lost a file, or a part of it."""


class _TooLarge(Exception):
    """A file is larger than one that a history may have."""


class _Unsettled(NamedTuple):
    """A file that is to be read again: what it was, and whether it has further names."""

    old: PastEntry
    is_linked: bool


@define(eq=False, repr=False, slots=False)
class Capture:
    """Finds what is not as in the newest point, whose files are in `newest`, and puts it aside.

    `writer` is that of the delta, and gets what is replaced; without one there is no point yet.
    New files come into the directory for these. `check` is called with the bytes that were put
    aside, after each piece that was read, and may raise. `suspect` are files whose copies may be
    damaged, None for all: they are read in any case. `close` must be called. Methods raise
    StorageError and OSError.
    """

    _source: HistorySource
    _newest: NewestTree
    _writer: FormWriter | None
    _scratch: str
    _check: Callable[[int], None]
    _suspect: frozenset[bytes] | None = frozenset()
    #: Files that stay as they were: changed each time that they were read, or unreadable.
    unsettled: list[bytes] = field(init=False, factory=list)
    #: Those of them that are unreadable.
    lost: list[bytes] = field(init=False, factory=list)
    #: Files whose copy was damaged and is replaced, and whether what they had before is lost.
    damaged: dict[bytes, bool] = field(init=False, factory=dict)
    #: Bytes on the disk by which the newest tree will grow, at most; it may shrink.
    growth: int = field(init=False, default=0)
    #: Bytes of new contents, and those in the file without a name.
    _spooled: int = field(init=False, default=0)
    _spool_end: int = field(init=False, default=0)
    #: Records are sorted no more: files are read again.
    _is_late: bool = field(init=False, default=False)
    _late: dict[bytes, Record] = field(init=False, factory=dict)
    #: Files that are to be read again, and names of files that are.
    _again: dict[bytes, _Unsettled] = field(init=False, factory=dict)
    _links: list[tuple[bytes, bytes, PastEntry]] = field(init=False, factory=list)
    #: Bytes of the paths of files to be read again, and of unsettled ones.
    _again_bytes: int = field(init=False, default=0)
    _unsettled_bytes: int = field(init=False, default=0)
    #: The first names of files with several: what has one of them in this point.
    _firsts: FirstNames = field(init=False, factory=FirstNames)
    #: Unsettled files that stay what they were, by the digests of their paths.
    _left: set[bytes] = field(init=False, factory=set)
    _incoming_number: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._stack = ExitStack()
        self._spool, self._old = self._temporary(), self._temporary()
        self._records = FrameFile(self._temporary(), self._source.check_work)
        self._directories = OpenDirectories(self._source.root)
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
        *,
        is_running: bool = True,
    ) -> None:
        """Look at all files. `catalogue` has the newest point, `stamps` its settled files.

        With `is_running` files that were unsettled before are read once.
        """
        source = self._source
        self._hot, source.hot = source.hot if is_running else frozenset[bytes](), frozenset()
        source.rule.begin(shares=source.shares_flushes)
        tree = source.scan(self._scratch)
        with closing(tree.store):
            for path, (node, old, stamp) in joined(tree.walk(), catalogue(), stamps):
                if node is not None or old is not None:
                    self._look(path, node, old or PastNothing(path), stamp)
        source.rule.end()
        self._is_late = True
        for attempt in range(1, TRIES):
            if not self._again:
                break
            source.kernel.pause(_PAUSE * attempt)
            source.rule.begin()
            self._directories.close()
            again, self._again, self._again_bytes = self._again, {}, 0
            for path, (old, is_linked) in again.items():
                self._file(path, old, is_linked=is_linked)
            source.rule.end(keeps=True)
        for path, (old, _) in self._again.items():
            self._leave(path, old)
        self._again_bytes = MOST_PATHS  # nothing more is read again
        for path, first, old in self._links:
            self._link(path, first, old)
        self._records.flush()
        source.hot, source.lost = frozenset(self.unsettled), frozenset(self.lost)

    def records(self) -> Iterator[Record]:
        """Yield what was found, sorted; what is as it was may be among it."""
        written = ((record.new.path, record) for record in map(Record.unpacked, self._records))
        late = sorted(self._late.items(), key=lambda item: tree_key(item[0]))
        for _, (first, second) in joined(written, late):
            yield second or first

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
        elif isinstance(node, LinkNode):
            if node.names[0] == path:
                self._add(old, PastLink(path, node.mtime, node.target))
            else:
                self._add(old, PastHardLink(path, node.names[0]))
        elif node.names[0] != path:
            self._link(path, node.names[0], old)
        else:
            self._look_at_file(path, node, old, stamp)

    def _look_at_file(
        self, path: bytes, node: FileNode, old: PastEntry, stamp: bytes | None
    ) -> None:
        is_linked = len(node.names) > 1
        if stamp is None or not isinstance(old, PastFile) or not self._is_unchanged(stamp, node):
            self._file(path, old, is_linked=is_linked)
        elif self._is_to_be_read(path):
            self._file(path, old, is_linked=is_linked, carried=stamp)
        elif is_linked and node.identity is not None:
            self._firsts.add(node.identity, path)

    def _is_to_be_read(self, path: bytes) -> bool:
        """Return whether an unchanged file is read nevertheless."""
        is_suspect = self._suspect is None or path in self._suspect
        return is_suspect or self._source.rng.random() < REREAD

    def _is_unchanged(self, stamp: bytes, node: FileNode) -> bool:
        identity = _IDENTITY.unpack_from(stamp)
        return self._source.rule.unchanged((identity, stamp[_IDENTITY.size :]), node)

    def _link(self, path: bytes, first: bytes, old: PastEntry) -> None:
        """Look at a further name of a file, whose first name was looked at before."""
        if first in self._again and not self._is_late:
            self._links.append((path, first, old))
            return
        try:
            parent, name = self._directories.place(path)
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if not gone(error) and error.errno not in (*_REPLACED, *DISK_ERRORS):
                unreadable(path, error)
            now = None
        else:
            now = self._firsts.get((found.st_dev, found.st_ino))
        if now is not None and tree_key(now) < tree_key(path):
            self._add(old, PastHardLink(path, now))
        else:  # the first name is gone, has become another file, or is unsettled
            self._file(path, old, is_linked=True)

    def _file(
        self, path: bytes, old: PastEntry, *, is_linked: bool, carried: bytes | None = None
    ) -> None:
        """Read a file. It was `carried` over unread, with this stamp, but for a test."""
        before = (self._incoming_number, self._spool_end, self._spooled, self.growth)
        try:
            read = self._read(path, old)
        except (_Unstable, _Unreadable, _TooLarge) as error:
            self._drop(*before)
            self.damaged.pop(path, None)
            has_room = self._again_bytes + len(path) < MOST_PATHS
            is_tried_again = has_room and len(self._again) < MOST_UNSETTLED
            if isinstance(error, _Unstable) and is_tried_again and path not in self._hot:
                self._again[path] = _Unsettled(old, is_linked)
                self._again_bytes += len(path)
            else:
                self._leave(path, old, is_lost=isinstance(error, _Unreadable))
            return
        if read is None:
            self._add(old, PastNothing(path))
            return
        record, found = read
        if is_linked:
            self._firsts.add((found.st_dev, found.st_ino), path)
        if carried is not None and record.stamp == carried:
            if record.new != old:
                self._source.distrust(path)
            elif record.spooled.is_empty:
                return  # it is as it was, and so is its copy
        self._keep(record)

    def _drop(self, incoming_number: int, spool_end: int, spooled: int, growth: int) -> None:
        """Forget what was put aside since."""
        while self._incoming_number > incoming_number:
            os.unlink(b"%d" % self._incoming_number, dir_fd=self._newest.incoming)
            self._incoming_number -= 1
        self._spool_end, self._spooled, self.growth = spool_end, spooled, growth

    def _leave(self, path: bytes, old: PastEntry, *, is_lost: bool = False) -> None:
        """Leave an unsettled file as it was in the newest point, where that is possible."""
        if len(self.unsettled) < MOST_UNSETTLED and self._unsettled_bytes + len(path) < MOST_PATHS:
            self.unsettled.append(path)
            if is_lost:
                self.lost.append(path)
            self._unsettled_bytes += len(path)
        if isinstance(old, PastFile):
            self._left.add(piece_digest(path))
            self._keep(Record(old, old))
        elif isinstance(old, PastHardLink) and piece_digest(old.first) in self._left:
            self._keep(Record(old, old))
        else:
            self._add(old, PastNothing(path))

    def _add(self, old: PastEntry, new: PastEntry) -> None:
        """Note what is no file now."""
        if old == new:
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
        digest = FileHash()
        with self._newest.copy(old.path, old.size) as copy:
            self.growth -= copy.on_disk
            for at in pieces_of(copy.holes, digest):
                before = copy.piece(at, b"")
                digest.add(before)
                for chunk in encode_chunks(at // BLOCK, before):
                    writer.data(chunk)
                self._count(0)
        if digest.digest() != old.digest:
            self.damaged[old.path] = True
        return Section(False, offset, writer.data_bytes - offset)

    def _read(self, path: bytes, old: PastEntry) -> tuple[Record, os.stat_result] | None:
        """Read a file; return what was found and its stat result, None if it was deleted."""
        source = self._source
        try:
            fd = self._directories.open_file(path)
        except OSError as error:
            if gone(error) or error.errno in _REPLACED:
                self._directories.close()
            if gone(error):
                return None
            if error.errno in _REPLACED:
                raise _Unstable from error
            self._fail(path, error)
        with closing_descriptor(fd):
            try:
                first = source.rule.before_reading(fd)
                if not stat.S_ISREG(first.st_mode):
                    raise _Unstable
                mode, _ = member_mode(stat.S_IMODE(first.st_mode))
                attributes, mode = source.attributes.read(fd, first, mode)
            except OSError as error:
                self._fail(path, error)
            try:
                spooled, reverse, digest = self._contents(path, _Reads(fd, first), old)
            except _ReadFailed as failed:
                self._fail(path, failed.error)
            identity, stamp = seen_as(first)
            node = FileNode(0, 0, 0, identity, stamp)
            is_settled = source.rule.after_reading(fd, node, first)
            if not is_settled and not source.rule.is_steady(fd, first):
                raise _Unstable
        if reverse is not None:
            reverse = self._written(reverse.length)
        new = PastFile(path, mode, clamped_mtime(first), first.st_size, digest, attributes)
        seen = _IDENTITY.pack(first.st_dev, first.st_ino) + stamp
        record = Record(old, new, spooled, reverse, seen if is_settled else b"")
        return record, first

    def _fail(self, path: bytes, error: OSError) -> NoReturn:
        """Raise `_Unreadable` for a file that the server's disk has lost, or `_TooLarge`.

        Else raise StorageError.
        """
        if error.errno in (*DISK_ERRORS, errno.EFBIG):
            why = disk_advice(error)
            self._source.log(f"{display(path)} stays in the history as it was: {why}")
            if error.errno == errno.EFBIG:
                raise _TooLarge from error
            raise _Unreadable from error
        unreadable(path, error)

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
        self, path: bytes, reads: _Reads, old: PastEntry
    ) -> tuple[Spooled, Section | None, bytes]:
        """Put aside what is new of a file; return that, what is old in `_old`, and the digest."""
        if not isinstance(old, PastFile):
            spooled, digest = self._whole(reads)
            return spooled, None, digest
        was, found = FileHash(), FileHash()
        begin, kept = self._spool_end, 0
        with self._newest.copy(path, old.size) as copy:
            for at, end, is_hole in parts_of(copy.holes, reads.holes):
                if is_hole:
                    was.zeros(max(min(end, old.size) - at, 0))
                    found.zeros(max(min(end, reads.size) - at, 0))
                    forward, reverse = hole_differences(old.size, reads.size, at, end)
                else:
                    now = reads.piece(at)
                    before = copy.piece(at, now)
                    is_same = _add_pieces(was, before, found, now)
                    forward, reverse = (b"", b"") if is_same else differences(before, now, at)
                self._count(0)
                if reverse:
                    write_at(self._old, memoryview(reverse), kept)
                    kept += len(reverse)
                if forward:
                    write_at(self._spool, memoryview(forward), self._spool_end)
                    self._spool_end += len(forward)
                    self._count(len(forward))
            reads.end()
        spooled = Spooled(b"", begin, self._spool_end - begin)
        before_digest, digest = was.digest(), found.digest()
        self.growth -= copy.on_disk
        if copy.is_whole and before_digest == old.digest:
            self.growth += min(copy.on_disk + spooled.length, _rounded(reads.size))
        else:
            self._count(-spooled.length)
            self._spool_end = begin
            spooled, again = self._whole(reads)
            if again != digest:
                raise _Unstable
            self.damaged[path] = old.digest not in (before_digest, digest)
            if digest == old.digest:  # the file has what its copy has lost
                kept = 0
        return spooled, Section(True, 0, kept), digest

    def _whole(self, reads: _Reads) -> tuple[Spooled, bytes]:
        """Copy a whole file; return where to, and the digest."""
        digest = FileHash()
        self._incoming_number += 1
        name = b"%d" % self._incoming_number
        made = os.open(name, _MAKE, 0o600, dir_fd=self._newest.incoming)
        with closing_descriptor(made) as target:
            os.ftruncate(target, reads.size)
            for at in pieces_of(reads.holes, digest):
                piece = reads.piece(at)
                digest.add(piece)
                write_data(target, piece, at)
                self._count(len(piece))
            self.growth += min(os.fstat(target).st_blocks * SECTOR, _rounded(reads.size))
        reads.end()
        return Spooled(name), digest.digest()

    def _count(self, size: int) -> None:
        self._spooled += size
        self._check(self._spooled)


def _rounded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _add_pieces(was: FileHash, before: bytes, found: FileHash, now: bytes) -> bool:
    """Add the same piece of a copy and of its file to their hashes; return whether it is equal."""
    is_same = before == now
    digest = piece_digest(now) if now else b""
    found.add_digest(digest)
    if before:
        was.add_digest(digest if is_same else piece_digest(before))
    return is_same


class _ReadFailed(Exception):
    """A server's file could not be read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class _Reads:
    """Reads a server's file in pieces, and leaves the page cache as it was.

    Raises `_Unstable` as soon as the stat result is not `first` any more, and `_ReadFailed`.
    """

    def __init__(self, fd: int, first: os.stat_result) -> None:
        self._fd = fd
        self._seen_as = seen_as(first)
        self.size = first.st_size
        if self.size > MAX_SIZE:
            raise _ReadFailed(OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
        self._kept = PageCacheKeeper(fd, self.size, PIECE)
        self.holes = Holes(fd, self.size)

    def piece(self, at: int) -> bytes:
        """Return a piece, which is shorter at the end of the file."""
        length = min(PIECE, self.size - at)
        if length <= 0:
            return b""
        self._kept.before(at)
        try:
            data = read_fully(self._fd, length, at)
        except OSError as error:
            raise _ReadFailed(error) from error
        if len(data) < length or seen_as(os.fstat(self._fd)) != self._seen_as:
            raise _Unstable
        return data

    def end(self) -> None:
        """Give back the last pieces."""
        self._kept.give_back()


class FrameFile:
    """Values, as bytes, in the new file `fd`, which stays the caller's: written, and then read.

    `check` is called before each piece is written, and may raise.
    """

    def __init__(self, fd: int, check: Callable[[], None] = lambda: None) -> None:
        self._fd = fd
        self._check = check
        self._size = 0
        self._pending = bytearray()

    def add(self, value: bytes) -> None:
        """Add a value."""
        self._pending += _LENGTH.pack(len(value)) + value
        if len(self._pending) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        self._check()
        write_at(self._fd, memoryview(bytes(self._pending)), self._size)
        self._size += len(self._pending)
        self._pending.clear()

    def __iter__(self) -> Iterator[bytes]:
        at, buffer, start = 0, b"", 0
        limit = os.fstat(self._fd).st_size
        while True:
            end = start + _LENGTH.size
            if end <= len(buffer):
                end += _LENGTH.unpack_from(buffer, start)[0]
            if end > len(buffer):
                if end - len(buffer) > limit:
                    return  # of a damaged file
                more = os.pread(self._fd, max(_BUFFER, end - len(buffer)), at)
                if not more:
                    return
                buffer, start, at = buffer[start:] + more, 0, at + len(more)
                continue
            yield buffer[start + _LENGTH.size : end]
            start = end


class CheckedValues:
    """Values in the file `fd`, which stays the caller's, with a CRC: written at once, and read.

    `check` is as in `FrameFile`.
    """

    def __init__(self, fd: int, check: Callable[[], None] = lambda: None) -> None:
        self._frames = FrameFile(fd, check)

    def write(self, values: Iterable[Any]) -> None:
        """Write all values to the new file."""
        crc = 0
        for value in values:
            data = marshal.dumps(value)
            crc = zlib.crc32(data, crc)
            self._frames.add(data)
        self._frames.add(b"%d" % crc)
        self._frames.flush()

    def first(self) -> Any:
        """Return the first value. Raises ValueError where they are not whole, and OSError."""
        crc, first, last = 0, None, None
        for data in self._frames:
            if last is not None:
                crc = zlib.crc32(last, crc)
                first = last if first is None else first
            last = data
        if first is None or last != b"%d" % crc:
            raise ValueError("the values are not whole")
        return marshal.loads(first)  # noqa: S302 - this program has written it

    def __iter__(self) -> Iterator[Any]:
        """Yield the values after the first one, as far as they can be read now."""
        before = b""
        with suppress(OSError):
            for at, data in enumerate(self._frames):
                if at > 1:
                    yield marshal.loads(before)  # noqa: S302 - this program has written it
                before = data
