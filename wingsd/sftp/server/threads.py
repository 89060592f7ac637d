"""The threads of the SFTP process: one for each connection, and some for requests that last.

A small file is three requests, one after the other. Handing each to another thread and back took
longer than the work itself, so a connection does its work on files in its own thread: a disk that
is slow holds up this connection and no other one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import NoReturn, TypeVar

__all__ = ["ConnectionThread", "DaemonTime", "FileThreads", "Turns"]

T = TypeVar("T")
_Job = Callable[[], None]


class ConnectionThread:
    """The thread of one connection, with an event loop. It does not keep the process alive."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Start with `serve`, which does not raise. Raises RuntimeError where that cannot be."""
        run = partial(self._run, serve)
        Thread(target=run, name="wingsd-sftp-connection", daemon=True).start()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in its loop; nothing is called before it runs, and when it has ended.

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
        """Do `work` in a thread. `done` is called in the running loop, with its outcome.

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


#: Cores that this process can use: Python's lock leaves it one, and the kernel works meanwhile.
_APPETITE = 1.5
#: The least use of cores by the daemon that counts as work, where there are fewer cores than that.
_LEAST = 0.25
#: Seconds between two looks at the daemon's use, and how long it counts as working after the last.
_LOOK_EVERY, _HELD = 0.05, 0.5
#: Rest after work, as a multiple of its time, and its longest in seconds.
_REST, _MAX_REST = 4.0, 0.01
#: Seconds to wait for a turn: another one's disk may be slow.
_WAIT = 0.25
#: The fields of user and kernel time in /proc/PID/stat behind the name's parenthesis, proc(5).
_USER, _KERNEL = 11, 12
_STAT_BYTES = 1024


class DaemonTime:
    """The CPU time of a process. It stays readable when the rest of /proc is not any more."""

    def __init__(self, pid: int) -> None:
        self._fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        self._tick = 1 / os.sysconf("SC_CLK_TCK")

    def seconds(self) -> float:
        """Return the seconds of all its threads since its start. Raises OSError at its end."""
        fields = os.pread(self._fd, _STAT_BYTES, 0).rpartition(b")")[2].split()
        return (int(fields[_USER]) + int(fields[_KERNEL])) * self._tick

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class Turns:
    """The turns of all connections; any thread may call `work`.

    `used` returns the daemon's CPU seconds, and raises OSError where that is not known; `cores` is
    the number of those that both processes may use.
    """

    def __init__(
        self,
        used: Callable[[], float],
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._used = used
        self._most = max(cores - _APPETITE, _LEAST)
        self._clock = clock
        self._sleep = sleep
        self._looking = Lock()
        self._turn = Lock()
        self._looked = self._last = self._until = float("-inf")

    def work(self, work: Callable[[], None]) -> None:
        """Call a function, in this connection's turn while the daemon needs the cores."""
        if not self._are_needed():
            work()
            return
        is_taken = self._turn.acquire(timeout=_WAIT)
        try:
            begun = self._clock()
            work()
            self._sleep(min((self._clock() - begun) * _REST, _MAX_REST))
        finally:
            if is_taken:
                self._turn.release()

    def _are_needed(self) -> bool:
        """Return whether the daemon uses so many cores that too few are left for this process."""
        now = self._clock()
        if now - self._looked >= _LOOK_EVERY and self._looking.acquire(blocking=False):
            try:
                self._look(now)
            finally:
                self._looking.release()
        return now < self._until

    def _look(self, now: float) -> None:
        try:
            used = self._used()
        except OSError:
            return
        passed = now - self._looked
        # After a pause nothing is known of what it does now.
        if passed < _HELD and used - self._last > self._most * passed:
            self._until = now + _HELD
        self._looked, self._last = now, used
