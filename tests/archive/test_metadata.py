"""What directories are to be at the end, kept on the disk meanwhile."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from wingsd.archive.quota import DEFAULT
from wingsd.archive.tree_writer import DirectoryMetadata, TreeWriter
from wingsd.errors import ArchiveError

MIB = 1 << 20


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[DirectoryMetadata]:
    metadata = DirectoryMetadata(str(tmp_path), 4096)
    yield metadata
    metadata.close()
    assert os.listdir(tmp_path) == []


def test_the_last_mode_and_time_of_a_directory_hold(kept: DirectoryMetadata) -> None:
    kept.add((b"a",), 0o700, None)
    kept.add((b"b",), 0o700, 1)
    kept.update((b"a",), 0o755, 2)
    kept.update((b"a",), 0o711, 3)
    kept.update((), 0o750, 4)
    kept.update((b"before",), 0o700, 5)
    assert list(kept.in_order()) == [
        ((b"b",), 0o700, 1, b""),
        ((b"a",), 0o711, 3, b""),
        ((b"before",), 0o700, 5, b""),
        ((), 0o750, 4, b""),
    ]


def test_memory_for_repeated_directories_is_bounded(kept: DirectoryMetadata) -> None:
    for _ in range(100):
        kept.update((b"same",), 0o755, 0)
    for n in range(10):
        kept.update((b"%d" % n,), 0o755, 0)
    with pytest.raises(ArchiveError, match=r"too many directories.*directories first"):
        kept.update((b"one more",), 0o755, 0)


@pytest.mark.promise("archive-memory-is-bounded")
def test_directories_without_number_take_little_memory(tmp_path: Path) -> None:
    writer = TreeWriter(str(tmp_path), None, DEFAULT)
    tracemalloc.start()
    try:
        for n in range(3000):
            writer.directory((b"p" * 250, b"%d" % (n // 100), b"q" * 250, b"%d" % n), 0o751, n)
        writer.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        writer.close()
    # three thousand of such paths take more than 2 MiB by themselves
    assert peak < 1.5 * MIB
    found = tmp_path / ("p" * 250) / "7" / ("q" * 250) / "777"
    assert (found.stat().st_mode & 0o7777, found.stat().st_mtime_ns) == (0o751, 777)
