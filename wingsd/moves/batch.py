"""Batches: the bodies of a move's requests, encoded and decoded, without any I/O.

A batch has a head, the index (all frames) and their bytes. The index is what the ledger records of
it: it has all but the bytes, and their digests. A shape batch has frames of one phase, so that
applying it once more after a crash does no harm: removal (`TAKE`, `GONE`) or creation (`DIR`,
`PUT`, `FILE`, `LINK`, `HARD`).

`BatchReader` decodes pieces of any size, and compares every block with its digest. Blocks that lie
within one piece are handed on as views of it, several together, without a copy. Memory holds the
index, and one block that lies in two pieces. The checksums by which blocks are read back from the
disk are made before the digests are compared: so they are of what was sent. By one CRC-32 of up to
a MiB reading back takes a tenth of the time; where that differs, the digests decide.

Frames are single changes of a tree at the destination: shape frames change names, kinds and sizes,
data frames contents. docs/protocol.md has the layout. Paths are names below the root in one form:
components joined by single slashes, none of them empty, `.` or `..`; the root itself is the empty
path, for `DirectoryFrame` alone. Times are in nanoseconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from hashlib import sha256
from struct import Struct
from typing import Any, cast

import pyzstd
from attrs import define, frozen
from isal.isal_zlib import crc32

from wingsd.archive.decompress import MAX_WINDOW
from wingsd.archive.policy import link_text, member_path
from wingsd.archive.tar_headers import LATEST
from wingsd.errors import (
    BatchDamaged,
    BatchInvalid,
    FrameRefused,
    MemberRefused,
    MoveBatchTooLarge,
    MoveVersionUnknown,
)
from wingsd.filesystem.attributes import decode_attributes
from wingsd.moves.digests import (
    BLOCK_SIZES,
    DIGEST,
    MAX_BLOCKS,
    UNKNOWN,
    WHOLE,
    Bytes,
    block_digest,
    block_digests,
)
from wingsd.util.text import display

MAX_MTIME = LATEST * 1_000_000_000
"""The latest modification time; the earliest is the negative of it."""

_DIR = Struct("<Hq")
_FILE = Struct("<IHqQI")
_LINK = Struct("<q")
_SLOT = Struct("<I")
_WHOLE = Struct("<HqI16s")
_DATA = Struct("<IIIII")
_ZERO = Struct("<III")
_LENGTH = Struct("<H")

_MAX_MODE = 0o1777
_MAX_SIZE = (1 << 63) - 1


def _text(text: bytes) -> bytes:
    return _LENGTH.pack(len(text)) + text


@frozen(repr=False)
class DirectoryFrame:
    """`DIR`: makes a directory, or sets what an existing one is to have at the end."""

    path: bytes
    mode: int
    mtime: int
    attributes: bytes = b""

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        fields = _text(self.path) + _DIR.pack(self.mode, self.mtime)
        return b"\x08" + fields + _text(self.attributes) if self.attributes else b"\x01" + fields


@frozen(repr=False)
class FileFrame:
    """`FILE`: makes a file that comes in parts and binds `number` to it, or sets its metadata."""

    number: int
    path: bytes
    mode: int
    mtime: int
    size: int
    block_size: int

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        meta = (self.mode, self.mtime, self.size, self.block_size)
        return b"\x02" + _text(self.path) + _FILE.pack(self.number, *meta)


@frozen(repr=False)
class LinkFrame:
    """`LINK`: makes a symlink, which is never followed."""

    path: bytes
    target: bytes
    mtime: int

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        return b"\x03" + _text(self.path) + _text(self.target) + _LINK.pack(self.mtime)


@frozen(repr=False)
class HardFrame:
    """`HARD`: makes one more name of the file or symlink `first`."""

    path: bytes
    first: bytes

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        return b"\x04" + _text(self.path) + _text(self.first)


@frozen(repr=False)
class TakeFrame:
    """`TAKE`: the first half of a move: takes a file out of the tree and keeps it in `slot`."""

    path: bytes
    slot: int

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        return b"\x05" + _text(self.path) + _SLOT.pack(self.slot)


@frozen(repr=False)
class PutFrame:
    """`PUT`: the second half of a move: gives what is in `slot` its new path."""

    path: bytes
    slot: int

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        return b"\x06" + _text(self.path) + _SLOT.pack(self.slot)


@frozen(repr=False)
class GoneFrame:
    """`GONE`: removes a name; of a directory all below it as well."""

    path: bytes

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        return b"\x07" + _text(self.path)


@frozen(repr=False)
class WholeFrame:
    """`WHOLE`: a file of at most `WHOLE` bytes, written again; `digest` is that of its bytes.

    It has no number, and is one block.
    """

    number = first = 0
    count, block_size = 1, WHOLE

    path: bytes
    mode: int
    mtime: int
    size: int
    digest: bytes
    attributes: bytes = b""

    @property
    def digests(self) -> bytes:
        """The digests of its blocks."""
        return self.digest

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        meta = (self.mode, self.mtime, self.size, self.digest)
        fields = _text(self.path) + _WHOLE.pack(*meta)
        return b"\x13" + fields + _text(self.attributes) if self.attributes else b"\x10" + fields


@frozen(repr=False)
class DataFrame:
    """`DATA`: consecutive blocks of a file, the last one `last` bytes long."""

    number: int
    first: int
    block_size: int
    last: int
    digests: bytes

    @property
    def count(self) -> int:
        """The number of blocks."""
        return len(self.digests) // DIGEST

    @property
    def size(self) -> int:
        """The bytes of all blocks."""
        return (self.count - 1) * self.block_size + self.last

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        head = _DATA.pack(self.number, self.first, self.count, self.block_size, self.last)
        return b"\x11" + head + self.digests


@frozen(repr=False)
class ZeroFrame:
    """`ZERO`: consecutive blocks of a file that have only zeros."""

    number: int
    first: int
    count: int

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        return b"\x12" + _ZERO.pack(self.number, self.first, self.count)


@frozen(repr=False)
class AttributesFrame:
    """`ATTRIBUTES`: all attributes that a file with a number has from then on."""

    number: int
    attributes: bytes

    def encode(self) -> bytes:
        """Return the frame's bytes in the index."""
        return b"\x14" + _SLOT.pack(self.number) + _text(self.attributes)


