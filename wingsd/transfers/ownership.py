"""At the source: what became of a server that was sent whole. The Panel alone decides.

Nothing is ever concluded from silence.
"""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.panel.client import Panel
from wingsd.panel.errors import PanelError
from wingsd.transfers.errors import TransferNotCommitted
from wingsd.transfers.panel_callbacks import FirstMinute
from wingsd.util.retry import Backoff

__all__ = ["BACKOFF", "OwnershipCheck"]

T = TypeVar("T")

#: Seconds between two questions to a Panel or a destination that does not answer.
BACKOFF = Backoff(1.0, 60.0)
#: Seconds between two questions while the destination may still be at work.
GRACE_BACKOFF = Backoff(0.5, 5.0, factor=1.5, jitter=True)


class OwnershipCheck:
    """The Panel's word on one server's transfer, which began `age` seconds ago."""

    _log = Logger()

    def __init__(self, server: str, panel: Panel, reactor: Any, age: float = 0.0) -> None:
        self._server = server
        self._panel = panel
        self._reactor = reactor
        self._first_minute = FirstMinute(reactor, age)
        self._hurried = False
        self._waiting: Deferred[Any] | None = None
        #: Whether the Panel denied the transfer, whose failure is then still to be told.
        self.is_denied = False

    async def moves_within(self, grace: float) -> bool:
        """Ask the Panel for `grace` seconds; return True as soon as the server has moved.

        False is no word that it has not. `hurry` ends it before.
        """
        end, pauses = self._reactor.seconds() + grace, iter(GRACE_BACKOFF)
        while not self._hurried:
            asking = Deferred.fromCoroutine(self._panel.owns(self._server))
            pause = next(pauses)
            try:
                if await self._unless_hurried(asking) is False:
                    return True
            except PanelError as error:
                self._say_unknown(error, pause)
            left = end - self._reactor.seconds()
            if left <= 0:
                return False
            await self._unless_hurried(deferLater(self._reactor, min(pause, left)))
        return False

    def hurry(self) -> None:
        """Wait no longer for a destination that may still be at work, nor for its transfer."""
        self._hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def has_moved(self, *, lost: bool = False) -> bool:
        """Find out, at the source, what became of a server that was sent whole.

        Unless the Panel says that it has moved, it is told that it has not, and its answer
        counts: of a success and a failure it takes the first. Asks until it answers; where the
        destination is `lost` and may succeed, until the Panel must have committed the transfer.
        """
        pauses = iter(BACKOFF)
        while True:
            try:
                return await self._ask(lost)
            except TransferNotCommitted as error:
                self._say_unknown(error, error.pause)
                await self._unless_hurried(deferLater(self._reactor, error.pause))
            except PanelError as error:
                pause = next(pauses)
                self._say_unknown(error, pause)
                await deferLater(self._reactor, pause)

    async def _ask(self, lost: bool) -> bool:
        if not await self._panel.owns(self._server):
            return True
        if await self._panel.transfer_failed(self._server):
            return False
        # No transfer was open any more: the destination had told its end before. Or not yet.
        if not await self._panel.owns(self._server):
            return True
        pause = self._first_minute.next_pause()
        if pause and lost and not self._hurried:
            raise TransferNotCommitted(pause)
        self.is_denied = pause > 0
        return False

    async def _unless_hurried(self, waiting: Deferred[T]) -> T | None:
        """Return its result, or None when `hurry` has cancelled it."""
        self._waiting = waiting
        if self._hurried:
            waiting.cancel()
        try:
            return await waiting
        except CancelledError:
            if not self._hurried:
                raise
            return None
        finally:
            self._waiting = None

    def _say_unknown(self, error: PanelError, pause: float) -> None:
        self._log.warn(
            "{server}: whether it has moved is not known yet, asking again in {pause:.0f} s: "
            "{error}",
            server=self._server,
            pause=pause,
            error=error,
        )
