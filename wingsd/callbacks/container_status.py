"""The states of servers, reported to Pelican's Panel, which shows them without asking the node.

It keeps each for an hour, so all of them are reported: that of each server after the node's start,
and each change. While the Panel does not accept them, only the latest state of a server waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import PanelError
from wingsd.events import DELETED, STATUS, Event, EventBus
from wingsd.panel.client import Panel
from wingsd.util.retry import Backoff

__all__ = ["ContainerStatuses"]

#: Reports at a time.
CONCURRENT = 4
#: Seconds between two attempts to report the state of one server.
BACKOFF = Backoff(1.0, 120.0, jitter=True)
#: The state of a server before the first one that is reported.
_OFFLINE = "offline"


class ContainerStatuses:
    """Reports each state that is published on `bus`."""

    _log = Logger()

    def __init__(self, panel: Panel, bus: EventBus, reactor: IReactorTime) -> None:
        self._panel = panel
        self._reactor = reactor
        self._slots = DeferredSemaphore(CONCURRENT)
        #: The latest state of each server of which the Panel has not accepted it.
        self._waiting: dict[str, str] = {}
        #: The last state of each server that the Panel has accepted.
        self._accepted: dict[str, str] = {}
        #: The loops that report the states of a server.
        self._loops: dict[str, Deferred[None]] = {}
        self._failing = False
        self._stopped = False
        bus.subscribe_to_all(self._note)

    def start(self, states: Iterable[tuple[str, str]]) -> None:
        """Report the state of each server, by UUID, of which none was published yet."""
        for server, state in states:
            if server not in self._accepted and server not in self._waiting:
                self._report(server, state)

    def stop(self) -> None:
        """Report nothing more."""
        self._stopped = True
        for loop in tuple(self._loops.values()):
            loop.cancel()

    def _note(self, event: Event) -> None:
        if event.name == STATUS:
            self._report(event.server, event.args[0])
        elif event.name == DELETED:
            self._waiting.pop(event.server, None)
            self._accepted.pop(event.server, None)

    def _report(self, server: str, state: str) -> None:
        if self._stopped:
            return
        self._waiting[server] = state
        if server in self._loops:
            return
        loop = self._loops[server] = Deferred.fromCoroutine(self._report_all(server))
        loop.addBoth(self._end, server)

    def _end(self, result: object, server: str) -> None:
        del self._loops[server]
        if isinstance(result, Failure) and not result.check(CancelledError):
            self._log.failure("{server}: reporting its state failed", result, server=server)

    async def _report_all(self, server: str) -> None:
        pauses = iter(BACKOFF)
        while server in self._waiting:
            error = await self._slots.run(self._attempt, server)
            if error is None:
                pauses = iter(BACKOFF)
            else:
                await deferLater(self._reactor, max(next(pauses), error.retry_after))

    async def _attempt(self, server: str) -> PanelError | None:
        """Report the latest state of a server once; return why it is to be repeated."""
        state = self._waiting.get(server)
        if state is None:
            return None  # It was deleted before its turn.
        previous = self._accepted.get(server, _OFFLINE)
        body = {"data": {"previous_state": previous, "new_state": state}}
        try:
            await self._panel.post_once(
                "container_status", f"/servers/{server}/container/status", body
            )
        except PanelError as error:
            if getattr(error, "response_status", None) == HTTPStatus.NOT_FOUND:
                self._log.info(
                    "{server}: state not reported, the Panel does not know the server: {error}",
                    server=server,
                    error=error,
                )
                self._waiting.pop(server, None)
                return None
            if not self._failing:
                # Once, until one is accepted: the Panel may be away for long.
                self._failing = True
                self._log.warn(
                    "{server}: its state is not accepted by the Panel, and sent again: {error}",
                    server=server,
                    error=error,
                )
            return error
        if self._failing:
            self._failing = False
            self._log.info("states of servers are accepted by the Panel again")
        if server in self._waiting:
            self._accepted[server] = state
            if self._waiting[server] == state:
                del self._waiting[server]
        return None