Content = WholeFrame | DataFrame | ZeroFrame | AttributesFrame
Shape = DirectoryFrame | FileFrame | LinkFrame | HardFrame | TakeFrame | PutFrame | GoneFrame
Frame = Shape | Content


class _Cursor:
    """Reads fields of an index. Raises BatchInvalid at its end."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def unpack(self, form: Struct) -> tuple[int, ...]:
        return form.unpack_from(self.data, self._pass(form.size))

    def take(self, size: int) -> bytes:
        return self.data[self._pass(size) : self.at]

    def text(self) -> bytes:
        length: int = _LENGTH.unpack_from(self.data, self._pass(_LENGTH.size))[0]
        return self.data[self._pass(length) : self.at]

    def _pass(self, size: int) -> int:
        """Skip `size` bytes; return the position where they begin. Raises `BatchInvalid`."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise BatchInvalid("its index ends in the middle of a frame")
        return start

    def path(self) -> bytes:
        path = self.text()
        try:
            parts = member_path(path)
        except MemberRefused as error:
            raise FrameRefused(error.detail) from None
        if b"/".join(parts) != path:
            raise FrameRefused(f"the path {display(path)} is not in its one spelling")
        return path


def decode_frame(data: bytes, at: int) -> tuple[Frame, int]:
    """Return the frame at a position of an index, and the position after it.

    Raises BatchInvalid and FrameRefused.
    """
    cursor = _Cursor(data, at)
    (kind,) = cursor.take(1)
    decode = _DECODERS.get(kind)
    if decode is None:
        raise BatchInvalid(f"it has a frame of the unknown type {kind}")
    frame = decode(cursor)
    return frame, cursor.at


def _directory(cursor: _Cursor, *, has_attributes: bool = False) -> DirectoryFrame:
    empty = cursor.data[cursor.at : cursor.at + _LENGTH.size] == bytes(_LENGTH.size)
    path = cursor.text() if empty else cursor.path()
    mode, mtime = cursor.unpack(_DIR)
    meta = (path, _mode(mode, path), _mtime(mtime, path))
    return DirectoryFrame(
        *meta, _attributes(cursor, path, is_directory=True) if has_attributes else b""
    )


