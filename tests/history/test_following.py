"""A history follows its server: its points are rebuilt there, and only what differs is sent."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.history.following import ARRIVED, bridged, followed, moved
from tests.history.worlds import Model, model
from tests.support.archives import seen
from wingsd.errors import HistoryBaseChanged, HistoryDamaged, StorageError
from wingsd.histories.following import BridgeWork, base_page, digests_of, drop_arriving, next_delta
from wingsd.history import adopting
from wingsd.history.adopting import BlockRange, Scratch
from wingsd.history.format import (
    BLOCK,
    CheckedRoot,
    FormKind,
    FormWriter,
    PastDirectory,
    PastEntry,
    PastFile,
    PastLink,
    PastNothing,
    Point,
    PointLabel,
    Section,
)
from wingsd.history.rewriting import difference
from wingsd.history.wanted import Wanted
from wingsd.moves.digests import DIGEST, block_digest

HISTORIES = 6
ACTS = 10


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Model]:
    (tmp_path / "a").mkdir()
    made = Model(tmp_path / "a", random.Random(1))
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_any_history_follows_while_points_are_made_and_removed(tmp_path: Path, seed: int) -> None:
    (tmp_path / "a").mkdir()
    with model(tmp_path / "a", seed) as history:
        for _ in range(ACTS):
            history.act()
        if not history.numbers():
            history.make()
        rng = history.rng
        with moved(history, tmp_path / "b", rng) as there:
            # what the last point has not seen, and what happens before the first one there
            there.world.change(rng.randrange(6))
            begun(there, history)
            is_over = False
            while not is_over:
                for _ in range(rng.randrange(3)):
                    there.act(keeps_oldest=True)
                is_over = followed(history, there, may_fail=True)
            assert there.numbers()[-1] == history.numbers()[-1]
            there.check()
            assert there.store.verify() == {}


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_points_come_between_those_of_an_earlier_stay_and_the_present(
    tmp_path: Path, seed: int
) -> None:
    (tmp_path / "a").mkdir()
    with model(tmp_path / "a", seed) as history:
        for _ in range(ACTS):
            history.act()
        if not history.numbers():
            history.make()
        floor = history.numbers()[0]
        with moved(history, tmp_path / "b", history.rng) as there:
            there.world.change(history.rng.randrange(6))
            begun(there, history)
            if seed % 2:  # a part of the older points has come there, too
                followed(history, there)
            for _ in range(ACTS):
                there.act(keeps_oldest=True)
            move_back(there, history)
            history.world.change(history.rng.randrange(6))
            begun(history, there)
            while not followed(there, history, floor, may_fail=True):
                assert sorted(history.numbers()) == sorted(history.trees)
            assert set(there.trees) <= set(history.trees)
            history.check()
            assert history.store.verify() == {}


def test_the_bridge_has_only_the_blocks_that_differ(history: Model, tmp_path: Path) -> None:
    file = history.world.root / "map.sqlite"
    file.write_bytes(random.Random(1).randbytes(16 << 20))
    (history.world.root / "same").write_bytes(random.Random(2).randbytes(4 << 20))
    history.make()
    with moved(history, tmp_path / "b", history.rng) as there:
        changed = there.world.root / "map.sqlite"
        with changed.open("r+b") as opened:
            for block in range(0, 4000, 40):
                opened.seek(block * BLOCK + 7)
                opened.write(b"changed")
            opened.truncate((16 << 20) - 5000)
        begun(there, history)
        bridge = tmp_path / "b" / "history" / "arrived"
        assert bridged(history.store, there.store, there.numbers()[0], bridge) == []
        assert bridge.stat().st_size < 1.1 * 103 * BLOCK
        followed(history, there)
        there.check()


def test_a_file_that_is_damaged_at_the_source_is_damaged_alone(
    history: Model, tmp_path: Path
) -> None:
    for name in ("bad", "good"):
        (history.world.root / name).write_bytes(name.encode() * 5000)
    history.make()
    copy = history.directory / "history" / "tree" / "bad"
    with moved(history, tmp_path / "b", history.rng) as there:
        for name in ("bad", "good"):
            (there.world.root / name).write_bytes(b"new")
        begun(there, history)
        copy.unlink()
        followed(history, there)
        assert there.store.damaged == {1: (b"bad",)}
        assert there.store.verify() == {1: (b"bad",)}


def test_points_that_cannot_be_read_are_not_taken_for_sent_ones(history: Model) -> None:
    for text in ("1", "2", "3", "4"):
        (history.world.root / "a").write_text(text)
        history.make()
    delta = history.directory / "history" / f"{2:020}.delta"
    whole = delta.read_bytes()
    delta.write_bytes(whole[:-1])
    found = next_delta(history.store, 4, 0)
    assert found is not None
    assert found.number == 3
    with pytest.raises(HistoryDamaged, match="points 1 to 2"):
        next_delta(history.store, 3, 0)
    assert next_delta(history.store, 3, 2) is None  # they are there already
    delta.write_bytes(whole)
    found = next_delta(history.store, 3, 0)
    assert found is not None
    assert found.number == 2
    assert next_delta(history.store, 1, 0) is None


def test_the_source_learns_of_no_point_but_the_base(history: Model) -> None:
    for text in ("1", "2", "3"):
        (history.world.root / "a").write_text(text)
        history.make()
    home = history.directory / "history"
    page = base_page(history.store, 2, 0, 1)
    assert page == base_page(history.store, 2, 0, 1)
    assert digests_of(history.store, 2, [BlockRange(b"a", 0, 1)], 1)
    for number in (1, 3, 4):
        with pytest.raises(HistoryBaseChanged):
            base_page(history.store, number, 0, 1)
        with pytest.raises(HistoryBaseChanged):
            digests_of(history.store, number, [BlockRange(b"a", 0, 1)], 1)
    assert [each.name for each in home.glob("base-*")] == []
    base_page(history.store, 2, 0, 1)
    base_page(history.store, 1, 0, 0)
    assert [each.name for each in home.glob("base-*")] == ["base-1"]


def test_a_history_whose_directory_is_copied_goes_on_there(history: Model, tmp_path: Path) -> None:
    for _ in range(4):
        history.world.change(8)
        history.make()
    with moved(history, tmp_path / "b", history.rng) as there:
        there.store.close()
        home = tmp_path / "b" / "history"
        shutil.rmtree(home)
        subprocess.run(["cp", "-a", history.directory / "history", home], check=True)
        there.reopen()
        there.trees = dict(history.trees)
        there.world.change(8)
        made = there.make()
        assert made is not None
        assert made.number == history.numbers()[0] + 1
        there.check()
        assert there.store.verify() == {}


def test_a_large_file_is_put_together_once_for_all_its_digests(
    history: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, step = 64 * BLOCK + 100, 16
    data = random.Random(1).randbytes(size)
    file = history.world.root / "map.sqlite"
    file.write_bytes(data)
    (history.world.root / "same").write_bytes(data)
    history.make()
    with file.open("r+b") as opened:
        opened.write(b"changed after the base")
    history.make()
    put_together: list[int] = []
    fill = Scratch.fill

    def noted(scratch: Scratch, *more: Any) -> bytes:
        put_together.append(scratch.fd)
        return fill(scratch, *more)

    monkeypatch.setattr(adopting, "MOST_BLOCKS", step)
    monkeypatch.setattr(Scratch, "fill", noted)
    found = {b"map.sqlite": b"", b"same": b""}
    for path in found:
        for first in range(0, 80, step):
            found[path] += digests_of(history.store, 1, [BlockRange(path, first, step)], 0)
    blocks = [block_digest(data[at : at + BLOCK]) for at in range(0, 80 * BLOCK, BLOCK)]
    assert found == dict.fromkeys(found, b"".join(blocks))
    assert len(put_together) == 1
    home = history.directory / "history"
    assert len([*home.glob("base-1-*")]) == 1
    drop_arriving(history.store)
    assert [*home.glob("base-*")] == []


def test_what_is_put_together_leaves_the_reserve_of_the_disk(
    history: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = history.world.root / "map.sqlite"
    file.write_bytes(b"1" * BLOCK)
    history.make()
    file.write_bytes(b"2" * BLOCK)
    history.make()
    history.store.reserve = 100 << 20
    disk = SimpleNamespace(f_frsize=1 << 20, f_blocks=10_000, f_bavail=100, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: disk)
    for work in (
        lambda: digests_of(history.store, 1, [BlockRange(b"map.sqlite", 0, 1)], 0),
        lambda: base_page(history.store, 1, 0, 0),
    ):
        with pytest.raises(StorageError, match="must stay free"):
            work()
    bridge = BridgeWork(str(tmp_path))
    with closing(bridge):
        with (tmp_path / "a" / "history" / "catalogue").open("rb") as catalogue:
            bridge.add_base(catalogue.read())
        file.write_bytes(b"3" * BLOCK)
        history.make()
        bridge.plan(history.store)
        bridge.add_digests(bytes(DIGEST))
        with pytest.raises(StorageError, match="must stay free"):
            bridge.write(history.store)
        disk.f_bavail = 102
        assert bridge.write(history.store) == []
    assert len(digests_of(history.store, 1, [BlockRange(b"map.sqlite", 0, 1)], 0)) == DIGEST


_HOSTILE: dict[str, list[PastEntry]] = {
    "in a symlink": [
        PastDirectory(b"", 0o755, 0),
        PastLink(b"a", 0, b"/etc"),
        PastFile(b"a/b", 0o644, 0, 0, bytes(32)),
    ],
    "in nothing": [PastDirectory(b"", 0o755, 0), PastFile(b"a/b/c", 0o644, 0, 0, bytes(32))],
}


@pytest.mark.parametrize("kind", _HOSTILE)
def test_a_point_whose_files_are_in_no_directory_is_damaged(history: Model, kind: str) -> None:
    history.world.root.joinpath("x").touch()
    history.make()
    history.world.root.joinpath("x").write_bytes(b"2")
    assert history.store.make(history.source, PointLabel.RUNNING, 9) is not None
    history.store.remove(1)
    root = CheckedRoot()
    for entry in _HOSTILE[kind]:
        root.add(entry)
    arrived = history.directory / "history" / "arrived"
    with arrived.open("wb", buffering=0) as file:
        writer = FormWriter(file.fileno(), FormKind.DELTA, 5, 9)
        for entry in _HOSTILE[kind]:
            section = Section(False, 0, 0) if isinstance(entry, PastFile) else None
            writer.add(entry, section)
        writer.add(PastNothing(b"x"))
        point = Point(5, 0, PointLabel.STOPPED, root.digest(), root.files, root.size)
        writer.finish(point)
    history.store.adopt(ARRIVED, is_bridge=False)
    with pytest.raises(HistoryDamaged):
        difference(history.store, Wanted(5))
    assert [*history.store.verify()] == [5]


def test_nothing_is_sent_before_a_point_that_is_older_than_all(history: Model) -> None:
    for text in ("1", "2", "3"):
        (history.world.root / "a").write_text(text)
        history.make()
    history.store.remove(2)
    history.store.remove(1)
    with pytest.raises(HistoryDamaged, match="older than every point here"):
        next_delta(history.store, 1, 0)


@pytest.mark.parametrize("kind", ["catalogue", "own", "cut", "other base"])
def test_what_does_not_fit_is_not_taken_in(history: Model, tmp_path: Path, kind: str) -> None:
    (history.world.root / "a").write_bytes(b"1")
    history.make()
    with moved(history, tmp_path / "b", history.rng) as there:
        (there.world.root / "a").write_bytes(b"2")
        begun(there, history)
        home = there.directory / "history"
        arrived = home / "arrived"
        if kind == "catalogue":
            arrived.write_bytes((history.directory / "history" / "catalogue").read_bytes())
        elif kind == "own":
            (there.world.root / "a").write_bytes(b"3")
            there.make()
            (own,) = home.glob("*.delta")
            arrived.write_bytes(own.read_bytes())
        else:
            bridged(history.store, there.store, 3, arrived)
            if kind == "cut":
                arrived.write_bytes(arrived.read_bytes()[:-1])
            else:
                (there.world.root / "a").write_bytes(b"3")
                there.make()
                there.store.remove(3)
                del there.trees[3]
        with pytest.raises(HistoryDamaged):
            there.store.adopt(ARRIVED, is_bridge=True)
        assert sorted(there.numbers()) == sorted(there.trees)
        there.check()


def move_back(there: Model, history: Model) -> None:
    """Give the server of a history the files of another one's."""
    root = history.world.root
    shutil.rmtree(root)
    subprocess.run(["cp", "-a", there.world.root, root], check=True)
    history.reopen(source=True)


def begun(there: Model, before: Model) -> None:
    """Make the first point at the destination."""
    label = there.rng.choice([*PointLabel])
    made = there.store.make(there.source, label, before.numbers()[0] + 2)
    assert made is not None
    there.trees[made.number] = seen(there.world.root)
