"""The source of a move: how it walks through a tree, and what it reads and sends."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import NoReturn

import pytest

from tests.moves.moving import Destination, feed
from tests.moves.test_rebase import BIG, Move, move
from tests.support.attributes import reading
from wingsd.errors import FrameRefused, HeldTreeInvalid, StorageError
from wingsd.filesystem.walk import BATCH, Listing, opened
from wingsd.moves import destination
from wingsd.moves.destination import MoveDestination
from wingsd.moves.filling import Batch, batch_body
from wingsd.moves.scan import Scan
from wingsd.moves.seen_directories import (
    SeenDirectories,
    WalkFrame,
    frames_in,
)
from wingsd.moves.source import MoveSource, SourceStopped
from wingsd.moves.tree import Resumption
from wingsd.moves.walk_process import WalkProcess, look

__all__ = ["move"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "server"
    (tree / "world").mkdir(parents=True)
    for number in range(20):
        (tree / "world" / f"small{number}").write_bytes(os.urandom(3_000))
    for number in range(4):
        (tree / "world" / f"large{number}").write_bytes(os.urandom(600_000))
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"x" * 5_000)
    return tree


def begin(source: MoveSource, to: MoveDestination) -> None:
    told = to.rebase()
    source.scan()
    for number in range(1, told.pages + 1):
        source.add_page(to.ledger.part(number))
    source.size = 256 << 10
    source.plan(told)


def send(to: MoveDestination, batch: Batch | None, *, zstd: bool = False) -> bool:
    if batch is None:
        return False
    body = batch_body(batch, zstd=zstd)
    assert body.data == sum(len(data) for data in batch.data)
    feed(to, iter(body.blocks), zstd=body.zstd)
    return True


@pytest.mark.parametrize("zstd", [False, True])
def test_what_arrived_is_neither_read_nor_sent_again(
    tmp_path: Path, tree: Path, zstd: bool
) -> None:
    total = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    with (
        Destination(tmp_path / "there").open() as to,
        closing(MoveSource(str(tree), pytest.fail)) as source,
    ):
        begin(source, to)
        assert (source.total, source.read) == (total, 0)
        while send(to, source.next_shape()):
            pass
        for _ in range(5):
            assert send(to, source.next_data(), zstd=zstd)
        read = source.read
        begin(source, to)
        assert 0 < source.read < read
        while send(to, source.next_shape()):
            pass
        while send(to, source.next_data(), zstd=zstd):
            pass
        assert source.read == total
        to.close_round(to.received.round, source.last, source.root())
        begin(source, to)
        assert (source.read, source.next_shape(), source.next_data()) == (total, None, None)


def fail_to_seek(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the file system not tell where a file has data."""
    seek = os.lseek

    def fail(fd: int, at: int, whence: int) -> int:
        if whence == os.SEEK_DATA:
            raise OSError(number, os.strerror(number))
        return seek(fd, at, whence)

    monkeypatch.setattr(os, "lseek", fail)


