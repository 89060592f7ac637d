"""What has arrived is read back by one thread at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Lock, Thread

import pytest

from tests.transfers.incoming.test_lost_writes import LossyDisk, close_round
from wingsd.moves.rereading import Piece, PieceReader


class WatchedLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, waited: Event) -> None:
        self._waited = waited
        self._lock = Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waited.set()
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LossyDisk]:
    disk = LossyDisk(tmp_path)
    disk.copy.begin()
    disk.resume()
    close_round(disk, disk.send())
    yield disk
    disk.copy.close()
    disk.close()


def test_a_reading_waits_for_that_of_a_commit_which_was_withdrawn(
    disk: LossyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_read, met, withdrawn = Event(), Event(), Event()
    disk.copy._reading = WatchedLock(met)  # type: ignore[assignment]
    differing = PieceReader.differing
    read = list[Piece]()

    def slow(reader: PieceReader, pieces: Sequence[Piece]) -> list[Piece]:
        is_first, read[:] = not read, [*read, *pieces]
        if is_first:
            is_read.set()
            met.wait(30)
        else:
            met.set()
        return differing(reader, pieces)

    monkeypatch.setattr(PieceReader, "differing", slow)
    of_commit = Thread(target=disk.copy.read_back, args=[withdrawn.is_set])
    of_commit.start()
    is_read.wait(30)
    withdrawn.set()
    disk.copy.read_back(lambda: False)
    of_commit.join()
    assert len(read) == len(set(map(id, read)))
    disk.copy.close()
    assert disk.copy.is_read
