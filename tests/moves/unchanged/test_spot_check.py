from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from attrs import evolve

from tests.moves.moving import Source
from tests.moves.unchanged.fake_kernel import FakeFileSystems
from wingsd.moves.digests import block_digest
from wingsd.moves.nodes import FileNode
from wingsd.moves.tree import MoveTree
from wingsd.moves.unchanged import BLOCKS, KERNEL, SpotCheck, UnchangedFiles

LARGE = 200_000


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def scanned(path: Path) -> MoveTree:
    """Return the tree as it is sent, with digests."""
    source = Source(root=path)
    source.round()
    return source.sent


def paths(tree: MoveTree) -> list[bytes]:
    return [path for path, node in tree.walk() if isinstance(node, FileNode)]


def damage(tree: MoveTree, path: bytes, content: bytes = b"other") -> None:
    """Have a file of one block be another in the tree."""
    node = tree.find(path)
    assert isinstance(node, FileNode)
    node.blocks.set(0, block_digest(content))
    tree.changed(node)


def check(root: int, tree: MoveTree, seed: int = 1) -> bytes | None:
    sample = SpotCheck(Random(seed))
    for path in paths(tree):
        sample.offer(b"", [path])
    return sample.differing(root, tree, KERNEL.monotonic)


def test_files_as_they_were_sent_pass(tmp_path: Path, root: int) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "large").write_bytes(os.urandom(LARGE))
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(LARGE)
    tree = scanned(tmp_path)
    assert len(paths(tree)) == 4
    assert all(check(root, tree, seed) is None for seed in range(20))


def test_a_block_that_is_not_as_sent_is_found(tmp_path: Path, root: int) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_bytes(b"file")
    tree = scanned(tmp_path)
    damage(tree, b"directory/file")
    assert check(root, tree) == b"directory/file"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"other"),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: (path.unlink(), path.parent.rmdir(), path.parent.write_bytes(b"file")),
    ],
)
def test_what_was_changed_since_is_left_to_the_last_walk(
    tmp_path: Path, root: int, change: Callable[[Path], object]
) -> None:
    path = tmp_path / "directory" / "file"
    path.parent.mkdir()
    path.write_bytes(b"file")
    tree = scanned(tmp_path)
    change(path)
    assert check(root, tree) is None


def test_each_file_is_as_likely_and_at_most_64_are_read(tmp_path: Path, root: int) -> None:
    for number in range(4 * BLOCKS):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
    tree = scanned(tmp_path)
    some = paths(tree)[:BLOCKS]
    for path in some:
        damage(tree, path)
    # a quarter of all files: none of 64 is among them in one case of 10^8
    assert check(root, tree) is not None
    for path in some:
        damage(tree, path, path)
    damage(tree, paths(tree)[-1])
    found = [check(root, tree, seed) for seed in range(100)]
    assert 10 < len([each for each in found if each is not None]) < 40


def test_it_ends_after_a_second(tmp_path: Path, root: int) -> None:
    (tmp_path / "file").write_bytes(b"file")
    tree = scanned(tmp_path)
    damage(tree, b"file")
    sample = SpotCheck(Random(1))
    sample.offer(b"", [b"file"])
    times = iter((0, 1_000_000_000))
    assert sample.differing(root, tree, lambda: next(times)) is None


@pytest.mark.promise("unread-files-are-unchanged")
def test_a_difference_ends_the_trust_in_the_file_system(tmp_path: Path, root: int) -> None:
    (tmp_path / "file").write_bytes(b"file")
    file_systems, lines = FakeFileSystems(), list[str]()
    # all files are old enough
    kernel = evolve(KERNEL, wall_time=lambda: KERNEL.wall_time() + 3_600_000_000_000)
    rule = UnchangedFiles(root, file_systems, lines.append, kernel, Random(1))
    tree = scanned(tmp_path)
    node = tree.find(b"file")
    assert isinstance(node, FileNode)
    rule.begin()
    with (tmp_path / "file").open("rb") as file:
        assert rule.after_reading(file.fileno(), node, rule.before_reading(file.fileno()))
    rule.end()
    rule.begin(is_final=True)
    assert rule.unchanged(node, node)
    damage(tree, b"file")
    assert not rule.spot_check(tree)
    assert "live.trust to never" in lines[0]
    assert file_systems.reason
    rule.begin(is_final=True)
    assert not rule.unchanged(node, node)
    assert rule.spot_check(tree)