def _file(cursor: _Cursor) -> FileFrame:
    path = cursor.path()
    number, mode, mtime, size, block_size = cursor.unpack(_FILE)
    if not number:
        raise FrameRefused(f"{display(path)} has the number 0")
    if block_size not in BLOCK_SIZES:
        raise FrameRefused(f"{display(path)} has blocks of {block_size} bytes")
    if size > min(_MAX_SIZE, MAX_BLOCKS * block_size):
        raise FrameRefused(f"{display(path)} has {size} bytes, too many for its blocks")
    return FileFrame(number, path, _mode(mode, path), _mtime(mtime, path), size, block_size)


def _link(cursor: _Cursor) -> LinkFrame:
    path, target = cursor.path(), cursor.text()
    try:
        link_text(target, path)
    except MemberRefused as error:
        raise FrameRefused(error.detail) from None
    (mtime,) = cursor.unpack(_LINK)
    return LinkFrame(path, target, _mtime(mtime, path))


def _whole(cursor: _Cursor, *, has_attributes: bool = False) -> WholeFrame:
    path = cursor.path()
    mode, mtime, size, digest = _WHOLE.unpack(cursor.take(_WHOLE.size))
    if size > WHOLE:
        raise FrameRefused(f"{display(path)} has {size} bytes, too many for one frame")
    meta = (path, _mode(mode, path), _mtime(mtime, path), size, _known(digest))
    return WholeFrame(*meta, _attributes(cursor, path) if has_attributes else b"")


def _attributes_of(cursor: _Cursor) -> AttributesFrame:
    (number,) = cursor.unpack(_SLOT)
    return AttributesFrame(number, _attributes(cursor, b"file %d" % number, may_be_empty=True))


def _attributes(
    cursor: _Cursor, path: bytes, *, is_directory: bool = False, may_be_empty: bool = False
) -> bytes:
    value = cursor.text()
    try:
        decode_attributes(value, is_directory=is_directory)
    except ValueError as error:
        raise FrameRefused(f"{display(path)} is refused: {error}") from None
    if not value and not may_be_empty:
        raise BatchInvalid(
            f"the attributes of {display(path)} are empty: it has another type then"
        )
    return value


def _data(cursor: _Cursor) -> DataFrame:
    number, first, count, block_size, last = cursor.unpack(_DATA)
    if block_size not in BLOCK_SIZES:
        raise FrameRefused(f"file {number} has blocks of {block_size} bytes")
    if not 0 < last <= block_size:
        raise BatchInvalid(f"the last block of file {number} has {last} bytes")
    _check_range(number, first, count)
    return DataFrame(number, first, block_size, last, _known(cursor.take(count * DIGEST)))


def _zero(cursor: _Cursor) -> ZeroFrame:
    number, first, count = cursor.unpack(_ZERO)
    _check_range(number, first, count)
    return ZeroFrame(number, first, count)


_DECODERS: dict[int, Callable[[_Cursor], Frame]] = {
    0x01: _directory,
    0x02: _file,
    0x03: _link,
    0x04: lambda cursor: HardFrame(cursor.path(), cursor.path()),
    0x05: lambda cursor: TakeFrame(cursor.path(), *cursor.unpack(_SLOT)),
    0x06: lambda cursor: PutFrame(cursor.path(), *cursor.unpack(_SLOT)),
    0x07: lambda cursor: GoneFrame(cursor.path()),
    0x08: partial(_directory, has_attributes=True),
    0x10: _whole,
    0x11: _data,
    0x12: _zero,
    0x13: partial(_whole, has_attributes=True),
    0x14: _attributes_of,
}


def _check_range(number: int, first: int, count: int) -> None:
    if not count:
        raise BatchInvalid(f"a frame of file {number} has no blocks")
    if first + count > MAX_BLOCKS:
        raise FrameRefused(f"file {number} has more than {MAX_BLOCKS} blocks")


