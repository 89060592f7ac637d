"""What holds for every format: whole, damaged, cut short, in a row, and made to burst."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.archive.decompression.formats import PACKERS, PLAIN, SIZES, SMALL, unpacked
from tests.support.archives import END, member, run
from wingsd.archive.decompress import STEP, decompressed
from wingsd.errors import ArchiveError

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
@pytest.mark.parametrize("size", SIZES)
def test_every_format_in_blocks_of_any_size(name: str, size: int) -> None:
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
@pytest.mark.parametrize("garbage", [b"x", b"\x1e", b"garbage", bytes(9) + b"x"])
@pytest.mark.parametrize("size", [1, 65536])
def test_garbage_after_the_end(name: str, garbage: bytes, size: int) -> None:
    whole = PACKERS[name](SMALL) if size == 1 else WHOLE[name]
    with pytest.raises(ArchiveError, match=r"followed by something else|ends in the middle"):
        unpacked(whole + garbage, size)


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


@each_format
def test_a_wrong_checksum_is_seen_and_named(name: str) -> None:
    data = bytearray(PACKERS[name](SMALL))
    # xz's is before its index, of the sizes of one block, and its footer.
    data[-29 if name == "xz" else -5 if name == "gzip" else -1] ^= 16
    with pytest.raises(ArchiveError, match=f"damaged: its {name} data is wrong"):
        unpacked(bytes(data))


def test_an_empty_stream() -> None:
    for blocks in ([], [b"", b""]):
        with pytest.raises(ArchiveError, match="empty"):
            b"".join(decompressed(iter(blocks)))


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


def test_a_tar_whose_first_file_has_a_name_like_a_format_is_a_tar() -> None:
    tar = member(b"BZh91.txt", b"x") + END
    assert unpacked(tar) == tar


@each_format
def test_a_bomb_comes_in_bounded_blocks(name: str) -> None:
    zeros = bytes(24 << 20)
    bomb = PACKERS[name](zeros)
    del zeros
    total = 0
    tracemalloc.start()
    try:
        for block in decompressed(iter([bomb])):
            assert len(block) <= STEP
            total += len(block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 24 << 20
    assert peak < 5 << 20
