"""Work that goes on in the background, until it is done or the node ends."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import WingsdError

__all__ = ["Tasks"]


class Tasks:
    """What is under way. What fails is logged, with a server's UUID where there is one."""

    _log = Logger()

    def __init__(self) -> None:
        self._under_way: list[Deferred[None]] = []

    def start(self, what: str, work: Coroutine[Any, Any, object], server: str = "") -> None:
        """Begin `work`; `what` it is stands in the log when it fails."""
        task = Deferred.fromCoroutine(work)
        self._under_way.append(task)  # type: ignore[arg-type]
        task.addErrback(self._failed, what, server)
        task.addBoth(self._done, task)

    def stop(self) -> None:
        """Cancel all of it."""
        # The last first: none may begin because another has made room.
        for task in reversed(tuple(self._under_way)):
            task.cancel()

    def _failed(self, failure: Failure, what: str, server: str) -> None:
        about = f"{server}: {what}" if server else what
        if failure.check(CancelledError):
            return
        if failure.check(WingsdError):
            self._log.error("{about} failed: {error}", about=about, error=failure.value)
        else:
            self._log.failure("{about} failed", failure, about=about)

    def _done(self, _: object, task: Deferred[Any]) -> None:
        self._under_way.remove(task)
