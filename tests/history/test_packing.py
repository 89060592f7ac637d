"""A point of a history as a tar, in whole and without what an ignore list has."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.history.worlds import Model, model
from tests.support.archives import Tree, seen
from wingsd.archive.compress import ArchiveFormat, Compression
from wingsd.archive.pack import GO_PORTION, pack
from wingsd.archive.partition import Part
from wingsd.backups.points import IgnoreList
from wingsd.errors import HistoryDamaged, StorageError
from wingsd.history import packing
from wingsd.history.format import PointLabel
from wingsd.history.packing import PointArchive
from wingsd.history.store import HistoryStore
from wingsd.history.wanted import Wanted

ACTS = 10
LINES = ["a", "!/b/a", "a.b/", "/-"]


def unpacked(archive: Path, into: Path) -> Tree:
    """Extract a tar with GNU tar."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    command = ["tar", "-xpf", str(archive), "--xattrs", "--acls", "-C", str(into)]
    subprocess.run(command, check=True, capture_output=True)
    return seen(into)


def packed(history: Model, wanted: Wanted, target: Path) -> Tree:
    """Pack a point, and return what the archive has."""
    archive = PointArchive(wanted, (os.geteuid(), os.getegid()))
    is_last = False
    with target.open("wb") as file:
        while not is_last:
            history.reopen()
            with closing(archive.next(history.store)) as batch:
                for piece in batch.pieces():
                    file.write(piece)
                is_last = batch.is_last
    return unpacked(target, target.with_name("unpacked"))


@pytest.mark.parametrize("seed", range(3))
def test_the_archive_of_a_point_has_all_of_it(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST", 3)
    monkeypatch.setattr(packing, "_LARGE", 5000)
    with model(tmp_path, seed) as history:
        for _ in range(ACTS):
            history.act()
        for number in history.numbers():
            assert packed(history, Wanted(number), tmp_path / "tar") == history.trees[number]


@pytest.mark.parametrize("seed", range(3))
def test_an_ignore_list_leaves_out_what_it_does_of_an_archive(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST", 2)
    with model(tmp_path, seed) as history:
        for _ in range(ACTS):
            history.act()
        for number in history.numbers():
            history.rebuilt(number)
            ignore = IgnoreList(LINES)
            found = packed(history, Wanted(number, ignore.leaves_out), tmp_path / "tar")
            with (tmp_path / "usual").open("wb") as file:
                pack(
                    Part(str(tmp_path / "rebuilt"), select=ignore.select),
                    file.write,
                    links=True,
                    form=ArchiveFormat.TAR,
                    compression=Compression.NONE,
                    warn=lambda line: None,
                    progress=lambda size, files: None,
                )
            assert found == unpacked(tmp_path / "usual", tmp_path / "unpacked")


def test_nothing_of_a_damaged_file_is_sent(tmp_path: Path) -> None:
    with model(tmp_path, 1) as history:
        (history.world.root / "a").write_bytes(b"content")
        history.make()
        (history.directory / "history/tree/a").write_bytes(b"CONTENT")
        archive = PointArchive(Wanted(1), (0, 0))
        with pytest.raises(HistoryDamaged, match='"a": it does not have its digest'):
            archive.next(history.store)


def test_a_full_disk_is_noticed_before_it_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: HistoryStore, size: int) -> None:
        raise StorageError(f"{size} bytes do not fit")

    monkeypatch.setattr(HistoryStore, "require_room", refuse)
    with model(tmp_path, 1) as history:
        (history.world.root / "a").write_bytes(b"content")
        history.make()
        with pytest.raises(StorageError, match="do not fit"):
            PointArchive(Wanted(1), (0, 0)).next(history.store)


def test_the_end_is_where_go_nodes_read_it(tmp_path: Path) -> None:
    with model(tmp_path, 1) as history:
        file = history.world.root / "a"
        file.write_bytes(b"")
        history.make()
        packed(history, Wanted(1), tmp_path / "tar")
        size = (tmp_path / "tar").stat().st_size
        file.write_bytes(bytes(GO_PORTION - size % GO_PORTION))
        history.make()
        assert packed(history, Wanted(2), tmp_path / "tar") == history.trees[2]
        assert (tmp_path / "tar").stat().st_size % GO_PORTION != 0


def test_holes_that_are_larger_than_the_disk_are_sent(tmp_path: Path) -> None:
    with model(tmp_path, 1) as history:
        file = history.world.root / "sparse"
        with file.open("wb") as opened:
            opened.truncate(1 << 40)
            opened.seek(1 << 39)
            opened.write(b"then")
        history.store.make(history.source, PointLabel.STOPPED)
        with file.open("r+b") as opened:
            opened.seek(1 << 38)
            opened.write(b"later")
        history.store.make(history.source, PointLabel.STOPPED)
        history.store.reserve = 1 << 20
        with closing(PointArchive(Wanted(1), (0, 0)).next(history.store)) as batch:
            sent = b"".join(batch.pieces())
        assert b"then" in sent
        assert b"later" not in sent
        assert len(sent) < 1 << 20
