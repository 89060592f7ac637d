"""Work in threads, and what comes back."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.support.reactor import reactor, until
from wingsd.threadio import Thread, Workers


async def test_work_is_done_in_a_thread(workers: Workers) -> None:
    assert await workers.run(threading.get_ident) != threading.get_ident()


async def test_an_error_comes_back(workers: Workers) -> None:
    with pytest.raises(KeyError):
        await workers.run(Mock(side_effect=KeyError("no")))


def seen_by_the_kernel() -> tuple[str, int]:
    """Return this thread's name and its nice value."""
    name = Path("/proc/thread-self/comm").read_text().rstrip()
    return name, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_pool_and_its_children_have_its_nice_value() -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    pools = [Workers(reactor, "yields", 2, nice=19), Workers(reactor, "not", 2)]
    for pool in pools:
        pool.start()

    def look_from_another_thread() -> tuple[str, int]:
        found: list[tuple[str, int]] = []
        thread = Thread(lambda: found.append(seen_by_the_kernel()), "started")
        thread.start()
        thread.join()
        return found[0]

    try:
        assert await pools[0].run(seen_by_the_kernel) == ("wingsd-yields", 19)
        assert await pools[0].run(look_from_another_thread) == ("started", 19)
        assert await pools[1].run(seen_by_the_kernel) == ("wingsd-not", usual)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == usual
    finally:
        for pool in pools:
            pool.stop()


async def test_a_busy_thread_is_not_waited_for_and_ends_after_its_work() -> None:
    pool = Workers(reactor, "busy", 2)
    pool.start()
    release = threading.Event()
    waiting = pool.run(release.wait)
    await pool.run(lambda: None)
    pool.stop()
    assert not waiting.called
    release.set()
    assert await waiting
    await until(lambda: "wingsd-busy" not in [thread.name for thread in threading.enumerate()])


async def test_a_pool_reports_when_its_last_work_is_done() -> None:
    events: list[str] = []
    pool = Workers(reactor, "idle", 2, when_idle=lambda: events.append("idle"))
    pool.start()
    release = threading.Event()
    try:
        waiting = pool.run(release.wait)
        await pool.run(lambda: None)
        assert events == []
        release.set()
        await waiting
    finally:
        pool.stop()
    assert events == ["idle"]
