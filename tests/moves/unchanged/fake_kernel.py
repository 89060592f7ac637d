"""A kernel in memory: clocks that stand until they are moved, and the stat results of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from wingsd.moves.nodes import FileNode
from wingsd.moves.scan import stat_stamp
from wingsd.moves.unchanged import KernelCalls, MeasuredFileSystems

__all__ = ["DEVICE", "ROOT", "SECOND", "FakeFileSystems", "FakeKernel", "node_of"]

SECOND = 1_000_000_000
DEVICE = 7
#: The descriptor of the server's directory.
ROOT = 3
_FIELDS = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")


class FakeKernel:
    """Files by their descriptors; `changed` stands for what a running server does."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND
        #: How far the wall clock is ahead of the monotonic one.
        self.ahead = 5_000 * SECOND
        self.boot = b"first boot 00000"
        self.flush: Callable[[], object] = lambda: None
        self.calls: list[str] = []
        self._files: dict[int, dict[str, int]] = {}
        self.put(ROOT, st_ino=2)

    def put(self, fd: int, **fields: int) -> os.stat_result:
        """Make a file, or change fields of one; its ctime is now unless it is given."""
        values = dict.fromkeys(_FIELDS, 1) | {"st_dev": DEVICE, "st_ino": fd, "st_mtime_ns": 0}
        found = values | self._files.get(fd, {}) | {"st_ctime_ns": self.wall_time()} | fields
        self._files[fd] = found
        return self.stat(fd)

    def wall_time(self) -> int:
        return self.now + self.ahead

    def stat(self, fd: int) -> os.stat_result:
        found: dict[str, Any] = dict(self._files[fd])
        return os.stat_result((*(found.pop(name) for name in _FIELDS), 0, 0, 0), found)

    def sync(self, fd: int) -> None:
        assert fd == ROOT
        self.calls.append("flush")
        self.flush()

    def finish_writes(self, fd: int) -> None:
        self.calls.append("finish writes")

    @property
    def interface(self) -> KernelCalls:
        """What the rule is given."""
        return KernelCalls(
            wall_time=self.wall_time,
            monotonic=lambda: self.now,
            boot_id=lambda: self.boot,
            pause=lambda seconds: None,
            sync=self.sync,
            stat=self.stat,
            finish_writes=self.finish_writes,
        )


class FakeFileSystems(MeasuredFileSystems):
    """One objection for all directories."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""

    def objection(self, root: int) -> str:
        return self.reason

    def distrust(self, root: int, reason: str) -> None:
        self.reason = reason


def node_of(found: os.stat_result) -> FileNode:
    """Return the node of a scan that has seen this."""
    node = FileNode(
        found.st_mode,
        found.st_mtime_ns,
        found.st_size,
        (found.st_dev, found.st_ino),
        stat_stamp(found),
    )
    node.names = [b"file%d" % found.st_ino]
    return node
