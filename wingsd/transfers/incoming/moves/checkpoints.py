"""Flushes what has arrived of a move: now and then, and when a round is closed."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.threadio import Workers, relayed
from wingsd.transfers.incoming.moves.partial_copy import PartialCopy
from wingsd.util.deferreds import when_fired
from wingsd.util.reactor import ThreadedReactor

__all__ = ["Checkpoints"]

#: Seconds from the end of a checkpoint to the next one.
CHECKPOINT_EVERY = 0.5


class Checkpoints:
    """Has `disk` flush `copy`, and calls `made` after each time.

    An error is only logged: `copy` has the source resume then, as the disk tells it only once.
    """

    _log = Logger()

    def __init__(
        self,
        server: str,
        copy: PartialCopy,
        disk: Workers,
        reactor: ThreadedReactor,
        made: Callable[[], object],
    ) -> None:
        self._server = server
        self._copy = copy
        self._disk = disk
        self._reactor = reactor
        self._made = made
        self._next: IDelayedCall | None = None
        self._is_flushing = self._is_stopped = False

    def later(self) -> None:
        """Flush in a moment, and again as long as more has ended meanwhile."""
        if self._next is None and not self._is_flushing and not self._is_stopped:
            self._next = self._reactor.callLater(CHECKPOINT_EVERY, self._flush_next)

    async def beside(self, work: Callable[[], object]) -> None:
        """Flush now, and do `work` in another thread while the disk writes.

        Raises what `work` raises. The flush goes on when this is cancelled.
        """
        writing: Deferred[None] = Deferred()
        flushing = self._flush(relayed(self._reactor, lambda: writing.callback(None)))
        either = [writing, when_fired(flushing)]
        done = await DeferredList(either, fireOnOneCallback=True, consumeErrors=True)
        if isinstance(done, list):  # both were cancelled with this
            raise CancelledError
        await self._disk.run(work)
        await when_fired(flushing)

    def stop(self) -> None:
        """Flush no more."""
        self._is_stopped = True
        timer, self._next = self._next, None
        if timer is not None:
            timer.cancel()

    def _flush_next(self) -> None:
        self._next = None
        self._is_flushing = True
        self._flush().addCallback(self._flushed)

    def _flush(self, writing: Callable[[], object] = lambda: None) -> Deferred[bool]:
        """Flush; return whether that was done.

        `writing` is called in the thread from which on the copy may be used by others.
        """
        flushing: Deferred[int] = self._disk.run(self._copy.checkpoint, 0, writing)
        return flushing.addCallbacks(self._done, self._failed)

    def _done(self, _: int) -> bool:
        self._made()
        return True

    def _failed(self, failure: Failure) -> bool:
        error = failure.getErrorMessage()
        self._log.warn("{server}: {error}", server=self._server, error=error)
        return False

    def _flushed(self, is_done: bool) -> None:
        self._is_flushing = False
        progress = self._copy.progress
        if is_done and progress.durable < progress.received:  # what has ended meanwhile
            self.later()
