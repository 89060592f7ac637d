"""Threads for work on files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from wingsd.sftp.server.threads import FileThreads

T = TypeVar("T")


async def done(threads: FileThreads, work: Callable[[], T]) -> T:
    ended: asyncio.Future[Callable[[], T]] = asyncio.get_running_loop().create_future()
    threads.run(work, ended.set_result)
    return (await ended)()


async def _ends_in_the_loop() -> None:
    threads = FileThreads(2, asyncio.get_running_loop())
    assert await done(threads, threading.current_thread) is not threading.current_thread()
    with pytest.raises(FileNotFoundError):
        await done(threads, lambda: open("/nowhere/at/all"))  # noqa: SIM115


def test_work_is_done_in_a_thread_and_its_result_or_error_comes_to_the_loop() -> None:
    asyncio.run(_ends_in_the_loop())


async def _many() -> None:
    threads = FileThreads(3, asyncio.get_running_loop())
    meeting = threading.Barrier(3)
    met = [done(threads, lambda: meeting.wait(10)) for _ in range(9)]
    assert sorted(await asyncio.gather(*met)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sum(each.name.startswith("wingsd-sftp-") for each in threading.enumerate()) >= 3


def test_as_much_work_is_done_at_once_as_there_are_threads() -> None:
    asyncio.run(_many())
