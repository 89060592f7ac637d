"""Work in threads, and what comes back."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from unittest.mock import Mock

import psutil
import pytest
from twisted.internet.defer import Deferred

from tests.support.reactor import reactor, until
from wingsd import threadio as threads
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


# Threads as the kernel sees them, and where it does not let itself be told


T = TypeVar("T")
#: setpriority(2).
HIGHEST_NICE_VALUE = 19


def run(look: Callable[[], T], name: str = "a-thread", nice: int = 0) -> T:
    """Return what `look` finds in a thread."""
    found: list[T] = []
    thread = Thread(lambda: found.append(look()), name, nice=nice)
    thread.start()
    thread.join()
    return found[0]


def nice_value() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.parametrize("name", ["a-thread", "of-fifteen-byte"])
def test_the_kernel_has_the_threads_name(name: str) -> None:
    assert run(Path("/proc/thread-self/comm").read_text, name) == f"{name}\n"


def test_a_name_that_is_too_long_is_cut() -> None:
    assert run(Path("/proc/thread-self/comm").read_text, "of-more-than-fifteen") == (
        "of-more-than-fi\n"
    )


def test_a_thread_has_its_own_nice_value() -> None:
    usual = nice_value()
    higher = min(usual + 3, HIGHEST_NICE_VALUE)
    assert run(nice_value, nice=higher) == higher
    assert nice_value() == usual


def test_a_thread_is_never_less_nice_than_its_process() -> None:
    higher = min(nice_value() + 3, HIGHEST_NICE_VALUE)
    assert run(lambda: run(nice_value, nice=0), nice=higher) == higher


def test_a_thread_works_with_neither_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "_COMM", tmp_path / "none" / "comm")
    monkeypatch.setattr(os, "setpriority", Mock(side_effect=PermissionError))
    assert run(lambda: "done", nice=19) == "done"


# The I/O class of threads


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
