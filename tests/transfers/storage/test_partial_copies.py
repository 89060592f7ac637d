"""What is kept of moves that have failed: taken up again, listed and removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.support.sample_server import UUID
from wingsd.archive.quota import ArchiveLimits
from wingsd.transfers.storage import staging as storage
from wingsd.transfers.storage.staging import KEPT, PartialCopies, Staging
from wingsd.util.durable import move

LIMITS = ArchiveLimits(None, 0, 0, 0, 0)


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    (tmp_path / "volumes").mkdir()
    made = Staging(str(tmp_path / "volumes"), (os.getuid(), os.getgid()), durable=False)
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def copies(staging: Staging) -> PartialCopies:
    return PartialCopies(staging, 0, LIMITS)


def arrive(copies: PartialCopies) -> None:
    copies.create(UUID).ledger.write_bytes(b"ledger")


@pytest.mark.parametrize("is_read", [True, False])
def test_the_next_move_knows_whether_the_copy_was_read_back(
    copies: PartialCopies, is_read: bool
) -> None:
    arrive(copies)
    assert copies.keep(UUID, 5, 10.0, is_read=is_read)
    paths = copies.adopt(UUID)
    assert paths is not None
    assert paths.is_read is is_read
    # Only once: it grows from then on.
    assert copies.keep(UUID, 5, 10.0)
    again = copies.adopt(UUID)
    assert again is not None
    assert not again.is_read


def test_another_daemon_reads_it_again(staging: Staging, copies: PartialCopies) -> None:
    arrive(copies)
    copies.keep(UUID, 5, 10.0, is_read=True)
    paths = PartialCopies(staging, 0, LIMITS).adopt(UUID)
    assert paths is not None
    assert not paths.is_read


def test_an_older_copy_is_not_taken_for_the_one_that_was_read(copies: PartialCopies) -> None:
    arrive(copies)
    copies.keep(UUID, 5, 10.0)
    arrive(copies)
    copies.keep(UUID, 6, 20.0, is_read=True)
    copies._remove(copies.kept()[-1])
    paths = copies.adopt(UUID)
    assert paths is not None
    assert not paths.is_read


class _Died(BaseException):
    """The daemon dies here."""


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_a_copy_is_not_kept_any_more_where_a_daemon_dies_while_a_move_takes_it(
    staging: Staging, copies: PartialCopies, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    arrive(copies)
    copies.keep(UUID, 5, 10.0)
    times = iter(range(1, 4))

    def die(source: Path, target: Path, *, durable: bool) -> None:
        move(source, target, durable=durable)
        if next(times) == moved:
            raise _Died

    monkeypatch.setattr(storage, "move", die)
    with pytest.raises(_Died):
        copies.adopt(UUID)
    monkeypatch.undo()
    staging.clear(())
    later = PartialCopies(staging, 0, LIMITS)
    assert later.adopt(UUID) is None
    assert os.listdir(Path(staging.path) / KEPT) == []
    arrive(later)
    assert later.keep(UUID, 5, 10.0)


def _contents(copies: PartialCopies) -> list[str]:
    paths = copies.reopen(UUID) or copies.adopt(UUID)
    assert paths is not None
    return [(path / "file").read_text() for path in (paths.tree, paths.aside)]


def _die_after(monkeypatch: pytest.MonkeyPatch, moves: int) -> None:
    """Have the daemon die right after the rename number `moves`."""
    done = []

    def die(source: Path, target: Path, *, durable: bool) -> None:
        move(source, target, durable=durable)
        done.append(target)
        if len(done) == moves:
            raise _Died

    monkeypatch.setattr(storage, "move", die)


@pytest.mark.parametrize("again", [0, 1])
@pytest.mark.parametrize("moved", [1, 2, 3])
@pytest.mark.parametrize("kind", ["keep", "adopt"])
def test_nothing_is_lost_where_a_daemon_dies_while_a_copy_is_kept_or_taken(
    staging: Staging,
    copies: PartialCopies,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    moved: int,
    again: int,
) -> None:
    paths = copies.create(UUID)
    (paths.tree / "file").write_text("tree")
    (paths.aside / "file").write_text("aside")
    paths.ledger.write_bytes(b"ledger")
    if kind == "adopt":
        copies.keep(UUID, 5, 10.0)
    _die_after(monkeypatch, moved)
    with pytest.raises(_Died):
        copies.keep(UUID, 5, 10.0) if kind == "keep" else copies.adopt(UUID)
    if again:  # the next daemon dies as well
        _die_after(monkeypatch, again)
        with suppress(_Died):
            PartialCopies(staging, 0, LIMITS).kept()
    monkeypatch.undo()
    staging.clear((), [UUID])
    later = PartialCopies(staging, 0, LIMITS)
    if kind == "keep":  # the next daemon knows that the move has failed
        assert later.keep(UUID, None, 20.0)
        assert [each.server for each in later.kept()] == [UUID]
    assert _contents(later) == ["tree", "aside"]
    assert later.kept() == []


def test_a_copy_that_was_half_kept_goes_on_where_its_move_does(
    staging: Staging, copies: PartialCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = copies.create(UUID)
    (paths.tree / "file").write_text("tree")
    (paths.aside / "file").write_text("aside")
    paths.ledger.write_bytes(b"ledger")
    _die_after(monkeypatch, 2)
    with pytest.raises(_Died):
        copies.keep(UUID, 5, 10.0)
    monkeypatch.undo()
    assert _contents(PartialCopies(staging, 0, LIMITS)) == [
        "tree",
        "aside",
    ]


@pytest.mark.parametrize("gone", [("ledger",), ("ledger", "aside")])
def test_a_server_that_was_put_into_place_gets_no_files_of_a_copy_that_was_half_removed(
    tmp_path: Path, staging: Staging, copies: PartialCopies, gone: tuple[str, ...]
) -> None:
    arrive(copies)
    copies.keep(UUID, 5, 10.0)
    (kept,) = copies.kept()
    home = Path(staging.path) / KEPT / kept.name
    arrive(copies)
    staging.swap(UUID)
    for name in gone:
        (home / name).rename(tmp_path / name)
    assert copies.kept() == []
    assert not staging.holds(UUID)
    assert not home.exists()


def test_a_list_has_what_is_being_kept_when_it_is_whole(
    copies: PartialCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving, goes_on = Event(), Event()

    def slow_move(*args: Any, **options: Any) -> None:
        moving.set()
        assert goes_on.wait(10)
        move(*args, **options)

    monkeypatch.setattr(storage, "move", slow_move)
    arrive(copies)
    keeping = Thread(target=copies.keep, args=(UUID, 5, 10.0))
    keeping.start()
    assert moving.wait(10)
    found: list[Any] = []
    listing = Thread(target=lambda: found.extend(copies.kept()))
    listing.start()
    goes_on.set()
    for thread in (keeping, listing):
        thread.join(10)
    assert [each.server for each in found] == [UUID]
