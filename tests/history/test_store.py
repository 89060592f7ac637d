"""One history: what its points cost, what goes wrong with it, and which files are unsettled."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.history.worlds import FAST, Model, bad_block, distrusted, model
from tests.support.archives import seen
from tests.support.attributes import ACCESS, acl
from tests.support.points import rebuild
from tests.support.small_disk import small_disk
from wingsd.errors import (
    FileWorkCancelled,
    HistoryDamaged,
    HistoryFull,
    NoSuchPoint,
    PointNamed,
    StorageError,
)
from wingsd.filesystem.walk import FirstNames
from wingsd.history import capture
from wingsd.history.adopting import write_catalogue
from wingsd.history.capture import HistorySource
from wingsd.history.format import (
    BLOCK,
    MAX_SIZE,
    PastEntry,
    PointLabel,
)
from wingsd.history.names import PointName, encode_names, read_names
from wingsd.history.rebuilding import EVERYTHING_DAMAGED
from wingsd.history.rewriting import Rewriting
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted
from wingsd.moves import scan
from wingsd.moves.tree import MoveTree


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Model]:
    made = Model(tmp_path, random.Random(1))
    yield made
    made.close()


def noise(size: int) -> bytes:
    """Return bytes that cannot be compressed."""
    return random.Random(size).randbytes(size)


def delta_size(history: Model, number: int) -> int:
    """Return the bytes of a delta."""
    return (history.directory / "history" / f"{number:020}.delta").stat().st_size


def test_a_point_costs_the_blocks_that_changed(history: Model) -> None:
    file = history.world.root / "region.mca"
    file.write_bytes(noise(8 << 20))
    history.make()
    with file.open("r+b") as opened:
        for block in range(0, 2000, 20):
            opened.seek(block * BLOCK + 100)
            opened.write(b"changed")
    history.make()
    assert 100 * BLOCK < delta_size(history, 1) < 1.1 * 100 * BLOCK
    history.check()


def test_what_was_appended_costs_nothing(history: Model) -> None:
    file = history.world.root / "latest.log"
    file.write_bytes(noise(100_000))
    history.make()
    with file.open("ab") as opened:
        opened.write(noise(1 << 20))
    history.make()
    assert delta_size(history, 1) < 1000
    history.check()


def test_no_point_is_made_where_nothing_is_changed(history: Model) -> None:
    (history.world.root / "a").write_bytes(b"1")
    assert history.make() is not None
    assert history.make() is None
    history.reopen(source=True)
    assert history.make() is None
    assert history.numbers() == [1]


def test_what_is_settled_is_not_read_after_a_restart(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (history.world.root / name).write_bytes(name.encode())
    history.make()
    history.reopen(source=True)
    (history.world.root / "b").write_bytes(b"new")
    read: list[bytes] = []
    before = capture.Capture._read

    def noted(self: capture.Capture, path: bytes, old: PastEntry) -> object:
        read.append(path)
        return before(self, path, old)

    monkeypatch.setattr(capture.Capture, "_read", noted)
    history.make()
    assert read == [b"b"]
    (history.world.root / "c").write_bytes(b"new")
    history.make()
    history.make()
    assert read == [b"b", b"c"]
    history.check()


def test_holes_attributes_and_acls_are_kept(history: Model, tmp_path: Path) -> None:
    root = history.world.root
    with (root / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"x")
    (root / "plain").write_bytes(b"1")
    os.setxattr(root / "plain", "user.a", b"1")
    try:
        os.setxattr(root / "plain", ACCESS, acl(users={4711: 7}, group=4, mask=7))
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
    history.make()
    assert history.store.size < 1 << 20
    (root / "sparse").unlink()
    history.make()
    assert delta_size(history, 1) < 10_000
    assert history.rebuilt(1) == history.trees[1]
    assert (tmp_path / "rebuilt" / "sparse").stat().st_blocks < 100


def test_a_file_that_is_always_written_stays_as_it_was(history: Model) -> None:
    root = history.world.root
    (root / "busy").write_bytes(b"old")
    (root / "quiet").write_bytes(b"old")
    history.make()
    (root / "quiet").write_bytes(b"new")
    (root / "busy").write_bytes(b"new")
    before = history.source.rule.before_reading
    read: list[int] = []

    def written_meanwhile(fd: int) -> os.stat_result:
        found = before(fd)
        if os.pread(fd, 9, 0) != b"new":
            return found
        os.utime(root / "busy")
        if found.st_ino == (root / "busy").stat().st_ino:
            read.append(fd)
        return found

    history.source.rule.before_reading = written_meanwhile  # type: ignore[method-assign]
    (root / "fresh").write_bytes(b"new")
    made = history.make()
    assert made is not None
    tree = history.rebuilt(2)
    assert (tree[b"/busy"][2], tree[b"/quiet"][2]) == (b"old", b"new")
    assert made.unsettled == (b"busy",)
    # one that was written the last time, too, is read once
    times = len(read)
    (root / "quiet").write_bytes(b"newer")
    made = history.store.make(history.source, PointLabel.RUNNING)
    assert made is not None
    assert made.unsettled == (b"busy",)
    assert (times, len(read)) == (capture.TRIES, capture.TRIES + 1)
    history.source.rule.before_reading = before  # type: ignore[method-assign]
    made = history.make()
    assert made is not None
    assert made.unsettled == ()
    assert history.rebuilt(4) == seen(root)


def test_long_paths_of_unsettled_files_are_listed_as_far_as_is_possible(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = os.fsencode(history.world.root)
    for _ in range(12):
        directory += b"/" + b"n" * 200
        os.mkdir(directory)
    for number in range(40):
        Path(os.fsdecode(directory + b"/%d" % number)).write_bytes(b"1")
    monkeypatch.setattr(capture, "MOST_PATHS", 50_000)
    monkeypatch.setattr(history.source.rule, "is_steady", lambda fd, first: False)
    monkeypatch.setattr(history.source.rule, "settles", lambda found: False)
    made = history.make()
    assert made is not None
    assert 15 < len(made.unsettled) < 40
    assert made.files == 0
    assert history.store.points() == [made]


def test_the_oldest_points_make_room(tmp_path: Path) -> None:
    with model(tmp_path, 1, max_size=7 << 19) as history:
        file = history.world.root / "f"
        for number in range(10):
            file.write_bytes(noise((1 << 20) + number))
            history.make()
            assert history.store.size <= 7 << 19
        numbers = history.numbers()
        assert numbers[0] == 10
        assert 1 not in numbers
        file.write_bytes(noise(4 << 20))
        with pytest.raises(HistoryFull):
            history.make()
        assert history.numbers() == numbers
        history.check()
        # what is deleted makes room, and what does not fit beside its past replaces it
        for size in (1 << 20, 3 << 20, 3 << 20, 1 << 18):
            file.write_bytes(noise(size + history.numbers()[0]))
            history.make()
            assert history.store.size <= 7 << 19
            history.check()
        file.unlink()
        history.make()
        assert history.numbers()[:2] == [15, 14]
        history.check()


def test_pinned_points_stay(tmp_path: Path) -> None:
    with model(tmp_path, 1, max_size=9 << 19) as history:
        file = history.world.root / "f"
        for number in range(12):
            file.write_bytes(noise((1 << 20) + number))
            history.make()
            history.store.pinned = {2}
            assert history.store.size <= 9 << 19
        history.store.thin({1: 1}, history.store.points()[0].time + 10**11)
        assert history.numbers() == [12, 2]
        history.check()
        for number in range(12, 14):
            history.store.pinned = {number, 2}
            file.write_bytes(noise((1 << 20) + number))
            history.make()
        history.store.pinned = {14, 13, 12, 2}
        file.write_bytes(noise(1 << 20))
        with pytest.raises(HistoryFull):
            history.make()
        assert history.numbers() == [14, 13, 12, 2]
        assert history.store.verify() == {}


def named(history: Model, name: str) -> PointName:
    """Give the newest point a name."""
    point = history.store.points()[0]
    given = PointName(name, point.number, point.root.hex(), 1.5, "test", 1, 7, ignored=("*.log",))
    history.store.name(given)
    return given


def test_points_with_names_stay_until_they_have_none(tmp_path: Path) -> None:
    with model(tmp_path, 1, max_size=9 << 19) as history:
        file = history.world.root / "f"
        for number in range(12):
            file.write_bytes(noise((1 << 20) + number))
            history.make()
            if number == 1:
                given = named(history, "a")
        history.reopen()
        assert history.store.names == {"a": given}
        history.store.thin({1: 1}, history.store.points()[0].time + 10**11)
        assert history.numbers() == [12, 2]
        with pytest.raises(PointNamed, match="point 2 is that of the backup a"):
            history.store.remove(2)
        for number in range(12, 15):
            named(history, f"b{number}")
            if number < 14:
                file.write_bytes(noise((1 << 20) + number))
                history.make()
        file.write_bytes(noise(1 << 20))
        with pytest.raises(HistoryFull, match="the points of 4 backups stay"):
            history.make()
        assert history.numbers() == [14, 13, 12, 2]
        history.check()
        assert history.store.unname("a") == given
        assert history.store.unname("a") is None
        history.make()
        assert history.numbers() == [15, 14, 13, 12]
        history.store.unname("b13")
        history.store.drop(13, {}, history.store.points()[0].time)
        assert history.numbers() == [15, 14, 12]
        with pytest.raises(NoSuchPoint):
            history.store.name(given)


@pytest.mark.parametrize("lost", ["names", "names.copy"])
def test_names_are_there_twice(history: Model, lost: str) -> None:
    history.make()
    given = named(history, "a")
    path = history.directory / "history" / lost
    for damaged in (path.read_bytes()[:-9], b"", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert read_names(str(path.parent)) == {"a": given}
        history.reopen()
        assert history.store.names == {"a": given}
        (first, second) = (path.parent / each for each in ("names", "names.copy"))
        assert first.read_bytes() == second.read_bytes()


def test_an_older_copy_of_the_names_takes_the_place_of_none(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.make()
    named(history, "a")
    write = HistoryStore._write_file

    def fail(store: HistoryStore, name: bytes, content: bytes) -> None:
        if name == b"names.copy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(store, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(HistoryStore, "_write_file", fail)
        given = named(history, "b")
    (history.directory / "history/names").write_bytes(b"no names\n")
    with pytest.raises(HistoryDamaged):
        read_names(str(history.directory / "history"))
    (history.directory / "history/names").write_bytes(encode_names([given]))
    history.reopen()
    assert history.store.names == {"b": given}


def test_points_are_made_and_none_is_removed_while_their_names_are_damaged(
    history: Model,
) -> None:
    for number in range(3):
        (history.world.root / "f").write_bytes(b"%d" % number)
        history.make()
    named(history, "a")
    for name in ("names", "names.copy"):
        (history.directory / "history" / name).write_bytes(b"no names\n")
    history.reopen()
    (history.world.root / "f").write_bytes(b"new")
    history.make()
    history.store.thin({}, history.store.points()[0].time)
    assert history.numbers() == [4, 3, 2, 1]
    for work in (partial(history.store.remove, 1), partial(named, history, "b")):
        with pytest.raises(HistoryDamaged, match="it does not have its digest"):
            work()
    history.store.max_size = 1
    (history.world.root / "f").write_bytes(b"newer")
    with pytest.raises(HistoryFull):
        history.make()
    assert history.numbers() == [4, 3, 2, 1]


def test_many_points_take_few_descriptors(history: Model) -> None:
    file = history.world.root / "f"
    for number in range(60):
        file.write_bytes(b"%d" % number)
        history.make()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    try:
        assert len(history.numbers()) == 60
        assert history.store.verify() == {}
        history.check(only=1)
        history.store.remove(30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_points_that_no_rule_keeps_are_merged(history: Model) -> None:
    file = history.world.root / "f"
    for number in range(5):
        file.write_bytes(b"%d" % number)
        history.make()
    now = history.store.points()[0].time + 1
    history.store.thin({10**6: 1}, now)
    assert history.numbers() == [5]
    file.write_bytes(b"5")
    history.make()
    history.store.thin({10**9: 10**18}, now + 10**9)
    assert history.numbers() == [6, 5]
    history.check()


def test_a_history_is_used_by_one_process_at_a_time(history: Model) -> None:
    with pytest.raises(StorageError):
        HistoryStore(str(history.directory / "history"))


def test_the_newest_point_and_unknown_ones_are_not_removed(history: Model) -> None:
    (history.world.root / "a").write_bytes(b"1")
    history.make()
    for number in (1, 2):
        with pytest.raises(NoSuchPoint):
            history.store.remove(number)
    history.check()


def test_damage_is_listed_with_its_files_and_points(history: Model) -> None:
    file, other = history.world.root / "f", history.world.root / "other"
    for number in range(4):
        file.write_bytes(bytes([number]) * 3 * BLOCK)
        other.write_bytes(b"%d" % number)
        history.make()
    tree = history.directory / "history" / "tree" / "other"
    tree.write_bytes(b"9")
    assert history.store.verify() == {4: (b"other",)}
    with pytest.raises(HistoryDamaged):
        history.rebuilt(4)
    history.check(only=3)
    tree.write_bytes(b"3")
    delta = history.directory / "history" / f"{2:020}.delta"
    raw = bytearray(delta.read_bytes())
    raw[60] ^= 1
    delta.write_bytes(raw)
    history.reopen()
    found = history.store.verify()
    assert set(found) == {1, 2}
    history.check(only=3)
    history.check(only=4)
    delta.unlink()
    assert history.store.verify() == {1: EVERYTHING_DAMAGED}
    assert history.numbers() == [4, 3]


def test_a_bad_sector_of_the_copy_costs_nothing_where_the_file_has_it(history: Model) -> None:
    file = history.world.root / "f"
    file.write_bytes(noise(10 * BLOCK))
    history.make()
    content = noise(10 * BLOCK)
    for number in range(3):
        # one block is changed, the same as the bad one or another
        content = content[: number * BLOCK] + b"%d" % number * BLOCK + content[: -BLOCK * 2]
        file.write_bytes(content[: 10 * BLOCK])
        with bad_block(history.directory / "history" / "tree" / "f", 5):
            made = history.make()
        assert made is not None
    lost = {number for number, paths in history.store.damaged.items() if paths == (b"f",)}
    history.reopen()
    assert history.store.verify() == dict.fromkeys(lost, (b"f",))
    for number in {1, 2, 3, 4} - lost:
        history.check(only=number)
    assert 4 not in lost


@pytest.mark.promise("history-outlives-its-disk")
def test_a_missing_copy_is_made_again(history: Model) -> None:
    for name in ("same", "changed", "gone"):
        (history.world.root / name).write_bytes(noise(10 * BLOCK))
    history.make()
    for name in ("same", "changed", "gone"):
        (history.directory / "history" / "tree" / name).unlink()
    with (history.world.root / "changed").open("ab") as file:
        file.write(b"more")
    (history.world.root / "gone").unlink()
    assert history.store.verify() == {1: (b"changed", b"gone", b"same")}
    history.reopen(source=True)
    assert history.store.damaged == {1: (b"changed", b"gone", b"same")}
    assert history.make() is not None
    history.check(only=2)
    # only what is nowhere else is lost: the beginning of the file that has grown is still there
    assert history.store.damaged == {1: (b"gone",)}
    assert history.store.verify() == {1: (b"gone",)}


def test_a_damaged_copy_is_not_forgotten_while_its_file_is_unsettled(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = history.world.root / "f", history.world.root / "other"
    file.write_bytes(b"1" * BLOCK)
    history.make()
    damage_file(history.directory / "history" / "tree" / "f")
    assert history.store.verify() == {1: (b"f",)}
    inode = file.stat().st_ino
    with monkeypatch.context() as patch:
        steady = history.source.rule.is_steady
        patch.setattr(history.source.rule, "settles", lambda found: False)
        patch.setattr(
            history.source.rule,
            "is_steady",
            lambda fd, first: first.st_ino != inode and steady(fd, first),
        )
        other.write_bytes(b"2")
        assert history.store.make(history.source, PointLabel.RUNNING) is not None
    assert history.store.damaged == {1: (b"f",), 2: (b"f",)}
    assert history.store.make(history.source, PointLabel.RUNNING) is None
    assert history.store.damaged == {}


@pytest.mark.promise("history-outlives-its-disk")
def test_a_changed_byte_of_a_copy_is_not_taken_for_the_past(history: Model) -> None:
    file = history.world.root / "f"
    contents = [b"".join(bytes([n, k]) * (BLOCK // 2) for k in range(4)) for n in range(3)]
    for content in contents[:2]:
        file.write_bytes(content)
        history.make()
    damage_file(history.directory / "history" / "tree" / "f")
    file.write_bytes(contents[2])
    history.make()
    # the damaged block was replaced in the oldest point
    assert history.store.damaged == {2: (b"f",)}
    with pytest.raises(HistoryDamaged):
        history.rebuilt(2)
    history.check(only=1)
    history.check(only=3)


@pytest.mark.promise("history-outlives-its-disk")
def test_a_tree_that_has_lost_directories_is_made_again(history: Model) -> None:
    root, tree = history.world.root, history.directory / "history" / "tree"
    for name in ("d/e", "f/g"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_bytes(name.encode())
    history.make()
    shutil.rmtree(tree / "d")
    shutil.rmtree(tree / "f")
    (tree / "f").write_bytes(b"no directory")
    lost = {1: (b"d/e/file", b"f/g/file")}
    assert history.store.verify() == lost
    (root / "d" / "new").write_bytes(b"1")
    history.make()
    assert history.store.damaged == {}
    history.check()
    shutil.rmtree(tree / "d")
    shutil.rmtree(root / "d")
    history.make()
    assert history.store.damaged == {2: (b"d/e/file", b"d/new"), 1: (b"d/e/file",)}
    history.check(only=3)


@pytest.mark.promise("history-outlives-its-disk")
def test_an_interrupted_point_whose_delta_is_lost_costs_what_it_has_changed(
    history: Model,
) -> None:
    for name in ("same", "changed", "gone"):
        (history.world.root / name).write_bytes(noise(3 * BLOCK))
    history.make()
    (history.world.root / "changed").write_bytes(noise(4 * BLOCK))
    (history.world.root / "gone").unlink()
    history.make()
    # as if the second point had been interrupted at the end
    home = history.directory / "history"
    catalogue = rewritten_catalogue(history, 1)
    for name in ("catalogue", "catalogue.copy"):
        (home / name).write_bytes(catalogue)
    with bad_block(home / f"{1:020}.delta", 0):
        history.reopen(source=True)
        assert history.store.damaged == {1: EVERYTHING_DAMAGED}
    assert history.numbers() == [1]
    assert history.make() is not None
    history.check(only=2)
    assert history.store.verify() == {1: (b"changed", b"gone")}


def rewritten_catalogue(history: Model, number: int) -> bytes:
    """Return the catalogue of a point that is not the newest one any more."""
    with (
        history.store.opened(number) as (chain, _),
        os.fdopen(os.memfd_create("c"), "r+b") as file,
    ):
        write_catalogue(chain, file.fileno())
        file.seek(0)
        return file.read()


@pytest.mark.promise("history-outlives-its-disk")
def test_a_bad_sector_of_a_delta_costs_its_files(history: Model) -> None:
    file, other = history.world.root / "f", history.world.root / "other"
    for number in range(4):
        file.write_bytes(noise(100 * BLOCK + number))
        other.write_bytes(noise(3000 + number))
        history.make()
    with bad_block(history.directory / "history" / f"{3:020}.delta", 50):
        found = history.store.verify()
        assert 3 in found
        assert 4 not in found
        history.check(only=4)
        file.write_bytes(b"new")
        assert history.make() is not None
        assert history.numbers() == [5, 4, 3, 2, 1]
        now = history.store.points()[0].time + 10**12
        history.store.thin({10**6: 1}, now)
    assert history.numbers() == [5]


@pytest.mark.promise("backup-is-a-point")
@pytest.mark.parametrize("named_point", [1, 2])
def test_an_error_of_the_disk_ruins_no_named_point(history: Model, named_point: int) -> None:
    file = history.world.root / "f"
    for number in range(5):
        file.write_bytes(noise(100 * BLOCK + number))
        history.make()
        if number + 1 == named_point:
            named(history, "a")
    now = history.store.points()[0].time + 10**12
    with bad_block(history.directory / "history" / f"{3:020}.delta", 50):
        history.store.thin({10**6: 1}, now)
        with pytest.raises(HistoryDamaged, match="cannot be read"):
            history.store.remove(3)
        history.store.drop(3, {10**6: 1}, now)
        history.reopen()
        assert b"f" in history.store.damaged[min(history.store.damaged)]
        file.write_bytes(noise(100 * BLOCK + 9))
        history.store.max_size = history.store.size * 5 // 8
        with pytest.raises(HistoryFull):
            history.make()
        history.store.max_size = None
    assert {3, named_point} <= {*history.numbers()}
    assert history.store.verify() == {}
    history.check()
    history.store.thin({10**6: 1}, now)
    assert history.numbers() == [5, named_point]
    history.check()


def test_a_delta_that_cannot_be_read_is_removed_nevertheless(history: Model) -> None:
    file = history.world.root / "f"
    for number in range(4):
        file.write_bytes(b"%d" % number)
        history.make()
    damage_file(history.directory / "history" / f"{2:020}.delta")
    (history.directory / "history" / f"{2:020}.delta").write_bytes(b"WHISTORY")
    assert history.numbers() == [4, 3]
    assert history.store.damaged == {2: EVERYTHING_DAMAGED, 1: EVERYTHING_DAMAGED}
    history.store.thin({1: 1}, history.store.points()[0].time + 10**12)
    assert history.numbers() == [4, 3]
    for number in (1, 2):
        history.store.remove(number)
    assert history.store.damaged == {}
    history.store.thin({1: 1}, history.store.points()[0].time + 10**12)
    assert history.numbers() == [4]
    with pytest.raises(NoSuchPoint):
        history.store.remove(2)
    assert history.store.verify() == {}


def test_the_stamps_are_not_needed(history: Model) -> None:
    file, stamps = history.world.root / "f", history.directory / "history" / "stamps"
    for number, hurt in enumerate(
        (damage_file, Path.unlink, None, lambda path: os.truncate(path, 9))
    ):
        file.write_bytes(b"%d" % number)
        history.make()
        if hurt is None:
            with bad_block(stamps, 0):
                history.reopen(source=True)
                assert history.make() is None
        else:
            hurt(stamps)
        history.reopen(source=True)
    assert history.make() is None
    history.check()


def test_the_stamps_are_written_again_only_where_they_change(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, stamps = history.world.root / "f", history.directory / "history" / "stamps"
    monkeypatch.setattr(capture, "REREAD", 1)
    file.write_bytes(b"1")
    history.make()
    before = stamps.stat()
    assert history.make() is None
    assert os.path.samestat(stamps.stat(), before)
    file.touch()
    assert history.make() is not None
    assert not os.path.samestat(stamps.stat(), before)


def test_a_bad_sector_of_the_server_leaves_its_file_as_it_was(history: Model) -> None:
    for name in ("a", "b"):
        (history.world.root / name).write_bytes(noise(3 * BLOCK))
    history.make()
    for name in ("a", "b", "c"):
        (history.world.root / name).write_bytes(noise(4 * BLOCK))
    with bad_block(history.world.root / "a", 2), bad_block(history.world.root / "c", 1):
        made = history.store.make(history.source, PointLabel.STOPPED)
    assert made is not None
    assert (made.unsettled, made.label) == ((b"a", b"c"), PointLabel.RUNNING)
    assert history.source.lost == {b"a", b"c"}
    tree = history.rebuilt(2)
    assert tree[b"/a"][2] == noise(3 * BLOCK)
    assert tree[b"/b"][2] == noise(4 * BLOCK)
    assert b"/c" not in tree


def test_verification_says_nothing_when_it_has_no_space(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = history.world.root / "f"
    for number in range(3):
        file.write_bytes(noise(3 * BLOCK + number))
        history.make()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="full"):
            history.store.verify()
    assert history.store.damaged == {}
    assert history.store.verify() == {}


def damage_file(path: Path) -> None:
    """Change a byte in the middle of a file."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.promise("history-outlives-its-disk")
