"""The threads of the SFTP process: one for each connection, and some for requests that last.

A small file is three requests, one after the other. Handing each to another thread and back took
longer than the work itself, so a connection does its work on files in its own thread: a disk that
is slow holds up this connection and no other one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NoReturn, TypeVar

__all__ = ["ConnectionThread", "FileThreads"]

T = TypeVar("T")
_Job = Callable[[], None]


class ConnectionThread:
    """The thread of one connection, with an event loop. It does not keep the process alive."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Have it do `serve`, which does not raise. Raises RuntimeError where it cannot start."""
        run = partial(self._run, serve)
        Thread(target=run, name="wingsd-sftp-connection", daemon=True).start()

    def call(self, function: Callable[[], object]) -> None:
        """Have its loop call a function; nothing is called before it runs, and when it has ended.

        Any thread may call it.
        """
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(function)

    def _run(self, serve: Callable[[], Awaitable[None]]) -> None:
        asyncio.run(self._serve(serve))

    async def _serve(self, serve: Callable[[], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        await serve()


class FileThreads:
    """At most `most` threads, started when they are needed. They do not keep the process alive."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = Lock()
        self._started = 0
        #: Jobs that wait or are under way.
        self._busy = 0

    def run(self, work: Callable[[], T], done: Callable[[Callable[[], T]], None]) -> None:
        """Have a thread do `work`. `done` is called in the running loop, with its outcome.

        The outcome is a function that returns, or raises, what `work` has. Call it in a loop.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            self._busy += 1
            is_needed = self._started < min(self._busy, self._most)
            self._started += is_needed
        if is_needed:
            Thread(target=self._serve, name=f"wingsd-sftp-{self._started}", daemon=True).start()
        self._jobs.put(lambda: self._do(loop, work, done))

    def _serve(self) -> None:
        while True:
            self._jobs.get()()

    def _do(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[], T],
        done: Callable[[Callable[[], T]], None],
    ) -> None:
        outcome: Callable[[], T]
        try:
            result = work()
            outcome = lambda: result  # noqa: E731
        except BaseException as error:
            outcome = partial(_raise, error)
        with self._lock:
            self._busy -= 1
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(done, outcome)


def _raise(error: BaseException) -> NoReturn:
    raise error
