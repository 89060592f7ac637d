"""The source of a running server: rounds between which, and while which, files are changed."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from tests.moves.moving import Destination, LiveMove
from tests.moves.unchanged.fake_kernel import FakeFileSystems
from wingsd.errors import SourceFileChanged
from wingsd.filesystem.walk import Listing
from wingsd.moves import scan
from wingsd.moves.destination import MoveDestination
from wingsd.moves.scan import stat_stamp
from wingsd.moves.seen_directories import StatResults, stat_results
from wingsd.moves.source import LiveSource, MoveSource
from wingsd.moves.tree import MoveTree
from wingsd.moves.unchanged import KERNEL

BLOCK = 4096
LARGE = 300_000


class Move(LiveMove):
    """A move from a directory into a partial copy; `log` has what the rule says.

    Files look so many seconds older to the rule than they are.
    """

    def __init__(
        self, tree: Path, to: MoveDestination, older: int = 10, *, flushes: bool = True
    ) -> None:
        self.tree = tree
        self.log: list[str] = []
        self.warnings: list[str] = []
        self.file_systems = FakeFileSystems()
        self.older = older
        kernel = attrs.evolve(
            KERNEL,
            monotonic=lambda: time.monotonic_ns() + self.older * 10**9,
            wall_time=lambda: time.time_ns() + self.older * 10**9,
            sync=KERNEL.sync if flushes else lambda fd: None,
        )
        live = LiveSource(self.file_systems, self.log.append, kernel)
        super().__init__(MoveSource(str(tree), self.warnings.append, live), to)
        self.source.size = 1 << 20

    def send(self) -> int:
        sent = super().send()
        self.source.closed()
        return sent

    def round(self, *, running: bool = True, resume: bool = False, leave_hot: bool = False) -> int:
        self.plan(running=running, resume=resume, leave_hot=leave_hot)
        return self.send()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "server"
    (tree / "world").mkdir(parents=True)
    for number in range(5):
        (tree / "world" / f"small{number}").write_bytes(os.urandom(3_000))
    for number in range(3):
        (tree / "world" / f"large{number}").write_bytes(os.urandom(LARGE))
    return tree


@pytest.fixture
def move(tmp_path: Path, tree: Path) -> Iterator[Move]:
    with Destination(tmp_path / "there").open() as to:
        made = Move(tree, to)
        with closing(made.source):
            yield made
        vars(made).clear()  # pytest keeps what tests are given


def store(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def copied(move: Move, tmp_path: Path) -> bool:
    """Whether the partial copy has all files of the tree, byte for byte."""
    move.to.finish()
    there = next((tmp_path / "there").glob("**/world")).parent
    names = sorted(each.relative_to(move.tree) for each in move.tree.rglob("*"))
    return names == sorted(each.relative_to(there) for each in there.rglob("*")) and all(
        (move.tree / name).read_bytes() == (there / name).read_bytes()
        for name in names
        if (move.tree / name).is_file()
    )


def test_rounds_send_what_was_changed_and_the_final_pass_reads_only_that(
    move: Move, tree: Path, tmp_path: Path
) -> None:
    total = 5 * 3_000 + 3 * LARGE
    assert move.round() == total
    store(tree / "world" / "large0", 2 * BLOCK, b"changed")
    (tree / "world" / "small0").unlink()
    (tree / "world" / "large1").rename(tree / "renamed")
    (tree / "new").write_bytes(b"new")
    move.plan(running=True)
    # ctime of a renamed file is another one
    assert move.source.unread == 2 * LARGE + 3
    assert move.send() == BLOCK + 3
    store(tree / "world" / "large2", 0, b"at the stop")
    move.plan(running=False)
    assert move.source.unread == LARGE
    assert move.send() == BLOCK
    assert not move.source.unproven()
    assert copied(move, tmp_path)
    assert move.log == []


@pytest.mark.promise("shown-figures-are-true")
def test_no_more_than_all_is_to_be_read_of_a_tree_that_grows(move: Move, tree: Path) -> None:
    move.round()
    (tree / "world" / "grown").write_bytes(os.urandom(3 * LARGE + LARGE))
    move.plan(running=True)
    assert (move.source.read, move.source.unread) == (0, 4 * LARGE)
    move.send()
    assert move.source.read == move.source.total == 4 * LARGE


def test_a_source_that_rests_between_rounds_knows_what_it_has_read(
    move: Move, tree: Path, tmp_path: Path
) -> None:
    total = 5 * 3_000 + 3 * LARGE
    assert move.round() == total
    move.source.rest()
    assert not nodes_in_memory(move.source)
    store(tree / "world" / "large0", 2 * BLOCK, b"changed")
    assert move.round() == BLOCK
    move.source.rest()
    move.source.rest()
    assert move.round(running=False) == 0
    assert copied(move, tmp_path)


def nodes_in_memory(source: MoveSource) -> list[object]:
    trees = (each for each in vars(source).values() if isinstance(each, MoveTree))
    return [node for each in trees for node in each.store._entries.values()]


def test_files_that_do_not_settle_are_read_in_the_final_pass(move: Move) -> None:
    move.file_systems.reason = "it is of the type tmpfs"
    move.round()
    move.plan(running=False)
    assert move.source.unread == move.source.total
    assert move.send() == 0
    assert move.log == ["all files are read: it is of the type tmpfs"]


def test_what_a_final_pass_has_read_is_not_read_again_unless_the_server_has_run(
    move: Move, tree: Path
) -> None:
    move.file_systems.reason = "it is of the type tmpfs"
    move.round(running=False)
    move.plan(running=False, resume=True)
    assert move.source.unread == 0
    move.source.was_started()
    move.plan(running=False, resume=True)
    assert move.source.unread == move.source.total


@pytest.mark.promise("unread-files-are-unchanged")
def test_what_was_read_of_a_part_that_broke_off_is_read_again(tmp_path: Path, tree: Path) -> None:
    changing = tree / "world" / "small1"
    with Destination(tmp_path / "there").open() as to, changing.open("r+b") as file:
        move = Move(tree, to, older=0, flushes=False)
        with closing(move.source), mmap.mmap(file.fileno(), 0) as mapping:
            before = 0
            while changing.stat().st_ctime_ns != before:
                # A store into a dirty page does not change ctime, unless the kernel has just
                # written the page back.
                mapping[0] ^= 255
                move.round()
                before = changing.stat().st_ctime_ns
                mapping[1] ^= 255
            move.older = 10
            move.plan(running=True)
            list(move.batches())  # none arrives
            move.plan(running=True, resume=True)
            move.send()
            move.round(running=False)
            assert copied(move, tmp_path)
        vars(move).clear()


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("name", ["small0", "large0"])
@pytest.mark.parametrize("later", ["first", "world/third"])
def test_a_directory_that_is_seen_twice_is_carried_over_as_it_was_read(
    move: Move, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, later: str
) -> None:
    moved = tree / "first"
    moved.mkdir()
    (tree / "world" / name).rename(moved / name)

    def look(listing: Listing, skipped: Callable[[bytes, str], object]) -> StatResults:
        found = stat_results(listing, skipped)
        if listing.path == (b"first",) and moved.exists():
            moved.rename(tree / "world" / "second")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(scan, "stat_results", look)
        move.round()  # of the first of both only its name is left when it is to be read
    (tree / "world" / "second").rename(tree / later)
    move.round()
    move.round(running=False)
    assert not move.source.unproven()
    assert copied(move, tmp_path)


@pytest.mark.promise("changing-files-are-sent-again")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"shorter"),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: path.with_name("new").rename(path),
        lambda path: store(path, 100, b"changed"),
        lambda path: path.write_bytes(os.urandom(2 * LARGE)),
    ],
)
def test_a_file_that_changes_before_it_is_read_is_sent_as_it_is_then_and_again(
    move: Move, tree: Path, tmp_path: Path, change: Callable[[Path], object], large: bool
) -> None:
    path = tree / "world" / ("large1" if large else "small1")
    (tree / "world" / "new").write_bytes(os.urandom(5_000))
    move.plan(running=True)
    change(path)
    move.send()
    move.plan(running=True)
    assert move.source.unread > 0 or path.is_symlink() or not path.is_file()
    move.send()
    move.round(running=False)
    assert not move.source.unproven()
    assert copied(move, tmp_path)


def test_a_walk_before_the_final_pass_is_read_finds_what_was_changed_since(
    move: Move, tree: Path
) -> None:
    move.round()
    store(tree / "world" / "large1", 0, b"changed")
    move.plan(running=False)
    assert move.source.walk_again()
    move.send()
    assert not move.source.unproven(is_same=True)
    store(tree / "world" / "large0", 0, b"changed")
    assert not move.source.walk_again()
    assert move.source.unproven(is_same=False) == '"world/large0"'


def test_hot_files_are_left_until_they_are_asked_for(
    move: Move, tree: Path, tmp_path: Path
) -> None:
    hot = tree / "world" / "large0"
    move.round()
    for number in range(2):
        store(hot, number * BLOCK, b"changed")
        assert move.round(leave_hot=True) == BLOCK
    for number in range(3):
        hot.write_bytes(os.urandom(LARGE + 5_000 * number))
        move.plan(running=True, leave_hot=True)
        assert (move.source.unread, move.source.left) == (0, hot.stat().st_size)
        assert move.send() == 0
    assert move.round() > LARGE
    assert move.round(running=False) == 0
    assert copied(move, tmp_path)


def test_a_change_that_ctime_does_not_show_is_found_and_all_is_read(
    move: Move, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move.round()
    path = tree / "world" / "small1"
    before = path.stat()
    path.write_bytes(os.urandom(3_000))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    stamps = {path.stat().st_ino: before}

    def stamp(found: os.stat_result) -> bytes:
        return stat_stamp(stamps.get(found.st_ino, found))

    monkeypatch.setattr(scan, "stat_stamp", stamp)
    move.plan(running=False)
    assert move.source.unread == 0
    move.send()
    assert move.source.unproven()
    assert 'small1" was changed there without a change of its ctime' in move.log[0]
    move.plan(running=False)
    assert move.source.unread == move.source.total


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize("is_read", [False, True])
def test_once_something_writes_after_the_servers_end_all_that_is_not_settled_is_read(
    move: Move, tree: Path, is_read: bool
) -> None:
    move.file_systems.reason = "it is of the type tmpfs"
    move.plan(running=False)
    if is_read:
        store(tree / "world" / "large1", 0, b"changed")
        with pytest.raises(SourceFileChanged):
            move.send()
    else:
        move.send()
        (tree / "late").write_bytes(b"late")
        assert move.source.unproven() == "its directory"
    move.plan(running=False, resume=is_read)
    next(move.batches())  # and then the connection is lost
    move.plan(running=False, resume=True)
    assert move.source.unread == move.source.total


def test_times_after_2262_do_not_keep_a_server_from_being_moved(move: Move, tree: Path) -> None:
    (tree / "link").symlink_to("world")
    for name in ("link", "world", "world/small1", "."):
        os.utime(tree / name, (14e9, 14e9), follow_symlinks=False)
    move.round()
    move.round(running=False)
    assert not move.source.unproven()
    assert sum("another modification time" in line for line in move.warnings) == 4
