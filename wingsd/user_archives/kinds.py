"""The formats of users' archives, recognized by their first bytes, or else by their names.

Of those of compressed data, transfers do not have Brotli, Snappy's frames, and lzip. Brotli has no
first bytes of its own and no checksum. Each piece of input is so small that its output, which
these libraries do not bound, stays far below the memory of the process.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterator
from enum import Enum, IntFlag
from struct import Struct
from typing import Any
from zlib import crc32

from wingsd.archive.decompress import (
    BZIP2,
    ENDS,
    GZIP,
    LZ4,
    MAX_DICTIONARY,
    XZ,
    ZSTD,
    Piece,
    StreamFormat,
)
from wingsd.archive.tar_headers import BLOCK
from wingsd.archive.tar_reader import is_header
from wingsd.errors import ArchiveError


class _Pieces:
    """A decompressor of which `_fed` returns the output of some input, with its own buffers."""

    #: Bytes of input given to the library at a time.
    _step = 1 << 14

    def __init__(self) -> None:
        self._input = b""
        #: Of the output, what is before `_at` has been handed on.
        self._output = b""
        self._at = 0
        self.unused_data: bytes | None = None

    @property
    def eof(self) -> bool:
        return self.needs_input and self._is_finished()

    @property
    def needs_input(self) -> bool:
        return not self._output and not self._input

    def decompress(self, data: Piece, max_length: int) -> bytes:
        self._input += bytes(data)
        if not self._output:
            self._output = self._made(max_length)
        # Cut from its beginning to its end: to copy the rest each time would take minutes.
        plain = self._output[self._at : self._at + max_length]
        self._at += len(plain)
        if self._at == len(self._output):
            self._output, self._at = b"", 0
        return plain

    def _made(self, enough: int) -> bytes:
        """Return the output of as much input as gives `enough`, or of all."""
        gathered: list[bytes] = []
        size = at = 0
        while size < enough and at < len(self._input):
            made = self._fed(self._input[at : at + self._step])
            at += self._step
            gathered.append(made)
            size += len(made)
        self._input = self._input[at:]
        return b"".join(gathered)

    def _is_finished(self) -> bool:
        raise NotImplementedError

    def _fed(self, piece: bytes) -> bytes:
        raise NotImplementedError


class _Brotli(_Pieces):
    """Of 64 bytes, a dozen blocks of 16 MiB at the most come out."""

    _step = 64

    def __init__(self) -> None:
        import brotli  # noqa: PLC0415

        super().__init__()
        self._library: Any = brotli.Decompressor()

    def _fed(self, piece: bytes) -> bytes:
        return bytes(self._library.process(piece))

    def _is_finished(self) -> bool:
        return bool(self._library.is_finished())


def _brotli_errors() -> tuple[type[Exception], ...]:
    import brotli  # noqa: PLC0415

    return (brotli.error,)


BROTLI = StreamFormat(name="brotli", magics=(), make=_Brotli, errors=_brotli_errors)


class _FrameError(ValueError):
    """Data that is not what its format says."""


_STREAM = b"\xff\x06\x00\x00sNaPpY"
_COMPRESSED, _PLAIN, _SKIPPABLE = 0x00, 0x01, 0x80
_MAX_CHUNK = 1 << 17


class _Snappy(_Pieces):
    """The frames of Snappy's framing format.

    Nothing tells the last one: the data ends where the input does, behind a whole frame.
    """

    def __init__(self) -> None:
        import snappy  # noqa: PLC0415

        super().__init__()
        self._library: Any = snappy
        self._frames = b""

    def _is_finished(self) -> bool:
        return not self._frames

    def _fed(self, piece: bytes) -> bytes:
        self._frames += piece
        made = []
        while len(self._frames) >= 4:  # noqa: PLR2004
            kind, size = self._frames[0], int.from_bytes(self._frames[1:4], "little") + 4
            if kind < _SKIPPABLE and (kind > _PLAIN or size > _MAX_CHUNK):
                raise _FrameError("a frame of an unknown kind")
            if len(self._frames) < size:
                break
            frame, self._frames = self._frames[:size], self._frames[size:]
            if kind <= _PLAIN:
                made.append(self._checked(kind, frame[8:], int.from_bytes(frame[4:8], "little")))
            elif kind == _STREAM[0] and frame != _STREAM:
                raise _FrameError("another format of frames")
        return b"".join(made)

    def _checked(self, kind: int, body: bytes, checksum: int) -> bytes:
        # Not by the library's own StreamDecompressor: that of Debian 13 crashes in its checksum.
        plain = bytes(self._library.uncompress(body)) if kind == _COMPRESSED else body
        if snappy_checksum(plain) != checksum:
            raise _FrameError("the checksum differs")
        return plain


def _crc32c_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (_CRC32C if number & 1 else 0)  # noqa: PLW2901
        table.append(number)
    return table


#: Castagnoli's polynomial, reversed.
_CRC32C = 0x82F63B78
_TABLE = _crc32c_table()


def snappy_checksum(data: bytes) -> int:
    """Return the checksum of a frame: CRC-32C, masked as the framing format says; 10 MB/s."""
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _snappy_errors() -> tuple[type[Exception], ...]:
    import snappy  # noqa: PLC0415

    # Of another library below it, where its own does not pass on all.
    return (_FrameError, snappy.UncompressError, ValueError, RuntimeError)


class _SnappyFormat(StreamFormat):
    def plain(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        decompressor = self.make()
        for block in blocks:
            yield from self._unpacked(decompressor, block)
        if not decompressor.eof:
            raise ArchiveError(ENDS)


SNAPPY = _SnappyFormat(name="snappy", magics=(_STREAM,), make=_Snappy, errors=_snappy_errors)

# lzip(1), "File format": magic and version, a coded dictionary size; an LZMA stream; then the
# CRC32 and the size of the data, and the size of the member.
_LZIP_MAGIC = b"LZIP\x01"
_LZIP_TRAILER = Struct("<IQQ")
_DICTIONARY_BITS = 0x1F
_LC, _LP, _PB = 3, 0, 2
_LEAST_DICTIONARY = 12


class _Lzip:
    """One member of an lzip file; the library decodes the LZMA stream in it."""

    def __init__(self) -> None:
        self._head = b""
        self._stream: lzma.LZMADecompressor | None = None
        self._tail = b""
        self._crc = self._size = self._read = 0
        self.eof = False
        self.unused_data: bytes | None = None
        self.needs_input = True

    def decompress(self, data: Piece, max_length: int) -> bytes:
        given = bytes(data)
        self._read += len(given)
        if self._stream is None:
            self._head += given
            if len(self._head) <= len(_LZIP_MAGIC):
                return b""
            self._stream = self._begun(self._head[len(_LZIP_MAGIC)])
            given = self._head[len(_LZIP_MAGIC) + 1 :]
        plain = b""
        if not self._stream.eof:
            plain = self._stream.decompress(given, max_length)
            self._crc = crc32(plain, self._crc)
            self._size += len(plain)
            self.needs_input = self._stream.needs_input
            given = self._stream.unused_data if self._stream.eof else b""
        if self._stream.eof:
            self._tail += given
            self._end()
        return plain

    def _begun(self, coded: int) -> lzma.LZMADecompressor:
        size = 1 << (coded & _DICTIONARY_BITS)
        size -= (size >> 4) * (coded >> 5)
        if size > MAX_DICTIONARY:
            raise _FrameError(
                f"its dictionary is limited to {MAX_DICTIONARY >> 20} MiB; "
                "compress it with one of lzip's levels -0 to -9"
            )
        filters = [
            {
                "id": lzma.FILTER_LZMA1,
                "dict_size": max(size, 1 << _LEAST_DICTIONARY),
                "lc": _LC,
                "lp": _LP,
                "pb": _PB,
            }
        ]
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)

    def _end(self) -> None:
        self.needs_input = True
        if len(self._tail) < _LZIP_TRAILER.size:
            return
        crc, size, _ = _LZIP_TRAILER.unpack_from(self._tail)
        if (crc, size) != (self._crc, self._size):
            raise _FrameError("the checksum differs")
        self.eof = True
        self.unused_data = self._tail[_LZIP_TRAILER.size :]


LZIP = StreamFormat(
    name="lzip",
    magics=(_LZIP_MAGIC,),
    make=_Lzip,
    errors=lambda: (lzma.LZMAError, _FrameError),
    limit="limited",
    advice="the archive is refused: {error}",
)


class Container(Enum):
    """A format with a list of its own, by the names of libarchive's readers."""

    ZIP = "zip"
    RAR = "rar"
    RAR5 = "rar5"
    SEVEN_ZIP = "7zip"


