"""A damaged state database: found, reported, and listed by `python -m wingsd.statedb`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wingsd.errors import StateDatabaseDamaged, StateDatabaseError
from wingsd.statedb import (
    FILE,
    Direction,
    Outcome,
    Store,
    TransferResult,
)
from wingsd.statedb.__main__ import main

#: Bytes of a page, SQLite's default.
PAGE = 4096
A, B = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10", "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


def damage(path: Path, content: bytes) -> None:
    """Fill many pages, and overwrite one in the middle of its file with `content`."""
    store = Store(str(path.parent))
    store.open()
    store.deny(10, [f"{number:0>100}" for number in range(500)])
    store.close()
    size = path.stat().st_size
    assert size > 10 * PAGE
    with path.open("r+b") as file:
        file.seek(size // PAGE // 2 * PAGE)
        file.write(content)


def refusal(root: Path, *, read_only: bool = False) -> str:
    with pytest.raises(StateDatabaseDamaged) as caught:
        Store(str(root)).open(read_only=read_only)
    return caught.value.detail


@pytest.mark.promise("damaged-database-is-reported")
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("content", [bytes(PAGE), b"\xff" * PAGE])
def test_damage_is_found_at_opening(tmp_path: Path, content: bytes, read_only: bool) -> None:
    damage(tmp_path / FILE, content)
    detail = refusal(tmp_path, read_only=read_only)
    assert detail.startswith(f"{tmp_path / FILE}: ")
    assert "move all three away" in detail
    assert "\n" not in detail


@pytest.mark.promise("damaged-database-is-reported")
@pytest.mark.parametrize("pages", [1, 5])
def test_a_truncated_database_is_damaged(tmp_path: Path, pages: int) -> None:
    damage(tmp_path / FILE, b"")
    os.truncate(tmp_path / FILE, pages * PAGE)
    assert refusal(tmp_path)


@pytest.mark.promise("damaged-database-is-reported")
def test_an_empty_file_is_a_damaged_database(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    assert "wingsd.db: the file is empty" in refusal(tmp_path)
    assert not (tmp_path / FILE).stat().st_size


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nonsense" * 1000)
    assert "wingsd.db: file is not a database" in refusal(tmp_path)


@pytest.mark.promise("damaged-database-is-reported")
def test_damage_done_while_it_is_open_is_reported(store: Store, tmp_path: Path) -> None:
    store.close()
    damage(tmp_path / FILE, b"")
    store.open()
    connection = store._connection
    assert connection is not None
    connection.execute("PRAGMA shrink_memory")  # What it has read it would not read again.
    size = (tmp_path / FILE).stat().st_size
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(PAGE)
        file.write(b"\xff" * (size - PAGE))
    with pytest.raises(StateDatabaseDamaged, match="database disk image is malformed"):
        store.denied()


def test_the_wal_of_a_moved_database_is_not_replayed(store: Store, tmp_path: Path) -> None:
    store.use_token("digest", 100)
    (tmp_path / FILE).rename(tmp_path / "old")
    assert (tmp_path / f"{FILE}-wal").stat().st_size
    new = Store(str(tmp_path))
    new.open()
    assert not new.was_used("digest", 100)
    new.close()


def test_an_unfinished_new_database_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new").write_bytes(b"half")
    (tmp_path / f"{FILE}.new-wal").write_bytes(b"half")
    store = Store(str(tmp_path))
    store.open()
    assert store.transfers() == []
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.promise("unwritable-database-fails-safely")
def test_a_full_disk_is_reported_and_loses_nothing(store: Store) -> None:
    kept = store.begin(10, A, Direction.IN, "RECEIVE")
    connection = store._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StateDatabaseError, match="check that its disk has free space"):
        store.deny(10, [f"{number:0>500}" for number in range(1000)])
    assert [entry.id for entry in store.transfers()] == [kept]
    assert store.denied() == {}
    connection.execute(f"PRAGMA max_page_count = {pages + 100}")
    store.deny(10, ["a"])
    store.close()
    store.open()
    assert store.denied() == {"a": 10}


def listed(root: Path) -> None:
    config = root / "config.yml"
    config.write_text(
        f"token_id: a\ntoken: b\nremote: http://x\nsystem: {{root_directory: {root}}}\n"
    )
    main(["--config", str(config)])


def test_the_database_can_be_listed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.begin(1_700_000_000, A, Direction.IN, "RECEIVE")
    report = store.add_report(1_700_000_000, B, Outcome.SUCCESS)
    store.record_attempt(report, "it is down")
    listed(tmp_path)
    out = capsys.readouterr().out
    assert "2023-11-14 22:13:20" in out
    assert f"{A}  in   RECEIVE  under way" in out
    assert f"{B}  success  1         it is down" in out


def test_what_others_said_is_listed_without_control_characters(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer = store.begin(10, A, Direction.IN, "RECEIVE")
    store.end(11, transfer, Outcome.FAILURE, TransferResult("it said \x1b[2J\nno"))
    listed(tmp_path)
    assert "it said \\x1b[2J\\nno" in capsys.readouterr().out


def test_a_damaged_database_is_reported_in_one_line(tmp_path: Path) -> None:
    damage(tmp_path / FILE, b"\xff" * PAGE)
    with pytest.raises(SystemExit, match=r"^wingsd: the state database is damaged: .*\.db: .*$"):
        listed(tmp_path)


def test_a_missing_database_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"the state database cannot be used: .*wingsd\.db: "):
        listed(tmp_path)
    assert os.listdir(tmp_path) == ["config.yml"]