def test_what_the_disk_does_not_find_is_no_hole(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros in place of data have the same root at both nodes."""
    fail_to_seek(monkeypatch, errno.EIO)
    with (
        Destination(tmp_path / "there").open() as to,
        closing(MoveSource(str(tree), pytest.fail)) as source,
    ):
        begin(source, to)
        with pytest.raises(StorageError, match='"sparse" could not be read'):
            list(iter(lambda: source.next_shape() or source.next_data(), None))


def test_all_is_read_where_holes_are_not_told(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_seek(monkeypatch, errno.EINVAL)
    with (
        Destination(tmp_path / "there").open() as to,
        closing(MoveSource(str(tree), pytest.fail)) as source,
    ):
        begin(source, to)
        sent = list(iter(lambda: source.next_shape() or source.next_data(), None))
        assert any(b"x" * 4_096 in bytes(data) for batch in sent for data in batch.data)


def test_it_can_be_stopped(tmp_path: Path, tree: Path) -> None:
    with (
        Destination(tmp_path / "there").open() as to,
        closing(MoveSource(str(tree), pytest.fail)) as source,
    ):
        begin(source, to)
        source.stop()
        with pytest.raises(SourceStopped):
            source.next_data()


def test_a_destination_cannot_hold_what_is_no_tree(tmp_path: Path, tree: Path) -> None:
    with closing(MoveSource(str(tree), pytest.fail)) as source:
        source.scan()
        with pytest.raises(HeldTreeInvalid):
            source.add_page(b"a page of nothing")


def test_closing_waits_for_what_is_still_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, goes_on = Event(), Event()

    def wait(*args: object) -> None:
        reads.set()
        assert goes_on.wait(10)
        raise SourceStopped

    source = MoveSource(str(tree), pytest.fail)
    source.scan()
    source.plan(Resumption(1, 1, 0, 0, 0, 0))
    monkeypatch.setattr(source, "_count", wait)
    monkeypatch.setattr(source._reader, "_count", wait)
    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(source.next_data)
        assert reads.wait(10)
        source.stop()
        closing_it = threads.submit(source.close)
        assert not closing_it.done()
        goes_on.set()
        closing_it.result()
        assert isinstance(reading.exception(), SourceStopped)


def test_what_is_changed_in_the_pass_over_a_stopped_server_is_found_at_its_end(
    tmp_path: Path, tree: Path
) -> None:
    with (
        Destination(tmp_path / "there").open() as to,
        closing(MoveSource(str(tree), pytest.fail)) as source,
    ):
        for change, found in (
            (lambda: None, ""),
            (lambda: (tree / "late").write_bytes(b"late"), "its directory"),
            (lambda: (tree / "world" / "large1").write_bytes(b"short"), "world/large1"),
            ((tree / "late").unlink, "its directory"),
            (lambda: None, ""),
        ):
            begin(source, to)
            while send(to, source.next_shape()) or send(to, source.next_data()):
                pass
            to.close_round(to.received.round, source.last, source.root())
            change()
            assert found in source.unproven()
            source.closed()


def test_a_name_that_is_listed_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")

    def walk(root: int, skipped: object, passed: object) -> Iterator[Listing]:
        yield Listing((), root, os.fstat(root), files=[b"file", b"file"])

    monkeypatch.setattr("wingsd.moves.scan.walk", walk)
    with opened(str(tmp_path)) as root, pytest.raises(FrameRefused):
        Scan(lambda line: None, reading(root), None, SeenDirectories()).run(root)


# A second process that looks at directories: what it finds is what the walk would


PATHS = [b"a", b"a/b", b"a/b/c", b"links", b"many", b"z\xff"]
#: Those that the other process leaves to the walk.
LEFT = (b"links", b"many")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    for path in PATHS:
        place = os.path.join(os.fsencode(tmp_path), path)
        os.mkdir(place)
        for name in (b"one", b"t\xfdwo"):
            with open(os.path.join(place, name), "wb") as file:
                file.write(path)
    for number in range(BATCH):
        (tmp_path / "many" / f"{number}").touch()
    (tmp_path / "links" / "link").symlink_to("nowhere")
    (tmp_path / "a" / "linked").hardlink_to(tmp_path / "a" / "one")
    with opened(str(tmp_path)) as fd:
        yield fd


def seen_by_walk(root: int) -> SeenDirectories:
    seen = SeenDirectories()
    Scan(lambda line: None, reading(root), None, seen).run(root).store.close()
    return seen


def check(frames: dict[bytes, WalkFrame], root: int) -> None:
    seen = seen_by_walk(root)
    assert frames.keys() == set(PATHS) - set(LEFT)
    for path, frame in frames.items():
        assert frame.digest == seen.digests[path]
        assert frame.is_linked == (path in seen.linked) == (path == b"a")
        names = [b"linked"] if path == b"a" else []
        assert frame.files == [*names, b"one", b"t\xfdwo"]
    assert [list(frames[path].directories) for path in PATHS[:3]] == [[b"b"], [b"c"], []]


def test_it_finds_what_the_walk_does(root: int) -> None:
    found = BytesIO()
    look(root, [*PATHS, b"gone", b"a/one", b"links/link"], found)
    data = bytearray(found.getvalue())
    frames = {}
    arrived = bytearray()
    for at in range(0, len(data), 7):
        arrived += data[at : at + 7]
        frames.update({frame.path: frame for frame, _ in frames_in(arrived)})
    assert not arrived
    check(frames, root)
    assert next(iter(frames)) == PATHS[-1]


def test_it_is_a_process(root: int) -> None:
    process = WalkProcess(root, PATHS)
    frames: dict[bytes, WalkFrame] = {}
    try:
        while len(frames) < len(PATHS) - len(LEFT):
            for path in PATHS:
                if (frame := process.take(path)) is not None:
                    frames[path] = frame
            time.sleep(0.01)
    finally:
        process.close()
    check(frames, root)


def no_process(*arguments: object) -> NoReturn:
    raise OSError("no process can be started")


@pytest.mark.promise("unread-files-are-unchanged")
@pytest.mark.parametrize(
    ("name", "instead"), [("start", no_process), ("command", lambda *words: ["/bin/false"])]
)
def test_nothing_is_found_without_a_process_or_when_it_has_ended(
    root: int, monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable[..., object]
) -> None:
    monkeypatch.setattr(f"wingsd.sandbox.launch.{name}", instead)
    process = WalkProcess(root, PATHS)
    while process._process is not None:
        assert process.take(b"a") is None
    assert process.take(b"a") is None
    process.close()


def _remove(move: Move) -> None:
    (move.root / "a").unlink()


def _link(move: Move, to: MoveDestination, content: bytes = b"content") -> None:
    """Send a file, and then another name of it; one that has two at first comes in blocks."""
    (move.root / "a").write_bytes(content)
    move.send(to)
    os.link(move.root / "a", move.root / "b")
    move.send(to)


def _damage(move: Move, name: str) -> None:
    with (move.tree / name).open("r+b") as file:
        file.write(b"?")


@pytest.mark.parametrize("content", [b"content", BIG])
def test_a_file_that_was_found_wrong_is_so_by_another_name(move: Move, content: bytes) -> None:
    with move.destination.open() as to:
        _link(move, to, content)
        _damage(move, "a")
        wrong = move.read(to)[1]
        assert set(wrong) >= {b"a"}
        wrong = [b"a"]
        _remove(move)
        move.send(to)
        to.rebase(wrong=wrong)
        assert set(move.read(to)[1]) == {b"b"}
        to.rebase(wrong=[b"b"])
        assert [path for path, _ in to.tree.missing()] == ([b"b"] if content == BIG else [])
        assert (to.tree.find(b"b") is None) is (content != BIG)


def test_of_many_names_that_are_lost_the_files_are_read_by_a_walk(
    move: Move, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "MOST", 4)
    for name in ("x", "y"):
        (move.root / name).mkdir()
    for number in range(10):
        (move.root / "x" / str(number)).write_bytes(b"content")
    with move.destination.open() as to:
        move.send(to)
        for number in range(10):
            os.link(move.root / "x" / str(number), move.root / "y" / str(number))
        move.send(to)
        for number in range(10):
            _damage(move, f"y/{number}")
            (move.root / "x" / str(number)).unlink()
        move.send(to)
        assert {b"y/%d" % number for number in range(10)} <= set(move.read(to)[1])
