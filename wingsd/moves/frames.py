"""Frames: single changes of a tree at the destination. Encoded and decoded, without their bytes.

Shape frames change names, kinds and sizes, data frames contents. docs/moves.md has the layout.
Paths are names below the root in one spelling: components joined by single slashes, none of them
empty, `.` or `..`; the root itself is the empty path, for `DirectoryFrame` alone. Times are in
nanoseconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import Struct

from attrs import frozen

from wingsd.archive.policy import link_text, member_path
from wingsd.archive.tar_headers import LATEST
from wingsd.errors import BatchInvalid, FrameRefused, MemberRefused
from wingsd.filesystem.attributes import decode_attributes
from wingsd.moves.digests import BLOCK_SIZES, DIGEST, MAX_BLOCKS, UNKNOWN, WHOLE
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
        """Go on by so many bytes; return where they are."""
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
    return DirectoryFrame(*meta, _some(cursor, path, is_directory=True) if has_attributes else b"")


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
    return WholeFrame(*meta, _some(cursor, path) if has_attributes else b"")


def _some(cursor: _Cursor, path: bytes, *, is_directory: bool = False) -> bytes:
    attributes = _attributes(cursor, path, is_directory=is_directory)
    if not attributes:
        raise BatchInvalid(
            f"the attributes of {display(path)} are empty: it has another type then"
        )
    return attributes


def _attributes_of(cursor: _Cursor) -> AttributesFrame:
    (number,) = cursor.unpack(_SLOT)
    return AttributesFrame(number, _attributes(cursor, b"file %d" % number))


def _attributes(cursor: _Cursor, path: bytes, *, is_directory: bool = False) -> bytes:
    value = cursor.text()
    try:
        decode_attributes(value, is_directory=is_directory)
    except ValueError as error:
        raise FrameRefused(f"{display(path)} is refused: {error}") from None
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
