"""Has connections work one at a time, and rest in between, while the daemon needs the cores.

The scheduler's class IDLE alone does not leave them to it: each thread of that class that is ready
to run has three parts of a core's time, and a thread that unpacks a transfer, with the nice value
10, has 110. Many threads here, and what they have the kernel do for their clients, are a tenth.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Lock

__all__ = ["DaemonTime", "Turns"]

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
