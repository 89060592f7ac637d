"""Reads back what has arrived of a move while more arrives, so that little is left at its end."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.threadio import Workers
from wingsd.transfers.incoming.moves.partial_copy import PartialCopy
from wingsd.util.deferreds import when_fired

__all__ = ["ReadingBehind"]


class ReadingBehind:
    """Has `workers` read back what is durable of `copy`.

    An error is only logged: whoever reads the rest at the end finds it again.
    """

    _log = Logger()

    def __init__(self, server: str, copy: PartialCopy, workers: Workers) -> None:
        self._server = server
        self._copy = copy
        self._workers = workers
        self._reading: Deferred[None] | None = None
        self._is_stopped = False

    def go_on(self) -> None:
        """Read what there is to be read now, unless that is under way."""
        if self._reading is not None:
            return
        self._is_stopped = False
        reading = self._workers.run(self._copy.read_back, lambda: self._is_stopped)
        reading.addErrback(self._failed)
        self._reading = reading
        reading.addCallback(self._over)

    async def caught_up(self) -> None:
        """Return when all was read that was there to be read."""
        self.go_on()
        if self._reading is not None:
            await when_fired(self._reading)

    async def stop(self) -> None:
        """Return when nothing is read."""
        self._is_stopped = True
        if self._reading is not None:
            await when_fired(self._reading)

    def _failed(self, failure: Failure) -> None:
        error = failure.getErrorMessage()
        self._log.warn("{server}: {error}", server=self._server, error=error)

    def _over(self, _: None) -> None:
        self._reading = None
