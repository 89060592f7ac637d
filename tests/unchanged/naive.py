"""Moves that are wrong. Each is that of wingsd without a part of its rule, but for the first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import attrs

from tests.unchanged.product import ForgetfulTree, HastySource, ProductSource
from tests.unchanged.source import Rounds, Source
from wingsd.moves.nodes import FileNode
from wingsd.moves.tree import MoveTree
from wingsd.moves.unchanged import KERNEL, KernelCalls, MeasuredFileSystems, UnchangedFiles

__all__ = ["NAIVE", "RARE", "Make", "WithoutWaiting"]

RARE = "a part that broke off"
"""The rule that is caught by several trials only."""

_HOUR = 3_600_000_000_000
Make = Callable[[Path], Rounds]


class SameSizeAndTime:
    """What rsync looks at first: the size and the modification time."""

    def begin(self, *, is_final: bool = False) -> None:
        """Begin a round."""

    def unchanged(self, before: FileNode, node: FileNode) -> bool:
        """Return whether size and time are the same."""
        assert isinstance(before, FileNode)
        return (before.size, before.mtime) == (node.size, node.mtime)

    def before_reading(self, fd: int) -> os.stat_result:
        """Return its stat result."""
        return os.fstat(fd)

    def after_reading(self, fd: int, node: FileNode, first: os.stat_result) -> bool:
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


def by_size_and_time(file_systems: MeasuredFileSystems) -> Make:
    """Have files be carried over by their size and modification time."""
    return lambda directory: Source(directory, lambda root: SameSizeAndTime())


def _by(file_systems: MeasuredFileSystems, kernel: KernelCalls) -> Make:
    def rule(root: int) -> UnchangedFiles:
        return UnchangedFiles(root, file_systems, print, kernel)

    return lambda directory: Source(directory, rule)


def without_flush(file_systems: MeasuredFileSystems) -> Make:
    """Have no syncfs(2) be called: ctime alone counts."""
    return _by(file_systems, attrs.evolve(KERNEL, sync=lambda fd: None))


def without_margin(file_systems: MeasuredFileSystems) -> Make:
    """Have files settle that may have been changed while or just before they were read."""
    return _by(file_systems, attrs.evolve(KERNEL, wall_time=lambda: KERNEL.wall_time() + _HOUR))


def without_unsettled(file_systems: MeasuredFileSystems) -> Make:
    """Have directories be passed over that are the same, with files that are not settled."""
    return lambda directory: ProductSource(directory, file_systems, print, 1, ForgetfulTree)


def settled_too_soon(file_systems: MeasuredFileSystems) -> Make:
    """Have files of a part be settled that were read and did not arrive."""
    return lambda directory: ProductSource(
        directory, file_systems, print, 1, make_source=HastySource
    )


NAIVE: MappingProxyType[str, Callable[[MeasuredFileSystems], Make]] = MappingProxyType(
    {
        "size and time": by_size_and_time,
        "ctime without syncfs": without_flush,
        "syncfs without margin": without_margin,
        "directories without settled files": without_unsettled,
        RARE: settled_too_soon,
    }
)
"""What makes the rounds of each in a directory, by names for reports."""
