"""Retries: growing pauses, `Retry-After` of HTTP, budgets, and watches of progress."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from math import inf
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wingsd.util.reactor import Periodic

Cause = TypeVar("Cause", bound=Hashable)


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


@attrs.define(eq=False, repr=False, slots=False)
class Budget(Generic[Cause]):
    """A budget of retries: for each cause as many as `most` says, all within so many seconds.

    Progress gives the seconds back.
    """

    _clock: IReactorTime
    seconds: float = inf
    _most: Mapping[Cause, int] = MappingProxyType({})

    def __attrs_post_init__(self) -> None:
        self._counts: Counter[Cause] = Counter()
        self._since = self._clock.seconds()
        self._mark: Hashable = None

    @property
    def left(self) -> float:
        """The seconds left."""
        return self._since + self.seconds - self._clock.seconds()

    @property
    def is_over(self) -> bool:
        """True if no time is left."""
        return self._clock.seconds() >= self._since + self.seconds

    def progressed(self) -> None:
        """Give the seconds back."""
        self._since = self._clock.seconds()

    def compare(self, mark: Hashable) -> None:
        """Give the seconds back where `mark` is not what it was the last time."""
        if mark != self._mark:
            self._mark = mark
            self.progressed()

    def spend(self, cause: Cause, error: Exception) -> None:
        """Count a retry. Raises `error` where there were too many by this cause."""
        self._counts[cause] += 1
        if self._counts[cause] > self._most[cause]:
            raise error

    def refund(self, cause: Cause) -> None:
        """Take back one retry, if any was counted."""
        self._counts[cause] = max(self._counts[cause] - 1, 0)

    def restore(self, cause: Cause) -> None:
        """Count from the beginning."""
        self._counts[cause] = 0


class Watch:
    """Calls `look` every so many seconds until it is stopped; logs the `trouble` if it fails."""

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, every: float, look: Callable[[], object], trouble: str
    ) -> None:
        self._calls = Periodic(clock, look)
        started: Deferred[Any] = self._calls.start(every, now=False)
        started.addErrback(lambda failure: self._log.failure(trouble, failure))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Look no more."""
        self._calls.stop()
