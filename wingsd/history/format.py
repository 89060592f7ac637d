"""The files of a history: catalogues and deltas. docs/history.md describes each byte of them.

Both are entries, sorted as a walk goes, one for each path. A catalogue has all paths of the newest
point. A delta has those paths that are not as in the next newer point, and what contents they
need. Contents are sections of one stream of bytes; a section has chunks of blocks of 4 KiB. Both
streams are cut into parts, compressed, each with a digest. Nothing here knows the files of a
server. Functions raise HistoryDamaged, HistoryVersionUnknown and OSError.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from hashlib import sha256
from itertools import groupby
from struct import Struct
from typing import Any, NamedTuple, TypeVar, cast

import pyzstd
from attrs import define, field, frozen

from wingsd.archive.policy import MAX_COMPONENT
from wingsd.errors import HistoryDamaged, HistoryVersionUnknown
from wingsd.filesystem.attributes import decode_attributes
from wingsd.filesystem.open_directories import closing_descriptor
from wingsd.moves.applier import write_at
from wingsd.moves.digests import block_digest
from wingsd.moves.nodes import tree_key
from wingsd.util.text import reading_advice

VERSION = 1
"""The version of the format."""

BLOCK = 4096
"""Bytes of a block."""

SECTOR = 512
"""Bytes of `st_blocks`, whatever the block size; stat(2)."""

CHUNK = 256
"""The most blocks of a chunk that has data."""

PIECE = 256 << 10
"""Bytes of a file that are hashed, read, compared or copied at a time.

They stay in a processor's own cache.
"""

PART = 256 << 10
"""Bytes of each part of the data but the last, before it is compressed."""

ENTRY_PART = 32 << 10
"""The same for entries: of a thousand deltas, one part of each is in memory."""

MAX_SIZE = 16 << 40
"""The most bytes of a file: those of ext4. Even holes take time."""

MAX_PATH = 0xFFFF
"""The most bytes of a path, and of other texts."""

DISK_ERRORS = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA)
"""Errors of files, or of what the file system keeps of them, that the disk has lost."""

T = TypeVar("T")
_MAGIC = b"WHISTORY"
#: Magic, version, kind, zero, point, next newer point.
_HEADER = Struct("<8sHHIQQ")
#: Type, bytes, bytes as stored, digest.
_HEAD = Struct("<BII16s")
#: Where a part begins, and its head but the digest, of which it is one, too.
_PLACE = Struct("<QBII")
#: Where the last part begins.
_TRAILER = Struct("<Q8s")
_TRAILER_MAGIC = b"WHISTEND"
_TAG_ROOT = b"wingsd history 1 root\n"
#: Zstandard's level for contents, and the window, which a part fits.
_LEVEL, _WINDOW = 3, 18
#: The most bytes of the end: its parts make 9 for each 256 KiB of data, and paths the rest.
MAX_END = 64 << 20
#: Time, label, root, files, bytes; bytes of entries, of data, count of unsettled paths.
_INFO = Struct("<qB32sQQ")
_STREAMS = Struct("<QQI")
_COUNT = Struct("<I")
_POSITION = Struct("<BQ")
_MAX_MODE = 0o777
_LENGTH = Struct("<H")
_SECTION = Struct("<BQQ")
_CHUNK = Struct("<QI")
_ZEROS = 1 << 31


class FormKind(IntEnum):
    """The kinds of files of a history."""

    CATALOGUE = 1
    DELTA = 2


class PartType(IntEnum):
    """The types of parts."""

    DATA = 1
    ENTRIES = 2
    END = 3


_PART_BYTES = {PartType.DATA: PART, PartType.ENTRIES: ENTRY_PART}


class PointLabel(IntEnum):
    """The state of the server while its files were read for a point."""

    RUNNING = 0
    STOPPED = 1


class PastNothing(NamedTuple):
    """A path at which there was nothing. In deltas only."""

    path: bytes


class PastFile(NamedTuple):
    """A regular file, under the first of its names. `digest` is that of `FileHash`."""

    path: bytes
    mode: int
    mtime: int
    size: int
    digest: bytes
    attributes: bytes = b""


class PastLink(NamedTuple):
    """A symlink."""

    path: bytes
    mtime: int
    target: bytes


class PastHardLink(NamedTuple):
    """A further name of the file, or symlink, that has the path `first`."""

    path: bytes
    first: bytes


class PastDirectory(NamedTuple):
    """A directory; the path of the server's own is empty."""

    path: bytes
    mode: int
    mtime: int
    attributes: bytes = b""


