"""What this node tries before a running server is stopped at its source, so that it need not stay.

It asks the Panel about the server, looks for room for the backups, and rehearses the container.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from wingsd.errors import WingsdError
from wingsd.util.deferreds import Changes

__all__ = ["Preparation", "PreparationState"]


class PreparationState(Enum):
    """How far a preparation is."""

    UNDER_WAY = "under way"
    READY = "ready"
    FAILED = "failed"


class Preparation:
    """The preparation of one server: each of `trials` in turn, as often as the source asks."""

    _log = Logger()

    def __init__(
        self, server: str, trials: Sequence[Callable[[], Awaitable[None]]], changes: Changes
    ) -> None:
        self._server = server
        self._trials = trials
        self._changes = changes
        self._running: Deferred[None] | None = None
        self.state = PreparationState.UNDER_WAY
        #: Why the last one has failed.
        self.error: WingsdError | None = None
        #: How often it was begun.
        self.count = 0
        #: Seconds for which the last rehearsal made its container; 0 before.
        self.container_seconds = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether all has succeeded when it was tried last."""
        return self.state == PreparationState.READY

    def begin(self) -> None:
        """Begin to try all of it, unless that is under way."""
        if self._running is not None:
            return
        self.state, self.error = PreparationState.UNDER_WAY, None
        self.count += 1
        self._changes.changed()
        running = self._running = Deferred.fromCoroutine(self._run())
        running.addErrback(lambda failure: failure.trap(CancelledError))
        if self._running.called:
            self._running = None

    async def clear(self, end_rehearsal: Callable[[str], Awaitable[None]]) -> None:
        """Remove what an earlier daemon may have left that died meanwhile; log why not."""
        try:
            await end_rehearsal(self._server)
        except WingsdError as error:
            self._log.warn("{server}: {error}", server=self._server, error=error)

    def stop(self) -> None:
        """End what is under way."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        try:
            for trial in self._trials:
                await trial()
        except CancelledError:
            raise
        except Exception as error:
            self._fail(error)
        else:
            self.state = PreparationState.READY
        finally:
            self._running = None
            self._changes.changed()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, WingsdError):
            self._log.failure("{server}: the preparation failed", server=self._server)
            error = WingsdError("internal error", "see the log of the destination node")
        self.state, self.error = PreparationState.FAILED, error
        self._log.warn(
            "{server}: not ready for it, and it runs on at its source: {error}",
            server=self._server,
            error=error,
        )
