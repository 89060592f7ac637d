"""Decompresses archives: finds the format by its first bytes, with bounded output and memory.

Output comes in bounded blocks whatever the compression ratio, and the window or dictionary that a
format keeps in memory is bounded, see each format. As in gzip(1), several streams may follow each
other, only zeros may follow the last one (tapes and some tools pad with them), and a stream with
no end is an error. Skippable frames (RFC 8878, 3.1.2) may be before, between and after those of
zstd and LZ4.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import Any, Protocol, TypeAlias, cast

import pyzstd
from attrs import frozen
from isal import igzip_lib

from wingsd.archive.pipeline import Blocks
from wingsd.archive.tar_headers import BLOCK
from wingsd.archive.tar_reader import is_header
from wingsd.errors import ArchiveError

SKIPPABLE_MAGICS = tuple(number.to_bytes(4, "little") for number in range(0x184D2A50, 0x184D2A60))


def is_skippable(magic: bytes) -> bool:
    """Return whether these four bytes start a skippable frame."""
    return magic in SKIPPABLE_MAGICS


def passed_over(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Skip the skippable frames at the start of `blocks`.

    Return the four bytes after them, and the rest, starting with these four. Raises ArchiveError
    where nothing follows.
    """
    source = Blocks(blocks)
    try:
        while is_skippable(magic := bytes(source.take(4))):
            source.skip(int.from_bytes(source.take(4), "little"))
    except EOFError:
        raise ArchiveError(ENDS) from None
    return magic, chain([magic], (bytes(piece) for piece in source.rest()))


STEP = 480 << 10
"""The most bytes in one block of output.

Measured with 64 to 960 KiB, inflating is as fast with each; but every block changes threads, and
with blocks of 120 KiB the thread that writes many small files needs a seventh more time. Requires
the malloc thresholds that the daemon sets: else the C library maps each block above 128 KiB."""

_LEAST_INPUT = 64 << 10
_MOST_INPUT = 256 << 10
"""Bytes given to a decompressor at a time, chosen so that their output just fits one block.

Every block changes threads, so few large ones are better: incompressible data takes an eighth more
time with 64 KiB. But igzip_lib copies input that does not fit its output, in a different size each
time, and with 256 KiB these copies fragmented the heap of the inflating thread. After 3 GiB the
process had grown by 39 to 42 MiB with 256 KiB, by 8 to 11 with 32, and by 9 to 10 with 64. Other
libraries copy likewise."""

_GARBAGE = "the archive is damaged: its compressed data is followed by something else"
ENDS = "the archive ends in the middle; it was cut short, send it again"


Piece: TypeAlias = bytes | memoryview
"""Compressed bytes."""


class Decompressor(Protocol):
    """The interface of the standard library's bz2 and lzma, and of other libraries."""

    @property
    def eof(self) -> bool:
        """True if the stream has ended, with valid checksums."""

    @property
    def needs_input(self) -> bool:
        """True if all input has been used."""

    @property
    def unused_data(self) -> bytes | None:
        """The input that follows the stream."""

    def decompress(self, data: Piece, max_length: int) -> bytes:
        """Return at most `max_length` bytes of output for `data` and the input before it."""


