"""The turns of connections: while the daemon needs the cores, one of them works at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Lock

import attrs

#: Cores that this process can use: Python's lock leaves it one, and the kernel works meanwhile.
_OWN_CORES = 1.5
#: The least use of cores by the daemon that counts as work, where there are fewer cores than that.
_LEAST = 0.25
#: Seconds between two looks at the daemon's use, and how long it counts as working after the last.
_LOOK_EVERY, _HELD = 0.05, 0.5
#: Rest after work, as a multiple of its time, and its longest in seconds.
_REST, _MAX_REST = 4.0, 0.01
#: Seconds to wait for a turn: the disk of the connection that has it may be slow.
_WAIT = 0.25
#: The fields of user and kernel time in /proc/PID/stat behind the name's parenthesis, proc(5).
_USER, _KERNEL = 11, 12
_STAT_BYTES = 1024


def cpu_time(pid: int) -> Callable[[], float]:
    """Return a function that returns the CPU seconds of a process, and raises OSError at its end.

    It reads them also when the rest of /proc is out of reach. Where they are not known, they are
    always the same.
    """
    tick = os.sysconf("SC_CLK_TCK")
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return lambda: 0.0

    def seconds() -> float:
        fields = os.pread(fd, _STAT_BYTES, 0).rpartition(b")")[2].split()
        return (int(fields[_USER]) + int(fields[_KERNEL])) / tick

    return seconds


@attrs.define(eq=False, repr=False, slots=False)
class Turns:
    """The turns of all connections; any thread may call `work`.

    `used` returns the daemon's CPU seconds, and raises OSError where that is not known; `cores` is
    the number of those that both processes may use.
    """

    _used: Callable[[], float]
    _cores: int
    _clock: Callable[[], float] = time.monotonic
    _sleep: Callable[[float], None] = time.sleep

    def __attrs_post_init__(self) -> None:
        self._most = max(self._cores - _OWN_CORES, _LEAST)
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