@pytest.mark.parametrize("name", ["catalogue", "catalogue.copy"])
@pytest.mark.parametrize("hurt", [Path.unlink, damage_file])
def test_one_catalogue_is_enough(history: Model, name: str, hurt: Callable[[Path], None]) -> None:
    directory = history.directory / "history"
    for number in range(2):
        (history.world.root / "f").write_bytes(b"%d" % number)
        history.make()
    hurt(directory / name)
    history.reopen()
    assert history.numbers() == [2, 1]
    assert (directory / "catalogue").read_bytes() == (directory / "catalogue.copy").read_bytes()
    # also while it is in use
    hurt(directory / name)
    history.check()
    (history.world.root / "f").write_bytes(b"2")
    history.make()
    history.check()
    assert history.store.verify() == {}


def test_lost_catalogues_remove_nothing(history: Model) -> None:
    for number in range(2):
        (history.world.root / "f").write_bytes(b"%d" % number)
        history.make()
    names = ("catalogue", "catalogue.copy")
    for name in names:
        (history.directory / "history" / name).rename(history.directory / name)
    with pytest.raises(HistoryDamaged):
        history.reopen()
    for name in names:
        (history.directory / name).rename(history.directory / "history" / name)
    history.store = HistoryStore(str(history.directory / "history"))
    history.check()


