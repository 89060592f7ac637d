"""A tree as frames, which make an empty tree equal to it: for a ledger that is written anew."""

from __future__ import annotations

from collections.abc import Iterator

from wingsd.moves.digests import DIGEST, zero_digest
from wingsd.moves.errors import RoundIncomplete
from wingsd.moves.frames import (
    DataFrame,
    DirectoryFrame,
    FileFrame,
    Frame,
    HardFrame,
    LinkFrame,
    Shape,
    WholeFrame,
    ZeroFrame,
)
from wingsd.moves.tree import DirectoryNode, FileNode, LinkNode, MoveTree
from wingsd.util.text import display

__all__ = ["snapshot"]


def snapshot(tree: MoveTree) -> Iterator[Frame]:
    """Yield the frames of a tree in which nothing is missing and no file is in a slot.

    Raises RoundIncomplete where something is.
    """
    if tree.slots:
        raise RoundIncomplete(f"{len(tree.slots)} files were taken and not put; send the rest")
    for path, _ in tree.missing():
        raise RoundIncomplete(f"blocks of {display(path)} are missing; send them")
    yield from _names(tree)
    for number, node in sorted(tree.numbers.items()):
        meta = (node.mode, node.mtime, node.size, node.block_size)
        yield FileFrame(number, node.names[0], *meta)
    yield from _wholes(tree)
    for node in tree.numbers.values():
        for first, digests in node.blocks.runs():
            yield _blocks(node, first, digests)
    yield from _links(tree)


def _names(tree: MoveTree) -> Iterator[Shape]:
    for path, node in tree.walk():
        if isinstance(node, DirectoryNode):
            yield DirectoryFrame(path, node.mode, node.mtime)
        elif isinstance(node, LinkNode) and node.names[0] == path:
            yield LinkFrame(path, node.target, node.mtime)


def _wholes(tree: MoveTree) -> Iterator[WholeFrame]:
    for path, node in tree.walk():
        if isinstance(node, FileNode) and not node.number and node.names[0] == path:
            digest = node.blocks.get(0, 1)
            yield WholeFrame(path, node.mode, node.mtime, node.size, digest)


def _blocks(node: FileNode, first: int, digests: bytes) -> DataFrame | ZeroFrame:
    count = len(digests) // DIGEST
    if digests == zero_digest(node.block_size) * count:
        return ZeroFrame(node.number, first, count)
    return DataFrame(node.number, first, node.block_size, node.length(first, count), digests)


def _links(tree: MoveTree) -> Iterator[HardFrame]:
    for path, node in tree.walk():
        if not isinstance(node, DirectoryNode) and node.names[0] != path:
            yield HardFrame(path, node.names[0])