@frozen(eq=False, repr=False)
class StreamFormat:
    """One format: its `name` for messages, the first bytes of a stream, and its decompressor.

    `make` is called for each stream. `errors` returns what `decompress` raises for invalid data.
    An error whose text contains `limit` means that the archive exceeds a limit, not that it is
    damaged: the message is `advice` then, in which `{error}` stands for the error. An empty
    `limit` means that there is no such error. Zeros between two streams are allowed in multiples
    of `padding` bytes, none where that is 0.
    """

    name: str
    magics: tuple[bytes, ...]
    make: Callable[[], Decompressor]
    errors: Callable[[], tuple[type[Exception], ...]]
    limit: str = ""
    advice: str = ""
    padding: int = 0

    def plain(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the contents of all streams in `blocks`.

        Raises ArchiveError as `decompressed` does.
        """
        begins = {magic[0] for magic in self.magics}
        pieces = _Input(blocks)
        rest: Piece = next(pieces)
        while rest:
            rest = yield from self._stream(rest, pieces)
            rest = rest or next(pieces, b"")
            if not rest:
                return
            if rest[0] == 0:
                rest = self._behind_padding(rest, pieces)
                if not rest:
                    return
            if rest[0] not in begins:
                raise ArchiveError(_GARBAGE)

    def _behind_padding(self, first: Piece, pieces: Iterator[Piece]) -> bytes:
        """Skip zeros; return what follows. Raises ArchiveError where zeros are not allowed."""
        zeros = 0
        for piece in chain((first,), pieces):
            rest = bytes(piece).lstrip(b"\0")
            zeros += len(piece) - len(rest)
            if rest:
                if not self.padding or zeros % self.padding:
                    raise ArchiveError(_GARBAGE)
                return rest
        return b""

    def _stream(self, first: Piece, pieces: _Input) -> Generator[bytes, None, bytes]:
        """Yield the contents of one stream; return the input read beyond it."""
        decompressor = self.make()
        for piece in chain((first,), pieces):
            unpacked = yield from self._unpacked(decompressor, piece)
            if decompressor.eof:
                # each of many short streams copies the input that follows it
                pieces.size = _LEAST_INPUT
                return decompressor.unused_data or b""
            pieces.fit(len(piece), unpacked)
        raise ArchiveError(ENDS)

    def _unpacked(self, decompressor: Decompressor, piece: Piece) -> Generator[bytes, None, int]:
        """Yield the output for a piece; return its size."""
        size = 0
        while True:
            try:
                plain = decompressor.decompress(piece, STEP)
            except self.errors() as error:
                if self.limit and self.limit in str(error):
                    raise ArchiveError(self.advice.format(error=error)) from error
                raise ArchiveError(
                    f"the archive is damaged: its {self.name} data is wrong ({error})"
                ) from error
            if plain:
                size += len(plain)
                yield plain
            if decompressor.eof or decompressor.needs_input:
                return size
            piece = b""


class _Input:
    """Compressed bytes, in views of about `size` bytes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._pieces: Iterator[memoryview] = iter(())
        self.size = _LEAST_INPUT

    def __iter__(self) -> _Input:
        return self

    def __next__(self) -> memoryview:
        while (piece := next(self._pieces, None)) is None:
            self._pieces = _divided(next(self._blocks), self.size)
        return piece

    def fit(self, packed: int, unpacked: int) -> None:
        """Set `size` so that the output fills most of a block, by the ratio of the last piece."""
        fitting = STEP * 7 // 8 * packed // max(unpacked, 1)
        self.size = min(max(fitting, _LEAST_INPUT), _MOST_INPUT)


def _divided(block: bytes, most: int) -> Iterator[memoryview]:
    """Yield a block in equal parts: a short last part would give a short block of output."""
    view = memoryview(block)
    size = -(-len(block) // -(-len(block) // most)) if block else 1
    for at in range(0, len(block), size):
        yield view[at : at + size]


# The start of the first block, or the end of an empty stream. Without it, a tar whose first file
# is named "BZh9" would be read as bzip2.
_FIRST = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")

BZIP2 = StreamFormat(
    name="bzip2",
    magics=tuple(b"BZh%d%b" % (level, first) for level in range(1, 10) for first in _FIRST),
    make=bz2.BZ2Decompressor,
    errors=lambda: (OSError, ValueError),
)
"""A block has at most 900 KB, and the decompressor takes some 4 MiB."""


GZIP = StreamFormat(
    name="gzip",
    magics=(b"\x1f\x8b",),
    make=lambda: cast(Decompressor, igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)),
    errors=lambda: (cast(type[Exception], igzip_lib.error),),
)
"""Its window is 32 KiB."""


def _lz4() -> Decompressor:
    import lz4.frame  # noqa: PLC0415

    return cast(Decompressor, lz4.frame.LZ4FrameDecompressor())


LZ4 = StreamFormat(
    name="lz4",
    magics=(b"\x04\x22\x4d\x18", *SKIPPABLE_MAGICS),
    make=_lz4,
    errors=lambda: (RuntimeError,),
)
"""A block has at most 4 MiB, and the decompressor takes some 9 MiB."""


MAX_DICTIONARY = 64 << 20
"""The largest dictionary accepted, in bytes: that of `xz -9`, which nodes use for the best
compression. It is kept in memory as far as data fills it."""

_OVERHEAD = 2 << 20


XZ = StreamFormat(
    name="xz",
    magics=(b"\xfd7zXZ\0",),
    make=lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY + _OVERHEAD),
    errors=lambda: (lzma.LZMAError,),
    limit="limit",
    advice=f"the archive's xz dictionary is larger than {MAX_DICTIONARY >> 20} MiB; "
    "compress it with one of the presets -0 to -9, unchanged",
    padding=4,  # the xz format, section 2.2
)


ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_WINDOW_LOG = 23
MAX_WINDOW = 1 << _WINDOW_LOG
"""The largest window accepted, in bytes. It is kept in memory: 8 MiB is what `zstd -19` needs and
what RFC 8878 asks every decoder to support. `--long` and `--ultra` need up to 2 GiB."""


def _zstd_decompressor() -> Decompressor:
    option: Any = {pyzstd.DParameter.windowLogMax: _WINDOW_LOG}
    return cast(Decompressor, pyzstd.ZstdDecompressor(option=option))


ZSTD = StreamFormat(
    name="zstd",
    magics=(ZSTD_MAGIC, *SKIPPABLE_MAGICS),
    make=_zstd_decompressor,
    errors=lambda: (pyzstd.ZstdError,),
    limit="memory",
    advice=f"the archive's zstd window is larger than {MAX_WINDOW >> 20} MiB; "
    "compress it without --long or --ultra",
)


_ACCEPTED = "gzip, zstd, xz, bzip2, lz4 and uncompressed tar archives are accepted"

#: Those that may start with skippable frames.
_FRAMED = (LZ4, ZSTD)


def decompressed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the plain tar in `blocks`, which is read to its end.

    Raises ArchiveError for an empty stream, an unknown format, damage (checksums and lengths are
    verified), a window or dictionary beyond its bound, a truncated stream, and anything but zeros
    after its end.
    """
    head = b""
    for block in blocks:
        head += block
        if len(head) >= BLOCK:
            break
    if not head:
        raise ArchiveError("the archive is empty: not one byte of it was received")
    whole: Iterator[bytes] = chain([head], blocks)
    formats: tuple[StreamFormat, ...] = (GZIP, XZ, BZIP2, *_FRAMED)
    if is_skippable(head[:4]):
        head, whole = passed_over(whole)
        formats = _FRAMED
    for each in formats:
        if head.startswith(each.magics):
            return each.plain(whole)
    if is_header(head[:BLOCK]) or head[257:262] == b"ustar":
        return whole
    raise ArchiveError(f"the archive is of an unknown kind; {_ACCEPTED}")
