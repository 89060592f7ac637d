"""The headers of a tar archive, honest and lying ones."""

from __future__ import annotations

import tarfile
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.archives import END, ZERO, by_tarfile, header, in_blocks, member, padded, pax
from wingsd.archive.pipeline import Blocks
from wingsd.archive.tar_reader import MAX_EXTENSION, Member, TarReader
from wingsd.errors import ArchiveError

SIZES = (1, 511, 513, 65536)


def members(archive: bytes, size: int = 1 << 16) -> list[tuple[Member, bytes]]:
    reader = TarReader(Blocks(in_blocks(archive, size)))
    found = []
    while (one := reader.next_member()) is not None:
        found.append((one, b"".join(reader.data())))
    reader.drain()
    return found


def only(archive: bytes) -> tuple[Member, bytes]:
    [found] = members(archive + END)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_block_borders_do_not_matter(size: int) -> None:
    archive = member(b"a", b"x" * 1000) + pax((b"path", b"p" * 300)) + member(b"b", b"y" * 512)
    found = members(archive + member(b"c") + END + b"rubbish", size)
    assert [(m.name, data) for m, data in found] == [
        (b"a", b"x" * 1000),
        (b"p" * 300, b"y" * 512),
        (b"c", b""),
    ]


def test_ustar_prefix_but_not_in_the_gnu_format() -> None:
    assert only(member(b"f", prefix=b"dir/sub"))[0].name == b"dir/sub/f"
    assert only(member(b"f", prefix=b"14553", magic=b"ustar  \0"))[0].name == b"f"


def test_gnu_long_names() -> None:
    archive = member(b"././@LongLink", b"n" * 300 + b"\0", b"L")
    archive += member(b"././@LongLink", b"t" * 400 + b"\0", b"K")
    found, _ = only(archive + member(b"n" * 99, typeflag=b"2", link=b"t" * 99))
    assert (found.name, found.link) == (b"n" * 300, b"t" * 400)


def test_pax_records_win_and_last_for_one_member() -> None:
    archive = pax((b"path", b"P"), (b"linkpath", b"T"), (b"mtime", b"1.5"), (b"uid", b"7"))
    first, second = members(archive + member(b"f", typeflag=b"2") + member(b"g") + END)
    assert (first[0].name, first[0].link, first[0].mtime) == (b"P", b"T", 1_500_000_000)
    assert second[0].name == b"g"


def test_pax_size_counts() -> None:
    assert only(pax((b"size", b"5")) + member(b"f", b"hello", size=0))[1] == b"hello"


def test_global_records_last_until_taken_back() -> None:
    archive = pax((b"mtime", b"7"), (b"comment", b"x"), typeflag=b"g") + member(b"a")
    archive += pax((b"mtime", b"")) + member(b"b") + member(b"c")
    times = [m.mtime // 10**9 for m, _ in members(archive + END)]
    assert times == [7, 1_700_000_000, 7]


def test_checksums_unsigned_signed_and_wrong() -> None:
    right = header("é".encode())
    total = int(right[148:154], 8)
    assert only(right)[0].name == "é".encode()
    assert only(header("é".encode(), checksum=total - 512))[0].name == "é".encode()
    with pytest.raises(ArchiveError, match="checksum"):
        only(header(b"f", checksum=1))


def test_the_end() -> None:
    assert members(END) == []
    assert members(ZERO * 20 + b"anything") == []
    assert members(member(b"f") + ZERO)[0][0].name == b"f"
    with pytest.raises(ArchiveError, match="zeros is followed"):
        members(ZERO + member(b"f") + END)


@pytest.mark.parametrize("typeflag", [b"x", b"g", b"L", b"K"])
def test_extended_headers_are_bounded(typeflag: bytes) -> None:
    with pytest.raises(ArchiveError, match="longer than"):
        members(header(b"x", typeflag, MAX_EXTENSION + 1))


OLD_MAP = [
    (386, b"%011o\0%011o\0" % (512, 512)),
    (410, b"%011o\0%011o\0" % (4096, 1)),
    (483, b"%011o" % 8192),
]
SPARSE_1_0 = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"f"))
SPARSE_0_0 = (
    (b"GNU.sparse.offset", b"512"),
    (b"GNU.sparse.numbytes", b"512"),
    (b"GNU.sparse.offset", b"4096"),
    (b"GNU.sparse.numbytes", b"1"),
)
DATA = b"x" * 512 + b"y"


def sparse_map(*numbers: int) -> bytes:
    return padded(b"".join(b"%d\n" % n for n in numbers))


@pytest.mark.parametrize(
    "archive",
    [
        member(b"f", DATA, b"S", raw=OLD_MAP, magic=b"ustar  \0"),
        pax((b"GNU.sparse.size", b"8192"), (b"GNU.sparse.numblocks", b"2"), *SPARSE_0_0)
        + member(b"f", DATA),
        pax(
            (b"GNU.sparse.size", b"8192"),
            (b"GNU.sparse.map", b"512,512,4096,1"),
            (b"GNU.sparse.name", b"f"),
        )
        + member(b"GNUSparseFile.1/f", DATA),
        pax(*SPARSE_1_0, (b"GNU.sparse.realsize", b"8192"))
        + member(b"GNUSparseFile.1/f", sparse_map(2, 512, 512, 4096, 1) + DATA),
    ],
)
def test_sparse_files_in_all_forms(archive: bytes) -> None:
    found, data = only(archive)
    assert (found.name, found.size, data) == (b"f", 8192, DATA)
    assert found.segments == array("q", [512, 512, 4096, 1])


def old_sparse_with_blocks(extra: int) -> bytes:
    fields = b"".join(b"%011o\0%011o\0" % (n * 1024, 1) for n in range(4 + 21 * extra))
    first, rest = fields[:96], fields[96:]
    head = header(
        b"f", b"S", 4 + 21 * extra, raw=[(386, first), (482, b"\1"), (483, b"%011o" % 2**20)]
    )
    more = [rest[at : at + 504] for at in range(0, len(rest), 504)]
    return head + b"".join(m + bytes([n < extra - 1]) + bytes(7) for n, m in enumerate(more))


def test_old_sparse_with_extension_blocks() -> None:
    found, data = only(old_sparse_with_blocks(3) + padded(b"z" * 67))
    assert found.segments is not None
    assert len(found.segments) == 2 * 67
    assert data == b"z" * 67


@given(
    st.lists(
        st.tuples(st.text("aé/.-", min_size=1, max_size=300), st.binary(max_size=2000)), max_size=6
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from(SIZES),
)
def test_tarfiles_output_is_read(entries: list[tuple[str, bytes]], form: int, size: int) -> None:
    infos = []
    for name, data in entries:
        info = tarfile.TarInfo("x" + name)
        info.size, info.mtime, info.mode = len(data), 1_700_000_000, 0o640
        infos.append((info, data))
    found = members(by_tarfile(infos, form), size)
    assert [(m.name, data) for m, data in found] == [(i.name.encode(), d) for i, d in infos]
    assert {m.mode for m, _ in found} <= {0o640}


@given(st.binary(max_size=3000))
def test_noise_is_an_archive_error(noise: bytes) -> None:
    with pytest.raises(ArchiveError):
        members(b"\1" + noise)
