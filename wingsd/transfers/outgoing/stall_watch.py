"""Notices that a move makes no progress while its server is stopped for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

__all__ = ["StallWatch"]

#: Seconds between two looks.
EVERY = 1.0


class StallWatch:
    """Calls `interrupt` when `mark` has returned the same for `patience` seconds, until `stop`."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        patience: float,
        mark: Callable[[], Hashable],
        interrupt: Callable[[], object],
    ) -> None:
        self.patience = patience
        #: Whether there was no progress for `patience` seconds.
        self.is_over = False
        self._clock = clock
        self._mark = mark
        self._interrupt = interrupt
        self._last: Hashable = mark()
        self._since = clock.seconds()
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        started: Deferred[Any] = self._looking.start(EVERY, now=False)
        started.addErrback(lambda failure: self._log.failure("watching a move failed", failure))

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        now = self._mark()
        if now != self._last and not self.is_over:
            self._last, self._since = now, self._clock.seconds()
        if self._clock.seconds() - self._since >= self.patience:
            self.is_over = True
            # again and again: what is interrupted may go on with something else
            self._interrupt()
