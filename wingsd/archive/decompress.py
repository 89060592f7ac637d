"""Decompresses archives: finds the format by its first bytes, and bounds what each may take.

They may stand before, between and after the frames that do (RFC 8878, 3.1.2).

All are held to what gzip(1) does with its own: after the last stream only zeros may come, since
tapes and some tools fill up with them, and a stream that does not end was cut short.

The kind is told by the first bytes, never by a name. What comes out comes in bounded blocks
whatever the ratio, so an archive made to burst has nothing to burst; and what each format keeps
in memory, its window or dictionary, has a bound that is told beside it.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Protocol, TypeAlias, cast

import lz4.frame
import zstandard
from attrs import frozen
from isal import igzip_lib

from wingsd.archive.errors import ArchiveError
from wingsd.archive.pipeline import Blocks
from wingsd.archive.tar_headers import BLOCK, is_header

__all__ = [
    "BZIP2",
    "ENDS",
    "GARBAGE",
    "GZIP",
    "LZ4",
    "MAX_DICTIONARY",
    "MAX_WINDOW",
    "SKIPPABLE_MAGICS",
    "STEP",
    "XZ",
    "ZSTD_MAGIC",
    "Decompressor",
    "Piece",
    "StreamFormat",
    "decompressed",
    "is_skippable",
    "only_padding",
    "passed_over",
    "unzstd",
]

SKIPPABLE_MAGICS = tuple(number.to_bytes(4, "little") for number in range(0x184D2A50, 0x184D2A60))


def is_skippable(magic: bytes) -> bool:
    """Tell whether these four bytes begin such a frame."""
    return magic in SKIPPABLE_MAGICS


def passed_over(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Leave out the skippable frames that `blocks` begins with.

    Return the four bytes after them, and the rest with these in front. Raises ArchiveError where
    nothing follows.
    """
    source = Blocks(blocks)
    try:
        while is_skippable(magic := bytes(source.take(4))):
            source.skip(int.from_bytes(source.take(4), "little"))
    except EOFError:
        raise ArchiveError(ENDS) from None
    return magic, chain([magic], (bytes(piece) for piece in source.rest()))


STEP = 480 << 10
"""The most bytes in one block that comes out of a compressed archive.

Measured in steps of 64 to 960 KiB, each kind of data inflates as fast in all of them; but every
block changes threads, which with many small files costs the one that writes them a seventh of its
time in steps of 120 KiB. It takes `heap.set_thresholds`: without, the C library gets each block
of 128 KiB and above by a system call."""

_LEAST_INPUT = 64 << 10
_MOST_INPUT = 256 << 10
"""Bytes given to a decompressor at a time: so many that what they unpack to just fits one block.

Every block changes threads, so that few large ones are better: what does not compress takes an
eighth more time to receive when only 64 KiB of it are given. But what finds no room in the output,
igzip_lib copies aside, in another size each time; out of blocks of 256 KiB, whatever they unpacked
to, these copies left holes in the heap of the inflating thread. The process grew, by 3 GiB, from
the size of its imports by 39 to 42 MiB with that, by 8 to 11 with 32 KiB, by 9 to 10 with 64 KiB.
The others copy as it does."""

GARBAGE = "the archive is damaged: its compressed data is followed by something else"
ENDS = "the archive ends in the middle; it was cut short, send it again"


Piece: TypeAlias = bytes | memoryview
"""Compressed bytes."""


class Decompressor(Protocol):
    """What the standard library's bz2 and lzma have, and others after them."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended, and was found whole."""

    @property
    def needs_input(self) -> bool:
        """Whether all of the input so far was used."""

    @property
    def unused_data(self) -> bytes | None:
        """What of the input follows the stream."""

    def decompress(self, data: Piece, max_length: int) -> bytes:
        """Return at most so many bytes of what `data`, after all before it, unpacks to."""


