"""What trees take of memory: run as `python -m tests.moves.tree_memory FILES GIBIBYTES`.

Prints, in MiB, how much the resident and the anonymous memory of this process have grown when it
has had what a destination holds, what its source is told of it, the source's tree, and a round.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from wingsd.moves.batch import Content, DataFrame, DirectoryFrame, FileFrame, WholeFrame
from wingsd.moves.nodes import DirectoryNode, FileNode
from wingsd.moves.plan import plan
from wingsd.moves.tree import HeldTree, MoveLimits, MoveTree

_TIME = 1_700_000_000_000_000_000
_BLOCK = 4096
_RUN = 32
_LIMITS = MoveLimits(1 << 40, 1 << 60)


def _memory() -> tuple[float, float]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    found = {name: int(value) / 1024 for name, value, *_ in map(str.split, lines[1:])}
    return found["Rss:"], found["Anonymous:"]


def _apply(tree: MoveTree, frame: Content) -> None:
    tree.begin(frame)
    tree.done(frame)


def _path(number: int) -> bytes:
    return b"%s/%08x.dat" % (_directory(number), number * 2654435761 & 0xFFFFFFFF)


def _directory(number: int) -> bytes:
    return b"world%03d" % (number // 1000)


def _held(files: int, size: int) -> MoveTree:
    tree = MoveTree(_LIMITS)
    for number in range(files):
        if number % 1000 == 0:
            tree.apply(DirectoryFrame(_directory(number), 0o755, _TIME))
        _apply(tree, WholeFrame(_path(number), 0o644, _TIME + number, 100, os.urandom(16)))
    if size:
        tree.apply(FileFrame(1, b"blocks", 0o644, _TIME, size, _BLOCK))
    for first in range(0, size // _BLOCK, _RUN):
        _apply(tree, DataFrame(1, first, _BLOCK, _BLOCK, os.urandom(16 * _RUN)))
    tree.root()
    return tree


def _scanned(files: int, size: int) -> MoveTree:
    tree = MoveTree()
    for number in range(files):
        tree.trim()
        if number % 1000 == 0:
            tree.add(_directory(number), DirectoryNode(0o755, _TIME))
        node = FileNode(0o644, _TIME + number, 100, (2049, number), bytes(44))
        tree.add(_path(number), node)
    if size:
        tree.add(b"blocks", FileNode(0o644, _TIME, size, (2049, files), bytes(44)))
    return tree


def _round(sent: MoveTree, now: MoveTree) -> None:
    """Carry half of the files over, and have read the others."""
    planned = plan(sent, now, lambda before, node: bool(node.mtime & 1) or before.number > 0)
    for frames in (planned.removals, planned.creations):
        for _ in frames:
            pass
    for content in planned.contents:
        content.node.blocks.set(0, os.urandom(16))
        content.tree.changed(content.node)
    now.root()


def main(files: int, size: int) -> dict[str, list[float]]:
    """Return what both kinds of memory have grown by, after each step."""
    before = _memory()
    grown = {}

    def note(step: str) -> None:
        grown[step] = [round(n - m, 1) for n, m in zip(_memory(), before, strict=True)]

    held = _held(files, size)
    note("held")
    told = HeldTree(_LIMITS)
    for page in held.parts():
        told.add(page)
    sent = told.finish(1)
    note("told")
    now = _scanned(files, size)
    note("scanned")
    _round(sent, now)
    note("round")
    return grown


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]) << 30)))