def _known(digests: bytes) -> bytes:
    if UNKNOWN in digests:
        for at in range(0, len(digests), DIGEST):
            if digests[at : at + DIGEST] == UNKNOWN:
                raise BatchInvalid("a digest has only zeros")
    return digests


def _mode(mode: int, path: bytes) -> int:
    if mode > _MAX_MODE:
        raise FrameRefused(f"{display(path)} has the mode {mode:o}")
    return mode


def _mtime(mtime: int, path: bytes) -> int:
    if not -MAX_MTIME <= mtime <= MAX_MTIME:
        raise FrameRefused(f"the modification time of {display(path)} is out of range")
    return mtime


CONTENT_TYPE = "application/vnd.wingsd.batch"
ZSTD_CONTENT_TYPE = f"{CONTENT_TYPE}+zstd"
"""Of a compressed batch. Content-Encoding would not pass each proxy."""

VERSION = 1
"""The version of batches, frames and digests."""

MAX_INDEX = 16 << 20
"""Bytes of an index."""

MAX_FRAMES = 1 << 16
"""Frames of a batch: each takes memory beside its bytes."""

MAX_DATA = 112 << 20
"""Bytes of a batch beside its index: both together are 128 MiB."""

HEAD = Struct("<4sHHI32s")
"""The head: magic, version, two zero bytes, the index's length and its SHA-256."""

_MAGIC = b"WMVB"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: The most bytes of a piece of what is inflated.
_STEP = 256 << 10
_INDEX = Struct("<QIBQI")
_REMOVAL = (TakeFrame, GoneFrame)
# Tuples: with a union isinstance takes three times as long.
_WITH_BYTES = (WholeFrame, DataFrame)
_BLOCKS = (DataFrame, ZeroFrame)
_OF_NUMBERS = (*_BLOCKS, AttributesFrame)
_CONTENT = (*_OF_NUMBERS, WholeFrame)

PIECE = 1 << 20
"""Bytes that are read back at a time."""

_NOTHING = memoryview(b"")


class BatchKind(Enum):
    """The kinds of batches: of shape or data frames."""

    SHAPE = 1
    DATA = 2


