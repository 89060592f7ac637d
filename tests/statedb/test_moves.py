"""The moves in the state database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from wingsd.statedb import Direction, MoveRecord, Outcome, StateDatabaseError
from wingsd.statedb.store import KEPT, Store

A = "6c1d1a3c-8f5e-4f3b-9a55-3f0f8a7c2b41"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(str(tmp_path))) as store:
        store.open()
        yield store


def begun(store: Store, direction: Direction, move: str = "", token: str = "token") -> MoveRecord:  # noqa: S107
    transfer = store.begin(1, A, direction, "ADMIT")
    return MoveRecord(transfer, A, direction, move, "key", token, "https://node", "pelican")


def test_a_move_to_this_node_is_added_with_the_use_of_its_token(store: Store) -> None:
    record = begun(store, Direction.IN, "id")
    assert store.admit_move(record, 100)
    assert store.was_used("token", 100)
    assert store.move(record.transfer) == record
    assert store.find_move(Direction.IN, "id") == record
    assert store.find_admitted("token") == record
    assert store.open_moves() == [record]


def test_a_used_token_begins_no_move(store: Store) -> None:
    store.use_token("token", 100)
    record = begun(store, Direction.IN, "id")
    assert not store.admit_move(record, 100)
    assert store.move(record.transfer) is None


def test_a_move_that_cannot_be_added_uses_up_no_token(store: Store) -> None:
    record = attrs.evolve(begun(store, Direction.IN), family=None)  # type: ignore[arg-type]
    with pytest.raises(StateDatabaseError):
        store.admit_move(record, 100)
    assert not store.was_used("token", 100)


def test_what_a_source_learns_is_kept_until_the_move_ends(store: Store) -> None:
    record = begun(store, Direction.OUT)
    store.add_move(record)
    store.set_move(record.transfer, "id")
    store.set_move_state(record.transfer, '{"round": 2}')
    expected = attrs.evolve(record, move="id", state='{"round": 2}')
    assert store.find_move(Direction.OUT, "id") == expected
    assert store.find_move(Direction.IN, "id") is None
    store.end(2, record.transfer, Outcome.SUCCESS)
    assert store.move(record.transfer) is None


def test_a_move_to_this_node_can_be_asked_about_as_long_as_its_transfer_is_kept(
    store: Store,
) -> None:
    record = begun(store, Direction.IN, "id")
    store.admit_move(record, 100)
    store.end(2, record.transfer, Outcome.FAILURE)
    store.prune(KEPT)
    assert store.find_move(Direction.IN, "id") == record
    assert store.open_moves() == []
    store.prune(KEPT + 3)
    assert store.find_move(Direction.IN, "id") is None
