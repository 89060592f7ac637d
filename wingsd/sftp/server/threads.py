"""Threads for work on files, which are handed it in half of the time that an executor takes.

A small file is three requests, one after the other, and each goes to a thread and back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NoReturn, TypeVar

__all__ = ["FileThreads"]

T = TypeVar("T")
_Job = Callable[[], None]


class FileThreads:
    """At most `most` threads, started when they are needed. They do not keep the process alive."""

    def __init__(self, most: int, loop: asyncio.AbstractEventLoop) -> None:
        self._most = most
        self._loop = loop
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = Lock()
        self._started = 0
        #: Jobs that wait or are under way.
        self._busy = 0

    def run(self, work: Callable[[], T], done: Callable[[Callable[[], T]], None]) -> None:
        """Have a thread do `work`. `done` is called in the loop, with what returns or raises.

        Call it in the loop.
        """
        with self._lock:
            self._busy += 1
            is_needed = self._started < min(self._busy, self._most)
            self._started += is_needed
        if is_needed:
            Thread(target=self._serve, name=f"wingsd-sftp-{self._started}", daemon=True).start()
        self._jobs.put(lambda: self._do(work, done))

    def _serve(self) -> None:
        while True:
            self._jobs.get()()

    def _do(self, work: Callable[[], T], done: Callable[[Callable[[], T]], None]) -> None:
        outcome: Callable[[], T]
        try:
            result = work()
            outcome = lambda: result  # noqa: E731
        except BaseException as error:
            outcome = partial(_raise, error)
        with self._lock:
            self._busy -= 1
        try:
            self._loop.call_soon_threadsafe(done, outcome)
        except RuntimeError:
            return  # the loop is closed: the process ends


def _raise(error: BaseException) -> NoReturn:
    raise error
