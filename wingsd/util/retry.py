"""When to try again: growing pauses between attempts, and HTTP's header `Retry-After`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import attrs

__all__ = ["Backoff", "seconds_asked_for"]


@attrs.frozen(eq=False)
class Backoff:
    """Pauses in seconds: `first`, then each `factor` times the previous one, up to `longest`.

    Iterating yields them without end, from the first one on. With `jitter` each is up to a second
    longer, so that several nodes do not ask at the same time.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: bool = False

    def __iter__(self) -> Iterator[float]:
        jitter = random.random if self.jitter else float
        pause = self.first
        while True:
            yield min(pause, self.longest) + jitter()
            pause = min(pause * self.factor, self.longest)


#: Seconds: a longer or malformed wish (a date by a wrong clock) is cut to this.
LONGEST = 3600.0


def seconds_asked_for(value: str) -> float:
    """Return the seconds of a `Retry-After`: a number, or a date (RFC 9110, section 10.2.3).

    0 where it is empty or malformed, at most an hour.
    """
    if value.isdecimal():
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST)