PastEntry = PastNothing | PastFile | PastLink | PastHardLink | PastDirectory

ENTRY_TYPES: tuple[Any, ...] = (PastNothing, PastFile, PastLink, PastHardLink, PastDirectory)
"""The types of entries, in the order of their kinds."""

_KINDS: dict[type, int] = {each: kind for kind, each in enumerate(ENTRY_TYPES)}
_NOTHING, _FILE, _LINK, _HARD_LINK, _DIRECTORY = range(len(ENTRY_TYPES))
#: Kind, bytes of the path.
_ENTRY = Struct("<BH")
#: What is between the path of an entry and the text at its end, whose length is the last of these.
_FIXED = {kind: Struct(f) for kind, f in ((1, "<HqQ32sH"), (2, "<qH"), (3, "<H"), (4, "<HqH"))}

Select = Callable[[bytes], bool | None]
"""Selects entries by their paths: whether one is wanted, or None where no more are."""


def every_path(path: bytes) -> bool:
    """Select all entries."""
    return True


class Section(NamedTuple):
    """The contents of a file in a delta: a section of its data.

    With `is_based` the chunks replace blocks of the file in the next newer point, after that was
    cut, or extended by zeros, to the size in the entry. Otherwise they are of an empty file.
    """

    is_based: bool
    offset: int
    length: int


Change = tuple[PastEntry, Section | None]
"""An entry of a delta, with its section where it is a file."""


@frozen
class Point:
    """A point in time. `time` is when reading began, in ns since 1970.

    `root` is the digest of all its entries, `files` the number of its regular files, `size` their
    bytes. `unsettled` are files that were changed each time while they were read: the point has
    them as the point before it, or not at all.
    """

    number: int
    time: int
    label: PointLabel
    root: bytes
    files: int
    size: int
    unsettled: tuple[bytes, ...] = ()


def _text(text: bytes) -> bytes:
    return _LENGTH.pack(len(text)) + text


def encode_entry(entry: PastEntry) -> bytes:
    """Return the bytes of an entry."""
    kind = _KINDS[type(entry)]
    path, *fixed = cast("tuple[Any, ...]", entry)
    raw: bytes = _ENTRY.pack(kind, len(path)) + path
    if kind != _NOTHING:
        text = fixed.pop()
        raw += _FIXED[kind].pack(*fixed, len(text)) + text
    return raw


