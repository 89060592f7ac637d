"""Sends the activity log to the Panel, in calls of bounded size, the oldest entries first.

Entries are deleted when the Panel has answered, so that a daemon that dies repeats one call at
most. A call that the Panel refuses is divided until the bad entry is found and dropped: it does
not keep the others from the Panel. After any other failure all is sent at the next interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wingsd.activity.log import REFUSED, ActivityLog, merge
from wingsd.errors import PanelError, PanelRefused, StorageError
from wingsd.panel.client import Panel
from wingsd.statedb import ActivityEntry
from wingsd.util.deferreds import fires_within, when_fired

__all__ = ["ActivitySender"]

#: Calls at one interval, as Wings.
CALLS_MAX = 50
#: Entries that are read at once.
READ_AT_ONCE = 500
#: Answers by which a Panel refuses what is in a call.
_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


class ActivitySender:
    """Sends what is in `log` every `interval` seconds, at most `count` entries a call."""

    _log = Logger()

    def __init__(
        self, log: ActivityLog, panel: Panel, reactor: IReactorTime, interval: float, count: int
    ) -> None:
        self._entries = log
        self._panel = panel
        self._reactor = reactor
        self._interval = interval
        self._count = count
        self._calls = 0
        #: When the Panel may be called again, by its `Retry-After`.
        self._not_before = 0.0
        #: The code of the last failure, empty after a success.
        self._failure = ""
        self._running: Deferred[None] | None = None
        # A run that takes longer than the interval delays the next one: there are never two.
        self._loop = LoopingCall(self._start_run)
        self._loop.clock = reactor

    def start(self) -> None:
        """Begin, with the first call after an interval."""
        self._loop.start(self._interval, now=False)

    async def stop(self, within: float) -> None:
        """Send no more, and wait so many seconds for the answer of a call that is under way."""
        if self._loop.running:
            self._loop.stop()
        self._calls = 0
        running = self._running
        if running is not None:
            await fires_within(running, within, self._reactor)
            running.cancel()

    async def send_now(self, within: float) -> None:
        """Send all that was recorded so far; return when that has ended, after `within` at most.

        It goes on after that.
        """
        if self._loop.running:
            await fires_within(
                Deferred.fromCoroutine(self._send_recorded()), within, self._reactor
            )

    async def _send_recorded(self) -> None:
        await self._entries.store_now()
        if self._running is not None:
            await when_fired(self._running)
        await self._start_run()

    def _start_run(self) -> Deferred[None]:
        """Start a run, unless one is under way; return what fires at its end."""
        running = self._running
        if running is None:
            running = self._running = Deferred.fromCoroutine(self._run_logged())
            running.addCallback(self._run_ended)
        return when_fired(running)

    def _run_ended(self, _: None) -> None:
        self._running = None

    async def _run_logged(self) -> None:
        try:
            await self.run()
        except CancelledError:
            pass  # `stop` has waited long enough.
        except Exception:
            # It must not end the loop.
            self._log.failure("sending activity failed")

    async def run(self) -> None:
        """Send what there is, in at most `CALLS_MAX` calls. Failures are logged."""
        if self._reactor.seconds() < self._not_before:
            return
        self._calls = CALLS_MAX
        try:
            while self._calls and (rows := await self._entries.oldest(READ_AT_ONCE)):
                await self._send(rows)
        except PanelError as error:
            self._not_before = self._reactor.seconds() + error.retry_after
            self._note_failure(error)
        except StorageError as error:
            self._note_failure(error)

    async def _send(self, rows: Sequence[ActivityEntry]) -> None:
        # In the order of their ids, so that what is settled is always the oldest.
        parts = [rows]
        while parts and self._calls:
            part = parts.pop()
            entries, taken = merge(part, self._count)
            if taken < len(part):
                parts.append(part[taken:])
                part = part[:taken]
            self._calls -= 1
            try:
                await self._panel.post_once("activity", "/activity", {"data": entries})
            except PanelRefused as error:
                if error.response_status not in _REFUSALS:
                    raise
                if len(part) > 1:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
                    continue
                self._drop(part[0], error)
            else:
                self._entries.sent += len(part)
                self._note_success()
            await self._entries.settle(part[-1])

    def _drop(self, row: ActivityEntry, error: PanelRefused) -> None:
        self._entries.dropped[REFUSED] += 1
        self._log.error(
            "{server}: {event} dropped, which the Panel refuses as activity: user {user}, address "
            "{ip}, metadata {metadata}: {why}",
            server=row.server,
            event=row.event,
            user=row.user,
            ip=row.ip,
            metadata=row.metadata[:200],
            why=error.detail,
        )

    def _note_failure(self, error: PanelError | StorageError) -> None:
        # Once, until it fails in another way or succeeds: the Panel may be away for long.
        if self._failure != error.code:
            self._failure = error.code
            self._log.warn(
                "activity not sent, entries waiting: {number}; trying again every {seconds:g} s: "
                "{error}",
                number=self._entries.waiting,
                seconds=self._interval,
                error=error,
            )

    def _note_success(self) -> None:
        if self._failure:
            self._failure = ""
            self._log.info("activity is sent again")