@frozen(repr=False)
class Index:
    """All of a batch but its bytes; `raw` is its encoding, `digest` the SHA-256 of that.

    All frames are of its kind.

    `number` counts from 1 in a move, `round` from 1. `needs` is the number of a shape batch: of
    data the one that must have been applied, of a shape batch the one before it, 0 for none.
    """

    kind: BatchKind
    number: int
    round: int
    needs: int
    frames: tuple[Frame, ...]
    raw: bytes
    digest: bytes

    @property
    def contents(self) -> tuple[Content, ...]:
        """The frames of a data batch."""
        return cast("tuple[Content, ...]", self.frames if self.kind is BatchKind.DATA else ())

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The frames of a shape batch."""
        return cast("tuple[Shape, ...]", self.frames if self.kind is BatchKind.SHAPE else ())


def frame_bytes(frame: Frame) -> int:
    """Return how many bytes belong to a frame."""
    return frame.size if isinstance(frame, _WITH_BYTES) else 0


def make_index(
    kind: BatchKind,
    number: int,
    in_round: int,
    needs: int,
    frames: Sequence[Frame],
    encoded: Sequence[bytes] | None = None,
) -> Index:
    """Return the index of frames, which must be valid, and may be encoded already."""
    head = _INDEX.pack(number, in_round, kind.value, needs, len(frames))
    if encoded is None:
        encoded = [frame.encode() for frame in frames]
    raw = b"".join((head, *encoded))
    return Index(kind, number, in_round, needs, tuple(frames), raw, sha256(raw).digest())


def encode_batch(index: Index, data: Sequence[bytes]) -> Iterator[bytes]:
    """Yield a batch, with the bytes of its frames in their order."""
    yield HEAD.pack(_MAGIC, VERSION, 0, len(index.raw), index.digest)
    yield index.raw
    yield from data


def index_length(head: bytes) -> tuple[int, bytes]:
    """Return the length of the index, and its digest, from a head of `HEAD.size` bytes.

    Raises BatchInvalid and MoveVersionUnknown.
    """
    magic, version, reserved, length, digest = HEAD.unpack(head)
    if magic != _MAGIC:
        raise BatchInvalid("it does not begin as a batch does")
    if version != VERSION:
        raise MoveVersionUnknown(version, VERSION)
    if reserved:
        raise BatchInvalid("its head has bits of no meaning")
    if not _INDEX.size < length <= MAX_INDEX:
        raise BatchInvalid(f"its index has {length} bytes")
    return length, digest


def decode_index(raw: bytes, digest: bytes | None = None, *, most_data: int = MAX_DATA) -> Index:
    """Return the index of its bytes; with `digest` after it was compared.

    `most_data` is how many bytes may belong to its frames.

    Raises BatchInvalid, BatchDamaged and FrameRefused.
    """
    found = sha256(raw).digest()
    if digest is not None and found != digest:
        raise BatchDamaged("the index")
    if len(raw) < _INDEX.size:
        raise BatchInvalid(f"its index has {len(raw)} bytes")
    number, in_round, kind_value, needs, count = _INDEX.unpack_from(raw)
    if kind_value not in (BatchKind.SHAPE.value, BatchKind.DATA.value):
        raise BatchInvalid(f"it is of the unknown kind {kind_value}")
    if not number or not in_round or needs >= number:
        raise BatchInvalid(f"it has number {number}, round {in_round} and needs {needs}")
    if not 0 < count <= MAX_FRAMES:
        raise BatchInvalid(f"it has {count} frames")
    kind = BatchKind(kind_value)
    checks = _Checks(kind, most_data)
    frames: list[Frame] = []
    at = _INDEX.size
    for _ in range(count):
        frame, at = decode_frame(raw, at)
        checks.add(frame)
        frames.append(frame)
    if at != len(raw):
        raise BatchInvalid("its index has more than its frames")
    return Index(kind, number, in_round, needs, tuple(frames), raw, found)


class _Checks:
    """Checks of the frames of one batch together."""

    def __init__(self, kind: BatchKind, most_data: int) -> None:
        self._is_data = kind is BatchKind.DATA
        self._most_data = most_data
        self._phase: bool | None = None
        self._paths: set[bytes] = set()
        self._slots: set[int] = set()
        self._number = self._end = self._bytes = 0
        self._numbers: set[int] = set()

    def add(self, frame: Frame) -> None:
        """Check one more frame."""
        if isinstance(frame, _CONTENT) is not self._is_data:
            raise BatchInvalid("it mixes shape and data")
        if isinstance(frame, _OF_NUMBERS):
            self._add_blocks(frame)
        else:
            self._add_path(frame)
        self._bytes += frame_bytes(frame)
        if self._bytes > self._most_data:
            raise BatchInvalid(f"it has more than {self._most_data} bytes")

    def _add_path(self, frame: Shape | WholeFrame) -> None:
        path = frame.path
        if not isinstance(frame, PutFrame):  # its metadata may follow
            if path in self._paths:
                raise FrameRefused(f"the path {display(path)} comes twice")
            self._paths.add(path)
        if self._is_data:
            return
        is_removal = isinstance(frame, _REMOVAL)
        if self._phase is not None and is_removal is not self._phase:
            raise FrameRefused("it both removes and makes names")
        self._phase = is_removal
        if isinstance(frame, TakeFrame | PutFrame):
            if frame.slot in self._slots:
                raise FrameRefused(f"slot {frame.slot} comes twice")
            self._slots.add(frame.slot)
        if isinstance(frame, HardFrame) and frame.first == path:
            raise FrameRefused(f"{display(path)} is a hard link to itself")

    def _add_blocks(self, frame: DataFrame | ZeroFrame | AttributesFrame) -> None:
        if frame.number != self._number:
            if frame.number in self._numbers:
                raise FrameRefused(f"the blocks of file {frame.number} are not together")
            self._numbers.add(frame.number)
            self._number, self._end = frame.number, 0
        elif isinstance(frame, AttributesFrame):
            raise FrameRefused(
                f"the attributes of file {frame.number} do not come before its blocks"
            )
        if isinstance(frame, AttributesFrame):
            return
        if frame.first < self._end:
            raise FrameRefused(f"blocks of file {frame.number} come twice, or not in order")
        self._end = frame.first + frame.count


def checksum(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-32 of some bytes behind those that have the CRC-32 `before`."""
    found: int = crc32(data, before)
    return found


