"""The throttle of a console: how many of a server's lines are passed on, by windows of time.

`throttles` of the configuration has the limit of Wings, for bursts. Two further limits keep one
server's flood from taking the node's time: at most `SUSTAINED` lines a second, or as many as a
burst may have, and at most `BYTES` in `WINDOW`.
"""

from __future__ import annotations

import sys

from wingsd.config import ThrottlesConfig

__all__ = ["BYTES", "LONGEST_EPISODE", "QUIET", "SUSTAINED", "WINDOW", "Throttle"]

SUSTAINED = 2000
#: Seconds, and the bytes that pass in them: 1 MiB a second.
WINDOW = 0.125
BYTES = 128 * 1024
#: Seconds without an omitted line after which an episode has ended: more than any window has.
QUIET = 1.25
#: Seconds after which a flood is reported though it has not ended.
LONGEST_EPISODE = 10.0


class _Limit:
    """At most `most` in each window of so many seconds."""

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._began = float("-inf")
        self._taken = 0

    def left(self, now: float) -> int:
        if now - self._began >= self._seconds:
            self._began, self._taken = now, 0
        return max(self._most - self._taken, 0)

    def take(self, amount: int) -> None:
        self._taken += amount


class Throttle:
    """Limits the lines of one run; each method gets the time `now`, in seconds.

    An episode begins with the first omitted line. It ends when `QUIET` seconds have passed without
    one, or after `LONGEST_EPISODE`.
    """

    def __init__(self, rules: ThrottlesConfig) -> None:
        self._lines: list[_Limit] = []
        if rules.enabled:
            burst = _Limit(rules.line_reset_interval / 1000, rules.lines)
            self._lines = [burst, _Limit(1.0, max(rules.lines, SUSTAINED))]
        self._bytes = _Limit(WINDOW, BYTES)
        self._omitted = 0
        self._began = 0.0
        self._last = 0.0

    def admit(self, lines: list[bytes], now: float) -> int:
        """Return how many of `lines`, from the first, pass."""
        allowed = min((limit.left(now) for limit in self._lines), default=sys.maxsize)
        left = self._bytes.left(now)
        size = admitted = 0
        for line in lines[:allowed]:
            if size >= left:
                break
            size += len(line)
            admitted += 1
        for limit in self._lines:
            limit.take(admitted)
        self._bytes.take(size)
        if admitted < len(lines):
            if not self._omitted:
                self._began = now
            self._omitted += len(lines) - admitted
            self._last = now
        return admitted

    def ended(self, now: float) -> int:
        """Return how many lines an ended episode omitted; 0 when none has ended."""
        if not self._omitted:
            return 0
        quiet = now - self._last >= QUIET
        return self.flush() if quiet or now - self._began >= LONGEST_EPISODE else 0

    def flush(self) -> int:
        """End the episode, if there is one; return how many lines it omitted."""
        omitted, self._omitted = self._omitted, 0
        return omitted

    @property
    def active(self) -> bool:
        """Whether an episode has begun and not ended."""
        return self._omitted > 0
