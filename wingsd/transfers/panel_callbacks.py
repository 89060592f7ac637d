"""Callbacks to the Panel: queued in the state database, and repeated until it has answered.

A Panel commits the row of a transfer only after it has the source's 202. What it is told of the
transfer before that meets 409 or 404, the same answers as after the transfer's end. So in the
first minute neither proves anything, and the Panel is asked again.

Of each server one report is told at a time, oldest first. What a 2xx settles is plain. After a 409
or 404 it is told again in the transfer's first minute, since the Panel may not have committed the
transfer yet; later a success is then settled by asking whose server it is, and a failure was told
by the other node. Everything else is tried again, with growing pauses, across restarts of this
node.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import ServerNotFound, StorageError
from wingsd.panel.client import Panel
from wingsd.panel.errors import PanelError, PanelRefused
from wingsd.statedb import Outcome, Report, StateDatabase
from wingsd.transfers.cancellation import when_fired
from wingsd.transfers.errors import TransferNotCommitted
from wingsd.util.retry import Backoff

__all__ = ["MINUTE", "CallbackQueue", "FirstMinute"]

#: Seconds after its beginning in which a transfer that the Panel denies may still be there.
MINUTE = 60.0

#: Seconds between two attempts in that minute, and after it.
MINUTE_BACKOFF = Backoff(0.5, 15.0, jitter=True)
BACKOFF = Backoff(1.0, 300.0)


class FirstMinute:
    """What is left of the first minute of a transfer that began `age` seconds ago.

    A negative age is one by a clock that was set back: nothing is left.
    """

    def __init__(self, reactor: Any, age: float = 0.0) -> None:
        left = MINUTE - age if age >= 0 else 0.0
        self._reactor = reactor
        self._end = reactor.seconds() + left
        self._pauses = iter(MINUTE_BACKOFF)

    def next_pause(self) -> float:
        """Return in how many seconds to ask again, growing; 0 when the minute is over.

        The last one ends with the minute.
        """
        left: float = self._end - self._reactor.seconds()
        if left <= 0:
            return 0.0
        return min(next(self._pauses), left)


#: Answers by which the Panel plainly says that no such transfer is open.
_NOT_OPEN = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


@attrs.define(eq=False)
class _Telling:
    """A report on its way; `settled` gives whether the Panel sees it so."""

    report: Report
    first_minute: FirstMinute
    settled: Deferred[bool] = attrs.field(factory=Deferred)
    moot: bool = False
    #: Whether the Panel's last word was that it does not know the transfer.
    denied: bool = False
    _pausing: Deferred[None] | None = None

    async def pause(self, reactor: Any, seconds: float) -> None:
        """Wait, but not when it need not be told any more."""
        self._pausing = deferLater(reactor, seconds)
        try:
            await self._pausing
        except CancelledError:
            if not self.moot:
                raise
        finally:
            self._pausing = None

    def drop(self) -> None:
        """It need not be told any more."""
        self.moot = True
        if self._pausing is not None:
            self._pausing.cancel()


class CallbackQueue:
    """All reports of this node that the Panel has not heard yet."""

    _log = Logger()

    def __init__(self, panel: Panel, journal: StateDatabase, reactor: Any) -> None:
        self._panel = panel
        self._journal = journal
        self._reactor = reactor
        self._queues: dict[str, list[_Telling]] = {}
        self._loops: dict[str, Deferred[None]] = {}

    async def load(self) -> None:
        """Go on telling what an earlier daemon could not. Raises `StorageError`."""
        for report in await self._journal.unsettled():
            self._queue(report)

    async def tell(
        self, server: str, outcome: Outcome, backups: Sequence[str] | None = None
    ) -> Deferred[bool]:
        """Note a report and begin to tell it, with the UUIDs of `backups` where there are any.

        The Deferred gives True when the Panel sees it so: a success moved the server here, a
        failure leaves it where it was. False is a success that the Panel does not want, or a
        report that `drop` made moot. Raises `StorageError` for a success that cannot be noted.
        """
        try:
            report = await self._journal.add_report(server, outcome, backups)
        except StorageError as error:
            if outcome is Outcome.SUCCESS:
                raise
            # Not one more thing that a full disk prevents: it is told while this node lives.
            self._log.error("{server}: {error}", server=server, error=error)
            report = Report(0, server, outcome, time.time())
        return self._queue(report)

    def success_of(self, server: str) -> Deferred[bool] | None:
        """Return the end of the server's success that is still being told, if there is one."""
        for telling in self._queues.get(server, ()):
            if telling.report.outcome is Outcome.SUCCESS:
                return telling.settled
        return None

    def is_denied(self, server: str) -> bool:
        """Return whether the Panel does not know the transfer of which it is being told."""
        return any(telling.denied for telling in self._queues.get(server, ()))

    @property
    def depth(self) -> int:
        """How many reports there are that the Panel has not heard."""
        return sum(map(len, self._queues.values()))

    def drop(self, server: str, *, denied: bool = False) -> None:
        """Tell no failure of the server any more: the Panel has begun another transfer of it.

        With `denied`, only one that the Panel does not know the transfer of.
        """
        for telling in self._queues.get(server, ()):
            if telling.report.outcome is Outcome.FAILURE and telling.denied >= denied:
                telling.drop()

    async def drain(self, within: float) -> None:
        """Return when nothing waits to be told, and after so many seconds in any case.

        What the Panel denies is not waited for: the next daemon tells it again.
        """
        tellings = [each for queue in self._queues.values() for each in queue if not each.denied]
        told = [when_fired(each.settled) for each in tellings]
        all_told: Deferred[Any] = DeferredList(told)
        limit: Deferred[Any] = deferLater(self._reactor, within)
        await DeferredList([all_told, limit], fireOnOneCallback=True, consumeErrors=True)
        limit.addErrback(lambda _: None)
        limit.cancel()

    def stop(self) -> None:
        """Tell nothing more; the journal keeps it."""
        for loop in tuple(self._loops.values()):
            loop.addErrback(lambda _: None)
            loop.cancel()

    def _queue(self, report: Report) -> Deferred[bool]:
        age = 0.0 if report.begun is None else self._journal.seconds_since(report.begun)
        telling = _Telling(report, FirstMinute(self._reactor, age))
        queue = self._queues.setdefault(report.server, [])
        queue.append(telling)
        if len(queue) == 1:
            loop = Deferred.fromCoroutine(self._work_off(report.server, queue))
            self._loops[report.server] = loop
            loop.addErrback(self._broken, report.server)
        return telling.settled

    def _broken(self, failure: Any, server: str) -> None:
        if not failure.check(CancelledError):
            self._log.failure("{server}: its reports are told no more", failure, server=server)

    async def _work_off(self, server: str, queue: list[_Telling]) -> None:
        try:
            while queue:
                telling = queue[0]
                so = await self._tell(telling)
                queue.pop(0)
                if not queue:
                    self._queues.pop(server, None)
                telling.settled.callback(so)
        finally:
            self._loops.pop(server, None)

    async def _tell(self, telling: _Telling) -> bool:
        report, pauses = telling.report, iter(BACKOFF)
        while not telling.moot:
            try:
                so, answer = await self._attempt(telling)
            except CancelledError:
                raise
            except TransferNotCommitted as error:
                telling.denied = True
                self._log.info(
                    "{server}: the Panel does not know of the transfer, told its {outcome} again "
                    "in {seconds:.0f} s",
                    server=report.server,
                    outcome=report.outcome.value,
                    seconds=error.pause,
                )
                await self._note(self._journal.record_attempt(report, str(error)), report)
                await telling.pause(self._reactor, error.pause)
            except Exception as error:
                telling.denied = False
                seconds = max(next(pauses), getattr(error, "retry_after", 0.0))
                await self._put_off(report, error, seconds)
                await telling.pause(self._reactor, seconds)
            else:
                # Said when that is written down: a node that dies before tells it again.
                await self._note(self._journal.settle(report, answer), report)
                self._log.info("{server}: {answer}", server=report.server, answer=answer)
                return so
        await self._note(self._journal.settle(report, "another transfer has begun"), report)
        return False

    async def _put_off(self, report: Report, error: Exception, seconds: float) -> None:
        if not isinstance(error, PanelError):
            self._log.failure("{server}: a mistake", server=report.server)
        self._log.warn(
            "{server}: the Panel has not taken its {outcome} yet, told again in {seconds:.0f} s: "
            "{error}",
            server=report.server,
            outcome=report.outcome.value,
            seconds=seconds,
            error=error,
        )
        await self._note(self._journal.record_attempt(report, str(error)), report)

    async def _attempt(self, telling: _Telling) -> tuple[bool, str]:
        report = telling.report
        server = report.server
        if report.outcome is Outcome.FAILURE:
            return await self._failure(telling)
        try:
            await self._panel.transfer_succeeded(server, report.backups)
        except PanelRefused as error:
            if error.response_status not in _NOT_OPEN:
                raise
            if await self._panel.owns(server):
                return True, "the Panel had been told of the success before"
            await self._require_over(telling)
            return False, f"the Panel does not want the server here: {error.detail}"
        return True, "the Panel was told of the success"

    async def _failure(self, telling: _Telling) -> tuple[bool, str]:
        try:
            closed = await self._panel.transfer_failed(telling.report.server)
        except PanelRefused as error:
            if error.response_status != HTTPStatus.NOT_FOUND:
                raise
            await self._require_over(telling)
            return True, "the Panel does not know the server any more"
        if closed:
            return True, "the Panel was told of the failure"
        await self._require_over(telling)
        return True, "the Panel was told of the failure by the other node"

    async def _require_over(self, telling: _Telling) -> None:
        """Raise `TransferNotCommitted` while the Panel may still commit the transfer."""
        pause = telling.first_minute.next_pause()
        if not pause:
            return
        try:
            await self._panel.describe(telling.report.server)
        except ServerNotFound:
            # It described the server when the transfer began. Where it does not do so any more,
            # that was by the transfer's word: it was there, and is over.
            return
        raise TransferNotCommitted(pause)

    async def _note(self, writing: Deferred[None], report: Report) -> None:
        # At worst it is told once more after a restart, which the Panel answers with 409.
        try:
            await writing
        except StorageError as error:
            self._log.error("{server}: {error}", server=report.server, error=error)
