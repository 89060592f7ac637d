"""The activity in the state database."""

from __future__ import annotations

import attrs
import pytest

from wingsd.statedb import ActivityEntry, Store

A = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
USER = "2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e21"
MANY = 100_000


def entries(number: int) -> list[ActivityEntry]:
    return [ActivityEntry(A, "server:x", "{}", USER, "192.0.2.1", at) for at in range(number)]


def times(store: Store, after: int = 0) -> list[float]:
    return [entry.at for entry in store.activity(after, MANY)]


def test_entries_are_kept_in_their_order_until_they_are_deleted(store: Store) -> None:
    first = ActivityEntry(A, "server:console.command", '{"command":"é"}', USER, "2001:db8::1", 1.5)
    second = ActivityEntry(A, "server:crashed", "{}", None, None, 1)
    assert store.add_activity([first, second], MANY) == 0
    store.close()
    store.open()
    kept = store.activity(0, 10)
    assert kept == [attrs.evolve(first, id=1), attrs.evolve(second, id=2)]
    assert store.activity(1, 10) == kept[1:]
    assert store.activity(0, 1) == kept[:1]
    assert store.delete_activity(1) == 1
    assert store.activity(0, 10) == kept[1:]


@pytest.mark.promise("user-data-is-bounded")
def test_only_the_newest_are_kept(store: Store) -> None:
    assert store.add_activity(entries(3), 3) == 0
    assert store.add_activity(entries(5)[3:], 3) == 2
    assert times(store) == [2, 3, 4]
    assert store.add_activity(entries(4), 2) == 5
    assert times(store) == [2, 3]


def test_an_id_is_not_used_again(store: Store) -> None:
    store.add_activity(entries(3), MANY)
    store.delete_activity(3)
    store.add_activity(entries(1), MANY)
    assert [entry.id for entry in store.activity(0, 10)] == [4]


def test_100_000_entries_are_trimmed_and_deleted(store: Store) -> None:
    store.add_activity(entries(MANY), MANY)
    assert store.trim_activity(MANY) == (MANY, 0)
    assert store.trim_activity(70_000) == (70_000, 30_000)
    assert store.activity(0, 1)[0].at == 30_000
    assert store.delete_activity(90_000) == 60_000
    assert store.trim_activity(MANY) == (10_000, 0)


def test_an_empty_table_has_nothing_to_trim(store: Store) -> None:
    assert store.trim_activity(1) == (0, 0)
    assert store.add_activity([], 1) == 0
    assert store.delete_activity(5) == 0