@frozen
class StreamFormat:
    """One format: its `name` for people, how a stream begins, and what reads one.

    `make` is called for each stream. `errors` are what its `decompress` raises for wrong data;
    `advice` turns one of them into words that help, where it is something else than damage.
    Between two streams may be zeros in multiples of `padding` bytes, none where that is 0.
    """

    name: str
    magics: tuple[bytes, ...]
    make: Callable[[], Decompressor]
    errors: tuple[type[Exception], ...]
    advice: Callable[[Exception], str] = lambda error: ""
    padding: int = 0

    def plain(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what the streams in `blocks` hold, to the very end.

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
                raise ArchiveError(GARBAGE)

    def _behind_padding(self, first: Piece, pieces: Iterator[Piece]) -> bytes:
        """Read over zeros; return what follows them. Raises ArchiveError where nothing may."""
        zeros = 0
        for piece in chain((first,), pieces):
            rest = bytes(piece).lstrip(b"\0")
            zeros += len(piece) - len(rest)
            if rest:
                if not self.padding or zeros % self.padding:
                    raise ArchiveError(GARBAGE)
                return rest
        return b""

    def _stream(self, first: Piece, pieces: _Input) -> Generator[bytes, None, bytes]:
        """Yield what one stream holds; return the bytes read beyond it."""
        decompressor = self.make()
        for piece in chain((first,), pieces):
            unpacked = yield from self._unpacked(decompressor, piece)
            if decompressor.eof:
                # each of many short streams copies what follows it
                pieces.size = _LEAST_INPUT
                return decompressor.unused_data or b""
            pieces.fit(len(piece), unpacked)
        raise ArchiveError(ENDS)

    def _unpacked(self, decompressor: Decompressor, piece: Piece) -> Generator[bytes, None, int]:
        """Yield what a piece unpacks to; return how many bytes that is."""
        size = 0
        while True:
            try:
                plain = decompressor.decompress(piece, STEP)
            except self.errors as error:
                raise ArchiveError(
                    self.advice(error)
                    or f"the archive is damaged: its {self.name} data is wrong ({error})"
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
        """Learn from so many bytes, and what they unpacked to, how many fill most of a block."""
        fitting = STEP * 7 // 8 * packed // max(unpacked, 1)
        self.size = min(max(fitting, _LEAST_INPUT), _MOST_INPUT)


def _divided(block: bytes, most: int) -> Iterator[memoryview]:
    """Yield a block in equal parts: a short one at its end would be a short block behind it."""
    view = memoryview(block)
    size = -(-len(block) // -(-len(block) // most)) if block else 1
    for at in range(0, len(block), size):
        yield view[at : at + size]


def only_padding(rest: Iterable[Piece]) -> None:
    """Read to the end. Raises ArchiveError for anything but zeros."""
    for piece in rest:
        if bytes(piece).strip(b"\0"):
            raise ArchiveError(GARBAGE)


# The first block, or of an empty stream the end. Without it, a tar whose first file is named
# "BZh9" would be taken for one.
_FIRST = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")

BZIP2 = StreamFormat(
    name="bzip2",
    magics=tuple(b"BZh%d%b" % (level, first) for level in range(1, 10) for first in _FIRST),
    make=bz2.BZ2Decompressor,
    errors=(OSError, ValueError),
)
"""A block is 900 KB at most, and its decompressor takes some 4 MiB."""


GZIP = StreamFormat(
    name="gzip",
    magics=(b"\x1f\x8b",),
    make=lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP),
    errors=(cast(type[Exception], igzip_lib.error),),
)
"""Its window is 32 KiB."""


LZ4 = StreamFormat(
    name="lz4",
    magics=(b"\x04\x22\x4d\x18", *SKIPPABLE_MAGICS),
    make=lz4.frame.LZ4FrameDecompressor,
    errors=(RuntimeError,),
)
"""A block is 4 MiB at most, and its decompressor takes some 9 MiB."""


MAX_DICTIONARY = 64 << 20
"""The largest dictionary taken, in bytes: that of `xz -9`, which nodes send that are told to
compress best. It is kept in memory as far as data has come to fill it."""

_BESIDE_IT = 2 << 20


def _advice(error: Exception) -> str:
    if "limit" not in str(error):
        return ""
    return (
        f"the archive's xz dictionary is larger than {MAX_DICTIONARY >> 20} MiB; "
        "compress it with one of the presets -0 to -9 as they are"
    )


XZ = StreamFormat(
    name="xz",
    magics=(b"\xfd7zXZ\0",),
    make=lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY + _BESIDE_IT),
    errors=(lzma.LZMAError,),
    advice=_advice,
    padding=4,  # the xz format, section 2.2
)


ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

MAX_WINDOW = 8 << 20
"""The largest window taken, in bytes. It is kept in memory, and 8 MiB is what `zstd -19` needs
and what RFC 8878 tells every decoder to have. `--long` and `--ultra` ask for up to 2 GiB."""

_RLE = 1
_BLOCK = 128 << 10


def unzstd(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what the frames hold, to the very end. Raises ArchiveError as `decompressed`."""
    source = Blocks(blocks)
    try:
        while not source.at_end():
            first = bytes(source.take(1))
            if first == b"\0":
                only_padding(source.rest())
                return
            magic = first + source.take(3)
            if magic == ZSTD_MAGIC:
                yield from _frame(source)
            elif is_skippable(magic):
                source.skip(int.from_bytes(source.take(4), "little"))
            else:
                raise ArchiveError(GARBAGE)
    except EOFError:
        raise ArchiveError(ENDS) from None
    except zstandard.ZstdError as error:
        raise ArchiveError(_fault(error)) from error


def _frame(source: Blocks) -> Iterator[bytes]:
    """Feed one frame block by block: each gives 128 KiB at most, and its end is seen exactly.

    The library's readers cannot tell a frame's end from the stream's, and its `decompressobj`
    gives all that its input unpacks to at once: one block is as much as may be fed to it.
    """
    unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    descriptor = bytes(source.take(1))
    unpack.decompress(ZSTD_MAGIC + descriptor + source.take(_rest_of_header(descriptor[0])))
    last = False
    while not last:
        head = bytes(source.take(3))
        word = int.from_bytes(head, "little")
        last, kind, size = bool(word & 1), word >> 1 & 3, word >> 3
        if size > _BLOCK:
            raise ArchiveError("the archive is damaged: a block of its zstd data is too large")
        plain = unpack.decompress(head + source.take(1 if kind == _RLE else size))
        if plain:
            yield plain
    if descriptor[0] & 4:
        unpack.decompress(bytes(source.take(4)))
    if not unpack.eof:
        raise ArchiveError("the archive is damaged: a frame of its zstd data does not end")


def _rest_of_header(descriptor: int) -> int:
    """Return the bytes of a frame header after its descriptor (RFC 8878, 3.1.1.1)."""
    single_segment = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    return 1 - single_segment + dictionary + content_size


def _fault(error: Exception) -> str:
    if "memory" in str(error):
        return (
            f"the archive's zstd window is larger than {MAX_WINDOW >> 20} MiB; "
            "compress it without --long or --ultra"
        )
    return f"the archive is damaged: its zstd data is wrong ({error})"


_ACCEPTED = "gzip, zstd, xz, bzip2, lz4 and uncompressed tar archives are accepted"

_Kind = tuple[tuple[bytes, ...], Callable[[Iterator[bytes]], Iterator[bytes]]]

# How each kind begins, and what reads it. Skippable frames may come before two of them.
_FRAMED: tuple[_Kind, ...] = ((LZ4.magics, LZ4.plain), ((ZSTD_MAGIC,), unzstd))
_KINDS: tuple[_Kind, ...] = (
    *((each.magics, each.plain) for each in (GZIP, XZ, BZIP2)),
    *_FRAMED,
)


def decompressed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the plain tar inside `blocks`, to the very end of the compressed stream.

    Raises ArchiveError for an empty stream, an unknown kind, damage (checksums and lengths are
    verified), a window or dictionary beyond its bound, a stream cut short, and anything but zero
    padding after its end.
    """
    head = _head(blocks)
    if not head:
        raise ArchiveError("the archive is empty: not one byte of it was received")
    whole: Iterator[bytes] = chain([head], blocks)
    kinds = _KINDS
    if is_skippable(head[:4]):
        head, whole = passed_over(whole)
        kinds = _FRAMED
    for magics, plain in kinds:
        if head.startswith(magics):
            return plain(whole)
    if is_header(head[:BLOCK]) or head[257:262] == b"ustar":
        return whole
    raise ArchiveError(f"the archive is of an unknown kind; {_ACCEPTED}")


def _head(blocks: Iterator[bytes]) -> bytes:
    head = b""
    for block in blocks:
        head = head + block if head else block
        if len(head) >= BLOCK:
            break
    return head