CONTAINERS: tuple[tuple[bytes, Container], ...] = (
    (b"PK\x03\x04", Container.ZIP),
    (b"PK\x05\x06", Container.ZIP),  # an empty one
    (b"PK00PK\x03\x04", Container.ZIP),  # one part alone of what was to have several
    (b"Rar!\x1a\x07\x00", Container.RAR),
    (b"Rar!\x1a\x07\x01\x00", Container.RAR5),
    (b"7z\xbc\xaf\x27\x1c", Container.SEVEN_ZIP),
)


class NameHint(IntFlag):
    """The formats that the name of an archive suggests."""

    NOTHING = 0
    TAR = 1
    BROTLI = 2
    ZIP = 4


_TAR = re.compile(rb"(?i)\.(tar(\.[a-z0-9]{1,4})?|tgz|tbz2?|txz|tzst|tlz|tbr|tsz)$")
_BROTLI = re.compile(rb"(?i)\.(br|tbr)$")
_ZIP = re.compile(rb"(?i)\.(zip|jar|mrpack|mcpack|mcworld|mcaddon)$")
#: Names of single compressed files, of which the last suffix is dropped.
_SINGLE = re.compile(rb"(?i)(.+)\.(gz|bz2|xz|zst|lz4|br|sz|lz)$")
#: The size and the type of a RAR's last block, which four bytes of checksum are before. It is at
#: the end, but for what others have appended.
_RAR5_END = b"\x03\x05"
_CRC = 4
TAIL = 4096
#: The names of the parts of an archive that was divided.
_PART = re.compile(rb"(?i)\.(part\d{1,5}\.rar|[a-z0-9]{1,5}\.\d{3}|[rz]\d{2})$")


