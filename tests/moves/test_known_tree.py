"""Rounds that scan only what was changed since the last one: whatever was, all of it arrives."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from unittest import mock

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.moves.changing import Changes, change
from tests.moves.moving import Destination
from tests.moves.test_live_source import Move
from tests.moves.unchanged.fake_kernel import FakeFileSystems
from tests.support.archives import seen
from tests.support.attributes import reading
from wingsd.filesystem.walk import Listing, opened
from wingsd.moves import scan, seen_directories, source
from wingsd.moves.nodes import DirectoryNode, FileNode
from wingsd.moves.seen_directories import StatResults, WalkFrame, frames_in, stat_results
from wingsd.moves.source import KnownTree
from wingsd.moves.tree import MoveTree
from wingsd.moves.unchanged import KERNEL, UnchangedFiles
from wingsd.moves.walk_process import look as look_at

PATHS = (b"a", b"a/b", b"a/b/c", b"a/b/d", b"a!", b"a!/b", b"e", b"e/f", b"g")


class LookedAtFirst:
    """What another process finds that has looked at everything when the walk begins."""

    def __init__(self, root: int, paths: Sequence[bytes]) -> None:
        found = BytesIO()
        look_at(root, paths, found)
        frames = frames_in(bytearray(found.getvalue()))
        self._frames = {frame.path: frame for frame, _ in frames}
        self.take: Callable[[bytes], WalkFrame | None] = self._frames.get

    def close(self) -> None:
        pass


@pytest.mark.root
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(change, max_size=8), min_size=1, max_size=5),
    st.lists(change, max_size=8),
    st.sampled_from((10, 0)),
    st.booleans(),
)
def test_any_changes_between_rounds_arrive(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[list[tuple[str, int, int, bytes]]],
    at_the_stop: list[tuple[str, int, int, bytes]],
    older: int,
    is_beside: bool,
) -> None:
    place = tmp_path_factory.mktemp("move")
    tree = place / "source"
    for path in PATHS:
        (tree / os.fsdecode(path)).mkdir(parents=True)
        (tree / os.fsdecode(path) / "file").write_bytes(path)
    changes = Changes(tree)
    least = 0 if is_beside else source.LEAST_NAMES
    with (
        mock.patch.multiple(source, LEAST_NAMES=least, WalkProcess=LookedAtFirst),
        Destination(place / "destination").open() as to,
    ):
        move = Move(tree, to, older)
        with closing(move.source):
            for steps in rounds:
                move.round()
                for step in steps:
                    changes.run(step)
            move.plan(running=True)  # before it is stopped
            for step in at_the_stop:
                changes.run(step)
            move.round(running=False)
            assert move.source.walk_again()
            assert not move.source.unproven()
            move.to.finish()
        there = place / "destination" / "tree"
        assert seen(there, owner=False) == seen(tree, owner=False)
        vars(move).clear()


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from((b"", *PATHS, b"0", b"a/b/gone", b"zz"))), st.booleans())
def test_a_narrow_walk_has_what_is_in_its_directories(wanted: set[bytes], plain: bool) -> None:
    tree = MoveTree()
    for path in PATHS:
        tree.add(path, DirectoryNode(0o755, 0))
    for path in PATHS:
        for number in range(100):
            tree.add(path + b"/%d" % number, FileNode(0o644, 0, 1))
    expected = [
        path
        for path, node in tree.walk(plain=plain)
        if not path
        or path.rpartition(b"/")[0] in wanted
        or (path in wanted and isinstance(node, DirectoryNode))
    ]
    tree.only = sorted(wanted, key=lambda path: path.split(b"/"))
    assert [path for path, _ in tree.walk(plain=plain)] == expected
    tree.only = None
    assert sum(1 for _ in tree.walk()) == 1 + 101 * len(PATHS)


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_second_process_walks_where_a_server_waits_for_it(
    tmp_path: Path, is_followed: bool
) -> None:
    (tmp_path / "file").write_bytes(b"file")
    begun: list[int] = []

    class Counted(LookedAtFirst):
        def __init__(self, root: int, paths: Sequence[bytes]) -> None:
            begun.append(root)
            super().__init__(root, paths)

    with (
        mock.patch.multiple(source, LEAST_NAMES=0, WalkProcess=Counted),
        mock.patch.object(os, "sched_getaffinity", return_value={0, 1}),
        opened(str(tmp_path)) as root,
    ):
        rule = UnchangedFiles(root, FakeFileSystems(), print) if is_followed else None
        known = KnownTree(rule, reading(root), None)
        known.scan(root, print).store.close()
        assert known.is_all_of(root)
        (tmp_path / "file").write_bytes(b"other")
        assert not known.is_all_of(root)
    assert len(begun) == (2 if is_followed else 0)


def test_only_what_was_changed_is_scanned_again(tmp_path: Path) -> None:
    for name in ("one", "two/below", "three"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"file")
    lines: list[str] = []
    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append)
        known = KnownTree(rule, reading(root), None)
        assert known.rescan(root, lines.append) is None
        tree = known.scan(root, lines.append)
        known.not_settled(b"three/file")
        known.read_all()
        (tmp_path / "two/below/file").write_bytes(b"other")
        os.mkfifo(tmp_path / "one/pipe")
        (tmp_path / "one/file").unlink()
        part = known.rescan(root, lines.append)
        assert part is not None
        assert part.directories == [b"one", b"three", b"two/below"]
        assert part.tree.find(b"two/below/file") is not None
        assert part.tree.find(b"one/file") is None
        known.read_all()
        # people are told of the pipe in each round
        part = known.rescan(root, lines.append)
        assert part is not None
        assert part.directories == [b"one"]
        assert len(lines) == 2
        (tmp_path / "one/pipe").unlink()
        (tmp_path / "one/link").hardlink_to(tmp_path / "two/below/file")
        assert known.rescan(root, lines.append) is None
        known.forget()
        assert known.rescan(root, lines.append) is None
        tree.store.close()


def test_all_is_scanned_where_there_are_too_many_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_directories, "MOST", 3)
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
    lines: list[str] = []
    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append)
        known = KnownTree(rule, reading(root), None)
        known.scan(root, lines.append).store.close()
        known.read_all()
        assert known.is_all_of(root)
        (tmp_path / "b").mkdir()
        assert known.rescan(root, lines.append) is None
        known.scan(root, lines.append).store.close()
        known.read_all()
        assert not known.is_all_of(root)
        assert known.rescan(root, lines.append) is None


@pytest.mark.promise("unread-files-are-unchanged")
def test_a_symlink_that_was_made_just_now_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "old").symlink_to("target")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "new").symlink_to("target")
    later = 10 * 10**9  # ns
    kernel = attrs.evolve(KERNEL, wall_time=lambda: time.time_ns() + later)
    lines: list[str] = []
    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append, kernel)
        known = KnownTree(rule, reading(root), None)
        found = []
        rule.begin(is_final=True)  # nothing settles
        known.scan(root, lines.append).store.close()
        known.read_all()
        for _ in range(2):
            rule.begin()
            part = known.rescan(root, lines.append)
            assert part is not None
            found.append(part.directories)
            part.tree.store.close()
            known.read_all()
    assert found == [[b"", b"below"], []]


@pytest.mark.promise("unread-files-are-unchanged")
def test_all_is_scanned_when_a_name_of_several_goes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").write_bytes(b"file")
    (tmp_path / "b" / "file").hardlink_to(tmp_path / "a" / "file")
    lines: list[str] = []

    def look(listing: Listing, skipped: Callable[[bytes, str], object]) -> StatResults:
        found = stat_results(listing, skipped)
        if listing.path == (b"a",):
            (tmp_path / "a" / "file").unlink()
        return found

    with opened(str(tmp_path)) as root:
        rule = UnchangedFiles(root, FakeFileSystems(), lines.append)
        known = KnownTree(rule, reading(root), None)
        rule.begin()
        known.scan(root, lines.append).store.close()
        known.read_all()
        monkeypatch.setattr(scan, "stat_results", look)
        assert known.rescan(root, lines.append) is None
