"""The I/O class of threads."""

from __future__ import annotations

import ctypes
import os

import psutil
import pytest
from twisted.internet.defer import Deferred

from tests.support.reactor import reactor
from wingsd.threadio import Workers

#: The numbers of ioprio_get(2), by the names of architectures in uname(2).
NUMBERS = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "ppc64le": 274, "s390x": 283}


def io_class() -> int:
    """Return the I/O class of the calling thread, 0 where none was set."""
    priority: int = ctypes.CDLL(None).syscall(NUMBERS[os.uname().machine], 1, 0)
    assert priority >= 0
    return priority >> 13


@pytest.mark.parametrize("is_idle", [True, False])
async def test_threads_of_a_pool_have_its_class(*, is_idle: bool) -> None:
    workers = Workers(reactor, "test", 1, idle_io=is_idle)
    workers.start()
    try:
        found: Deferred[int] = workers.run(io_class)
        assert (await found == psutil.IOPRIO_CLASS_IDLE) is is_idle
    finally:
        workers.stop()