@define(eq=False, repr=False)
class WrittenBlocks:
    """Consecutive blocks of one file: their bytes, and the CRC-32 of these.

    `of` is the number of the file, or the path of one that came as a whole.
    """

    of: int | bytes
    first: int
    count: int
    size: int
    crc: int


#: Zeros are read back by their digests.
Written = WrittenBlocks | ZeroFrame


class _RunningChecksum:
    """The CRC-32 of consecutive blocks of one file, up to a piece of them at a time."""

    def __init__(self) -> None:
        self._number = self._since = self._next = self._size = self._crc = 0

    def add(self, number: int, first: int, count: int, data: memoryview) -> tuple[int, int]:
        """Add blocks of the file with a number, 0 for one that comes as a whole.

        Return the block from which on the checksum counts, and the checksum.
        """
        is_next = number and (self._number, self._next) == (number, first)
        if not is_next or self._size + len(data) > PIECE:
            self._number, self._since = number, first
            self._size = self._crc = 0
        self._next = first + count
        self._size += len(data)
        self._crc = checksum(data, self._crc)
        return self._since, self._crc


class _Inflater:
    """Inflates a batch of one zstd frame (RFC 8878), however much its bytes would become.

    The caller decides when to stop.
    """

    def __init__(self) -> None:
        option: Any = {pyzstd.DParameter.windowLogMax: MAX_WINDOW.bit_length() - 1}
        self._decompressor = pyzstd.ZstdDecompressor(option=option)
        self._begin = b""

    def feed(self, data: Bytes) -> Iterator[bytes]:
        """Yield the output for a piece of input, in pieces of at most 256 KiB.

        Raises BatchInvalid for what is not zstd, for a window above 8 MiB, for a skippable frame
        and for bytes after the frame's end.
        """
        if len(self._begin) < len(_ZSTD_MAGIC):
            self._begin += bytes(data[: len(_ZSTD_MAGIC) - len(self._begin)])
            if not _ZSTD_MAGIC.startswith(self._begin):
                raise BatchInvalid("it does not begin as zstd does")
        decompressor = self._decompressor
        rest: Bytes = data
        while rest or not decompressor.needs_input:
            if decompressor.eof:
                if not rest:
                    return
                raise BatchInvalid("it goes on after the end of its zstd frame")
            try:
                plain = decompressor.decompress(rest, _STEP)
            except pyzstd.ZstdError as error:
                raise BatchInvalid(f"its zstd data is wrong ({error})") from error
            rest = b""
            if plain:
                yield plain
            if decompressor.eof:
                rest = decompressor.unused_data

    def finish(self) -> None:
        """Raise BatchInvalid where the frame has not ended."""
        if not self._decompressor.eof:
            raise BatchInvalid("it ends in the middle of its zstd frame")


@frozen(eq=False, repr=False)
class BlockRun:
    """Consecutive blocks that have arrived and fit their digests.

    `first` and `count` are blocks; `data` is a view of the piece that was fed. A `ZERO`
    frame is one run, without data. `crc` is the CRC-32 of all from the block `since` on.
    """

    frame: Content
    first: int
    count: int
    data: memoryview
    since: int = 0
    crc: int = 0


