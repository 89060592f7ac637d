"""The form of catalogues and deltas, and chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wingsd.errors import HistoryDamaged, HistoryVersionUnknown
from wingsd.filesystem.attributes import encode_attributes
from wingsd.history.format import (
    BLOCK,
    PIECE,
    FileChunk,
    FileHash,
    FormKind,
    FormReader,
    FormWriter,
    Holes,
    PastDirectory,
    PastEntry,
    PastFile,
    PastHardLink,
    PastLink,
    PastNothing,
    Point,
    PointLabel,
    RootHash,
    Section,
    differences,
    encode_chunks,
    hole_differences,
    merge_chunks,
    parts_of,
    pieces_of,
    read_chunks,
)

POINT = Point(3, 123456789, PointLabel.STOPPED, b"r" * 32, 2, 9000, (b"a", b"\xff/\n"))
ATTRIBUTES = encode_attributes({b"user.a": b"1"})
FILE = PastFile(b"d/f", 0o640, -5, 9000, sha256(b"").digest(), ATTRIBUTES)
ENTRIES: list[PastEntry] = [
    PastDirectory(b"", 0o755, 7, ATTRIBUTES),
    PastNothing(b"a"),
    PastDirectory(b"d", 0o700, 1),
    FILE,
    PastHardLink(b"e", b"d/f"),
    PastLink(b"l", -1, b"../\xff"),
]
DATA = os.urandom(700_000)


@pytest.fixture
def fd() -> Iterator[int]:
    fd = os.memfd_create("form")
    yield fd
    os.close(fd)


def written(fd: int) -> FormReader:
    """Write a delta with all kinds of entries, and return its reader."""
    writer = FormWriter(fd, FormKind.DELTA, 3, 5)
    writer.data(DATA)
    for entry in ENTRIES:
        section = Section(True, 5, 600_000) if isinstance(entry, PastFile) else None
        writer.add(entry, section)
    writer.finish(POINT)
    assert writer.size == os.fstat(fd).st_size
    return FormReader.of(fd, "it")


def read_all(fd: int) -> None:
    """Read all of a delta."""
    reader = FormReader.of(fd, "it")
    list(reader.entries())
    reader.data(0, len(DATA))


def test_what_is_written_is_read(fd: int) -> None:
    reader = written(fd)
    assert (reader.kind, reader.newer, reader.point) == (FormKind.DELTA, 5, POINT)
    assert [entry for entry, _ in reader.entries()] == ENTRIES
    assert [section for _, section in reader.entries() if section] == [Section(True, 5, 600_000)]
    assert reader.data(0, len(DATA)) == DATA
    assert reader.data(262_140, 10) == DATA[262_140:262_150]


def test_each_changed_byte_is_found(fd: int) -> None:
    written(fd)
    size = os.fstat(fd).st_size
    places = [*range(32), *range(size - 16, size), *range(32, size, size // 97)]
    for at in places:
        (before,) = os.pread(fd, 1, at)
        os.pwrite(fd, bytes([before ^ 1]), at)
        with pytest.raises((HistoryDamaged, HistoryVersionUnknown)):
            read_all(fd)
        os.pwrite(fd, bytes([before]), at)
    os.ftruncate(fd, size - 1)
    with pytest.raises(HistoryDamaged):
        FormReader.of(fd, "it")


def test_a_changed_version_is_damage(fd: int) -> None:
    written(fd)
    os.pwrite(fd, b"\2", 8)
    with pytest.raises(HistoryDamaged, match="version"):
        FormReader.of(fd, "it")
    os.pwrite(fd, b"x", os.fstat(fd).st_size - 30)
    with pytest.raises(HistoryVersionUnknown):
        FormReader.of(fd, "it")


def test_an_end_that_nobody_reads_is_not_written(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wingsd.history.format.MAX_END", 1000)
    writer = FormWriter(fd, FormKind.DELTA, 3, 5)
    with pytest.raises(OSError, match="too large"):
        writer.finish(Point(3, 1, PointLabel.RUNNING, bytes(32), 0, 0, (b"n" * 1000,)))


@pytest.mark.parametrize("length", [1000, 40_000])
def test_entries_go_on_in_the_next_part(fd: int, length: int) -> None:
    writer = FormWriter(fd, FormKind.DELTA, 3, 5)
    paths = [b"%06d" % number for number in range(max(200_000 // length, 5))]
    for path in paths:
        writer.add(PastLink(path, 1, b"t" * length))
    writer.finish(POINT)
    assert [entry.path for entry, _ in FormReader.of(fd, "it").entries()] == paths


def test_unsorted_entries_are_refused(fd: int) -> None:
    writer = FormWriter(fd, FormKind.DELTA, 3, 5)
    writer.add(PastNothing(b"b"))
    writer.add(PastNothing(b"a"))
    writer.finish(POINT)
    with pytest.raises(HistoryDamaged):
        list(FormReader.of(fd, "it").entries())


@pytest.mark.parametrize(
    ("above", "path"),
    [(b"d/f", b"d/"), (b"d/f", b"d/.."), (b"d/f", b"d//g"), (b"a", b"/a"), (b"a", b"b" * 256)],
)
def test_paths_that_lead_elsewhere_are_refused(fd: int, above: bytes, path: bytes) -> None:
    entries = sorted((above, path), key=lambda each: each.replace(b"/", b"\0"))
    writer = FormWriter(fd, FormKind.DELTA, 1, 2)
    for each in entries:
        writer.add(PastNothing(each))
    writer.finish(POINT)
    with pytest.raises(HistoryDamaged, match="no path below a directory"):
        list(FormReader.of(fd, "form").entries())


def test_the_root_is_of_all_entries_in_their_order() -> None:
    root = RootHash()
    root.add(PastDirectory(b"", 0o755, 1))
    root.add(PastFile(b"f", 0o644, 2, 3, b"d" * 32))
    raw = b"\4\0\0" + b"\xed\1" + (1).to_bytes(8, "little") + b"\0\0"
    raw += b"\1\1\0f" + b"\xa4\1" + (2).to_bytes(8, "little") + (3).to_bytes(8, "little")
    raw += b"d" * 32 + b"\0\0"
    assert root.digest() == sha256(b"wingsd history 1 root\n" + raw).digest()
    assert (root.files, root.size) == (1, 3)


def chunks(section: bytes, size: int) -> list[FileChunk]:
    """Return the chunks of a section."""

    def read(offset: int, length: int) -> bytes:
        return section[offset : offset + length]

    return list(read_chunks(read, 0, len(section), size))


def applied(content: bytes, section: bytes, size: int) -> bytes:
    """Return what contents become by a section."""
    found = bytearray(content[:size].ljust(size, b"\0"))
    for at, length, data in chunks(section, size):
        found[at : at + length] = data or bytes(length)
    return bytes(found)


#: Contents of few different blocks, the last one of any length.
CONTENTS = st.tuples(
    st.lists(st.sampled_from([b"\0", b"a", b"b"]), max_size=6), st.integers(0, BLOCK - 1)
).map(lambda it: b"".join(each * BLOCK for each in it[0])[: max(len(it[0]) * BLOCK - it[1], 0)])


@given(CONTENTS, CONTENTS, CONTENTS)
def test_chunks_lead_from_each_content_to_the_other(
    oldest: bytes, older: bytes, newest: bytes
) -> None:
    forward, reverse = differences(older, newest, 0)
    assert applied(older, forward, len(newest)) == newest
    assert applied(newest, reverse, len(older)) == older
    _, before = differences(oldest, older, 0)
    merged = b"".join(
        merge_chunks(chunks(before, len(oldest)), chunks(reverse, len(older)), len(oldest))
    )
    assert applied(newest, merged, len(oldest)) == oldest
    for size in (0, len(newest) // 2, len(newest) + 1, len(newest) + 2 * BLOCK):
        # whatever was written of a change that was broken off
        half = applied(older, forward, len(newest))[:size]
        assert (
            applied(half, reverse, len(older))[: min(len(half), len(older))]
            == (older[: min(len(half), len(older))])
        )


@given(CONTENTS)
def test_blocks_of_zeros_take_no_data(content: bytes) -> None:
    section = b"".join(encode_chunks(7, content))
    assert applied(b"", b"".join(encode_chunks(0, content)), len(content)) == content
    assert len(section) <= len(content) + 12 * (len(content) // BLOCK + 1)
    if not any(content):
        assert len(section) <= 24


def test_holes_have_the_digest_of_zeros(fd: int) -> None:
    size = 200 * PIECE + 5
    os.ftruncate(fd, size)
    os.pwrite(fd, b"data", 150 * PIECE + 7)
    digest, read = FileHash(), []
    for at in pieces_of(Holes(fd, size), digest):
        read.append(at)
        digest.add(os.pread(fd, PIECE, at))
    assert read == [150 * PIECE]
    every = [os.pread(fd, PIECE, at) for at in range(0, size, PIECE)]
    expected = sha256(b"".join(sha256(piece).digest() for piece in every)).digest()
    assert digest.digest() == expected


@pytest.mark.parametrize("old", [0, 1, PIECE - 1, PIECE, 3 * PIECE + BLOCK, 3 * PIECE + 5000])
@pytest.mark.parametrize("new", [0, 5, PIECE, 2 * PIECE + 1, 3 * PIECE + 4999])
def test_a_hole_differs_as_zeros_do(old: int, new: int) -> None:
    """Of files that are one hole all differences are those beyond the end of the shorter one."""
    fds = [os.memfd_create("hole") for _ in range(2)]
    for each, size in zip(fds, (old, new), strict=True):
        os.ftruncate(each, size)
    parts = [*parts_of(Holes(fds[0], old), Holes(fds[1], new))]
    assert parts == ([(0, max(old, new), True)] if max(old, new) else [])
    for first, last, direction in ((old, new, 0), (new, old, 1)):
        found = b"".join(hole_differences(old, new, at, end)[direction] for at, end, _ in parts)
        assert found == differences(bytes(first), bytes(last), 0)[0]
    for each in fds:
        os.close(each)
