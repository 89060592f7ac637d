"""Hostile batches: they are refused, nothing outside the tree is touched, nothing is lost."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.moves.hostile import BASE, CORPUS, LIMITS, HostileBatch
from tests.moves.moving import Destination, cut, differing, feed
from wingsd.errors import WingsdError
from wingsd.moves.destination import MoveDestination
from wingsd.moves.nodes import DirectoryNode, FileNode

ABSOLUTE = Path("/etc/wingsd-evil")


def based(place: Path) -> Destination:
    destination = Destination(place, LIMITS)
    (place / "outside").mkdir()
    (place / "outside/victim").write_bytes(b"precious")
    with destination.open() as to:
        for batch in BASE:
            assert feed(to, iter([batch]))
    return destination


def said(to: MoveDestination) -> list[object]:
    names = {
        path: (node.mode, node.mtime) if isinstance(node, DirectoryNode) else sorted(node.names)
        for path, node in to.tree.walk()
    }
    blocks = {
        path: (node.mode, node.mtime, node.size, node.blocks.get(0, node.blocks.count))
        for path, node in to.tree.walk()
        if isinstance(node, FileNode)
    }
    return [names, blocks, sorted(to.tree.slots), to.received.upto, to.received.shape]


def outside(place: Path) -> list[object]:
    found = os.lstat(place / "outside/victim")
    return [sorted(os.listdir(place / "outside")), found.st_mtime_ns, found.st_ino, found.st_nlink]


@pytest.mark.promise("archive-attributes-are-filtered", "move-requests-are-bounded")
@pytest.mark.parametrize("case", CORPUS, ids=[case.name for case in CORPUS])
def test_hostile_batches(tmp_path: Path, case: HostileBatch) -> None:
    destination = based(tmp_path)
    before = outside(tmp_path)
    *good, hostile = case.batches
    with destination.open() as to:
        for batch in good:
            feed(to, iter([batch]))
        whole = said(to)
    with destination.open() as to:
        with pytest.raises(WingsdError) as caught:
            feed(to, cut(iter([hostile]), random.Random(case.name)), zstd=case.zstd)
        assert isinstance(caught.value, case.error)
        assert case.words in str(caught.value)
    assert outside(tmp_path) == before
    assert not ABSOLUTE.exists()
    with destination.open() as to:
        missing = [path for path, _ in to.tree.missing()]
        if missing:
            # a batch that broke off has begun with them, and is not received
            assert missing in ([b"n"], [b"d/f"])
            assert to.received.upto == 2
        else:
            assert said(to) == whole
            assert differing(to, destination.tree) == []


def test_no_two_hostile_batches_have_one_name() -> None:
    assert len({case.name for case in CORPUS}) == len(CORPUS)
