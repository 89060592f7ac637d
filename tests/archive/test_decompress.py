"""Every format that is decompressed: whole, damaged, cut short, in a row, and made to burst."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import pyzstd
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.archives import END, in_blocks, member, run
from wingsd.archive.decompress import Piece, StreamFormat, decompressed
from wingsd.errors import ArchiveError

RANDOM = random.Random("compression")
PLAIN = member(b"f", RANDOM.randbytes(1 << 16) + b"text " * 100_000) + END
SMALL = member(b"f", RANDOM.randbytes(3000)) + END

CHECKSUM: Any = {pyzstd.CParameter.checksumFlag: 1}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": lambda data: pyzstd.compress(data, CHECKSUM),
    "xz": lambda data: lzma.compress(data, preset=1),
    "bzip2": bz2.compress,
    "lz4": lambda data: lz4.frame.compress(
        data, content_checksum=True, block_checksum=True, store_size=False
    ),
}


def unpacked(data: bytes, size: int = 1 << 16) -> bytes:
    """Return what `data`, in blocks of so many bytes, decompresses to."""
    return b"".join(decompressed(in_blocks(data, size)))


WHOLE = {name: pack(PLAIN) for name, pack in PACKERS.items()}
each_format = pytest.mark.parametrize("name", PACKERS)

TOOLS = [
    ("gzip -1", "gzip -9", "pigz -1 -p 4", "pigz -11"),
    ("zstd -1", "zstd -19", "zstd -3 -T2", "zstd --no-check", "zstd --fast=5"),
    ("xz -0", "xz -6", "xz -9e", "xz -T2 --block-size=100KiB", "xz --check=none"),
    ("xz --check=sha256", "xz --x86 --lzma2=preset=1", "bzip2 -1", "bzip2 -9"),
    ("lz4 -1", "lz4 -12", "lz4 -BD -B4", "lz4 -BI -B7", "lz4 -BX --content-size"),
    ("lz4 --no-frame-crc",),
]


@each_format
def test_every_format_in_blocks_of_any_size(name: str) -> None:
    for size in (1, 7):
        assert unpacked(PACKERS[name](SMALL), size) == SMALL
    for size in (512, 65536):
        assert unpacked(WHOLE[name], size) == PLAIN


@pytest.mark.parametrize("tool", [tool for tools in TOOLS for tool in tools])
def test_what_the_tools_write(tool: str) -> None:
    data = SMALL if tool == "pigz -11" else PLAIN
    assert unpacked(run(*tool.split(), "-c", data=data)) == data


@given(
    name=st.sampled_from(list(PACKERS)),
    parts=st.lists(st.binary(max_size=2000), min_size=1, max_size=4),
    padding=st.integers(0, 700),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_any_number_of_streams_padding_and_chunking(
    name: str, parts: list[bytes], padding: int, seed: int
) -> None:
    data = b"".join(PACKERS[name](part) for part in [SMALL, *parts]) + bytes(padding)
    cuts = random.Random(seed)
    blocks = []
    at = 0
    while at < len(data):
        size = cuts.choice((0, 1, 2, 3, 10, 1000, len(data)))
        blocks.append(data[at : at + size])
        at += size
    assert b"".join(decompressed(iter(blocks))) == SMALL + b"".join(parts)


@each_format
def test_empty_streams_are_streams_too(name: str) -> None:
    empty = PACKERS[name](b"")
    assert unpacked(empty) == b""
    assert unpacked(empty * 1000 + WHOLE[name] + empty) == PLAIN


@each_format
def test_garbage_after_the_end(name: str) -> None:
    for garbage in (b"x", b"\x1e", b"garbage", bytes(9) + b"x"):
        for size in (1, 65536):
            with pytest.raises(
                ArchiveError, match=r"followed by something else|ends in the middle"
            ):
                unpacked(PACKERS[name](SMALL) + garbage, size)


@each_format
def test_another_format_after_the_end_is_garbage(name: str) -> None:
    for other, data in WHOLE.items():
        if other != name:
            with pytest.raises(ArchiveError, match="followed by something else"):
                unpacked(WHOLE[name] + data)


@each_format
@pytest.mark.parametrize("rest", [0, 1], ids=["alone", "after another"])
def test_every_cut_is_seen(name: str, rest: int) -> None:
    whole = PACKERS[name](SMALL)
    near = (*range(1, 40), *range(40, len(whole) - 20, 97), *range(len(whole) - 20, len(whole)))
    for end in near:
        with pytest.raises(ArchiveError, match=r"ends in the middle|unknown kind"):
            unpacked(whole * rest + whole[:end])


@each_format
def test_damage_anywhere_is_an_archive_error(name: str) -> None:
    places = random.Random(name)
    for _ in range(50):
        data = bytearray(WHOLE[name])
        data[places.randrange(20, len(data))] ^= 1 << places.randrange(8)
        with pytest.raises(ArchiveError):
            unpacked(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\x1f",
        b"PK\3\4" + bytes(600),
        b"7z\xbc\xaf\x27\x1c" + bytes(600),
        b"LZIP\1" + bytes(600),
        b"\x02\x21\x4c\x18" + bytes(600),
        b"BZh9" * 200,
        b"\xfd7zX" * 200,
    ],
)
def test_unknown_kinds_are_refused_by_naming_the_known(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="gzip, zstd, xz, bzip2, lz4 and uncompressed tar"):
        unpacked(data)


def test_a_tar_from_before_ustar_and_an_empty_one_are_tars() -> None:
    old = member(b"f", b"x", b"\0", magic=bytes(8)) + END
    assert unpacked(old) == old
    assert unpacked(END) == END
    assert unpacked(PLAIN, 7) == PLAIN


BLOCK = 496 << 10


class Growing:
    """Makes `ratio` bytes of each, of which it hands out no more than it is asked for."""

    eof = False
    unused_data = b""

    def __init__(self, ratio: int) -> None:
        self._ratio = ratio
        self._left = 0
        self.taken: list[int] = []
        self.given: list[int] = []

    @property
    def needs_input(self) -> bool:
        return not self._left

    def decompress(self, data: Piece, max_length: int) -> bytes:
        self._left += len(data) * self._ratio
        plain = bytes(min(self._left, max_length))
        self._left -= len(plain)
        self.taken.append(len(data))
        self.given.append(len(plain))
        return plain


def read(decompressor: Growing) -> None:
    """Have it read eight blocks of a stream, which is cut short behind them."""
    plain = StreamFormat("any", (b"x",), lambda: decompressor, tuple).plain(
        iter([b"x" * BLOCK] * 8)
    )
    with pytest.raises(ArchiveError, match="cut short"):
        deque(plain, maxlen=0)


MIB = 1 << 20
HUGE_DICTIONARY = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}]

# Given a file, it prints by how many MiB its peak grew while reading that.
PROGRAM = """
import resource, sys
from wingsd.archive.decompress import decompressed
list(decompressed(iter([bytes(1024)])))  # the imports, once and for all
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
with open(sys.argv[1], "rb") as file:
    total = sum(map(len, decompressed(iter(lambda: file.read(1 << 16), b""))))
