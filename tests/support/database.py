"""State databases of tests: each begins as a copy of one, since making one takes 4 ms."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from wingsd.statedb import FILE, Store


@cache
def _empty() -> bytes:
    with TemporaryDirectory() as directory:
        store = Store(directory)
        store.open()
        store.close()
        return Path(directory, FILE).read_bytes()


def opened(store: Store) -> Store:
    """Open a store, and return it. A new database is a copy, where nothing is left of another."""
    path = store._path
    if not [*path.parent.glob(f"{FILE}*")]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_empty())
    store.open()
    return store
