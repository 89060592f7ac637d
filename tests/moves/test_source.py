"""The source of a move: what it reads and sends in its second round."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.moves.moving import Destination, feed
from wingsd.errors import HeldTreeInvalid, SourceFileChanged, StorageError
from wingsd.moves import scan
from wingsd.moves.destination import MoveDestination
from wingsd.moves.filling import Batch, batch_body
from wingsd.moves.nodes import _CHUNK, EntryStore, Row
from wingsd.moves.seen_directories import StatResults, stat_results
from wingsd.moves.source import MoveSource, SourceStopped
from wingsd.moves.tree import Resumption


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


def test_a_file_that_was_changed_is_read_again(tmp_path: Path, tree: Path) -> None:
    with (
        Destination(tmp_path / "there").open() as to,
        closing(MoveSource(str(tree), pytest.fail)) as source,
    ):
        begin(source, to)
        while send(to, source.next_shape()) or send(to, source.next_data()):
            pass
        with (tree / "world" / "large1").open("r+b") as file:
            file.seek(300_000)
            file.write(b"another")
        begin(source, to)
        while send(to, source.next_shape()):
            pass
        batch = source.next_data()
        assert batch is not None
        assert sum(len(data) for data in batch.data) == 4096
        assert source.next_data() is None


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


def test_a_change_while_it_is_read_is_an_error(tmp_path: Path, tree: Path) -> None:
    with (
        Destination(tmp_path / "there").open() as to,
        closing(MoveSource(str(tree), pytest.fail)) as source,
    ):
        begin(source, to)
        (tree / "world" / "large1").write_bytes(b"short")
        with pytest.raises(SourceFileChanged):
            list(iter(lambda: source.next_shape() or source.next_data(), None))


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


def test_trees_are_closed_though_an_error_refers_to_them(tmp_path: Path, tree: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    source = MoveSource(str(tree), pytest.fail, scratch=str(scratch))
    with Destination(tmp_path / "there").open() as to, closing(source):
        begin(source, to)
        while send(to, source.next_shape()):
            pass
        (tree / "world" / "large0").write_bytes(b"changed")
        with pytest.raises(SourceFileChanged) as error:
            list(iter(source.next_data, None))
        assert open_below(scratch)
    assert error.traceback
    assert not open_below(scratch)


def open_below(directory: Path) -> list[str]:
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return [target for target in targets if target.startswith(str(directory))]


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


@pytest.mark.promise("stuck-final-round-is-given-up")
def test_its_steps_change_while_it_scans_plans_and_makes_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a round of millions of names is not taken for one that does not go on."""
    tree, names = tmp_path / "server", 3 * _CHUNK
    for number in range(6):
        (tree / f"d{number}").mkdir(parents=True)
    for number in range(names):
        (tree / f"d{number % 6}" / f"file{number}").touch()
    source = MoveSource(str(tree), print)
    seen: list[tuple[int, ...]] = []
    look, rows_from = stat_results, EntryStore.rows_from

    def looking(*args: Any) -> StatResults:
        seen.append(source.steps)
        return look(*args)

    def reading(store: EntryStore, *args: Any, **options: Any) -> list[Row]:
        if store is source._now.store:
            seen.append(source.steps)
        return rows_from(store, *args, **options)

    monkeypatch.setattr(scan, "stat_results", looking)
    monkeypatch.setattr(EntryStore, "rows_from", reading)
    with closing(source), Destination(tmp_path / "destination").open() as to:
        for work, least in [
            (lambda: begin(source, to), 7 + 2),
            (lambda: [send(to, batch) for batch in iter(source.next_shape, None)], 0),
            (lambda: [send(to, batch) for batch in iter(source.next_data, None)], 0),
            (source.root, 2),
        ]:
            seen.clear()
            work()
            assert len(seen) >= least
            assert len(set(seen)) == len(seen)
        for walks in (source.walk_again, source.unproven):
            before = sum(source.steps)
            walks()
            assert sum(source.steps) >= before + 7
