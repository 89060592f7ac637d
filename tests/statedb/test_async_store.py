"""The state database from the reactor: one thread, in order, to the very end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.reactor import reactor
from wingsd.errors import StorageError
from wingsd.statedb import Direction, Outcome, StateDatabase, Store
from wingsd.threadio import Workers

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"


@pytest.fixture
def worker() -> Iterator[Workers]:
    made = Workers(reactor, "database", 1)
    made.start()
    yield made
    made.stop()


async def test_the_store_closes_after_pending_writes(tmp_path: Path, worker: Workers) -> None:
    store = Store(str(tmp_path))
    store.open()
    database = StateDatabase(store, worker, lambda: 10.0)
    entry = await database.begin(UUID, Direction.IN, "RECEIVE")
    busy = threading.Event()
    worker.run(busy.wait)
    ended = database.end(entry, Outcome.FAILURE)
    closed = database.close()
    busy.set()
    await closed
    assert ended.called
    await ended
    with pytest.raises(StorageError, match="is not open"):
        store.transfers()
    store.open()
    assert [kept.outcome for kept in store.transfers()] == [Outcome.FAILURE]
    store.close()
