"""Single files and directories of older points. `Model.check` compares them with whole points."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tests.history.worlds import Model, model
from wingsd.errors import DirectoryMissing, FileMissing, HistoryDamaged
from wingsd.history.format import BLOCK, PastFile
from wingsd.history.reading import past_files


@pytest.fixture
def history(tmp_path: Path) -> Iterator[Model]:
    with model(tmp_path, 1) as made:
        yield made


def content(history: Model, number: int, path: bytes) -> bytes:
    with TemporaryFile() as copy, past_files(history.store, number) as past:
        entry = past.copy(path, copy.fileno())
        return os.pread(copy.fileno(), entry.size + 1, 0)


def test_a_file_of_many_is_read_without_the_others(history: Model) -> None:
    rng = random.Random(2)
    root = history.world.root
    (root / "d").mkdir()
    files = [root / "d" / f"{number:04}" for number in range(500)]
    wanted = root / "d" / "0100"
    before = rng.randbytes(9 * BLOCK)
    for file in files:
        file.write_bytes(b"1")
    wanted.write_bytes(before)
    history.make()
    for file in files:
        file.write_bytes(rng.randbytes(BLOCK))
    wanted.write_bytes(before[:BLOCK] + b"2" + before[BLOCK + 1 :])
    history.make()
    # Contents of the others are not looked at, even of the one that is next to it.
    for file in (history.directory / "history" / "tree" / "d").iterdir():
        if file.name != wanted.name:
            file.unlink()
    assert content(history, 1, b"d/0100") == before
    with past_files(history.store, 1) as past:
        assert [entry.path for entry in past.directory(b"")] == [b"d"]
        found = [*past.directory(b"d")]
    assert [entry.path for entry in found] == [b"d/" + os.fsencode(file.name) for file in files]
    assert all(isinstance(entry, PastFile) for entry in found)


def test_further_names_lead_to_their_files(history: Model) -> None:
    root = history.world.root
    (root / "a").write_bytes(b"1")
    os.link(root / "a", root / "b")
    history.make()
    (root / "a").unlink()
    (root / "b").unlink()
    history.make()
    assert content(history, 1, b"b") == b"1"
    with pytest.raises(FileMissing):
        content(history, 2, b"b")


def test_what_is_not_there_is_missing(history: Model) -> None:
    (history.world.root / "file").write_bytes(b"1")
    history.make()
    for path in (b"no", b"file/below", b"fil", b"file0", b""):
        with pytest.raises(FileMissing):
            content(history, 1, path)
    with past_files(history.store, 1) as past:
        with pytest.raises(DirectoryMissing):
            next(past.directory(b"file"))
        with pytest.raises(FileMissing):
            next(past.directory(b"no"))


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_file_is_none(history: Model, number: int) -> None:
    file = history.world.root / "file"
    for content_of_point in (b"1" * BLOCK + b"2" * BLOCK, b"1" * BLOCK + b"3" * BLOCK):
        file.write_bytes(content_of_point)
        history.make()
    copy = history.directory / "history" / "tree" / "file"
    copy.write_bytes(b"0" * BLOCK + copy.read_bytes()[BLOCK:])
    with pytest.raises(HistoryDamaged):
        content(history, number, b"file")
