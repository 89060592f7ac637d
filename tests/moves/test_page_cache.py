"""What reading a file leaves in the page cache: what was there before, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from wingsd.filesystem.syscalls import cached_pages
from wingsd.moves.filling import PageCacheKeeper

PART = 128 << 10
PARTS = 240
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def fd() -> Iterator[int]:
    """A file on a disk of which nothing is in the page cache."""
    # /var/tmp is on a disk; other directories of tests are in memory.
    with TemporaryDirectory(dir="/var/tmp") as directory:
        path = Path(directory, "file")
        path.write_bytes(os.urandom(PART * PARTS - 100))
        fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(fd, 0, PART * PARTS) != 0:
        os.close(fd)
        pytest.skip("the kernel or the file system does not tell what is cached")
    yield fd
    os.close(fd)


def read(fd: int) -> None:
    size = os.fstat(fd).st_size
    keeper = PageCacheKeeper(fd, size, PART)
    for at in range(0, size, PART):
        keeper.before(at)
        os.pread(fd, PART, at)
    keeper.give_back()


def cached(fd: int) -> list[int]:
    """Return the numbers of the parts that are in the page cache."""
    return [part for part in range(PARTS) if cached_pages(fd, part * PART, PART)]


@pytest.mark.promise("move-yields-to-the-game")
def test_what_somebody_else_has_read_stays(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
    for part in (3, 4, 11, PARTS - 1):
        os.pread(fd, PAGE, part * PART)
    before = cached(fd)
    assert before == [3, 4, 11, PARTS - 1]
    read(fd)
    assert cached(fd) == before
