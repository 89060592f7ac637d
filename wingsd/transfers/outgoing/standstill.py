"""Tells people that a connected destination reads nothing of a single upload.

It is waited for: nodes slow an upload down while it waits for a slot there, for hours if need be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

__all__ = ["StandstillNotice"]

#: Seconds between two looks, and in which nothing was taken before each line.
LOOK_EVERY, EVERY = 5.0, 300.0


class StandstillNotice:
    """Tells that nothing of what is to be sent is taken, and when it goes on, until `stop`.

    `sent` are the bytes that were handed over; `is_full` is whether there is more than was taken.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        sent: Callable[[], int],
        is_full: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._sent = sent
        self._is_full = is_full
        self._say = say
        self._last = -1
        self._since = self._told = clock.seconds()
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        started: Deferred[Any] = self._looking.start(LOOK_EVERY)
        started.addErrback(lambda failure: self._log.failure("watching an upload failed", failure))

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> None:
        now, sent = self._clock.seconds(), self._sent()
        if sent != self._last or not self._is_full():
            if self._told > self._since:
                self._say(f"the upload goes on, after {now - self._since:.0f} s")
            self._last, self._since, self._told = sent, now, now
        elif now - self._told >= EVERY:
            self._told = now
            self._say(
                f"the destination has taken nothing for {now - self._since:.0f} s: it has no slot "
                "for the upload yet, or it hangs; see its log. The upload goes on when it reads on"
            )
