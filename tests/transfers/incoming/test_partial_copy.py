"""Copies of what has arrived: flushed, read back, and lost by a disk that says so once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred

from tests.moves.moving import LIMITS, MOVE, Source
from tests.support.sample_server import UUID
from wingsd.archive.quota import ArchiveLimits
from wingsd.errors import MoveNoSpace, MoveResumeNeeded, StorageError
from wingsd.moves.batch import BatchReader
from wingsd.moves.filling import BatchFiller
from wingsd.transfers.incoming.moves.partial_copy import CopyUpkeep, PartialCopy
from wingsd.transfers.storage.staging import PartialCopies, Staging

SIZE = 300_000


class LossyDisk:
    """A copy on a disk whose next flush fails when `has_lost` was set; those after it do not."""

    def __init__(self, place: Path) -> None:
        self.has_lost = False
        self.tree = place / "server"
        self.tree.mkdir()
        (self.tree / "world.dat").write_bytes(os.urandom(SIZE))
        staging = Staging(str(place / "volumes"), (os.getuid(), os.getgid()), durable=True)
        staging.prepare()
        self.close = staging.close
        staging.sync = self.sync  # type: ignore[method-assign]
        self.copies = PartialCopies(staging, 0, ArchiveLimits(None, 0, 0, 0, 0))
        self.copy = self.opened()

    def opened(self) -> PartialCopy:
        owner = (os.getuid(), os.getgid())
        return PartialCopy(UUID, MOVE, self.copies, LIMITS, owner)

    def sync(self, server: str) -> None:
        lost, self.has_lost = self.has_lost, False
        if lost:
            raise StorageError("the disk could not be written to: Input/output error")

    def resume(self) -> int:
        """Resume; return how many bytes are held."""
        told = self.copy.resume()
        self.source = Source(256 << 10, self.tree)
        self.source.filler = BatchFiller(
            256 << 10, number=told.next - 1, in_round=told.round - 1, shape=told.shape
        )
        self.round = told.round
        return told.bytes

    def send(self) -> int:
        """Send all; return the number of the last batch."""
        last = 0
        for batch in self.source.round():
            last = batch.index.number
            body = b"".join(bytes(piece) for piece in batch.pieces())
            self.copy.receive(last, BatchReader(), iter([body]))
        return last


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LossyDisk]:
    disk = LossyDisk(tmp_path)
    disk.copy.begin()
    disk.resume()
    yield disk
    disk.copy.close()
    disk.close()


def checkpoint(disk: LossyDisk, last: int) -> None:
    disk.copy.checkpoint()


def close_round(disk: LossyDisk, last: int) -> None:
    disk.copy.close_round(disk.round, last, disk.source.sent.root())


def end(disk: LossyDisk, last: int) -> None:
    disk.copy.close()


@pytest.mark.promise("durable-batches-stay")
@pytest.mark.parametrize("flush", [checkpoint, close_round])
def test_after_a_flush_that_fails_all_that_is_not_proven_is_sent_again(
    disk: LossyDisk, flush: Callable[[LossyDisk, int], None]
) -> None:
    last = disk.send()
    disk.has_lost = True
    with pytest.raises(StorageError):
        flush(disk, last)
    for again in (checkpoint, close_round):
        with pytest.raises(MoveResumeNeeded):
            again(disk, last)
    assert disk.resume() == 0
    close_round(disk, disk.send())
    assert disk.resume() == SIZE


@pytest.mark.promise("durable-batches-stay")
@pytest.mark.parametrize("flush", [checkpoint, close_round, end])
def test_what_a_flush_has_lost_is_not_held_by_the_next_transfer(
    disk: LossyDisk, flush: Callable[[LossyDisk, int], None]
) -> None:
    last = disk.send()
    disk.has_lost = True
    with pytest.raises(StorageError):
        flush(disk, last)
    disk.copy.close()
    assert disk.copies.keep(UUID, SIZE, 0.0)
    disk.copy = disk.opened()
    assert disk.copy.begin() == 0


@pytest.mark.promise("durable-batches-stay")
def test_a_flush_that_fails_at_the_end_leaves_nothing_to_be_sent_again(disk: LossyDisk) -> None:
    close_round(disk, disk.send())
    disk.has_lost = True
    with pytest.raises(StorageError):
        disk.copy.finish()
    disk.copy.close()
    assert disk.copies.keep(UUID, SIZE, 0.0)
    disk.copy = disk.opened()
    assert disk.copy.begin() == SIZE


@pytest.mark.promise("durable-batches-stay")
def test_a_flush_that_fails_while_a_session_begins_is_not_passed_over(disk: LossyDisk) -> None:
    disk.send()
    disk.has_lost = True
    with pytest.raises(StorageError):
        disk.copy.resume()
    assert disk.resume() == 0


@pytest.mark.promise("durable-batches-stay", "full-disk-leaves-nothing")
def test_new_files_leave_the_inodes_free_that_are_reserved(
    disk: LossyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.copy.close()
    disk.copies.limits, free = attrs.evolve(disk.copies.limits, inode_reserve=50), 150
    disk.copy = disk.opened()
    disk.copy.begin()
    found = list(os.statvfs(disk.tree))
    found[5], found[7] = 1_000_000, free
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(found))
    for number in range(101):
        (disk.tree / f"{number}").touch()
    disk.resume()
    with pytest.raises(MoveNoSpace, match="inode_reserve"):
        disk.send()
    (disk.tree / "0").unlink()
    (disk.tree / "1").unlink()
    disk.resume()
    close_round(disk, disk.send())


def test_one_thread_at_a_time_reads_back() -> None:
    readings: list[Deferred[None]] = []

    def run(*_: object) -> Deferred[None]:
        readings.append(Deferred())
        return readings[-1]

    parts: Any = SimpleNamespace(run=run, read_back=None)
    upkeep = CopyUpkeep("server", parts, parts, parts, parts)
    first, second = (
        Deferred.fromCoroutine(upkeep.read_back(parts, lambda: False)) for _ in range(2)
    )
    upkeep.read_behind()
    assert len(readings) == 1
    readings[0].callback(None)
    assert first.called
    assert len(readings) == 2
    assert not second.called
