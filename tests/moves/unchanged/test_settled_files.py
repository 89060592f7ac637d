from __future__ import annotations

import random
import tracemalloc

import pytest

from wingsd.moves import unchanged as rule
from wingsd.moves.unchanged import SavedSettledFiles, SettledFiles

COUNT = 20_000


def some(count: int = COUNT) -> tuple[SettledFiles, dict[int, int]]:
    chance = random.Random(1)
    known = {chance.randrange(1 << 64): chance.randrange(1 << 63) for _ in range(count)}
    files = SettledFiles()
    for inode, ctime in (*known.items(), *known.items()):
        files.add(inode, ctime)
    files.sort()
    return files, known


def test_exactly_what_was_added_is_found() -> None:
    files, known = some()
    assert len(files) == COUNT
    assert all(files.has(inode, ctime) for inode, ctime in known.items())
    assert not any(files.has(inode, ctime + 1) for inode, ctime in known.items())
    assert not any(files.has(inode ^ 1, ctime) for inode, ctime in known.items())
    assert not SettledFiles().has(0, 0)


def test_of_files_in_both_the_later_ctime_is_found() -> None:
    files, others = SettledFiles(), SettledFiles()
    for inode in range(10):
        files.add(2 * inode, 5)
        others.add(3 * inode, inode)
    files.sort()
    others.sort()
    files.take(others)
    expected = {2 * inode: 5 for inode in range(10)}
    for inode in range(10):
        expected[3 * inode] = max(inode, expected.get(3 * inode, 0))
    assert len(files) == len(expected)
    assert all(files.has(inode, ctime) for inode, ctime in expected.items())
    files.take(others)  # once more, all of which are there
    assert len(files) == len(expected)


def test_many_files_are_sorted_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "_SLICE", COUNT // 16)
    chance = random.Random(1)
    inodes = list(range(COUNT))
    chance.shuffle(inodes)
    files = SettledFiles()
    for inode in inodes:
        files.add(inode, inode)
    tracemalloc.start()
    try:
        files.sort()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(inodes) * (16 + 20)
    assert all(files.has(inode, inode) for inode in inodes)


def test_a_file_takes_16_bytes() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        files = SettledFiles()
        for number in range(COUNT):
            files.add(number, number)
        files.sort()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / COUNT < 20


def test_what_is_saved_comes_back() -> None:
    files, known = some(100)
    saved = SavedSettledFiles(b"b" * 16, 9, -5, files).packed()
    found = SavedSettledFiles.unpacked(saved)
    assert found is not None
    assert (found.boot, found.device, found.offset) == (b"b" * 16, 9, -5)
    assert all(found.files.has(inode, ctime) for inode, ctime in known.items())


def test_bytes_that_are_not_whole_are_nothing() -> None:
    saved = SavedSettledFiles(b"b" * 16, 9, 0, some(3)[0]).packed()
    for length in range(len(saved)):
        assert SavedSettledFiles.unpacked(saved[:length]) is None
    for at in range(len(saved)):
        damaged = saved[:at] + bytes([saved[at] ^ 1]) + saved[at + 1 :]
        assert SavedSettledFiles.unpacked(damaged) is None
