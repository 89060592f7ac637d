"""A short sample of `make power`: the power fails in the middle of moves on each file system."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.crash.disks import FILE_SYSTEMS
from tests.crash.engine import Broken
from tests.crash.histories import LostHistories
from tests.crash.power import PowerLosses
from tests.crash.recorded_disk import note, write_lost
from wingsd.errors import StorageError

pytestmark = pytest.mark.root

LOSSES = 6


@pytest.mark.promise("durable-batches-stay")
@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
async def test_what_was_told_durable_survives_a_power_loss(file_system: str) -> None:
    found = await PowerLosses(file_system).run(LOSSES, seed=1)
    assert found.done == LOSSES


@pytest.mark.promise("history-survives-faults")
@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
async def test_points_of_a_history_survive_a_power_loss(file_system: str) -> None:
    found = await LostHistories(file_system).run(LOSSES, seed=1)
    assert found.done == LOSSES


async def test_a_destination_that_flushes_nothing_is_found_out() -> None:
    with pytest.raises((Broken, StorageError)):
        # Most often the first losses show it, but a slow machine's own flushes can hide many.
        await PowerLosses("ext4", flushes=False).run(100 * LOSSES, seed=4)


def test_a_disk_has_what_was_flushed_and_any_of_the_rest(tmp_path: Path) -> None:
    log, disk = tmp_path / "log", tmp_path / "disk"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    note(fd, 0, b"a" * 8192)
    note(fd, 0)
    note(fd, 4096, b"b" * 8192)
    middle = os.fstat(fd).st_size
    note(fd, 0, b"c" * 8192)
    os.close(fd)
    found = set()
    for seed in range(40):
        disk.write_bytes(bytes(16384))
        made = os.open(disk, os.O_RDWR)
        write_lost(made, log, middle, 0.5, random.Random(seed))
        os.close(made)
        found.add(disk.read_bytes()[::4096])
    assert found == {b"aa\0\0", b"ab\0\0", b"aab\0", b"abb\0"}
