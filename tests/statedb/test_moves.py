"""The moves in the state database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from wingsd.errors import StateDatabaseError
from wingsd.statedb import KEPT, Direction, MoveRecord, Outcome, Store

A = "6c1d1a3c-8f5e-4f3b-9a55-3f0f8a7c2b41"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(str(tmp_path))) as store:
        store.open()
        yield store


def outgoing(store: Store) -> MoveRecord:
    transfer = store.begin(1, A, Direction.OUT, "ASK")
    return MoveRecord(transfer, A, Direction.OUT, "", "key", "token", "https://node", "pelican")


def incoming(move: str = "id", token: str = "token", **fields: Any) -> MoveRecord:  # noqa: S107
    return MoveRecord(0, A, Direction.IN, move, "key", token, "", "pelican", **fields)


def admit(store: Store, record: MoveRecord) -> int:
    transfer = store.admit_move(1, record, "ADMIT", 100, direct=False)
    assert transfer is not None
    return transfer


def test_a_move_to_this_node_is_added_with_its_transfer_and_the_use_of_its_token(
    store: Store,
) -> None:
    transfer = admit(store, incoming())
    record = attrs.evolve(incoming(), transfer=transfer)
    assert [(each.id, each.step) for each in store.unfinished()] == [(transfer, "ADMIT")]
    assert store.was_used("token", 100)
    assert store.move(transfer) == record
    assert store.find_move(Direction.IN, "id") == record
    assert store.find_admitted("token") == record
    assert store.open_moves() == [record]


def test_a_used_token_begins_no_move(store: Store) -> None:
    store.use_token("token", 100)
    assert store.admit_move(1, incoming(), "ADMIT", 100, direct=False) is None
    assert (store.unfinished(), store.open_moves()) == ([], [])


def test_a_move_that_cannot_be_added_leaves_nothing(store: Store) -> None:
    record = incoming(request=None)
    with pytest.raises(StateDatabaseError):
        store.admit_move(1, record, "ADMIT", 100, direct=False)
    assert not store.was_used("token", 100)
    assert store.unfinished() == []


def test_what_a_source_learns_is_kept_until_the_move_ends(store: Store) -> None:
    record = outgoing(store)
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
    record = attrs.evolve(incoming(), transfer=admit(store, incoming()))
    store.end(2, record.transfer, Outcome.FAILURE)
    store.prune(KEPT)
    assert store.find_move(Direction.IN, "id") == record
    assert store.open_moves() == []
    store.prune(KEPT + 3)
    assert store.find_move(Direction.IN, "id") is None


def test_servers_are_to_be_started_after_a_success_only(store: Store) -> None:
    moves = [admit(store, incoming(f"id{number}", token=f"token{number}")) for number in range(4)]
    for move, starts in zip(moves, (True, True, False, True), strict=True):
        store.set_start(move, starts=starts)
    assert [store.starts(move) for move in moves] == [True, True, False, True]
    assert store.arrived_to_start() == []
    succeeded, failed, *_ = moves
    for move in moves[:3]:
        store.end(2, move, Outcome.FAILURE if move == failed else Outcome.SUCCESS)
    assert [each.transfer for each in store.arrived_to_start()] == [succeeded]
    store.set_start(succeeded, starts=False)
    assert store.arrived_to_start() == []
