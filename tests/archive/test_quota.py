"""Saying no before the disk is full, on the figures of a disk that is not there."""

from __future__ import annotations

import os
from array import array

import pytest
from attrs import evolve

from tests.support.archives import header
from wingsd.archive.quota import (
    DEFAULT,
    STEP,
    ArchiveQuota,
)
from wingsd.archive.tar_reader import Member
from wingsd.errors import BadRequest, StorageError
from wingsd.filesystem.walk import ENTRY_SIZE, FREE_ENTRIES

MIB = 1 << 20
GIB = 1 << 30
WORDS = "There is not enough disk space available to perform that action."


class Disk:
    """A file system of 100 GiB whose figures are what a test says; it counts the questions."""

    def __init__(self, free: int, inodes: int = 10**6, files: int = 10**7) -> None:
        self.free = free
        self.inodes = inodes
        self.files = files
        self.asked = 0

    def __call__(self) -> os.statvfs_result:
        self.asked += 1
        blocks = (100 * GIB // 4096, self.free // 4096 + 5, self.free // 4096)
        return os.statvfs_result(
            (4096, 4096, *blocks, self.files, self.inodes, self.inodes, 0, 255)
        )


def one(size: int, name: bytes = b"world/f", typeflag: bytes = b"0") -> Member:
    found = Member(memoryview(header(name, typeflag=typeflag)))
    found.size = size
    return found


def test_a_server_gets_as_much_as_it_may_have_and_no_byte_more() -> None:
    quota = ArchiveQuota(DEFAULT.for_server(10), Disk(50 * GIB))
    quota.reserve(one(6 * MIB))
    quota.reserve(one(4 * MIB))
    quota.reserve(one(0))
    with pytest.raises(BadRequest) as caught:
        quota.reserve(one(1))
    assert (caught.value.status, caught.value.message) == (400, WORDS)
    assert caught.value.detail.startswith(
        'with "world/f" the server\'s files take 11 MiB, its disk limit is 10 MiB; '
    )


@pytest.mark.promise("oversized-server-is-not-sent")
def test_without_a_limit_the_nodes_reserve_stays_free() -> None:
    quota = ArchiveQuota(DEFAULT, Disk(3 * GIB))
    quota.reserve(one(2 * GIB))
    with pytest.raises(StorageError) as caught:
        quota.reserve(one(2 * GIB + 1))
    assert caught.value.status == 500
    assert (
        '"world/f" takes 2049 MiB more, 3072 MiB are free, and 1024 MiB must stay free'
        in caught.value.detail
    )


def test_the_reserve_is_at_most_a_twentieth() -> None:
    quota = ArchiveQuota(evolve(DEFAULT, reserve=50 * GIB), Disk(6 * GIB))
    quota.reserve(one(GIB))
    with pytest.raises(StorageError, match="5120 MiB must stay free"):
        quota.reserve(one(GIB + 1))


@pytest.mark.promise("full-disk-leaves-nothing")
def test_inodes_can_be_used_up() -> None:
    quota = ArchiveQuota(DEFAULT, Disk(50 * GIB, inodes=1023))
    with pytest.raises(StorageError, match="1023 of its 10000000 inodes are free"):
        quota.reserve(one(STEP))
    # btrfs tells of none
    ArchiveQuota(DEFAULT, Disk(50 * GIB, inodes=0, files=0)).reserve(one(STEP))


@pytest.mark.promise("archive-respects-the-disk-limit")
def test_a_large_file_stops_where_others_fill_the_disk_meanwhile() -> None:
    disk = Disk(50 * GIB)
    quota = ArchiveQuota(DEFAULT, disk)
    large = one(10 * GIB)
    quota.reserve(large)
    written = []

    def write() -> None:
        for piece in quota.watched(large, [memoryview(bytes(MIB))] * 100):
            written.append(piece)
            if len(written) == 20:
                disk.free = 100 * MIB

    with pytest.raises(StorageError, match="the disk is full"):
        write()
    assert 20 <= len(written) <= 20 + STEP // MIB


def test_a_sparse_file_counts_whole_for_the_server_and_by_its_blocks_for_the_disk() -> None:
    sparse = one(100 * GIB)
    sparse.segments = array("q", [0, 1, 5 * GIB, 4097])
    ArchiveQuota(DEFAULT, Disk(2 * GIB)).reserve(sparse)
    with pytest.raises(BadRequest):
        ArchiveQuota(DEFAULT.for_server(50 * 1024), Disk(2 * GIB)).reserve(sparse)
    many = one(GIB)
    many.segments = array("q", [n for at in range(0, 1 << 22, 16) for n in (at, 1)])
    with pytest.raises(StorageError, match="takes 1024 MiB more"):
        ArchiveQuota(DEFAULT, Disk(GIB + 1023 * MIB)).reserve(many)


@pytest.mark.promise("archive-respects-the-disk-limit")
def test_links_beyond_the_free_ones_count_against_the_servers_limit() -> None:
    quota = ArchiveQuota(DEFAULT.for_server(1), Disk(50 * GIB))
    for number in range(FREE_ENTRIES + MIB // ENTRY_SIZE):
        quota.reserve(one(0, b"d/%d" % number, b"12"[number % 2 :][:1]))
    quota.reserve(one(0))
    with pytest.raises(BadRequest) as caught:
        quota.reserve(one(0, b"d/more", b"1"))
    assert caught.value.message == WORDS
    assert (
        '"d/more" the server\'s files take 2 MiB, its disk limit is 1 MiB' in caught.value.detail
    )
    assert (
        "50257 directories and links, those beyond the first 50000 count "
        "4 KiB each" in caught.value.detail
    )


@pytest.mark.promise("archive-respects-the-disk-limit")
def test_directories_of_several_archives_count_together() -> None:
    together: list[ArchiveQuota] = []
    for _ in range(2):
        together.append(ArchiveQuota(DEFAULT.for_server(1), Disk(50 * GIB), together))
    together[0].reserve(one(MIB), FREE_ENTRIES)
    together[1].reserve(one(0), 0)
    with pytest.raises(BadRequest, match="50001 directories and links"):
        together[1].reserve(one(0), 1)


@pytest.mark.promise("full-disk-leaves-nothing")
def test_the_inode_reserve_is_a_setting_and_at_most_a_twentieth() -> None:
    for inodes, files, kept in ((19_999, 10**7, 20_000), (499, 10_000, 500)):
        quota = ArchiveQuota(
            evolve(DEFAULT, reserve=0), Disk(50 * GIB, inodes=inodes, files=files)
        )
        with pytest.raises(StorageError) as caught:
            quota.reserve(one(STEP))
        assert f"and {kept} must stay free (system.transfers.inode_reserve)" in str(caught.value)
        enough = Disk(50 * GIB, inodes=kept, files=files)
        ArchiveQuota(evolve(DEFAULT, reserve=0), enough).reserve(one(STEP))


def test_room_is_made_as_long_as_there_is_any_to_be_made() -> None:
    disk, kept = Disk(GIB), [3 * GIB, 3 * GIB, GIB]

    def make_room() -> bool:
        if kept:
            disk.free += kept.pop(0)
            return True
        return False

    quota = ArchiveQuota(evolve(DEFAULT, reserve=2 * GIB, make_room=make_room), disk)
    quota.reserve(one(3 * GIB))
    assert (disk.free, kept) == (7 * GIB, [GIB])
    with pytest.raises(StorageError, match="must stay free"):
        quota.reserve(one(7 * GIB))
    assert kept == []