class BatchReader:
    """Reads one batch: `feed` each piece, then `finish`. Of no more use after an error.

    With `zstd` the batch arrives compressed; `most` is how many bytes it may have without that.
    """

    def __init__(self, *, zstd: bool = False, most: int = MAX_INDEX + MAX_DATA) -> None:
        #: The index, once it has arrived.
        self.index: Index | None = None
        self._inflater = _Inflater() if zstd else None
        self._most = most
        self._kept = bytearray()
        self._needed = HEAD.size
        self._digest: bytes | None = None
        self._frames: Iterator[Content] = iter(())
        #: The frame whose blocks come next, and how many of its blocks have come.
        self._frame: DataFrame | WholeFrame | None = None
        self._done = 0
        self._checksum = _RunningChecksum()
        self._is_complete = False

    def feed(self, data: Bytes) -> Iterator[Index | BlockRun]:
        """Yield the index, and then runs of blocks. To be iterated to its end.

        Raises BatchInvalid, BatchDamaged, FrameRefused, MoveBatchTooLarge and MoveVersionUnknown.
        """
        if self._inflater is None:
            yield from self._plain(memoryview(data))
            return
        for piece in self._inflater.feed(data):
            yield from self._plain(memoryview(piece))

    def finish(self) -> Index:
        """Return the index at the end of the bytes. Raises BatchInvalid where some are missing."""
        if self.index is None or not self._is_complete:
            raise BatchInvalid("it ends in the middle")
        if self._inflater is not None:
            self._inflater.finish()
        return self.index

    def _plain(self, piece: memoryview) -> Iterator[Index | BlockRun]:
        while self.index is None and piece:
            piece = self._keep(piece)
            if len(self._kept) < self._needed:
                return
            if self._digest is None:
                self._needed, self._digest = index_length(bytes(self._kept))
                self._kept.clear()
                self._check_size(HEAD.size + self._needed)
                continue
            self.index = index = decode_index(bytes(self._kept), self._digest)
            self._check_size(HEAD.size + self._needed + sum(map(frame_bytes, index.frames)))
            self._kept.clear()
            yield self.index
            self._frames = iter(self.index.contents)
            yield from self._next_frame()
        while piece:
            if self._frame is None:
                raise BatchInvalid("it goes on after its last block")
            run, piece = self._blocks(self._frame, piece)
            if run is None:
                return
            yield run
            if self._done == self._frame.count:
                yield from self._next_frame()

    def _check_size(self, size: int) -> None:
        if size > self._most:
            raise MoveBatchTooLarge(self._most)

    def _keep(self, piece: memoryview) -> memoryview:
        """Keep what is still needed; return the rest."""
        missing = self._needed - len(self._kept)
        self._kept += piece[:missing]
        return piece[missing:]

    def _next_frame(self) -> Iterator[BlockRun]:
        """Go on to the next frame with bytes; yield those without."""
        self._frame, self._done = None, 0
        for frame in self._frames:
            if isinstance(frame, ZeroFrame):
                yield BlockRun(frame, frame.first, frame.count, _NOTHING)
            elif isinstance(frame, WholeFrame) and not frame.size:
                if block_digest(b"") != frame.digest:
                    raise BatchDamaged(display(frame.path))
                yield BlockRun(frame, 0, 1, _NOTHING)
            elif not isinstance(frame, AttributesFrame):
                self._frame = frame
                return
        self._is_complete = True

    def _blocks(
        self, frame: DataFrame | WholeFrame, piece: memoryview
    ) -> tuple[BlockRun | None, memoryview]:
        """Return the next blocks that are complete, None without one, and the rest of a piece."""
        left = frame.size - self._done * frame.block_size
        if self._kept:
            count, self._needed = 1, min(frame.block_size, left)
            piece = self._keep(piece)
            if len(self._kept) < self._needed:
                return None, piece
            blocks, self._kept = memoryview(self._kept), bytearray()
        else:
            is_rest = len(piece) >= left
            count = frame.count - self._done if is_rest else len(piece) // frame.block_size
            if not count:
                self._kept += piece
                return None, piece[:0]
            size = left if is_rest else count * frame.block_size
            blocks, piece = piece[:size], piece[size:]
        first = frame.first + self._done
        summed = self._checksum.add(frame.number, first, count, blocks)
        self._compare(frame, count, blocks)
        self._done += count
        return BlockRun(frame, first, count, blocks, *summed), piece

    def _compare(self, frame: DataFrame | WholeFrame, count: int, blocks: memoryview) -> None:
        found = block_digests(blocks, frame.block_size)
        expected = frame.digests[self._done * DIGEST : (self._done + count) * DIGEST]
        if found == expected:
            return
        if isinstance(frame, WholeFrame):
            raise BatchDamaged(display(frame.path))
        at = next(at for at in range(count * DIGEST) if found[at] != expected[at])
        number = frame.first + self._done + at // DIGEST
        raise BatchDamaged(f"block {number} of file {frame.number}")
