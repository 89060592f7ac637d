"""What has arrived is read back by one thread at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest
from twisted.internet.defer import Deferred

from tests.support.reactor import reactor, until
from tests.transfers.incoming.test_lost_writes import LossyDisk, close_round
from wingsd.moves.destination import Piece, PieceReader
from wingsd.threadio import Workers
from wingsd.transfers.incoming.moves.partial_copy import CopyUpkeep


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LossyDisk]:
    disk = LossyDisk(tmp_path)
    disk.copy.begin()
    disk.resume()
    close_round(disk, disk.send())
    yield disk
    disk.copy.close()
    disk.close()


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(reactor, "test", 4)
    workers.start()
    yield workers
    workers.stop()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_reading_waits_for_that_of_a_commit_which_was_withdrawn(
    disk: LossyDisk, workers: Workers, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    upkeep = CopyUpkeep("server", disk.copy, workers, workers, reactor)
    is_read, goes_on, withdrawn = Event(), Event(), Event()
    differing = PieceReader.differing
    read = list[Piece]()

    def slow(reader: PieceReader, pieces: Sequence[Piece]) -> list[Piece]:
        read.extend(pieces)
        is_read.set()
        goes_on.wait(30)
        return differing(reader, pieces)

    monkeypatch.setattr(PieceReader, "differing", slow)
    of_commit = Deferred.fromCoroutine(upkeep.read_back(workers, withdrawn.is_set))
    of_commit.addErrback(lambda _: None)
    await until(is_read.is_set)
    withdrawn.set()
    if is_cancelled:
        of_commit.cancel()
    upkeep.read_behind()
    second = Deferred.fromCoroutine(upkeep.read_back(workers, lambda: False))
    assert not second.called
    goes_on.set()
    await second
    assert len(read) == len(set(map(id, read)))
    disk.copy.close()
    assert disk.copy.is_read
