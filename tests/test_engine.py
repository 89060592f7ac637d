"""The engine that tests use: one of them at a time."""

from __future__ import annotations

import fcntl

import pytest

from tests.engine import LOCK, Engine


def test_nobody_else_has_it_meanwhile(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert engine.client.ping()
    path = tmp_path_factory.getbasetemp().parent / LOCK
    with path.open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