def test_all_files_are_read_where_nothing_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "a").write_bytes(b"1")
    lines: list[str] = []
    store = HistoryStore(str(tmp_path / "history"))
    source = HistorySource(str(tmp_path / "server"), distrusted(), lines.append, FAST)
    try:
        assert store.make(source, PointLabel.RUNNING) is not None
        assert lines != []
    finally:
        store.close()
        source.close()


@pytest.mark.root
def test_what_is_brought_back_belongs_to_the_server(history: Model) -> None:
    root = history.world.root
    (root / "d").mkdir()
    (root / "d" / "a").write_bytes(b"1")
    (root / "l").symlink_to("d")
    history.make()
    (root / "l").unlink()
    shutil.rmtree(root / "d")
    history.make()
    place = str(history.directory / "place")
    with Rewriting(str(root), place, (1234, 1235)) as rewriting:
        rewriting.commit(history.store, Wanted(1))
        rewriting.apply()
    found = [os.lstat(root / name) for name in ("", "d", "d/a", "l")]
    assert {(each.st_uid, each.st_gid) for each in found} == {(1234, 1235)}


def changed_after_the_scan(history: Model, change: Callable[[], None]) -> None:
    """Make a point, and a change between the reading of names and that of files."""
    scan = history.source.scan

    def scanned(scratch: str) -> MoveTree:
        found = scan(scratch)
        change()
        return found

    history.source.scan = scanned  # type: ignore[method-assign]
    try:
        assert history.make() is not None
    finally:
        history.source.scan = scan  # type: ignore[method-assign]


