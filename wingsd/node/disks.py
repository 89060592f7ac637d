"""The disks of the node: which there are, how full, and which directories are on them.

A disk that hangs (a broken one, or a share whose server is away) blocks the thread that looks at
it. So each is looked at by itself, and one that has not answered shows its last figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.config import Config
from wingsd.node.answers import LatestAnswer
from wingsd.node.counters import hidden
from wingsd.threadio import Workers

__all__ = ["MountedDisk", "NodeDisks", "directories"]

T = TypeVar("T")

#: Seconds for the directories' real places, and for each disk, to be found: a Panel waits for one.
PATIENCE = 0.3

#: Filesystems in memory or of an image, whose figures say nothing of the machine's disks.
_NOT_DISKS = {"devtmpfs", "ramfs", "squashfs", "tmpfs"}


@attrs.frozen(repr=False)
class MountedDisk:
    """A mounted disk; sizes in bytes. `tags` are the names of what the node keeps on it."""

    device: str
    mountpoint: str
    total: int
    used: int
    tags: tuple[str, ...]


def directories(config: Config) -> dict[str, str]:
    """Return the directories of a node by the tags that Pelican's Panel knows."""
    system = config.system
    return {
        "Root": system.root_directory,
        "Logs": system.log_directory,
        "Data": system.data,
        "Backup": system.backup_directory,
        "Temp": system.tmp_directory,
    }


class NodeDisks:
    """The mounted disks of the machine. `places` are directories by their tags.

    `table` are threads that read the kernel's table of mounts, which never waits for a disk;
    `filesystems` are threads that a disk may block, and that nothing else uses.
    """

    _log = Logger()

    def __init__(
        self,
        places: Mapping[str, str],
        table: Workers,
        filesystems: Workers,
        reactor: IReactorTime,
    ) -> None:
        self._table = table
        self._filesystems = filesystems
        self._reactor = reactor
        self._plain = dict(places)
        self._real = {tag: self._latest(os.path.realpath, path) for tag, path in places.items()}
        self._sizes: dict[str, LatestAnswer[tuple[int, int]]] = {}
        self._hanging: frozenset[str] = frozenset()

    async def look(self) -> list[MountedDisk]:
        """Return the disks with what is known of them now. Raises `FiguresUnavailable`.

        A disk that has never answered is left out.
        """
        mounts = await self._table.run(_mounts)
        await self._renew(self._real)
        disks = list(_disks(mounts, self._tags(mounts)))
        self._sizes = {
            disk.mountpoint: self._sizes.get(disk.mountpoint)
            or self._latest(_size, disk.mountpoint)
            for disk in disks
        }
        self._report(await self._renew(self._sizes))
        sizes = {path: answer.value for path, answer in self._sizes.items()}
        return [
            attrs.evolve(disk, total=size[0], used=size[1])
            for disk in disks
            if (size := sizes[disk.mountpoint]) is not None
        ]

    def _latest(self, ask: Callable[[str], T], path: str) -> LatestAnswer[T]:
        return LatestAnswer(partial(ask, path), self._filesystems, self._reactor)

    async def _renew(self, answers: Mapping[str, LatestAnswer[Any]]) -> frozenset[str]:
        """Ask all again; return the keys of those that hang."""
        asking = [Deferred.fromCoroutine(each.get(PATIENCE)) for each in answers.values()]
        fresh = await gatherResults(asking)
        return frozenset(key for key, ok in zip(answers, fresh, strict=True) if not ok)

    def _tags(self, mounts: Sequence[_Mount]) -> dict[str, list[str]]:
        """Return the tags by the mount points that their directories are below."""
        tags: dict[str, list[str]] = {}
        for tag, plain in self._plain.items():
            path = self._real[tag].value or plain
            above = [mount.mountpoint for mount in mounts if _is_on(path, mount.mountpoint)]
            if above:
                tags.setdefault(max(above, key=len), []).append(tag)
        return tags

    def _report(self, hanging: frozenset[str]) -> None:
        """Log each disk once that does not answer."""
        for path in sorted(hanging - self._hanging):
            self._log.warn(
                "the disk at {path} does not answer: the system's log may say why", path=path
            )
        self._hanging = hanging


@attrs.frozen(repr=False)
class _Mount:
    """An entry of the table of mounts; `is_disk` is whether its filesystem is on a device."""

    device: str
    mountpoint: str
    is_disk: bool


def _mounts() -> list[_Mount]:
    import psutil  # noqa: PLC0415 (see wingsd.node.counters)

    try:
        disks = {each.mountpoint for each in psutil.disk_partitions(all=False)}
        # Of two at one place, the later hides the other.
        table = {each.mountpoint: each for each in psutil.disk_partitions(all=True)}
    except (OSError, psutil.Error) as error:
        raise hidden(error) from error
    return [
        _Mount(each.device, path, path in disks)
        for path, each in table.items()
        if each.fstype not in _NOT_DISKS
    ]


def _is_on(path: str, mountpoint: str) -> bool:
    return mountpoint in ("/", path) or path.startswith(f"{mountpoint}/")


def _disks(mounts: Sequence[_Mount], tags: Mapping[str, list[str]]) -> Iterator[MountedDisk]:
    """Yield each device once, by its outermost mount point, without sizes."""
    devices: dict[str, list[str]] = {}
    for mount in mounts:
        if mount.is_disk or mount.mountpoint in tags:
            devices.setdefault(mount.device, []).append(mount.mountpoint)
    for device, paths in devices.items():
        found = sorted(tag for path in paths for tag in tags.get(path, ()))
        yield MountedDisk(device, min(paths, key=len), 0, 0, tuple(found))


def _size(path: str) -> tuple[int, int]:
    """Return a disk's size, and what of it is used. Raises `OSError`."""
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize, (status.f_blocks - status.f_bfree) * status.f_frsize
