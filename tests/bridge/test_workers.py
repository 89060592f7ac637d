"""Work in threads, and what comes back."""

from __future__ import annotations

import threading

import pytest
import pytest_twisted

from wingsd.bridge import Workers


@pytest_twisted.ensureDeferred
async def test_work_is_done_in_a_thread(workers: Workers) -> None:
    assert await workers.run(threading.get_ident) != threading.get_ident()


@pytest_twisted.ensureDeferred
async def test_an_error_comes_back(workers: Workers) -> None:
    def fails() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        await workers.run(fails)
