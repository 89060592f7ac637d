"""A directory becomes what it was at a point, whatever is interrupted, and nothing else does."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.history.rewinds import Rewinds
from tests.history.test_store import long_paths
from tests.history.worlds import Model, bad_block, model
from tests.support.archives import seen
from wingsd.errors import HistoryDamaged, StorageError
from wingsd.history.format import BLOCK, Point, PointLabel
from wingsd.history.rewriting import MOST_AMENDED, Rewriting, difference
from wingsd.history.wanted import Wanted

WORLDS = 8
ACTS = 6


@pytest.mark.parametrize("seed", range(WORLDS))
def test_any_world_becomes_what_it_was(tmp_path: Path, seed: int) -> None:
    with model(tmp_path, seed) as history:
        rewinds = Rewinds(history)
        for _ in range(ACTS):
            history.world.change(history.rng.randrange(1, 12))
            history.make()
            if history.rng.randrange(2):
                rewinds.rewind(history.rng.choice(history.numbers()))
        history.check()


@pytest.mark.parametrize("seed", range(WORLDS))
def test_an_interrupted_rewind_is_completed_or_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    if seed % 2:
        monkeypatch.setattr("wingsd.history.rewriting.renameat2", no_exchange)
    with model(tmp_path, seed) as history:
        rewinds = Rewinds(history)
        for _ in range(ACTS):
            history.world.change(history.rng.randrange(1, 12))
            history.make()
            number = history.rng.choice(history.numbers())
            rewinds.interrupted(number, history.rng.randrange(120))
        history.check()
        assert history.store.verify() == {}


def no_exchange(*_: object) -> None:
    """Fail as on a file system that cannot exchange two files."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Model]:
    with model(tmp_path, 1) as made:
        yield made


def made(history: Model) -> Point:
    point = history.store.make(history.source, PointLabel.STOPPED)
    assert point is not None
    history.trees[point.number] = seen(history.world.root)
    return point


def test_what_stands_in_the_way_is_taken_away_with_all_in_it(history: Model) -> None:
    root = history.world.root
    (root / "world").mkdir()
    (root / "world" / "level").write_bytes(b"level")
    (root / "flag").write_bytes(b"a file")
    first = made(history)
    (root / "world" / "level").unlink()
    (root / "world" / "level").mkdir()
    os.mkfifo(root / "world" / "level" / "pipe")
    (root / "flag").unlink()
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(root / "flag"))
        Rewinds(history).rewind(first.number)
    assert (root / "flag").read_bytes() == b"a file"


@pytest.mark.root
def test_nothing_that_is_mounted_in_a_server_is_moved_away(history: Model) -> None:
    root, shared = history.world.root, history.directory / "shared"
    shared.mkdir()
    first = made(history)
    (root / "new dir" / "shared").mkdir(parents=True)
    # of the same file system, so that no device number tells of it
    subprocess.run(["mount", "--bind", str(shared), str(root / "new dir" / "shared")], check=True)
    try:
        (shared / "of all servers").write_bytes(b"kept")
        made(history)
        with pytest.raises(StorageError, match=r"mounted at .new dir/shared. in"):
            rewind(history, first.number)
        assert (root / "new dir" / "shared" / "of all servers").read_bytes() == b"kept"
    finally:
        subprocess.run(["umount", str(root / "new dir" / "shared")], check=True)


def test_a_directory_that_is_a_symlink_now_is_not_followed(history: Model) -> None:
    root, outside = history.world.root, history.directory / "outside"
    (root / "world").mkdir()
    (root / "world" / "level").write_bytes(b"level")
    first = made(history)
    outside.mkdir()
    (outside / "level").write_bytes(b"of another server")
    (root / "world" / "level").unlink()
    (root / "world").rmdir()
    (root / "world").symlink_to(outside)
    Rewinds(history).rewind(first.number)
    assert (outside / "level").read_bytes() == b"of another server"
    assert not (root / "world").is_symlink()


@pytest.mark.root
def test_files_that_nobody_may_change_are_replaced(history: Model) -> None:
    root = history.world.root
    (root / "locked").mkdir()
    (root / "locked" / "file").write_bytes(b"before")
    (root / "locked" / "file").chmod(0o400)
    (root / "locked").chmod(0o500)
    root.chmod(0o555)
    first = made(history)
    (root / "locked" / "file").unlink()
    Rewinds(history).rewind(first.number)
    assert (root / "locked" / "file").read_bytes() == b"before"


