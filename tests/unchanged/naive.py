"""Rules that are wrong. Each one is the rule of wingsd without a part of it, but for the first."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import MappingProxyType

import attrs

from tests.unchanged.source import Rule
from wingsd.moves.tree import FileNode, MoveTree
from wingsd.moves.unchanged.file_systems import MeasuredFileSystems
from wingsd.moves.unchanged.kernel import KERNEL
from wingsd.moves.unchanged.rule import SeenFile, UnchangedFiles

__all__ = ["NAIVE", "WithoutWaiting"]

_HOUR = 3_600_000_000_000


class SameSizeAndTime:
    """What rsync looks at first: the size and the modification time."""

    def begin(self, *, is_final: bool = False) -> None:
        """Begin a round."""

    def unchanged(self, before: SeenFile, node: FileNode) -> bool:
        """Return whether size and time are the same."""
        assert isinstance(before, FileNode)
        return (before.size, before.mtime) == (node.size, node.mtime)

    def before_reading(self, fd: int) -> os.stat_result:
        """Return its stat result."""
        return os.fstat(fd)

    def after_reading(self, fd: int, node: SeenFile, first: os.stat_result) -> bool:
        """Note nothing."""
        return True

    def spot_check(self, tree: MoveTree) -> bool:
        """Check nothing."""
        return True

    def end(self) -> None:
        """End a round."""


class WithoutWaiting(UnchangedFiles):
    """The rule without waiting for a write(2) that is under way."""

    def before_reading(self, fd: int) -> os.stat_result:
        """Return its stat result at once."""
        return os.fstat(fd)


def without_flush(root: int, file_systems: MeasuredFileSystems) -> Rule:
    """Return the rule without syncfs(2): ctime alone."""
    kernel = attrs.evolve(KERNEL, sync=lambda fd: None)
    return UnchangedFiles(root, file_systems, print, kernel)


def without_margin(root: int, file_systems: MeasuredFileSystems) -> Rule:
    """Return the rule for which a file may have been changed while or just before it was read."""
    kernel = attrs.evolve(KERNEL, wall_time=lambda: KERNEL.wall_time() + _HOUR)
    return UnchangedFiles(root, file_systems, print, kernel)


NAIVE: MappingProxyType[str, Callable[[int, MeasuredFileSystems], Rule]] = MappingProxyType(
    {
        "size and time": lambda root, file_systems: SameSizeAndTime(),
        "ctime without syncfs": without_flush,
        "syncfs without margin": without_margin,
    }
)
"""What makes each for a root, by names for reports."""
