"""The I/O class of threads."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.support.reactor import reactor
from wingsd.threadio import IDLE, Workers, io_class


@pytest.mark.parametrize("is_idle", [True, False])
async def test_threads_of_a_pool_have_its_class(*, is_idle: bool) -> None:
    workers = Workers(reactor, "test", 1, idle_io=is_idle)
    workers.start()
    try:
        found: Deferred[int] = workers.run(io_class)
        assert (await found == IDLE) is is_idle
    finally:
        workers.stop()