def test_names_that_differ_in_case_are_different_files(history: Model) -> None:
    root = history.world.root
    (root / "World").write_bytes(b"large")
    first = made(history)
    (root / "World").rename(root / "world")
    Rewinds(history).rewind(first.number)
    assert [path.name for path in root.iterdir()] == ["World"]


def test_a_difference_counts_what_changes(history: Model) -> None:
    root = history.world.root
    (root / "world").mkdir()
    (root / "world" / "changed").write_bytes(b"1" * 5000)
    (root / "world" / "touched").write_bytes(b"same")
    (root / "removed").mkdir()
    first = made(history)
    (root / "world" / "changed").write_bytes(b"2" * 100)
    os.utime(root / "world" / "touched", (1, 1))
    (root / "removed").rmdir()
    (root / "new").mkdir()
    (root / "new" / "file").write_bytes(b"new")
    last = made(history)
    found = difference(history.store, Wanted(first.number))
    names = [b"", b"new", b"new/file", b"removed", b"world/changed", b"world/touched"]
    assert (found.paths, found.entries, found.size) == (names, len(names), 5000)
    assert difference(history.store, Wanted(last.number)).entries == 0


def test_what_was_there_only_in_between_is_not_counted(history: Model) -> None:
    root = history.world.root
    (root / "file").write_bytes(b"then")
    first = made(history)
    (root / "new").mkdir()
    (root / "new" / "file").write_bytes(b"in between")
    made(history)
    (root / "new" / "file").unlink()
    made(history)
    assert difference(history.store, Wanted(first.number)).paths == [b"", b"new"]


