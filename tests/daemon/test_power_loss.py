"""The power fails in the moment in which the Panel hears of a success.

What is on the disk then is taken from under a real ext4: its image is copied without a sync, so
that everything still in the page cache is missing, as it would be. What the Panel was told must
be whole in the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.receiving_node import ReceivingNode
from tests.support.sample_server import UUID, archive
from wingsd.statedb import Store

SIZE = 48 << 20


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    assert not done.returncode, f"{' '.join(command)} (as root): {done.stderr.decode().strip()}"


class Disk:
    """An ext4 in a file."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "disk.img"
        self.place = directory / "disk"
        self.after = directory / "after"
        with self._image.open("wb") as file:
            file.truncate(256 << 20)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))
        self.place.mkdir()
        run("mount", "-o", "loop", str(self._image), str(self.place))

    def lose_power(self) -> None:
        """Mount, at `after`, what a disk would hold on which nothing more is written."""
        copy = self._image.with_suffix(".lost")
        shutil.copyfile(self._image, copy)
        self.after.mkdir()
        # Its journal is replayed, as after a real loss of power.
        run("mount", "-o", "loop", str(copy), str(self.after))

    def close(self) -> None:
        for place in (self.after, self.place):
            if place.is_mount():
                run("umount", str(place))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.close()


async def until_success(daemon: ReceivingNode, disk: Disk, *, durable: bool) -> Deferred[Any]:
    """Receive a server on the disk until its success is at the Panel; return the upload."""
    daemon.transfers = {"durable": durable, "disk_reserve": 0}
    place = {"data": str(disk.place / "volumes"), "root_directory": str(disk.place)}
    await daemon.start(system=place)
    hang = daemon.panel.hold("/success")
    upload = Deferred.fromCoroutine(daemon.upload(archive(SIZE)))
    await daemon.panel.called("/success")
    await deferToThread(disk.lose_power)
    hang.release()
    return upload


def whole(disk: Path) -> bool:
    region = disk / "volumes" / UUID / "world" / "region" / "r.0.0.mca"
    if not region.is_file() or os.path.getsize(region) != SIZE:
        return False
    intact = disk.parent / "disk" / "volumes" / UUID / "world" / "region" / "r.0.0.mca"
    return region.read_bytes() == intact.read_bytes()


@pytest.mark.promise("success-survives-power-loss")
async def test_a_reported_success_survives_a_power_loss(disk: Disk, daemon: ReceivingNode) -> None:
    upload = await until_success(daemon, disk, durable=True)
    assert await upload == (200, None)
    assert whole(disk.after)
    store = Store(str(disk.after))
    store.open()
    (entry,) = store.unfinished()
    assert (entry.server, entry.step) == (UUID, "REPORT")
    assert [report.server for report in store.unsettled()] == [UUID]
    store.close()


async def test_without_durability_a_power_loss_loses_it(disk: Disk, daemon: ReceivingNode) -> None:
    """Show that the test above can fail: the same, and nothing flushed."""
    upload = await until_success(daemon, disk, durable=False)
    assert await upload == (200, None)
    assert not whole(disk.after)