@pytest.mark.parametrize("gone", [b"a", b"ab", b"abc"])
def test_a_file_stays_whose_first_names_vanish_meanwhile(history: Model, gone: bytes) -> None:
    root = history.world.root
    (root / "a").write_bytes(b"1")
    (root / "z").write_bytes(b"2")
    history.make()
    os.link(root / "a", root / "b")
    os.link(root / "a", root / "c")
    names = [name for name in "abc" if name.encode() in gone]

    def removed() -> None:
        for name in names:
            (root / name).unlink()

    changed_after_the_scan(history, removed)
    left = [name.encode() for name in "abc" if name not in names]
    found = history.rebuilt(2)
    assert set(found) == {b"", b"/z", *(b"/" + name for name in left)}
    assert all(found[b"/" + name][2] == b"1" for name in left)
    assert {found[b"/" + name][3] for name in left} <= {b"/" + name for name in left[:1]}
    assert history.rebuilt(1) == history.trees[1]
    history.make()
    assert history.rebuilt(history.numbers()[0]) == seen(root)
    assert history.store.verify() == {}


def test_a_further_name_is_not_that_of_a_file_which_has_replaced_the_first(
    history: Model,
) -> None:
    root = history.world.root
    (root / "level.dat").write_bytes(b"old")
    os.link(root / "level.dat", root / "level.dat_old")

    def saved() -> None:
        (root / "new").write_bytes(b"new")
        (root / "new").rename(root / "level.dat")

    changed_after_the_scan(history, saved)
    found = history.rebuilt(1)
    assert [found[name][2] for name in (b"/level.dat", b"/level.dat_old")] == [b"new", b"old"]