def test_a_file_that_no_point_has_since_it_was_always_written_stays(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = history.world.root
    busy = [root / "busy.db", root / "busy.log", root / "link"]
    with monkeypatch.context() as patch:
        patch.setattr(history.source.rule, "is_steady", lambda fd, first: False)
        patch.setattr(history.source.rule, "settles", lambda found: False)
        for each in busy:
            each.write_bytes(b"then")
        first = history.store.make(history.source, PointLabel.RUNNING)
        assert first is not None
        assert {b"busy.db", b"busy.log", b"link"} <= {*first.unsettled}
    (root / "came later").write_bytes(b"1")
    made(history)
    place = history.directory / "place"
    with Rewriting(str(root), str(place)) as rewriting:
        left_out = Wanted(first.number, lambda path, is_directory: path == b"busy.log")
        drafted, draft = rewriting.prepare(history.store, left_out), place / "draft"
        shutil.copy(draft, history.directory / "kept")
        busy[0].write_bytes(b"written at the stop")
        (root / "link").unlink()
        (root / "link").hardlink_to(busy[0])
        made(history)
        for wanted, known, kept in (
            (Wanted(first.number), None, [b"busy.db", b"busy.log", b"link"]),
            (left_out, None, [b"busy.db", b"link"]),
            (left_out, drafted, [b"busy.db", b"link"]),
        ):
            shutil.copy(history.directory / "kept", draft)
            found = rewriting.commit(history.store, wanted, (), known)
            assert found.kept == kept
            assert draft.exists() == (known is not None)
        rewriting.apply()
        assert rewriting.differing() == []
    assert [each.exists() for each in busy] == [True, False, True]
    assert busy[0].samefile(busy[2])
    assert not (root / "came later").exists()


@pytest.mark.parametrize("most", [2, MOST_AMENDED])
def test_only_what_was_changed_since_the_draft_is_looked_at(
    history: Model, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    root = history.world.root
    for name in ("region", "plugins", "gone"):
        (root / name).mkdir()
        for number in range(9):
            (root / name / f"{number}").write_bytes(b"then")
    first = made(history)
    for number in range(5):
        (root / "region" / f"{number}").write_bytes(b"griefed")
    shutil.rmtree(root / "gone")
    made(history)
    monkeypatch.setattr("wingsd.history.rewriting.MOST_AMENDED", most)
    with Rewriting(str(root), str(history.directory / "place")) as rewriting:
        drafted = rewriting.prepare(history.store, Wanted(first.number))
        (root / "region" / "0").write_bytes(b"saved at the stop")
        (root / "plugins" / "0").write_bytes(b"saved at the stop")
        (root / "plugins" / "1").unlink()
        (root / "plugins" / "new").write_bytes(b"")
        made(history)
        expected = difference(history.store, Wanted(first.number))
        assert rewriting.commit(history.store, Wanted(first.number), (), drafted) == expected
        assert (history.directory / "place" / "draft").exists() == (most == MOST_AMENDED)
        rewriting.apply()
        assert rewriting.differing() == []
    assert seen(root) == history.trees[first.number]


def test_a_further_name_stays_with_a_file_that_stays(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = history.world.root, history.directory / "place"
    (root / "base").write_bytes(b"base")
    with monkeypatch.context() as patch:
        patch.setattr(history.source.rule, "is_steady", lambda fd, first: False)
        patch.setattr(history.source.rule, "settles", lambda found: False)
        for name in ("busy", "link"):
            (root / name).write_bytes(b"then")
        first = history.store.make(history.source, PointLabel.RUNNING)
    assert first is not None
    for name in ("busy", "link"):
        (root / name).unlink()
    (root / "busy").symlink_to("base")
    os.link(root / "busy", root / "link", follow_symlinks=False)
    os.utime(root / "base")
    made(history)
    with Rewriting(str(root), str(place)) as rewriting:
        drafted = rewriting.prepare(history.store, Wanted(first.number))
        assert b"busy" not in drafted.kept
        for name in ("busy", "link"):
            (root / name).unlink()
        (root / "busy").write_bytes(b"a file at the stop")
        (root / "link").hardlink_to(root / "busy")
        made(history)
        found = rewriting.commit(history.store, Wanted(first.number), (), drafted)
        assert {b"busy", b"link"} <= {*found.kept}
        rewriting.apply()
        assert rewriting.differing() == []
    assert (root / "link").samefile(root / "busy")


def test_symlinks_are_made_when_new_files_have_the_project_of_the_server(
    history: Model,
) -> None:
    root, place = history.world.root, history.directory / "place"
    (root / "link").symlink_to("then")
    first = made(history)
    (root / "link").unlink()
    made(history)
    with Rewriting(str(root), str(place)) as rewriting:
        drafted = rewriting.prepare(history.store, Wanted(first.number))
        assert os.listdir(place / "new") == []
        rewriting.commit(history.store, Wanted(first.number), (), drafted)
        rewriting.apply()
        assert rewriting.differing() == []
    assert seen(root) == history.trees[first.number]


def test_a_draft_is_not_used_for_another_point(history: Model) -> None:
    root = history.world.root
    (root / "a").write_bytes(b"first")
    first = made(history)
    (root / "a").write_bytes(b"second")
    second = made(history)
    (root / "a").write_bytes(b"now")
    made(history)
    with Rewriting(str(root), str(history.directory / "place")) as rewriting:
        drafted = rewriting.prepare(history.store, Wanted(first.number))
        shutil.rmtree(history.directory / "place" / "new")
        (history.directory / "place" / "new").mkdir()
    with Rewriting(str(root), str(history.directory / "place")) as rewriting:
        rewriting.commit(history.store, Wanted(second.number), (), drafted)
        rewriting.apply()
        assert rewriting.differing() == []
    assert (root / "a").read_bytes() == b"second"


def test_what_is_not_as_it_was_at_the_end_is_listed(history: Model) -> None:
    root = history.world.root
    (root / "a").write_bytes(b"a")
    (root / "b").write_bytes(b"b")
    first = made(history)
    (root / "a").unlink()
    made(history)
    place = str(history.directory / "place")
    with Rewriting(str(root), place) as rewriting:
        rewriting.commit(history.store, Wanted(first.number))
        rewriting.apply()
        assert rewriting.differing() == []
        (root / "copy").write_bytes(b"a")
        shutil.copystat(root / "a", root / "copy")
        (root / "copy").rename(root / "a")
        assert rewriting.differing() == [b"", b"a"]
        (root / "a").write_bytes(b"longer")
        (root / "c").write_bytes(b"")
        assert rewriting.differing() == [b"", b"a"]
        (root / "a").unlink()
        assert rewriting.differing() == [b"", b"a"]


def test_nothing_is_changed_where_the_history_is_damaged(history: Model) -> None:
    root = history.world.root
    (root / "a").write_bytes(bytes(BLOCK) + b"1" * BLOCK)
    first = made(history)
    (root / "a").write_bytes(b"2" * BLOCK + b"1" * BLOCK)
    made(history)
    before = seen(root)
    with (history.directory / "history" / "tree" / "a").open("r+b") as copy:
        copy.seek(BLOCK)
        copy.write(b"a fault of the disk")
    with Rewriting(str(root), str(history.directory / "place")) as rewriting:
        with pytest.raises(HistoryDamaged):
            rewriting.commit(history.store, Wanted(first.number))
        assert not Rewriting.undo_of(str(history.directory / "place"))
    assert seen(root) == before


def test_files_that_cannot_be_read_are_replaced_whether_they_differ_or_not(
    history: Model,
) -> None:
    root = history.world.root
    (root / "lost").write_bytes(random.Random(1).randbytes(3 * BLOCK))
    (root / "link").hardlink_to(root / "lost")
    first = made(history)
    (root / "lost").open("r+b").write(b"griefed")
    (root / "new").write_bytes(b"came later")
    with bad_block(root / "lost", 2), bad_block(root / "new", 0):
        history.store.make(history.source, PointLabel.STOPPED)
        lost = history.source.lost
        assert lost == {b"lost", b"link", b"new"}
        assert difference(history.store, Wanted(first.number)).paths == [b""]
        found = difference(history.store, Wanted(first.number), lost)
        assert found.paths == [b"", b"link", b"lost", b"new"]
        rewind(history, first.number, lost)
    assert seen(root) == history.trees[first.number]


def rewind(history: Model, number: int, lost: frozenset[bytes] = frozenset()) -> None:
    with Rewriting(str(history.world.root), str(history.directory / "place")) as rewriting:
        rewriting.commit(history.store, Wanted(number), lost)
        rewriting.apply()
        assert rewriting.differing() == []


def test_files_that_are_damaged_in_the_history_are_named_and_left_on_demand(
    history: Model,
) -> None:
    root, place = history.world.root, str(history.directory / "place")
    noise = random.Random(1).randbytes
    for name, blocks in (("a", 16), ("b", 16), ("c", 16), ("y", 80), ("z", 16)):
        (root / name).write_bytes(noise(blocks * BLOCK))
    (root / "link").hardlink_to(root / "a")
    first, then = made(history), (root / "z").read_bytes()
    for name in ("a", "y", "z", "other"):
        (root / name).write_bytes(name.encode())
    (root / "b").unlink()
    (root / "c").unlink()
    (root / "c" / "d").mkdir(parents=True)
    made(history)
    before = seen(root)
    # in the first part of the delta's data, which ends within y
    with bad_block(history.directory / "history" / f"{first.number:020}.delta", 5):
        message = '"a", "b", "c", "link", "y" cannot be'
        with (
            Rewriting(str(root), place) as rewriting,
            pytest.raises(HistoryDamaged, match=message),
        ):
            rewriting.commit(history.store, Wanted(first.number))
        assert not Rewriting.undo_of(place)
        assert seen(root) == before
        with Rewriting(str(root), place, skips_damaged=True) as rewriting:
            found = rewriting.commit(history.store, Wanted(first.number))
            rewriting.apply()
            assert rewriting.differing() == []
    assert found.damaged == [b"a", b"b", b"c", b"link", b"y"]
    assert (root / "z").read_bytes() == then
    assert [(root / name).read_bytes() for name in ("a", "link", "y")] == [b"a", b"a", b"y"]
    assert sorted(os.listdir(root)) == ["a", "link", "y", "z"]


def test_a_file_that_is_found_damaged_after_the_draft_stays_as_it_is(history: Model) -> None:
    root, place = history.world.root, str(history.directory / "place")
    (root / "a").write_bytes(random.Random(1).randbytes(80 * BLOCK))
    first = made(history)
    (root / "a").chmod(0o600)
    between = made(history)
    with Rewriting(str(root), place, skips_damaged=True) as rewriting:
        drafted = rewriting.prepare(history.store, Wanted(first.number))
        (root / "a").write_bytes(b"saved at the stop")
        made(history)
        before = seen(root)
        with bad_block(history.directory / "history" / f"{between.number:020}.delta", 5):
            found = rewriting.commit(history.store, Wanted(first.number), (), drafted)
        rewriting.apply()
        assert rewriting.differing() == []
    assert found.damaged == [b"a"]
    assert seen(root) == before


@pytest.mark.parametrize("at", [0, 60, 100, -20], ids=["header", "data", "entries", "end"])
def test_a_draft_that_cannot_be_read_is_made_anew(history: Model, at: int) -> None:
    root, place = history.world.root, history.directory / "place"
    (root / "a").write_bytes(b"then")
    first = made(history)
    (root / "a").write_bytes(b"now")
    made(history)
    with Rewriting(str(root), str(place)) as rewriting:
        drafted = rewriting.prepare(history.store, Wanted(first.number))
        with (place / "draft").open("r+b") as draft:
            draft.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            draft.write(b"fault")
        rewriting.commit(history.store, Wanted(first.number), (), drafted)
        rewriting.apply()
        assert rewriting.differing() == []
    assert seen(root) == history.trees[first.number]


def test_a_plan_that_may_not_be_durable_changes_nothing(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = history.world.root, str(history.directory / "place")
    (root / "a").write_bytes(b"then")
    first = made(history)
    (root / "a").write_bytes(b"now")
    made(history)
    fail_to_flush(monkeypatch, place)
    with Rewriting(str(root), place) as rewriting, pytest.raises(StorageError, match="the disk"):
        rewriting.commit(history.store, Wanted(first.number))
    assert not Rewriting.undo_of(place)


def fail_to_flush(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Let the flush of a directory fail."""
    flush = os.fsync

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(fd)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("path", [b"a", b"z"])
def test_what_a_program_makes_in_the_way_is_taken_away(
    history: Model, monkeypatch: pytest.MonkeyPatch, path: bytes, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr("wingsd.history.rewriting.renameat2", no_exchange)
    root = history.world.root
    (root / "a").write_bytes(b"a file")
    (root / "b").mkdir()
    (root / "b" / "c").write_bytes(b"in a directory")
    (root / "z").write_bytes(b"then")
    first = made(history)
    (root / "b" / "c").unlink()
    (root / "b").rmdir()
    for name in ("a", "b", "gone", "z"):
        (root / name).write_bytes(b"now")
    made(history)
    with Rewriting(str(root), str(history.directory / "place")) as rewriting:
        rewriting.commit(history.store, Wanted(first.number))
        with monkeypatch.context() as patch:
            fail_at(patch, path)
            with pytest.raises(StorageError, match="the disk failed"):
                rewriting.apply()
        if path == b"a":
            for name in ("a", "b"):
                (root / name).unlink()
            (root / "a" / "made").mkdir(parents=True)
            (root / "b").symlink_to("a")
        else:
            (root / "gone").write_bytes(b"again")
            (root / "z").unlink()
            (root / "z" / "made").mkdir(parents=True)
        rewriting.apply()
        assert rewriting.differing() == []
    assert seen(root) == history.trees[first.number]


def fail_at(monkeypatch: pytest.MonkeyPatch, at: bytes) -> None:
    """Let an exchange fail at a path."""
    before = Rewriting._put_into_place

    def failing(self: Rewriting, path: bytes, inode: bytes | None) -> None:
        if path == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        before(self, path, inode)

    monkeypatch.setattr(Rewriting, "_put_into_place", failing)


def test_long_paths_that_differ_take_little_memory(history: Model) -> None:
    history.store.make(history.source, PointLabel.STOPPED)
    long_paths(history, 2000)
    history.store.make(history.source, PointLabel.STOPPED)
    (history.world.root / ("n" * 250)).rename(history.world.root.parent / "away")
    history.store.make(history.source, PointLabel.STOPPED)
    tracemalloc.start()
    try:
        found = difference(history.store, Wanted(2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.entries == 2041
    assert 400 < len(found.paths) < 1000
    assert peak < 12_000_000
