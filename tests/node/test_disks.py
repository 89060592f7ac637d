"""The disks of the node, also where one hangs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fixtures import workers
from tests.support.logged_errors import Logged
from tests.support.reactor import reactor
from tests.support.workers import SynchronousWorkers
from wingsd.node import figures
from wingsd.node.figures import DiskDetails, NodeDisks
from wingsd.threadio import Workers

__all__ = ["workers"]

SYNCHRONOUS: Any = SynchronousWorkers()


class Table:
    """A table of mounts; those of `DEVICES` have a device."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str]] = []

    def partitions(self, *, all: bool) -> list[Any]:  # noqa: A002 - psutil's name
        return [
            SimpleNamespace(device=device, mountpoint=path, fstype=kind)
            for device, path, kind in self.entries
            if all or kind in ("ext4", "xfs")
        ]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    made = Table()
    monkeypatch.setattr("psutil.disk_partitions", made.partitions)
    return made


def sizes(monkeypatch: pytest.MonkeyPatch, by_path: dict[str, tuple[int, int]]) -> None:
    monkeypatch.setattr(figures, "_size", by_path.__getitem__)


async def test_each_device_is_shown_once_with_what_the_node_keeps_on_it(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.entries = [
        ("/dev/a", "/", "ext4"),
        ("tmpfs", "/run", "tmpfs"),
        ("/dev/b", "/srv", "xfs"),
        ("/dev/a", "/srv/bound", "ext4"),
        ("share:/x", "/backups", "nfs4"),
        ("other:/y", "/elsewhere", "nfs4"),
        ("overlay", "/var/lib/docker/overlay2/1/merged", "overlay"),
    ]
    sizes(monkeypatch, {"/": (100, 10), "/srv": (200, 20), "/backups": (300, 30)})
    places = {"Root": "/var/lib/node", "Data": "/srv/data", "Logs": "/srv/bound/log"}
    places |= {"Backup": "/backups/all", "Temp": "/run/tmp"}
    node = NodeDisks(places, SYNCHRONOUS, SYNCHRONOUS, reactor)
    assert await node.look() == [
        DiskDetails("/dev/a", "/", 100, 10, ("Logs", "Root", "Temp")),
        DiskDetails("/dev/b", "/srv", 200, 20, ("Data",)),
        DiskDetails("share:/x", "/backups", 300, 30, ("Backup",)),
    ]


async def test_a_directory_behind_a_symlink_is_found(
    table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    table.entries = [("/dev/a", "/", "ext4"), ("/dev/b", f"{tmp_path}/real", "ext4")]
    sizes(monkeypatch, {"/": (1, 0), f"{tmp_path}/real": (2, 0)})
    node = NodeDisks({"Data": f"{tmp_path}/link/data"}, SYNCHRONOUS, SYNCHRONOUS, reactor)
    assert [disk.tags for disk in await node.look()] == [(), ("Data",)]


async def test_a_disk_that_hangs_shows_its_last_figures_and_delays_no_other(
    table: Table, workers: Workers, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    table.entries = [("/dev/a", "/", "ext4"), ("/dev/b", "/srv", "ext4")]
    used = {"/": 1, "/srv": 1}
    hangs, mends = threading.Event(), threading.Event()
    calls: list[str] = []

    def size(path: str) -> tuple[int, int]:
        calls.append(path)
        if path == "/srv" and hangs.is_set():
            mends.wait(30)
        return 9, used[path]

    monkeypatch.setattr(figures, "_size", size)
    node = NodeDisks({}, SYNCHRONOUS, workers, reactor)
    try:
        assert [disk.used_space for disk in await node.look()] == [1, 1]
        used |= {"/": 2, "/srv": 2}
        hangs.set()
        for _ in range(2):
            assert [disk.used_space for disk in await node.look()] == [2, 1]
        assert calls.count("/srv") == 2
        assert len([line for line in logged.lines if "the disk at /srv" in line]) == 1
    finally:
        mends.set()
        hangs.clear()
    while [disk.used_space for disk in await node.look()] != [2, 2]:
        pass


async def test_a_disk_that_cannot_be_asked_is_left_out(table: Table, tmp_path: Path) -> None:
    table.entries = [("/dev/a", f"{tmp_path}/gone", "ext4")]
    assert await NodeDisks({}, SYNCHRONOUS, SYNCHRONOUS, reactor).look() == []
