"""The source's catalogue: what a scan puts into the tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.attributes import reading
from wingsd.errors import FrameRefused
from wingsd.filesystem.walk import Listing, opened
from wingsd.moves.digests import WHOLE
from wingsd.moves.nodes import DirectoryNode, FileNode, pack_file
from wingsd.moves.scan import Scan, stat_stamp
from wingsd.moves.seen_directories import SeenDirectories
from wingsd.moves.tree import MoveLimits, MoveTree


def test_files_added_together_are_as_those_added_one_by_one() -> None:
    files = {b"one": 5, b"two": 0, b"three": WHOLE}
    single, together = MoveTree(), MoveTree()
    for tree in (single, together):
        tree.add(b"d", DirectoryNode(0o755, 1))
    for name, size in files.items():
        single.add(b"d/" + name, FileNode(0o644, 7, size, (1, size), b"stamp"))
    packed = [
        (name, pack_file(0o644, 7, size, (1, size), b"stamp")) for name, size in files.items()
    ]
    together.reserve(b"d/one", len(packed), sum(files.values()))
    together.add_reserved(b"d", packed)
    assert (together.members, together.bytes) == (single.members, single.bytes) == (4, 5 + WHOLE)
    assert _fields(together) == _fields(single)


def test_files_added_together_are_counted() -> None:
    tree = MoveTree(MoveLimits(1, 100))
    with pytest.raises(FrameRefused):
        tree.reserve(b"a", 2, 2)


def test_a_scan_has_files_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(bytes(WHOLE + 1))
    (tmp_path / "first").write_bytes(b"linked")
    (tmp_path / "second").hardlink_to(tmp_path / "first")
    (tmp_path / "set-id").write_bytes(b"")
    (tmp_path / "set-id").chmod(0o4755)
    lines: list[str] = []
    with opened(str(tmp_path)) as root:
        tree = Scan(lines.append, reading(root), None, SeenDirectories()).run(root)
    found = {path: node for path, node in tree.walk() if isinstance(node, FileNode)}
    assert {path: (node.size, node.mode, node.names) for path, node in found.items()} == {
        b"first": (6, 0o644, [b"first", b"second"]),
        b"large": (WHOLE + 1, 0o644, [b"large"]),
        b"second": (6, 0o644, [b"first", b"second"]),
        b"set-id": (0, 0o755, [b"set-id"]),
        b"small": (5, 0o644, [b"small"]),
    }
    for path, node in found.items():
        looked = os.stat(tmp_path / path.decode())
        assert (node.identity, node.stamp) == ((looked.st_dev, looked.st_ino), stat_stamp(looked))
    assert lines == ['"set-id" is sent without its set-user-id or set-group-id bit']


def test_a_scan_of_small_files_alone_has_identities(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"s")
    with opened(str(tmp_path)) as root:
        tree = Scan(pytest.fail, reading(root), None, SeenDirectories()).run(root)
    assert tree.has_identities


def test_a_name_that_is_listed_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")

    def walk(root: int, skipped: object, passed: object) -> Iterator[Listing]:
        yield Listing((), root, os.fstat(root), files=[b"file", b"file"])

    monkeypatch.setattr("wingsd.moves.scan.walk", walk)
    with opened(str(tmp_path)) as root, pytest.raises(FrameRefused):
        Scan(lambda line: None, reading(root), None, SeenDirectories()).run(root)


def _fields(tree: MoveTree) -> list[tuple[object, ...]]:
    return [
        (path, node.mode, node.mtime, node.size, node.identity, node.stamp, node.blocks.missing)
        for path, node in tree.walk()
        if isinstance(node, FileNode)
    ]