def name_hint(name: bytes) -> NameHint:
    """Return what a name says of the format."""
    hint = NameHint.NOTHING
    for pattern, meaning in (
        (_TAR, NameHint.TAR),
        (_BROTLI, NameHint.BROTLI),
        (_ZIP, NameHint.ZIP),
    ):
        if pattern.search(name):
            hint |= meaning
    return hint


def single_name(name: bytes) -> bytes:
    """Return the name of the file that a single compressed file holds."""
    found = _SINGLE.fullmatch(name)
    return found[1] if found else name + b".out"


def is_part_name(name: bytes) -> bool:
    """Return whether a name is that of one part of a divided archive."""
    return _PART.search(name) is not None


def container_of(head: bytes, hint: NameHint) -> Container | None:
    """Return the format with a list that an archive is of; None for all others."""
    for magic, container in CONTAINERS:
        if head.startswith(magic):
            return container
    # Self-extracting, or something before it: a zip is read from its end.
    if hint & NameHint.ZIP and not is_tar(head, hint) and stream_of(head, hint) is None:
        return Container.ZIP
    return None


def ends_as_rar5(tail: bytes) -> bool:
    """Return whether the last bytes of a RAR of version 5, `TAIL` of them, have its end.

    libarchive takes the end of the file for it, so that files would be missing without an error.
    """
    at = tail.find(_RAR5_END)
    while at >= 0:
        if at >= _CRC and crc32(tail[at : at + 4]).to_bytes(4, "little") == tail[at - _CRC : at]:
            return True
        at = tail.find(_RAR5_END, at + 1)
    return False


def stream_of(head: bytes, hint: NameHint) -> StreamFormat | None:
    """Return the format of compressed data; None where it is not compressed, or unknown."""
    for known in (GZIP, BZIP2, XZ, ZSTD, LZ4, LZIP, SNAPPY):
        if head.startswith(known.magics):
            return known
    return BROTLI if hint & NameHint.BROTLI else None


def is_tar(head: bytes, hint: NameHint) -> bool:
    """Return whether these first bytes, 512 where there are as many, begin a tar."""
    block = head[:BLOCK]
    if not any(block):
        return bool(block) and bool(hint & NameHint.TAR)
    return is_header(block) or block[257:262] == b"ustar"