def test_a_directory_that_is_exchanged_meanwhile_is_no_reason_to_distrust(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = history.world.root
    for name in ("d", "e"):
        (root / name).mkdir()
        (root / name / "f").write_bytes(name.encode())
    history.make()
    monkeypatch.setattr(capture, "REREAD", 1)

    def exchanged() -> None:
        (root / "d").rename(root / "x")
        (root / "e").rename(root / "d")
        (root / "x").rename(root / "e")

    changed_after_the_scan(history, exchanged)
    assert not history.source.rule._file_systems.objection(history.source.root)
    assert history.rebuilt(2)[b"/d/f"][2] == b"e"


def test_a_file_that_becomes_something_else_meanwhile_is_unsettled(history: Model) -> None:
    root = history.world.root
    (root / "a").write_bytes(b"1")
    history.make()
    scan = history.source.scan

    def scanned(scratch: str) -> MoveTree:
        found = scan(scratch)
        for name in ("a", "b"):
            (root / name).unlink()
            (root / name).symlink_to("x")
        return found

    history.source.scan = scanned  # type: ignore[method-assign]
    for name in ("a", "b", "c"):
        (root / name).write_bytes(b"new")
    made = history.make()
    assert made is not None
    assert made.unsettled == (b"a", b"b")
    tree = history.rebuilt(2)
    assert (tree[b"/a"][2], tree[b"/c"][2], b"/b" in tree) == (b"1", b"new", False)


def test_unchanged_files_are_read_now_and_then(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = history.world.root / "f"
    file.write_bytes(b"1" * 3 * BLOCK)
    history.make()
    (history.world.root / "g").write_bytes(b"1")
    history.make()
    copy = history.directory / "history" / "tree" / "f"
    copy.write_bytes(b"1" * BLOCK + b"x" * BLOCK + b"1" * BLOCK)
    assert history.store.verify() == {2: (b"f",), 1: (b"f",)}
    monkeypatch.setattr(capture, "REREAD", 1)
    assert history.make() is None
    assert history.store.verify() == {}
    history.check()


def test_changes_without_another_ctime_are_found_some_day(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = history.world.root / "f"
    file.write_bytes(b"1")
    history.make()
    monkeypatch.setattr(capture, "read_fully", lambda fd, length, at: b"2" * length)
    assert history.make() is None
    monkeypatch.setattr(capture, "REREAD", 1)
    assert history.make() is not None
    assert history.source.rule._file_systems.objection(history.source.root)
    assert history.rebuilt(2)[b"/f"][2] == b"2"


def test_what_is_under_way_can_be_stopped(history: Model) -> None:
    file = history.world.root / "f"
    file.write_bytes(b"1")
    history.make()
    file.write_bytes(b"2")
    history.store.stop()
    with pytest.raises(FileWorkCancelled):
        history.make()
    with pytest.raises(FileWorkCancelled):
        history.rebuilt(1)
    history.reopen()
    assert history.numbers() == [1]
    history.make()
    history.check()


@pytest.mark.root
@pytest.mark.promise("history-survives-faults")
def test_a_disk_that_is_full_costs_the_point_that_is_made(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 9) as disk, model(tmp_path, 1) as history:
        history.store.close()
        history.store = HistoryStore(str(disk / "history"))
        file = history.world.root / "f"
        file.write_bytes(noise(1 << 20))
        history.make()
        for size in range(1, 20):
            file.write_bytes(noise((1 << 20) + size))
            try:
                history.make()
            except StorageError:
                break
        else:
            raise AssertionError("the disk is not full")
        assert len(history.numbers()) > 1
        history.check()
        history.store.remove(history.numbers()[-1])
        history.check()
        history.store.close()


_TIB = 1 << 40


def written_parts(path: Path) -> dict[int, bytes]:
    """Return what is in the blocks of a sparse file that are not holes."""
    found: dict[int, bytes] = {}
    at = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            found |= {each: os.pread(file.fileno(), BLOCK, each) for each in range(at, end, BLOCK)}
            at = end
    return {size: b""} | {each: data for each, data in found.items() if any(data)}


def test_holes_of_tebibytes_cost_nothing(history: Model) -> None:
    file = history.world.root / "sparse"
    file.touch()
    trees = {}

    def make(size: int, *places: int) -> None:
        with file.open("r+b") as opened:
            opened.truncate(size)
            for at in places:
                opened.seek(at)
                opened.write(b"written at %d" % at)
        history.world.note()
        made = history.store.make(history.source, PointLabel.RUNNING)
        assert made is not None
        trees[made.number] = written_parts(file)

    before = time.process_time()
    make(_TIB, 5, _TIB // 2, _TIB - 100)
    make(_TIB, _TIB // 3)
    make(_TIB + 12345, _TIB // 2)
    make(3)
    make(2 * _TIB + 1)
    file.unlink()
    file.mkdir()
    assert history.store.make(history.source, PointLabel.RUNNING) is not None
    history.store.remove(3)
    assert history.store.verify() == {}
    assert history.store.size < 1 << 20
    for number in (1, 2, 4, 5):
        target = history.directory / f"rebuilt-{number}"
        target.mkdir()
        fd = os.open(target, os.O_RDONLY)
        rebuild(history.store, number, fd)
        os.close(fd)
        assert written_parts(target / "sparse") == trees[number]
        assert (target / "sparse").stat().st_blocks < 1000
    assert time.process_time() - before < 60  # of zeros that are read, it is hours


def test_a_file_that_is_too_large_is_left_out_and_named(history: Model) -> None:
    with (history.world.root / "large").open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    (history.world.root / "small").write_bytes(b"small")
    made = history.store.make(history.source, PointLabel.STOPPED)
    assert made is not None
    assert (made.files, made.unsettled) == (1, (b"large",))
    # It is whole, so a rewind may not replace it.
    assert not history.source.lost
    assert history.store.verify() == {}


LONG = "/".join(["n" * 250] * 40)


def long_paths(history: Model, count: int) -> None:
    """Make empty files with paths of 10 KB, which are longer than a system call takes."""
    here = os.open(history.world.root, os.O_RDONLY)
    for name in LONG.split("/"):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    for number in range(count):
        os.close(os.open(str(number), os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


class Disk:
    """A file system that has no space from a moment on."""

    f_frsize, f_blocks, f_files, f_favail = 4096, 1 << 30, 0, 0

    def __init__(self, is_full: Callable[[], bool]) -> None:
        self._is_full = is_full

    @property
    def f_bavail(self) -> int:
        """Blocks that are free."""
        return 0 if self._is_full() else self.f_blocks


@pytest.mark.promise("history-survives-faults")
def test_names_that_are_noted_do_not_fill_the_disk(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user can have as many and as long ones as make a hundred times what they take there."""
    history.store.reserve = 1 << 30
    monkeypatch.setattr(os, "fstatvfs", lambda fd: Disk(lambda: True))
    with pytest.raises(StorageError, match="what is noted of the server's files takes"):
        history.store.make(history.source, PointLabel.STOPPED)
    stamps = Path(history.store.directory, "stamps")
    part = stamps.with_name("stamps.new")
    monkeypatch.setattr(os, "fstatvfs", lambda fd: Disk(part.exists))
    assert history.make() is not None
    assert not stamps.exists()
    monkeypatch.undo()
    (history.world.root / "f").write_bytes(b"1")
    assert history.make() is not None
    assert stamps.exists()
    history.check()


def test_unsettled_files_take_no_memory_for_their_paths(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_paths(history, 3000)
    history.store.make(history.source, PointLabel.STOPPED)
    monkeypatch.setattr(capture, "MOST_UNSETTLED", 10)
    monkeypatch.setattr(history.source.rule, "is_steady", lambda fd, first: False)
    monkeypatch.setattr(history.source.rule, "settles", lambda found: False)
    monkeypatch.setattr(history.source.rule, "unchanged", lambda before, now: False)
    tracemalloc.start()
    try:
        assert history.store.make(history.source, PointLabel.RUNNING) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24_000_000, peak


def test_hard_links_take_a_bounded_memory(history: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        (history.world.root / str(number)).write_bytes(b"1")
        os.link(history.world.root / str(number), history.world.root / f"of {number}")
    assert history.make() is not None
    names = partial(FirstNames, 2000)
    monkeypatch.setattr(scan, "FirstNames", names)
    with pytest.raises(StorageError, match="delete some of the links"):
        history.store.make(history.source, PointLabel.STOPPED)
    monkeypatch.undo()
    assert history.make() is None
    history.check()
