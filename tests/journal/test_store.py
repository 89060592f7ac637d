"""What the journal keeps, and what it says when it cannot."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from wingsd.errors import StorageError
from wingsd.journal import Direction, Entry, Outcome, Report
from wingsd.journal.__main__ import main
from wingsd.journal.store import FILE, KEPT, Store

A, B = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10", "11111111-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(str(tmp_path))
    made.open()
    yield made
    made.close()


def again(store: Store, tmp_path: Path) -> Store:
    """Return the journal as the next daemon finds it."""
    store.close()
    made = Store(str(tmp_path))
    made.open()
    return made


def test_a_transfer_is_kept_with_its_step(store: Store, tmp_path: Path) -> None:
    first = store.begin(A, Direction.IN, "RECEIVE", 10)
    second = store.begin(B, Direction.OUT, "ASK", 11)
    store.enter(first, "VERIFY", 12)
    store.end(second, Outcome.FAILURE, 13)
    store = again(store, tmp_path)
    unfinished = Entry(first, A, Direction.IN, "VERIFY", 10, 12)
    assert store.transfers(unfinished=True) == [unfinished]
    ended = Entry(second, B, Direction.OUT, "ASK", 11, 13, Outcome.FAILURE)
    assert store.transfers() == [unfinished, ended]
    store.close()


def test_a_report_is_kept_until_it_is_settled(store: Store, tmp_path: Path) -> None:
    report = store.add_report(A, Outcome.SUCCESS, 10)
    other = store.add_report(A, Outcome.FAILURE, 11)
    store.note_attempt(report.id, "it is down")
    store = again(store, tmp_path)
    told = Report(report.id, A, Outcome.SUCCESS, 10, 1, "it is down")
    assert store.reports(unsettled=True) == [told, other]
    store.settle(report.id, "heard", 12)
    assert store.reports(unsettled=True) == [other]
    assert store.reports()[0].settled == 12
    store.close()


def test_a_token_is_used_once_until_it_has_expired(store: Store, tmp_path: Path) -> None:
    assert store.use_token("digest", 100, now=10)
    store = again(store, tmp_path)
    assert (store.was_used("digest"), store.was_used("other")) == (True, False)
    assert not store.use_token("digest", 100, now=99)
    assert store.use_token("other", 100, now=99)
    assert store.use_token("digest", 300, now=200)
    store.close()


def test_denied_tokens_outlive_the_daemon(store: Store, tmp_path: Path) -> None:
    store.deny(["a", "b"], 10)
    store.deny(["a"], 20)
    store.deny(["a"], 15)  # The clock was set back.
    store = again(store, tmp_path)
    assert store.denied() == {"a": 20, "b": 10}
    store.close()


def test_what_is_over_for_long_is_forgotten(store: Store) -> None:
    old, open_ = (store.begin(A, Direction.IN, "RECEIVE", 10) for _ in range(2))
    store.end(old, Outcome.SUCCESS, 10)
    store.settle(store.add_report(A, Outcome.SUCCESS, 10).id, "heard", 10)
    waiting = store.add_report(A, Outcome.FAILURE, 10)
    store.deny(["a"], 10)
    store.forget(11 + KEPT)
    assert [entry.id for entry in store.transfers()] == [open_]
    assert store.reports() == [waiting]
    assert store.denied() == {}


def test_only_its_user_reads_it(store: Store, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_each_change_is_on_the_disk_when_it_returns(store: Store, tmp_path: Path) -> None:
    """SQLite's own promise, which is made only with these two."""
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_newer_database_is_left_alone(store: Store, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer wingsd"):
        Store(str(tmp_path)).open()


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"nonsense" * 1000)
    with pytest.raises(StorageError, match=r"wingsd\.db cannot be used"):
        Store(str(tmp_path)).open()


def test_a_full_disk_is_told_and_what_was_written_stays(store: Store, tmp_path: Path) -> None:
    kept = store.begin(A, Direction.IN, "RECEIVE", 10)
    connection = store._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="see that its disk has room"):
        store.deny([f"{number:0>500}" for number in range(1000)], 10)
    assert [entry.id for entry in store.transfers()] == [kept]


def test_people_can_list_it(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.begin(A, Direction.IN, "RECEIVE", 1_700_000_000)
    report = store.add_report(B, Outcome.SUCCESS, 1_700_000_000)
    store.note_attempt(report.id, "it is down")
    config = tmp_path / "config.yml"
    config.write_text(
        f"token_id: a\ntoken: b\nremote: http://x\nsystem: {{root_directory: {tmp_path}}}\n"
    )
    main(["--config", str(config)])
    out = capsys.readouterr().out
    assert "2023-11-14 22:13:20" in out
    assert f"{A}  in   RECEIVE  under way" in out
    assert f"{B}  success  1         it is down" in out


def test_without_a_journal_that_is_said(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(
        f"token_id: a\ntoken: b\nremote: http://x\nsystem: {{root_directory: {tmp_path}}}\n"
    )
    with pytest.raises(SystemExit, match=r"wingsd\.db cannot be used"):
        main(["--config", str(config)])
    assert os.listdir(tmp_path) == ["config.yml"]
