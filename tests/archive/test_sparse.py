"""Sparse files are packed as such, for GNU tar and for this project's own reader."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.archive.packing import packed, unpack
from tests.support.archives import seen
from tests.support.present import present
from wingsd.archive.compress import Compression
from wingsd.archive.pack import LEAST_HOLES, data_segments

MIB = 1 << 20


def write(path: Path, size: int, *pieces: tuple[int, bytes]) -> None:
    """Make a sparse file with data at these offsets."""
    with path.open("wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)


compressed = partial(packed, compression=Compression.BEST_SPEED, holes=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    write(made / "start", 40 * MIB, (0, b"start"))
    write(made / "middle", 40 * MIB, (9 * MIB, os.urandom(300_000)), (30 * MIB, b"x"))
    write(made / "end", 40 * MIB, (40 * MIB - 3, b"end"))
    write(made / "empty", 40 * MIB)
    write(made / ("n" * 150), 8 * MIB + 1, (4 * MIB, b"long name"))
    write(made / "日本", 8 * MIB, (0, b"a"), (2 * MIB, b"b"), (6 * MIB, b"c"))
    write(made / "large", 20 << 30, (19 << 30, b"far"))
    # Its holes are too small to be worth a map.
    write(made / "holed", 8 * MIB, *((at << 16, os.urandom(4096)) for at in range(128)))
    (made / "dense").write_bytes(os.urandom(3 * MIB))
    (made / "small").write_bytes(b"small")
    return made


def is_sparse(path: Path) -> bool:
    return path.stat().st_size - path.stat().st_blocks * 512 > LEAST_HOLES


def test_gnu_tar_extracts_them_as_they_were(tree: Path, tmp_path: Path) -> None:
    (tree / "large").unlink()
    sent = compressed(tree)
    archive = bytes(sent.archive)
    assert (sent.notes, len(archive) < 4 * MIB) == ([], True)
    assert sent.packed.packed_bytes == sum(path.stat().st_size for path in tree.iterdir())
    (tmp_path / "out").mkdir()
    command = ["tar", "-xzpf", "-", "-C", str(tmp_path / "out")]
    subprocess.run(command, input=archive, check=True)
    assert seen(tmp_path / "out") == seen(tree)
    assert is_sparse(tmp_path / "out/middle")


def test_they_are_received_as_they_were(tree: Path, tmp_path: Path) -> None:
    archive = bytes(compressed(tree).archive)
    assert len(archive) < 4 * MIB
    _, notes = unpack(archive, tmp_path / "out")
    assert notes == []
    for path in tree.iterdir():
        other = tmp_path / "out" / path.name
        assert other.stat().st_size == path.stat().st_size
        assert is_sparse(other) is (is_sparse(path) and path.name != "holed")
        if path.name != "large":
            assert other.read_bytes() == path.read_bytes()
    with (tmp_path / "out/large").open("rb") as file:
        file.seek(19 << 30)
        assert file.read(4) == b"far\0"


@pytest.mark.promise("backup-of-changing-files-is-valid")
def test_one_that_shrinks_is_filled_up_and_named(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write(tree / "s", 30 * MIB, (0, os.urandom(2 * MIB)), (20 * MIB, os.urandom(2 * MIB)))
    (tree / "z").write_bytes(b"after it")

    def cut(data: int) -> None:
        if data:
            os.truncate(tree / "s", 1000)

    sent = compressed(tree, meanwhile=cut)
    assert any("shrank while it was read" in note for note in sent.notes)
    with tarfile.open(fileobj=io.BytesIO(sent.archive)) as members:
        last = present(members.extractfile("z"))
        assert last.read() == b"after it"
        assert members.getmember("s").size == 30 * MIB


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 4)), max_size=6), st.integers(0, 90))
def test_all_data_is_in_the_segments(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]], size: int
) -> None:
    path = tmp_path_factory.mktemp("sparse") / "file"
    content = [(at * 100_000, b"\1" * (length * 10_000)) for at, length in pieces]
    write(path, size * 100_000, *content)
    with path.open("rb") as file:
        found = data_segments(file.fileno(), size * 100_000)
        file.seek(0)
        data = file.read()
    if found is None:
        return
    whole = bytearray(len(data))
    end = 0
    for offset, length in found:
        assert offset >= end
        end = offset + length
        whole[offset:end] = data[offset:end]
    assert end <= len(data)
    assert bytes(whole) == data
