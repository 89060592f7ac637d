"""Reads some blocks of files that were not read, and compares them with what was sent of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from math import log, log1p
from random import Random

from wingsd.filesystem.open_directories import FILE_FLAGS, OpenDirectories
from wingsd.filesystem.walk import gone, unreadable
from wingsd.moves.digests import block_digest
from wingsd.moves.scan import stat_stamp
from wingsd.moves.tree import FileNode, MoveTree

__all__ = ["BLOCKS", "SpotCheck"]

BLOCKS = 64
"""The most blocks that are read."""

_NANOSECONDS = 1_000_000_000


class SpotCheck:
    """A random choice of files, each equally likely, and of one block of each."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._chosen: list[bytes] = []
        #: How many files are passed over before the next one that is chosen.
        self._passed = 0
        self._weight = 1.0

    def offer(self, prefix: bytes, names: Sequence[bytes]) -> None:
        """Have files take part that are carried over: all of a directory together."""
        at = self._passed
        while at < len(names):
            if len(self._chosen) < BLOCKS:
                self._chosen.append(prefix + names[at])
            else:
                self._chosen[self._random.randrange(BLOCKS)] = prefix + names[at]
            at += 1 + self._skipped()
        self._passed = at - len(names)

    def _skipped(self) -> int:
        """Return how many are passed over, so that each is as likely: reservoir sampling.

        Algorithm L of Kim-Hung Li, 1994.
        """
        if len(self._chosen) < BLOCKS:
            return 0
        self._weight *= (1 - self._random.random()) ** (1 / BLOCKS)
        return int(log(1 - self._random.random()) / log1p(-self._weight))

    def differing(self, root: int, tree: MoveTree, monotonic: Callable[[], int]) -> bytes | None:
        """Return the path of a file of which a block is not as in the tree, None without one.

        Ends after a second. Files that were changed since they were offered are passed over: the
        last walk finds them. Raises StorageError for one that cannot be read.
        """
        end = monotonic() + _NANOSECONDS
        self._random.shuffle(self._chosen)
        with closing(OpenDirectories(root, lambda path: None)) as directories:
            for path in self._chosen:
                if monotonic() >= end:
                    break
                node = tree.find(path)
                if isinstance(node, FileNode) and not self._is_as_sent(directories, path, node):
                    return path
        return None

    def _is_as_sent(self, directories: OpenDirectories, path: bytes, node: FileNode) -> bool:
        if not node.size or not node.blocks.count:
            return True
        index = self._random.randrange(node.blocks.count)
        length = node.length(index, 1)
        *parents, name = path.split(b"/")
        try:
            parent = directories.get(tuple(parents), make=False)
            fd = os.open(name, FILE_FLAGS, dir_fd=parent)
            try:
                data = os.pread(fd, length, index * node.block_size)
                found = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if gone(error) or error.errno in (errno.ENOTDIR, errno.ELOOP):
                return True
            unreadable(path, error)
        if (found.st_dev, found.st_ino) != node.identity or stat_stamp(found) != node.stamp:
            return True
        return block_digest(data) == node.blocks.get(index, 1)
