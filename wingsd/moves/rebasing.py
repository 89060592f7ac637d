"""What of a tree is given up when the round that is open ends early. Blocking.

The tree in memory and the one on the disk are changed alike. Only blocks that the next ledger
proves, and nothing beside them, stay.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Protocol

from attrs import frozen

from wingsd.moves.frames import FileFrame, GoneFrame, Shape
from wingsd.moves.reading_back import FileOpener, forget_differing
from wingsd.moves.tree import FileNode, MoveTree

__all__ = ["Resumption", "ShapeApplier", "drop_incomplete", "forget_wrong"]


@frozen(repr=False)
class Resumption:
    """Where a source goes on: the fields of the answer to `resume`, see docs/moves.md."""

    round: int
    next: int
    shape: int
    file: int
    pages: int
    bytes: int


class ShapeApplier(FileOpener, Protocol):
    """Changes the tree on the disk."""

    def shape(self, frame: Shape, *, makes: bool, again: bool) -> None:
        """Apply a shape frame; `again` where it may have been applied before."""

    def empty_slots(self, kept: Collection[int] = ()) -> None:
        """Remove the files that wait without a path, but for those in the slots `kept`."""


def drop_incomplete(applier: ShapeApplier, tree: MoveTree) -> None:
    """Remove files in slots, and those that should have come as a whole and did not."""
    applier.empty_slots()
    tree.drop_slots()
    names = [name for _, node in tree.missing() if not node.number for name in node.names]
    _remove(applier, tree, names)


def forget_wrong(applier: ShapeApplier, tree: MoveTree, paths: Iterable[bytes]) -> None:
    """Make unknown what a reread has found wrong in some files; their names may have gone."""
    for path in paths:
        node = tree.find(path)
        if not isinstance(node, FileNode):
            continue
        fd = applier.open_file(node.names[0])
        if fd is None or not node.number:
            if fd is not None:
                os.close(fd)
            _remove(applier, tree, tuple(node.names))
            continue
        try:
            # the size that it should have
            meta = (node.mode, node.mtime, node.size, node.block_size)
            applier.shape(FileFrame(node.number, node.names[0], *meta), makes=False, again=True)
            forget_differing(fd, node)
        finally:
            os.close(fd)
        tree.changed(node)


def _remove(applier: ShapeApplier, tree: MoveTree, names: Iterable[bytes]) -> None:
    for name in names:
        tree.trim()
        applier.shape(GoneFrame(name), makes=False, again=True)
        tree.remove(name)