class FileHash:
    """The digest of a file: the SHA-256 of the SHA-256s of its pieces, the last of which is short.

    So a hole costs nearly nothing. Each piece begins at a multiple of `PIECE`.
    """

    def __init__(self) -> None:
        self._hash = sha256()

    def add(self, piece: bytes) -> None:
        """Add the next piece."""
        self.add_digest(piece_digest(piece))

    def add_digest(self, digest: bytes) -> None:
        """Add the next piece by its `piece_digest`."""
        self._hash.update(digest)

    def zeros(self, length: int) -> None:
        """Add pieces of zeros, of which the file may have the last one."""
        pieces, rest = divmod(length, PIECE)
        for _ in range(pieces // _ZERO_PIECES):
            self._hash.update(_ZERO_DIGESTS)
        self._hash.update(_ZERO_DIGEST * (pieces % _ZERO_PIECES))
        if rest:
            self._hash.update(sha256(bytes(rest)).digest())

    def digest(self) -> bytes:
        """Return the digest."""
        return self._hash.digest()


_ZERO_PIECE, _ZERO_PIECES = bytes(PIECE), 4096
_ZERO_DIGEST = sha256(_ZERO_PIECE).digest()
_ZERO_DIGESTS = _ZERO_DIGEST * _ZERO_PIECES


def piece_digest(piece: bytes) -> bytes:
    """Return the SHA-256 of a piece of a file."""
    return _ZERO_DIGEST if piece == _ZERO_PIECE else sha256(piece).digest()


class Holes:
    """The holes of a file of `size` bytes that is open, as `fd`: they need not be read.

    With a negative descriptor nothing is known.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._is_sparse = fd >= 0 and os.fstat(fd).st_blocks * SECTOR < size

    def end(self, at: int) -> int:
        """Return where the next piece that has data begins: at `at`, or after a hole."""
        if at >= self.size:
            return MAX_SIZE
        if self._is_sparse:
            try:
                return os.lseek(self.fd, at, os.SEEK_DATA) // PIECE * PIECE
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole follows
                    return MAX_SIZE
                self._is_sparse = False  # no holes are known here, or reading says what is wrong
        return at


def pieces_of(holes: Holes, digest: FileHash) -> Iterator[int]:
    """Yield where the pieces of a file begin that are in no hole; add the others to `digest`."""
    for at, end, is_hole in parts_of(holes):
        if is_hole:
            digest.zeros(end - at)
        else:
            yield at


def parts_of(*files: Holes) -> Iterator[tuple[int, int, bool]]:
    """Yield the parts of some files: where each begins and ends, and whether it is a hole in all.

    Others are single pieces. Beyond the end of a file is a hole.
    """
    at, size = 0, max(each.size for each in files)
    while at < size:
        end = min(size, *(each.end(at) for each in files))
        is_hole = end > at
        end = end if is_hole else min(at + PIECE, size)
        yield at, end, is_hole
        at = end


class RootHash:
    """The root of entries, in their order, and how many files and bytes they are."""

    def __init__(self) -> None:
        self._hash = sha256(_TAG_ROOT)
        self.files = self.size = 0

    def add(self, entry: PastEntry) -> bytes:
        """Add the next entry, and return its bytes."""
        raw = encode_entry(entry)
        self._hash.update(raw)
        if isinstance(entry, PastFile):
            self.files += 1
            self.size += entry.size
        return raw

    def digest(self) -> bytes:
        """Return the root."""
        return self._hash.digest()


class CheckedRoot(RootHash):
    """The root of entries that were read, each of which has to be in a directory of the point."""

    def __init__(self) -> None:
        super().__init__()
        #: The paths of the directories that the next entry may be in, each in the one before.
        self._above: list[bytes] = []
        self._is_sound = True

    def add(self, entry: PastEntry) -> bytes:
        """Add the next entry, and return its bytes."""
        path, above = entry.path, self._above
        parent = path.rpartition(b"/")[0]
        while above and above[-1] != parent:
            above.pop()
        self._is_sound = self._is_sound and bool(above or not path)
        if isinstance(entry, PastDirectory):
            above.append(path)
        return super().add(entry)

    def matches(self, point: Point) -> bool:
        """Return whether the entries are those of a point."""
        found = (self.digest(), self.files, self.size)
        return self._is_sound and found == (point.root, point.files, point.size)

    def require(self, point: Point) -> None:
        """Raise HistoryDamaged where the entries are not those of a point."""
        if not self.matches(point):
            raise HistoryDamaged(f"point {point.number}", "its entries do not have its root")


@define(eq=False, repr=False)
class FormWriter:
    """Writes a catalogue or a delta to the new file `fd`, which stays the caller's.

    Data by `data`, entries by `add`, each in its order, and then `finish`.
    """

    fd: int
    _kind: FormKind
    _number: int
    _newer: int = 0
    #: Bytes of the file so far.
    size: int = field(init=False, default=0)
    _header: bytes = field(init=False)
    _positions: list[tuple[int, int]] = field(init=False, factory=list)
    _pending: dict[PartType, bytearray] = field(init=False, factory=dict)
    _lengths: dict[PartType, int] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        fields = (self._kind, 0, self._number, self._newer)
        self._header = _HEADER.pack(_MAGIC, VERSION, *fields)
        for each in (PartType.DATA, PartType.ENTRIES):
            self._pending[each], self._lengths[each] = bytearray(), 0
        self._write(self._header)

    @property
    def data_bytes(self) -> int:
        """The bytes of data so far: where the next section begins."""
        return self._lengths[PartType.DATA]

    def data(self, data: bytes) -> None:
        """Add bytes to the data."""
        self._add(PartType.DATA, data)

    def add(self, entry: PastEntry, section: Section | None = None) -> None:
        """Add the next entry; files in deltas have a section."""
        raw = encode_entry(entry)
        self.add_encoded(raw if section is None else raw + _SECTION.pack(*section))

    def add_encoded(self, raw: bytes) -> None:
        """Add the bytes of the next entry."""
        self._add(PartType.ENTRIES, raw)

    def finish(self, point: Point) -> None:
        """Write what is left, and what the point is. Raises OSError if that is too much."""
        for each in (PartType.DATA, PartType.ENTRIES):
            if self._pending[each]:
                self._part(each, bytes(self._pending[each]))
        info = (point.time, point.label, point.root, point.files, point.size)
        lengths = (self._lengths[PartType.ENTRIES], self.data_bytes)
        parts = [_INFO.pack(*info), _STREAMS.pack(*lengths, len(self._positions))]
        parts += [_POSITION.pack(*each) for each in self._positions]
        parts += [_COUNT.pack(len(point.unsettled)), *map(_text, point.unsettled)]
        at, end = self.size, b"".join(parts)
        if len(end) > MAX_END:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self._part(PartType.END, end)
        self._write(_TRAILER.pack(at, _TRAILER_MAGIC))

    def _add(self, kind: PartType, data: bytes) -> None:
        pending = self._pending[kind]
        pending += data
        self._lengths[kind] += len(data)
        size = _PART_BYTES[kind]
        while len(pending) >= size:
            self._part(kind, bytes(pending[:size]))
            del pending[:size]

    def _part(self, kind: PartType, raw: bytes) -> None:
        self._positions.append((kind, self.size))
        stored = pyzstd.compress(
            raw, {pyzstd.CParameter.compressionLevel: _LEVEL, pyzstd.CParameter.windowLog: _WINDOW}
        )
        digest = _part_digest(self._header, self.size, kind, len(raw), stored)
        self._write(_HEAD.pack(kind, len(raw), len(stored), digest) + stored)

    def _write(self, data: bytes) -> None:
        write_at(self.fd, memoryview(data), self.size)
        self.size += len(data)


def _part_digest(header: bytes, at: int, kind: int, length: int, stored: bytes) -> bytes:
    return block_digest(header + _PLACE.pack(at, kind, length, len(stored)) + stored)


class FormReader:
    """Reads a catalogue or a delta. `name` is the file's, for errors.

    `opened` opens the file, for each read: a history has more deltas than a process descriptors.
    What cannot be read is damaged. Raises FileNotFoundError, and other errors of opening.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[int]], name: str) -> None:
        self._opened = opened
        self._name = name
        self.found = self._with_file(os.fstat)
        self.size = self.found.st_size
        self._header = self._read(0, _HEADER.size)
        magic, version, kind, zero, number, newer = _HEADER.unpack(self._header)
        if magic != _MAGIC:
            raise self.damaged("it does not begin as a file of a history does")
        if version != VERSION:
            self._header = _HEADER.pack(_MAGIC, VERSION, kind, zero, number, newer)
            if self._has_end():
                raise self.damaged("its version was changed")
            raise HistoryVersionUnknown(name, version, VERSION)
        if kind not in tuple(FormKind) or zero:
            raise self.damaged("its header makes no sense")
        self.kind = FormKind(kind)
        #: The next newer point of a delta.
        self.newer: int = newer
        self._cached: tuple[int, bytes] = (-1, b"")
        try:
            self._read_end(number, self._end())
        except (struct.error, ValueError) as error:
            raise self.damaged("its last part makes no sense") from error

    def _end(self) -> bytes:
        at, magic = _TRAILER.unpack(self._read(self.size - _TRAILER.size, _TRAILER.size))
        if magic != _TRAILER_MAGIC:
            raise self.damaged("it does not end as a file of a history does")
        return self._part(at, PartType.END, MAX_END)

    def _has_end(self) -> bool:
        """Return whether the end has the digest that it has with this header."""
        try:
            self._end()
        except HistoryDamaged:
            return False
        return True

    @classmethod
    def of(cls, fd: int, name: str) -> FormReader:
        """Return a reader of a file that is open, and stays so."""
        return cls(lambda: nullcontext(fd), name)

    @classmethod
    def at(cls, path: str | bytes, name: str, directory: int | None = None) -> FormReader:
        """Return a reader of the file at a path, which may be relative to an open directory."""
        flags = os.O_RDONLY | os.O_NOFOLLOW
        return cls(lambda: closing_descriptor(os.open(path, flags, dir_fd=directory)), name)

    def damaged(self, detail: str) -> HistoryDamaged:
        """Return the error of a file that is not as it was written."""
        return HistoryDamaged(self._name, detail)

    def _read_end(self, number: int, raw: bytes) -> None:
        time, label, root, files, size = _INFO.unpack_from(raw)
        at = _INFO.size
        self._entry_bytes, self.data_bytes, count = _STREAMS.unpack_from(raw, at)
        at += _STREAMS.size
        self._positions: dict[int, list[int]] = {PartType.DATA: [], PartType.ENTRIES: []}
        for _ in range(count):
            kind, position = _POSITION.unpack_from(raw, at)
            if kind not in self._positions:
                raise ValueError("a part has an unknown type")
            self._positions[kind].append(position)
            at += _POSITION.size
        (count,) = _COUNT.unpack_from(raw, at)
        at += _COUNT.size
        unsettled = []
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(raw, at)
            at += _LENGTH.size
            unsettled.append(_text_at(raw, at, length))
            at += length
        if at != len(raw):
            raise ValueError("something follows")
        for kind, length in (
            (PartType.DATA, self.data_bytes),
            (PartType.ENTRIES, self._entry_bytes),
        ):
            if len(self._positions[kind]) != -(-length // _PART_BYTES[kind]):
                raise ValueError("parts are missing")
        #: The point that this describes.
        self.point = Point(number, time, PointLabel(label), root, files, size, tuple(unsettled))

    def entries(self, select: Select = every_path) -> Iterator[Change]:
        """Yield the selected entries in their order, files of a delta with their sections."""
        is_delta = self.kind is FormKind.DELTA
        stream = _Entries(self._entry_parts(), select, is_delta=is_delta)
        try:
            yield from _checked(stream.changes(), self.data_bytes)
        except (struct.error, ValueError) as error:
            raise self.damaged(f"its entries make no sense: {error}") from error

    def _entry_parts(self) -> Iterator[bytes]:
        left = self._entry_bytes
        for at in self._positions[PartType.ENTRIES]:
            raw = self._part(at, PartType.ENTRIES, ENTRY_PART)
            if len(raw) != min(left, ENTRY_PART):
                raise self.damaged("a part has another length")
            left -= len(raw)
            yield raw

    def chunks(self, section: Section, size: int) -> Iterator[FileChunk]:
        """Yield the chunks of a section, of a file with `size` bytes."""
        try:
            yield from read_chunks(self.data, section.offset, section.length, size)
        except ValueError as error:
            raise self.damaged(f"a section makes no sense: {error}") from error

    def data(self, offset: int, length: int) -> bytes:
        """Return some of the data."""
        found = []
        while length > 0:
            number, start = divmod(offset, PART)
            piece = self._data_part(number)[start : start + length]
            if not piece:
                raise self.damaged("its data ends early")
            found.append(piece)
            offset += len(piece)
            length -= len(piece)
        return found[0] if len(found) == 1 else b"".join(found)

    def check_entries(self) -> None:
        """Check that all entries can be read, by the digests of their parts."""
        for _ in self._entry_parts():
            pass

    def copy(self, fd: int) -> None:
        """Write the same file to a new one."""
        for at in range(0, self.size, PART):
            write_at(fd, memoryview(self._read(at, min(PART, self.size - at))), at)

    def forget(self) -> None:
        """Forget the data that was read last, which takes memory."""
        self._cached = (-1, b"")

    def _data_part(self, number: int) -> bytes:
        if self._cached[0] != number:
            positions = self._positions[PartType.DATA]
            if number >= len(positions):
                raise self.damaged("its data ends early")
            raw = self._part(positions[number], PartType.DATA, PART)
            if len(raw) != min(self.data_bytes - number * PART, PART):
                raise self.damaged("a part has another length")
            self._cached = number, raw
        return self._cached[1]

    def _part(self, at: int, kind: PartType, most: int) -> bytes:
        found, length, stored, digest = _HEAD.unpack(self._read(at, _HEAD.size))
        if found != kind or length > most or stored > most + PART:
            raise self.damaged(f"the head of the part at byte {at} makes no sense")
        data = self._read(at + _HEAD.size, stored)
        if digest != _part_digest(self._header, at, kind, length, data):
            raise self.damaged(f"the part at byte {at} does not have its digest")
        try:
            raw = pyzstd.ZstdDecompressor().decompress(data, length + 1)
        except pyzstd.ZstdError as error:
            raise self.damaged(f"the part at byte {at} cannot be decompressed") from error
        if len(raw) != length:
            raise self.damaged(f"the part at byte {at} has another length")
        return raw

    def _read(self, at: int, length: int) -> bytes:
        if not 0 <= at <= at + length <= self.size:
            raise self.damaged(f"it has only {self.size} bytes")
        data = self._with_file(lambda fd: read_fully(fd, length, at))
        if len(data) < length:
            raise self.damaged(f"it has only {at + len(data)} bytes")
        return data

    def _with_file(self, function: Callable[[int], T]) -> T:
        try:
            with self._opened() as fd:
                return function(fd)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise self.damaged(f"it cannot be read: {reading_advice(error)}") from error
            raise


def _checked(changes: Iterable[Change], data_bytes: int) -> Iterator[Change]:
    last: bytes | None = None
    for entry, section in changes:
        key = tree_key(entry.path)
        if last is not None and key <= last:
            raise ValueError("they are not sorted")
        if section is not None and section.offset + section.length > data_bytes:
            raise ValueError("a section is beyond the data")
        last = key
        yield entry, section


def _check_values(kind: int, path: bytes, fixed: Sequence[Any], text: bytes) -> None:
    if kind == _HARD_LINK:
        check_path(text)
        if tree_key(text) >= tree_key(path):
            raise ValueError("a hard link comes before its first name")
        return
    if fixed[0] > _MAX_MODE:
        raise ValueError("a mode has other bits than permissions")
    if text:
        decode_attributes(text, is_directory=kind == _DIRECTORY)
    if kind == _FILE and fixed[2] > MAX_SIZE:
        raise ValueError("a file is too large")


def _text_at(raw: bytes, at: int, length: int) -> bytes:
    text = raw[at : at + length]
    if len(text) < length:
        raise struct.error("it ends in the middle")
    return text


#: Makes a named tuple of a tuple: in half the time, which counts for entries.
_new: Callable[[Any, tuple[Any, ...]], Any] = tuple.__new__


class _Entries:
    """Reads entries of parts."""

    def __init__(self, parts: Iterator[bytes], select: Select, *, is_delta: bool) -> None:
        self._parts = parts
        self._select = select
        self._is_delta = is_delta
        self._raw = b""
        self._at = 0
        #: The path of the last entry up to its name.
        self._above = b""

    def changes(self) -> Iterator[Change]:
        while True:
            try:
                # struct.error is raised where the entry goes on in the next part
                kind, length = _ENTRY.unpack_from(self._raw, self._at)
                at = self._at + _ENTRY.size
                path = _text_at(self._raw, at, length)
                at += length
                is_wanted = self._select(path)
                if is_wanted is None:
                    return
                if not is_wanted:
                    self._at = self._end(kind, at)
                    continue
                change = self._change(kind, path, at)
            except struct.error:
                part = next(self._parts, b"")
                if part:
                    self._raw = self._raw[self._at :] + part
                    self._at = 0
                    continue
                if self._at < len(self._raw):
                    raise
                return
            yield change

    def _end(self, kind: int, at: int) -> int:
        """Return the end of the entry whose rest begins at `at`."""
        if kind == _NOTHING:
            return at
        if kind not in _FIXED:
            raise ValueError(f"an entry is of the unknown kind {kind}")
        *_, length = _FIXED[kind].unpack_from(self._raw, at)
        end: int = at + _FIXED[kind].size + length
        if self._is_delta and kind == _FILE:
            end += _SECTION.size
        if end > len(self._raw):
            raise struct.error("it ends in the middle")
        return end

    def _change(self, kind: int, path: bytes, at: int) -> Change:
        """Return the entry whose rest begins at `at`."""
        raw, section = self._raw, None
        values: tuple[Any, ...] = (path,)
        self._check_path(path)
        if kind in _FIXED:
            *fixed, length = _FIXED[kind].unpack_from(raw, at)
            at += _FIXED[kind].size
            text = _text_at(raw, at, length)
            at += length
            values = (path, *fixed, text)
            if kind != _LINK:
                _check_values(kind, path, fixed, text)
        elif kind != _NOTHING or not self._is_delta:
            raise ValueError(f"an entry is of the unknown kind {kind}")
        if self._is_delta and kind == _FILE:
            is_based, offset, length = _SECTION.unpack_from(raw, at)
            section = _new(Section, (bool(is_based), offset, length))
            at += _SECTION.size
        if not path and kind != _DIRECTORY:
            raise ValueError("the server's directory is no directory")
        self._at = at
        return _new(ENTRY_TYPES[kind], values), section

    def _check_path(self, path: bytes) -> None:
        """Check a path; most are in the directory of the one before."""
        start = path.rfind(b"/") + 1
        if path and path[:start] == self._above:
            _check_name(path[start:])
        else:
            check_path(path)
            self._above = path[:start]


def read_fully(fd: int, length: int, at: int) -> bytes:
    """Return bytes of a file; fewer only where it ends."""
    data = os.pread(fd, length, at)
    while len(data) < length and (more := os.pread(fd, length - len(data), at + len(data))):
        data += more
    return data


def check_path(path: bytes) -> None:
    """Check a path of an entry. Raises ValueError."""
    if not path:
        return
    for name in path.split(b"/"):
        _check_name(name)


def _check_name(name: bytes) -> None:
    if name in (b"", b".", b"..") or len(name) > MAX_COMPONENT or b"\0" in name:
        raise ValueError("a path is no path below a directory")


# Chunks


class FileChunk(NamedTuple):
    """Bytes of a file from `at` on: `data`, or so many zeros where that is None."""

    at: int
    length: int
    data: bytes | None


def zero_runs(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield runs of blocks: the first one, the one behind the last, and whether all are zeros."""
    count = -(-len(data) // BLOCK)
    if count and _ZERO_BLOCK not in data and not _is_zero(data, count - 1):
        yield 0, count, False
        return
    yield from runs(count, lambda number: _is_zero(data, number))


def runs(count: int, test: Callable[[int], bool]) -> Iterator[tuple[int, int, bool]]:
    """Yield the runs of the numbers below `count` for which a test has the same result.

    Each is its first number, the one behind its last, and the result.
    """
    start = 0
    for result, run in groupby(range(count), test):
        end = start + sum(1 for _ in run)
        yield start, end, result
        start = end


_ZERO_BLOCK = bytes(BLOCK)


def _is_zero(data: bytes, number: int) -> bool:
    block = data[number * BLOCK : (number + 1) * BLOCK]
    return block == _ZERO_BLOCK[: len(block)]


def encode_chunks(first: int, data: bytes) -> Iterator[bytes]:
    """Yield the chunks of consecutive blocks from the number `first` on; the last may be short.

    Blocks of zeros are in chunks without data.
    """
    for start, end, is_zero in zero_runs(data):
        if is_zero:
            yield _CHUNK.pack(first + start, end - start | _ZEROS)
            continue
        for at in range(start, end, CHUNK):
            count = min(CHUNK, end - at)
            head = _CHUNK.pack(first + at, count)
            yield head + data[at * BLOCK : (at + count) * BLOCK]


def read_chunks(
    read: Callable[[int, int], bytes], offset: int, length: int, size: int
) -> Iterator[FileChunk]:
    """Yield the chunks of a section, which `read` returns by offset and length.

    `size` are the bytes of the file. Raises ValueError.
    """
    end, last = offset + length, 0
    while offset < end:
        if end - offset < _CHUNK.size:
            raise ValueError("it ends in the middle")
        first, count = _CHUNK.unpack(read(offset, _CHUNK.size))
        offset += _CHUNK.size
        is_zero, count = count >= _ZEROS, count % _ZEROS
        at = first * BLOCK
        covered = min(count * BLOCK, size - at)
        if first < last or covered <= 0 or (first + count - 1) * BLOCK >= size:
            raise ValueError("a chunk is not in the file")
        last = first + count
        if is_zero:
            yield FileChunk(at, covered, None)
            continue
        if count > CHUNK or covered > end - offset:
            raise ValueError("a chunk is too long")
        yield FileChunk(at, covered, read(offset, covered))
        offset += covered


def differences(old: bytes, new: bytes, at: int) -> tuple[bytes, bytes]:
    """Compare the same part of two files, which begins at the multiple `at` of a block.

    Return the chunks by which the old one becomes the new one, and those for the reverse. `old`
    and `new` are what the files have there, empty beyond their ends.
    """
    if old == new:
        return b"", b""
    forward = _differing(old, new)
    reverse = forward if len(old) == len(new) else _differing(new, old)
    return _chunks(new, forward, at // BLOCK), _chunks(old, reverse, at // BLOCK)


def hole_differences(old: int, new: int, at: int, end: int) -> tuple[bytes, bytes]:
    """Return the same as `differences` for a part from `at` to `end` that is a hole in both files.

    `old` and `new` are their sizes.
    """
    sizes = [max(min(each, end), at) for each in (old, new)]
    short, long = min(sizes), max(sizes)
    first, last = short // BLOCK, -(-long // BLOCK)
    runs = range(first, last if short < long else first, _ZEROS - 1)
    found = b"".join(_CHUNK.pack(each, min(last - each, _ZEROS - 1) | _ZEROS) for each in runs)
    return (found, b"") if old < new else (b"", found)


def _differing(base: bytes, target: bytes) -> list[tuple[int, int]]:
    """Return the runs of blocks that a file with `base`, cut or extended, needs of `target`.

    A run begins and ends at a byte.
    """
    runs: list[tuple[int, int]] = []
    size = len(target)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        if base[start:end] != target[start:end]:
            first = runs.pop()[0] if runs and runs[-1][1] == start else start
            runs.append((first, end))
    return runs


def _chunks(data: bytes, runs: list[tuple[int, int]], first: int) -> bytes:
    return b"".join(
        chunk
        for start, end in runs
        for chunk in encode_chunks(first + start // BLOCK, data[start:end])
    )


def merge_chunks(
    older: Iterable[FileChunk], newer: Iterable[FileChunk], size: int
) -> Iterator[bytes]:
    """Yield the chunks that have the effect of the newer ones and then of the older ones.

    `size` are the bytes of the file after both.
    """
    covered = 0
    rest = iter(newer)
    upper: FileChunk | None = next(rest, None)
    for chunk in older:
        start = chunk.at
        while upper is not None and upper.at < start:
            low, high = max(upper.at, covered), min(upper.at + upper.length, start)
            yield from _cut(upper, low, high, size)
            if upper.at + upper.length > start:
                break
            upper = next(rest, None)
        covered = -(-(start + chunk.length) // BLOCK) * BLOCK
        yield from _cut(chunk, start, start + chunk.length, size)
        while upper is not None and upper.at + upper.length <= covered:
            upper = next(rest, None)
    while upper is not None:
        yield from _cut(upper, max(upper.at, covered), upper.at + upper.length, size)
        upper = next(rest, None)


def _cut(chunk: FileChunk, low: int, high: int, size: int) -> Iterator[bytes]:
    """Yield what is between two places of a chunk, with zeros up to the end of its last block."""
    # a block that was the last one of a shorter file is whole now
    end = min(-(-high // BLOCK) * BLOCK, size)
    if low >= end:
        return
    if chunk.data is None:
        yield _CHUNK.pack(low // BLOCK, -(-(end - low) // BLOCK) | _ZEROS)
        return
    data = chunk.data[low - chunk.at : min(high, end) - chunk.at]
    yield from encode_chunks(low // BLOCK, data.ljust(end - low, b"\0"))
