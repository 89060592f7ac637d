"""Tests for `tests.support.docker_engine`."""

from __future__ import annotations

import fcntl

import pytest

from tests.support.docker_engine import LOCK, Engine


def test_a_test_holds_the_lock_of_the_engine(engine: Engine) -> None:
    assert engine.client.ping()
    with LOCK.open("w") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
