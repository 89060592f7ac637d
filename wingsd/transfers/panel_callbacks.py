"""Callbacks to the Panel: reports of transfers' outcomes, queued until the Panel has answered.

They are in the state database, so that they survive a restart. Of each server one report is sent
at a time, oldest first.

A Panel commits the row of a transfer only after it has the source's 202. A report that comes
before that gets 409 or 404, the same answers as after the transfer's end. So in a transfer's first
minute neither proves anything, and the report is sent again. After it, a success is settled by
asking whose server it is, and a failure was reported by the other node. Everything else is tried
again with growing pauses.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from http import HTTPStatus

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import ServerNotFound, StorageError
from wingsd.panel.client import Panel
from wingsd.panel.http_client import PanelError, PanelRefused
from wingsd.statedb import Outcome, Report, StateDatabase
from wingsd.transfers.cancellation import fires_within, when_fired
from wingsd.transfers.errors import TransferNotCommitted
from wingsd.util.retry import Backoff

__all__ = ["MINUTE", "CallbackQueue", "FirstMinute", "PendingReport"]

#: Seconds after its beginning in which a transfer that the Panel denies may still be committed.
MINUTE = 60.0
#: Seconds between two attempts in that minute, and after it.
MINUTE_BACKOFF = Backoff(0.5, 15.0, jitter=True)
BACKOFF = Backoff(1.0, 300.0)
#: Answers by which the Panel says that no such transfer is open.
_NOT_OPEN = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


class FirstMinute:
    """The rest of the first minute of a transfer that began `age` seconds ago.

    A negative age comes from a clock that was set back: the minute is over then.
    """

    def __init__(self, reactor: IReactorTime, age: float = 0.0) -> None:
        left = MINUTE - age if age >= 0 else 0.0
        self._reactor = reactor
        self._end = reactor.seconds() + left
        self._pauses = iter(MINUTE_BACKOFF)

    def next_pause(self) -> float:
        """Return the seconds until the next attempt, growing; 0 when the minute is over.

        The last pause ends with the minute.
        """
        left: float = self._end - self._reactor.seconds()
        if left <= 0:
            return 0.0
        return min(next(self._pauses), left)


@attrs.frozen
class PendingReport:
    """A report that is recorded, and the answer to it, which is still to come.

    `answer` gives whether it is accepted: a success has moved the server here, a failure leaves it
    where it was. False is a success that the Panel rejects, or a report that was dropped.
    """

    answer: Deferred[bool]

    @property
    def is_answered(self) -> bool:
        """Whether the answer is there."""
        return bool(self.answer.called)

    def answered_within(self, seconds: float, reactor: IReactorTime) -> Awaitable[bool]:
        """Return whether the answer comes so soon."""
        return fires_within(self.answer, seconds, reactor)

    async def accepted(self) -> bool:
        """Wait for the answer; return it."""
        return await self.answer


@attrs.define(eq=False)
class _QueuedReport:
    report: Report
    first_minute: FirstMinute
    answer: Deferred[bool] = attrs.field(factory=Deferred)
    is_dropped: bool = False
    #: Whether the Panel's last answer was that it does not know the transfer.
    is_denied: bool = False
    _pausing: Deferred[None] | None = None

    async def pause(self, reactor: IReactorTime, seconds: float) -> None:
        """Wait for so many seconds, or until the report is dropped."""
        self._pausing = deferLater(reactor, seconds)
        try:
            await self._pausing
        except CancelledError:
            if not self.is_dropped:
                raise
        finally:
            self._pausing = None

    def drop(self) -> None:
        """Do not send it any more."""
        self.is_dropped = True
        if self._pausing is not None:
            self._pausing.cancel()


class CallbackQueue:
    """All reports of this node that the Panel has not answered yet."""

    _log = Logger()

    def __init__(self, panel: Panel, database: StateDatabase, reactor: IReactorTime) -> None:
        self._panel = panel
        self._database = database
        self._reactor = reactor
        self._queues: dict[str, list[_QueuedReport]] = {}
        self._loops: dict[str, Deferred[None]] = {}

    async def load(self) -> None:
        """Queue the reports that an earlier daemon could not send. Raises `StorageError`."""
        for report in await self._database.unsettled():
            self._queue(report)

    async def add(
        self, server: str, outcome: Outcome, backups: Sequence[str] | None = None
    ) -> PendingReport:
        """Record a report and begin to send it, with the UUIDs of `backups` where there are any.

        Raises `StorageError` for a success that cannot be recorded.
        """
        try:
            report = await self._database.add_report(server, outcome, backups)
        except StorageError as error:
            if outcome is Outcome.SUCCESS:
                raise
            # A full disk does not prevent this too: it is sent as long as this daemon lives.
            self._log.error("{server}: report not recorded: {error}", server=server, error=error)
            report = Report(0, server, outcome, time.time())
        return PendingReport(self._queue(report))

    def success_of(self, server: str) -> PendingReport | None:
        """Return the report of the server's success that has no answer yet, if there is one."""
        for queued in self._queues.get(server, ()):
            if queued.report.outcome is Outcome.SUCCESS:
                return PendingReport(queued.answer)
        return None

    def is_denied(self, server: str) -> bool:
        """Return whether the Panel does not know the transfer of a queued report."""
        return any(queued.is_denied for queued in self._queues.get(server, ()))

    @property
    def depth(self) -> int:
        """The number of reports without an answer."""
        return sum(map(len, self._queues.values()))

    def drop(self, server: str, *, denied: bool = False) -> None:
        """Drop the server's failures: the Panel has begun another transfer of it.

        With `denied`, only those of which the Panel does not know the transfer.
        """
        for queued in self._queues.get(server, ()):
            if queued.report.outcome is Outcome.FAILURE and queued.is_denied >= denied:
                queued.drop()

    async def drain(self, within: float) -> None:
        """Return when no report waits for an answer, and after so many seconds in any case.

        Reports that the Panel denies are not waited for: the next daemon sends them again.
        """
        queued = [each for queue in self._queues.values() for each in queue if not each.is_denied]
        all_answered = DeferredList([when_fired(each.answer) for each in queued])
        await fires_within(all_answered, within, self._reactor)

    def stop(self) -> None:
        """Send nothing more; the state database keeps the reports."""
        for loop in tuple(self._loops.values()):
            loop.addErrback(lambda _: None)
            loop.cancel()

    def _queue(self, report: Report) -> Deferred[bool]:
        age = 0.0 if report.begun is None else self._database.seconds_since(report.begun)
        queued = _QueuedReport(report, FirstMinute(self._reactor, age))
        queue = self._queues.setdefault(report.server, [])
        queue.append(queued)
        if len(queue) == 1:
            loop = Deferred.fromCoroutine(self._work_off(report.server, queue))
            self._loops[report.server] = loop
            loop.addErrback(self._log_broken, report.server)
        return queued.answer

    def _log_broken(self, failure: Failure, server: str) -> None:
        if not failure.check(CancelledError):
            self._log.failure("{server}: sending its reports failed", failure, server=server)

    async def _work_off(self, server: str, queue: list[_QueuedReport]) -> None:
        try:
            while queue:
                queued = queue[0]
                accepted = await self._send(queued)
                queue.pop(0)
                if not queue:
                    self._queues.pop(server, None)
                queued.answer.callback(accepted)
        finally:
            self._loops.pop(server, None)

    async def _send(self, queued: _QueuedReport) -> bool:
        report, pauses = queued.report, iter(BACKOFF)
        while not queued.is_dropped:
            try:
                accepted, answer = await self._attempt(queued)
            except CancelledError:
                raise
            except TransferNotCommitted as error:
                queued.is_denied = True
                self._log.info(
                    "{server}: the Panel does not know the transfer yet, sending its {outcome} "
                    "again in {seconds:.0f} s",
                    server=report.server,
                    outcome=report.outcome.value,
                    seconds=error.pause,
                )
                await self._record(self._database.record_attempt(report, str(error)), report)
                await queued.pause(self._reactor, error.pause)
            except Exception as error:
                queued.is_denied = False
                seconds = max(next(pauses), getattr(error, "retry_after", 0.0))
                await self._log_attempt(report, error, seconds)
                await queued.pause(self._reactor, seconds)
            else:
                # Logged when it is recorded: a daemon that dies before that sends it again.
                await self._record(self._database.close_report(report, answer), report)
                self._log.info("{server}: {answer}", server=report.server, answer=answer)
                return accepted
        await self._record(
            self._database.close_report(report, "another transfer has begun"), report
        )
        return False

    async def _log_attempt(self, report: Report, error: Exception, seconds: float) -> None:
        if not isinstance(error, PanelError):
            self._log.failure("{server}: sending a report failed", server=report.server)
        self._log.warn(
            "{server}: the Panel has not accepted its {outcome} yet, sending it again in "
            "{seconds:.0f} s: {error}",
            server=report.server,
            outcome=report.outcome.value,
            seconds=seconds,
            error=error,
        )
        await self._record(self._database.record_attempt(report, str(error)), report)

    async def _attempt(self, queued: _QueuedReport) -> tuple[bool, str]:
        """Send a report once; return whether it is accepted, and a text for the log."""
        report = queued.report
        server = report.server
        if report.outcome is Outcome.FAILURE:
            return await self._send_failure(queued)
        try:
            await self._panel.transfer_succeeded(server, report.backups)
        except PanelRefused as error:
            if error.response_status not in _NOT_OPEN:
                raise
            if await self._panel.owns(server):
                return True, "the success had reached the Panel before"
            await self._require_over(queued)
            return False, f"the Panel has closed the transfer: {error.detail}"
        return True, "the success was reported to the Panel"

    async def _send_failure(self, queued: _QueuedReport) -> tuple[bool, str]:
        try:
            closed = await self._panel.transfer_failed(queued.report.server)
        except PanelRefused as error:
            if error.response_status != HTTPStatus.NOT_FOUND:
                raise
            await self._require_over(queued)
            return True, "the Panel does not know the server any more"
        if closed:
            return True, "the failure was reported to the Panel"
        await self._require_over(queued)
        return True, "the failure was reported to the Panel by the other node"

    async def _require_over(self, queued: _QueuedReport) -> None:
        """Raise `TransferNotCommitted` while the Panel may still commit the transfer."""
        pause = queued.first_minute.next_pause()
        if not pause:
            return
        try:
            await self._panel.describe(queued.report.server)
        except ServerNotFound:
            # It described the server when the transfer began. Where it does not any more, the
            # transfer was committed, and is over.
            return
        raise TransferNotCommitted(pause)

    async def _record(self, writing: Deferred[None], report: Report) -> None:
        # At worst it is sent once more after a restart, which the Panel answers with 409.
        try:
            await writing
        except StorageError as error:
            self._log.error(
                "{server}: answer to a report not recorded: {error}",
                server=report.server,
                error=error,
            )
