"""The source of a move, reduced to its rounds: it scans, plans and reads, and sends nothing.

What it would have sent is in the block digests of its tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import attrs

from tests.support.attributes import reading
from wingsd.errors import FrameRefused
from wingsd.moves.digests import block_digest, block_digests
from wingsd.moves.nodes import FileNode
from wingsd.moves.plan import FileContent, plan
from wingsd.moves.scan import Scan, first_difference, stat_stamp
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import MoveTree

__all__ = ["Round", "Rounds", "Rule", "Source"]


class Rule(Protocol):
    """What a source asks in its rounds; `UnchangedFiles` and the naive rules."""

    def begin(self, *, is_final: bool = False) -> None: ...

    def unchanged(self, before: FileNode, node: FileNode) -> bool: ...

    def before_reading(self, fd: int) -> os.stat_result: ...

    def after_reading(self, fd: int, node: FileNode, first: os.stat_result) -> bool: ...

    def spot_check(self, tree: MoveTree) -> bool: ...

    def end(self) -> None: ...


@attrs.frozen
class Round:
    """A round: its number of files, and how many of them were carried over unread.

    `passed` is whether what checks a final one has found nothing. `directories` were not scanned
    again, with the files that are in them.
    """

    files: int
    carried: int
    passed: bool = True
    directories: int = 0
    in_directories: int = 0


class Rounds(Protocol):
    """The rounds of a move from one directory."""

    def round(self, *, is_final: bool = False) -> Round: ...

    def break_off(self) -> None: ...

    def differing(self, done: Round) -> list[Path]: ...

    def close(self) -> None: ...


class Source:
    """Rounds of one move from a directory."""

    def __init__(self, directory: Path, make_rule: Callable[[int], Rule]) -> None:
        self._directory = directory
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._rule = make_rule(self._root)
        #: The tree of the last round.
        self.sent = MoveTree()
        #: What the last round has carried over unread.
        self._carried: list[bytes] = []

    def close(self) -> None:
        """Close the directory."""
        os.close(self._root)

    def round(self, *, is_final: bool = False) -> Round:
        """Read what is not carried over. The final one is taken when nothing writes any more."""
        self._rule.begin(is_final=is_final)
        now = self._scanned()
        carried: list[bytes] = []

        def unchanged(before: FileNode, node: FileNode) -> bool:
            if before.blocks.missing or not self._rule.unchanged(before, node):
                return False
            carried.append(node.names[0])
            return True

        read = 0
        for content in plan(self.sent, now, unchanged).contents:
            self._read(content)
            read += 1
        passed = True
        if is_final:
            passed = self._rule.spot_check(now)
            assert not list(now.missing()), "a file could not be read although nothing writes"
            assert first_difference(self._root, now, reading(self._root)) is None
        self._rule.end()
        self.sent, self._carried = now, carried
        return Round(read + len(carried), len(carried), passed)

    def break_off(self) -> None:
        """Take a round, which is all that these can do."""
        self.round()

    def _scanned(self) -> MoveTree:
        while True:
            with suppress(FrameRefused):  # a directory was renamed meanwhile, and seen twice
                return Scan(lambda line: None, reading(self._root), None, SeenDirectories()).run(
                    self._root
                )

    def _read(self, content: FileContent) -> None:
        """Read a file; its blocks stay unknown if it is not as the scan has seen it."""
        try:
            fd = os.open(self.path(content.path), os.O_RDONLY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
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

    def differing(self, done: Round) -> list[Path]:
        """Return which files that were not read are not on the disk what their blocks say."""
        return [self.path(path) for path in self._carried if not self._is_as_sent(path)]

    def _is_as_sent(self, path: bytes) -> bool:
        node = self.sent.find(path)
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
