"""Shows the service manager again and again that the daemon lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wingsd.systemd.notify import Notifier

__all__ = ["STUCK_AFTER", "Watchdog"]

#: Seconds without an answer after which what is waited for is taken to be stuck. A disk that is
#: written to as fast as it can may take minutes for a flush, and killing the daemon helps nobody.
STUCK_AFTER = 300.0


class Watchdog:
    """Tells `notifier` twice in each period of `period` seconds that the daemon lives.

    That the reactor runs shows in its being told at all. `pulse` asks for a sign of the thread
    that writes the journal of transfers, which each step of each transfer waits for; when none has
    come for `STUCK_AFTER`, nothing is told, and the manager ends the daemon.
    """

    _log = Logger()

    def __init__(
        self,
        notifier: Notifier,
        period: float,
        pulse: Callable[[], Deferred[Any]],
        reactor: Any,
    ) -> None:
        self._notifier = notifier
        self._period = period
        self._pulse = pulse
        self._reactor = reactor
        self._asked: float | None = None
        self._is_stuck = False
        self._beating = LoopingCall(self._beat)
        self._beating.clock = reactor

    def start(self) -> None:
        """Begin; the first sign is given at once."""
        beating: Deferred[Any] = self._beating.start(self._period / 2)
        beating.addErrback(lambda failure: self._log.failure("the watchdog failed", failure))

    def stop(self) -> None:
        """Give no more signs."""
        if self._beating.running:
            self._beating.stop()

    def _beat(self) -> None:
        now = self._reactor.seconds()
        if self._asked is None:
            self._asked = now
            self._pulse().addBoth(self._answered)
        waits = 0.0 if self._asked is None else now - self._asked
        if waits < STUCK_AFTER:
            self._notifier.alive()
        elif not self._is_stuck:
            self._is_stuck = True
            self._log.critical(
                "nothing could be written to the journal of transfers for {seconds:.0f} s: see "
                "whether the disk of system.root_directory answers; the watchdog ends this daemon",
                seconds=waits,
            )

    def _answered(self, _: object) -> None:
        self._asked = None
        self._is_stuck = False
