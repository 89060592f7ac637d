"""The source of a move, reduced to its rounds: it scans, plans and reads, and sends nothing.

What it would have sent is in the block digests of its tree.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import attrs

from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.plan import FileContent, plan
from wingsd.moves.scan import scan, stat_stamp
from wingsd.moves.tree import FileNode, MoveTree
from wingsd.moves.unchanged.last_walk import first_difference
from wingsd.moves.unchanged.rule import SeenFile

__all__ = ["Round", "Rule", "Source"]


class Rule(Protocol):
    """What a source asks in its rounds; `UnchangedFiles` and the naive rules."""

    def begin(self, *, is_final: bool = False) -> None: ...

    def unchanged(self, before: SeenFile, node: FileNode) -> bool: ...

    def before_reading(self, fd: int) -> os.stat_result: ...

    def after_reading(self, fd: int, node: SeenFile, first: os.stat_result) -> bool: ...

    def spot_check(self, tree: MoveTree) -> bool: ...

    def end(self) -> None: ...


@attrs.frozen
class Round:
    """The tree of a round, its number of files, and the paths of those carried over unread.

    `passed` is whether the spot check of a final one has found nothing.
    """

    tree: MoveTree
    files: int
    carried: list[bytes]
    passed: bool = True


class Source:
    """Rounds of one move from a directory."""

    def __init__(self, directory: Path, root: int, rule: Rule) -> None:
        self._directory = directory
        self._root = root
        self._rule = rule
        self._sent = MoveTree()

    def round(self, *, is_final: bool = False) -> Round:
        """Read what is not carried over. The final one is taken when nothing writes any more."""
        self._rule.begin(is_final=is_final)
        now = scan(self._root, lambda line: None)
        carried: list[bytes] = []

        def unchanged(before: FileNode, node: FileNode) -> bool:
            if before.blocks.missing or not self._rule.unchanged(before, node):
                return False
            carried.append(node.names[0])
            return True

        read = 0
        for content in plan(self._sent, now, unchanged).contents:
            self._read(content)
            read += 1
        passed = True
        if is_final:
            passed = self._rule.spot_check(now)
            assert not list(now.missing()), "a file could not be read although nothing writes"
            assert first_difference(self._root, now) is None
        self._rule.end()
        self._sent = now
        return Round(now, read + len(carried), carried, passed)

    def _read(self, content: FileContent) -> None:
        """Read a file; its blocks stay unknown if it is not as the scan has seen it."""
        try:
            fd = os.open(self.path(content.path), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            node = content.node
            first = self._rule.before_reading(fd)
            if ((first.st_dev, first.st_ino), stat_stamp(first)) != (node.identity, node.stamp):
                return
            digests = digests_of(fd, node)
            self._rule.after_reading(fd, node, first)
        finally:
            os.close(fd)
        if digests is not None:
            node.blocks.set(0, digests)
            content.tree.changed(node)

    def is_as_sent(self, tree: MoveTree, path: bytes) -> bool:
        """Return whether a file is on the disk what its blocks in a tree say."""
        node = tree.find(path)
        assert isinstance(node, FileNode)
        fd = os.open(self.path(path), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return digests_of(fd, node) == node.blocks.get(0, node.blocks.count)
        finally:
            os.close(fd)

    def path(self, path: bytes) -> Path:
        """Return where a file is."""
        return self._directory / os.fsdecode(path)


def digests_of(fd: int, node: FileNode) -> bytes | None:
    """Return the digests of a file's blocks, None if it is shorter than the node says."""
    data = os.pread(fd, node.size, 0)
    if len(data) < node.size:
        return None
    return block_digests(data, node.block_size) if node.number else block_digest(data)