print(total, peak() - before)
"""


@pytest.mark.promise("archive-memory-is-bounded")
@pytest.mark.parametrize(
    ("pack", "size", "most"),
    [
        (PACKERS["gzip"], 48, 4),
        (PACKERS["bzip2"], 48, 8),
        (lambda data: pyzstd.compress(data, 19), 48, 14),
        (lambda data: lz4.frame.compress(data, block_size=lz4.frame.BLOCKSIZE_MAX4MB), 48, 14),
        (lambda data: lzma.compress(data, filters=HUGE_DICTIONARY), 96, 72),
    ],
    ids=["gzip", "bzip2", "zstd", "lz4", "xz"],
)
def test_a_bomb_takes_no_more_than_the_formats_window(
    tmp_path: Path, pack: Callable[[bytes], bytes], size: int, most: int
) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(pack(bytes(size * MIB)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, bomb],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    total, grown = map(int, done.stdout.split())
    assert total == size * MIB
    assert grown <= most


both = pytest.mark.parametrize("name", ["zstd", "lz4"])


def skippable(content: bytes, number: int = 3) -> bytes:
    magic = (0x184D2A50 + number).to_bytes(4, "little")
    return magic + len(content).to_bytes(4, "little") + content


@both
@pytest.mark.parametrize("size", [7, 65536])
def test_skippable_frames_are_skipped(name: str, size: int) -> None:
    one, two = (PACKERS[name](part) for part in (PLAIN[:70_000], PLAIN[70_000:]))
    extra = (
        skippable(b"hello")
        + skippable(b"", 15)
        + skippable(bytes(100_000 if size > 1000 else 5000), 0)
    )
    assert unpacked(extra + one + extra + two + extra, size) == PLAIN


def test_an_unknown_format_after_skippable_frames_is_refused() -> None:
    for other in (PACKERS["gzip"](PLAIN), PLAIN, bytes(100)):
        with pytest.raises(ArchiveError, match="unknown kind"):
            unpacked(skippable(b"hello") + other)


GZIP = gzip.compress(PLAIN, 1)


def test_a_header_with_everything() -> None:
    body = GZIP[10:]
    head = b"\x1f\x8b\x08\x1e" + GZIP[4:10] + b"\x03\0abc" + b"name\0" + b"comment\0"
    crc = (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    assert unpacked(head + crc + body, 7) == PLAIN


#: Where the first block's header has the size of its dictionary, and where its CRC-32 is.
DICTIONARY = 16
HEADER, CRC = slice(12, 20), slice(20, 24)


def with_dictionary(code: int) -> bytes:
    """Return a stream that says it needs a dictionary of that code (the xz format, 5.3.1)."""
    data = bytearray(PACKERS["xz"](SMALL))
    data[DICTIONARY] = code
    data[CRC] = zlib.crc32(data[HEADER]).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("code", [18, 26, 28], ids=["2 MiB", "32 MiB", "64 MiB"])
def test_a_dictionary_up_to_the_bound_is_taken(code: int) -> None:
    assert unpacked(with_dictionary(code)) == SMALL


@pytest.mark.parametrize("code", [29, 30, 40], ids=["96 MiB", "128 MiB", "4 GiB"])
def test_a_dictionary_beyond_the_bound_is_refused_with_advice(code: int) -> None:
    with pytest.raises(ArchiveError, match=r"dictionary is larger than 64 MiB.*presets -0 to -9"):
        unpacked(with_dictionary(code))


def test_padding_between_streams_is_accepted() -> None:
    for padding, size in ((4, 1), (512, 7), (1 << 17, 65536)):
        data = bytes(padding).join(PACKERS["xz"](half) for half in (SMALL[:1000], SMALL[1000:]))
        assert unpacked(data, size) == SMALL


@pytest.mark.parametrize("padding", [1, 3, 6, (1 << 17) + 2])
def test_padding_that_is_not_a_multiple_of_four_is_refused(padding: int) -> None:
    with pytest.raises(ArchiveError, match="followed by something else"):
        unpacked(bytes(padding).join([PACKERS["xz"](SMALL)] * 2))


def test_a_window_beyond_the_bound_is_refused_with_advice() -> None:
    option: Any = {pyzstd.CParameter.windowLog: 27}
    compressor = pyzstd.ZstdCompressor(option)
    data = compressor.compress(PLAIN) + compressor.flush()
    with pytest.raises(ArchiveError, match=r"window is larger than 8 MiB.*--long"):
        unpacked(data)
