"""Callbacks to the Panel: reports of outcomes, such as a transfer's, sent until accepted.

They are in the state database, so that they survive a restart. Of each server, and of each backup,
one report is sent at a time, oldest first. What an answer means depends on the kind of report (see
`QueuedReport`); what is not settled by it is sent again with growing pauses.

Pelican's Panel also gets the states of servers, which it shows without asking the node. It keeps
each for an hour, so all of them are reported: that of each server after the node's start, and each
change. While the Panel does not accept them, only the latest state of a server waits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from http import HTTPStatus

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import (
    NodeTokenRefused,
    PanelError,
    PanelRefused,
    ServerNotFound,
    StorageError,
    TransferNotCommitted,
)
from wingsd.events import DELETED, STATUS, Event, EventBus
from wingsd.panel.client import Panel
from wingsd.statedb import (
    Outcome,
    Report,
    ReportKind,
    RestoreRecord,
    StateDatabase,
    restore_report,
)
from wingsd.util.deferreds import fires_within, when_fired
from wingsd.util.retry import Backoff

#: Seconds after its beginning in which a transfer that the Panel denies may still be committed.
MINUTE = 60.0
#: The same for reports of the destination, after the order.
COMMITS_WITHIN = 10.0
#: Seconds between two attempts in that time.
MINUTE_BACKOFF = Backoff(0.5, 15.0, jitter=True)
#: Answers by which the Panel says that no such transfer is open.
_NOT_OPEN = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


class FirstMinute:
    """The rest of the first minute, or `seconds`, of a transfer that began `age` seconds ago.

    A negative age comes from a clock that was set back: that time is over then.
    """

    def __init__(self, reactor: IReactorTime, age: float = 0.0, seconds: float = MINUTE) -> None:
        left = seconds - age if age >= 0 else 0.0
        self._reactor = reactor
        self._end = reactor.seconds() + left
        self._pauses = iter(MINUTE_BACKOFF)

    def next_pause(self) -> float:
        """Return the seconds until the next attempt, growing; 0 when the time is over.

        The last pause ends with it.
        """
        left: float = self._end - self._reactor.seconds()
        if left <= 0:
            return 0.0
        return min(next(self._pauses), left)


#: Answers by which a Panel has decided nothing.
TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


#: Seconds between two attempts.
BACKOFF = Backoff(1.0, 300.0)


@attrs.frozen(repr=False)
class PendingReport:
    """A recorded report that the Panel has not answered yet.

    `answer` gives whether it is accepted: of a transfer, a success has moved the server here, a
    failure leaves it where it was. False is a report that the Panel rejects, or that was dropped.
    """

    answer: Deferred[bool]

    @property
    def is_answered(self) -> bool:
        """True if the answer is there."""
        return bool(self.answer.called)

    def answered_within(self, seconds: float, reactor: IReactorTime) -> Awaitable[bool]:
        """Return whether the answer comes so soon."""
        return fires_within(self.answer, seconds, reactor)

    async def accepted(self) -> bool:
        """Wait for the answer; return it."""
        return await self.answer


@attrs.define(eq=False)
class QueuedReport:
    """A report that is sent until it is settled.

    A Panel commits the row of a transfer only after it has the source's 202. A report that comes
    before that gets 409 or 404, the same answers as after the transfer's end. So right after the
    order neither proves anything, and the report is sent again. Later, a success is settled by
    asking whose server it is, and a failure was reported by the other node.

    A Panel does not look at which node reports: a report of the destination that is sent again may
    close the next transfer of the server, to another node. The source sends it again for a minute:
    the next transfer is ordered there, which ends that. The destination does so for seconds.
    """

    report: Report
    _panel: Panel
    #: Of a transfer: the time in which its Panel may still commit it.
    _first_minute: FirstMinute
    answer: Deferred[bool] = attrs.field(factory=Deferred)
    #: Why it is not to be sent any more; empty as long as it is.
    dropped: str = ""
    #: Whether the Panel's last answer was that it does not know the transfer.
    is_denied: bool = False
    _pausing: Deferred[None] | None = None

    async def pause(self, reactor: IReactorTime, seconds: float) -> None:
        """Wait for so many seconds, or until the report is dropped."""
        self._pausing = deferLater(reactor, seconds)
        try:
            await self._pausing
        except CancelledError:
            if not self.dropped:
                raise
        finally:
            self._pausing = None

    def drop(self, why: str) -> None:
        """Do not send it any more."""
        self.dropped = why
        if self._pausing is not None:
            self._pausing.cancel()

    async def attempt(self) -> tuple[bool, str]:
        """Send it once; return whether it is accepted, and a text for the log.

        Raises `TransferNotCommitted`, and the errors of the Panel after which it is sent again.
        """
        if not self.report.kind.is_transfer:
            return await self._send_other()
        if self.report.outcome is Outcome.FAILURE:
            return await self._send_failure()
        try:
            await self._panel.transfer_succeeded(self.report.server, self.report.backups)
        except PanelRefused as error:
            if error.response_status not in _NOT_OPEN:
                raise
            if await self._panel.owns(self.report.server):
                return True, "the success had reached the Panel before"
            await self._require_over()
            return False, f"the Panel has closed the transfer: {error.detail}"
        return True, "the success was reported to the Panel"

    async def _send_failure(self) -> tuple[bool, str]:
        try:
            closed = await self._panel.transfer_failed(self.report.server)
        except PanelRefused as error:
            if error.response_status != HTTPStatus.NOT_FOUND:
                raise
            await self._require_over()
            return True, "the Panel does not know the server any more"
        if closed:
            return True, "the failure was reported to the Panel"
        await self._require_over()
        return True, "the failure was reported to the Panel by the other node"

    async def _require_over(self) -> None:
        """Raise `TransferNotCommitted` while the Panel may still commit the transfer."""
        pause = self._first_minute.next_pause()
        if not pause:
            return
        try:
            await self._panel.describe(self.report.server)
        except ServerNotFound:
            # It described the server when the transfer began. Where it does not any more, the
            # transfer was committed, and is over.
            return
        raise TransferNotCommitted(pause)

    async def _send_other(self) -> tuple[bool, str]:
        """Send the report of an installation, a restore or a backup once.

        A Panel that refuses one has decided: it has deleted the server or the backup, assigned the
        server to another node, or has the backup as completed already. What was made stays. A
        refused token, a Panel in maintenance or one that is asked too often has decided nothing.
        """
        panel, report = self._panel, self.report
        successful = report.outcome is Outcome.SUCCESS
        if report.kind.is_installation:
            what = f"the {'success' if successful else 'failure'} of its installation"
            refused, accepted = "of its installation", f"{what} was reported to the Panel"
            reinstall = report.kind is ReportKind.REINSTALL
            sending = panel.installed(report.server, successful=successful, reinstall=reinstall)
        elif report.kind is ReportKind.RESTORE:
            (backup,) = report.backups or ("",)
            how = "restored" if successful else "not restored"
            refused = f"on restoring {backup}"
            accepted = f"the Panel knows that the backup {backup} was {how}"
            sending = panel.restored(backup, report.server, successful=successful)
        else:
            what = f"the {report.what} of {report.backup}"
            refused, accepted = f"of {what}", f"{what} was reported to the Panel"
            path = f"/backups/{report.backup}"
            if report.kind is ReportKind.BACKUP_DELETION:
                path += "/deletion"
            operation = report.kind.value.replace(" ", "_")
            sending = panel.report(operation, path, json.loads(report.body))
        try:
            await sending
        except NodeTokenRefused:
            raise
        except PanelRefused as error:
            if error.response_status in TRY_AGAIN:
                raise
            return False, f"the Panel refuses the report {refused}: {error.detail}"
        return True, accepted


class CallbackQueue:
    """All reports of this node that the Panel has not answered yet."""

    _log = Logger()

    def __init__(self, panel: Panel, database: StateDatabase, reactor: IReactorTime) -> None:
        self._panel = panel
        self._database = database
        self._reactor = reactor
        self._queues: dict[str, list[QueuedReport]] = {}
        self._loops: dict[str, Deferred[None]] = {}

    async def load(self) -> None:
        """Queue the reports that an earlier daemon could not send. Raises `StorageError`."""
        for report in await self._database.unsettled():
            self._queue(report)

    async def add(
        self,
        server: str,
        outcome: Outcome,
        backups: Sequence[str] | None = None,
        *,
        commits_within: float = MINUTE,
    ) -> PendingReport:
        """Record the report of a transfer and begin to send it, with the UUIDs of its backups.

        Where the Panel denies the transfer, that is final `commits_within` seconds after it began
        at this node. Raises `StorageError` for a success that cannot be recorded.
        """
        try:
            report = await self._database.add_report(server, outcome, backups, commits_within)
        except Exception as error:
            if outcome is Outcome.SUCCESS:
                raise
            # A full disk does not prevent this too: it is sent as long as this daemon lives.
            self._log_unrecorded(server, error)
            report = Report(0, server, outcome, time.time(), commits_within=commits_within)
        return PendingReport(self._queue(report))

    async def add_installation(
        self, server: str, outcome: Outcome, *, reinstall: bool
    ) -> PendingReport:
        """Record that an installation has ended, in place of it being under way, and report that.

        Earlier reports of installations of the server are dropped.
        """
        kind = ReportKind.REINSTALL if reinstall else ReportKind.INSTALL
        for queued in self._queues.get(server, ()):
            if queued.report.kind.is_installation:
                queued.drop("another installation has ended")
        return await self._queue_recorded(
            self._database.end_installation(server, kind, outcome),
            Report(0, server, outcome, time.time(), kind=kind),
        )

    async def add_restore(self, record: RestoreRecord, outcome: Outcome) -> PendingReport:
        """Record that a restore has ended, in place of it being under way, and report that."""
        return await self._queue_recorded(
            self._database.end_restore(record, outcome),
            restore_report(record, outcome, time.time()),
        )

    def add_recorded(self, report: Report) -> PendingReport:
        """Begin to send a report that is in the state database."""
        return PendingReport(self._queue(report))

    def before_reset(self) -> list[PendingReport]:
        """Return the reports without an answer that the report of a restart would overtake.

        By that, a Panel ends the states of servers that are being installed or restored, and
        Calagopus' the backups that are being made.
        """
        queued = [each for queue in self._queues.values() for each in queue]
        return [PendingReport(each.answer) for each in queued if not each.report.kind.is_transfer]

    async def add_backup(
        self,
        server: str,
        backup: str,
        outcome: Outcome,
        body: Mapping[str, object],
        kind: ReportKind = ReportKind.BACKUP,
    ) -> PendingReport:
        """Record what became of a backup, in place of it being made, and report that.

        Where it cannot be recorded, the next start finds by the disk what became of it.
        """
        text = json.dumps(body)
        return await self._queue_recorded(
            self._database.add_backup_report(server, backup, outcome, text, kind),
            Report(0, server, outcome, time.time(), kind=kind, backup=backup, body=text),
        )

    def unanswered_backups(self) -> dict[str, PendingReport]:
        """Return the reports of backups' ends that have no answer yet, by the backup."""
        queued = [each for queue in self._queues.values() for each in queue]
        return {
            each.report.backup: PendingReport(each.answer)
            for each in queued
            if each.report.kind is ReportKind.BACKUP
        }

    def success_of(self, server: str) -> PendingReport | None:
        """Return the report of a transfer's success that has no answer yet, if there is one."""
        for queued in self._queues.get(server, ()):
            if queued.report.kind.is_transfer and queued.report.outcome is Outcome.SUCCESS:
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
        """Drop the failures of the server's transfers: the Panel has begun another transfer.

        With `denied`, only those of which the Panel does not know the transfer.
        """
        for queued in self._queues.get(server, ()):
            is_failure = queued.report.outcome is Outcome.FAILURE
            if queued.report.kind.is_transfer and is_failure and queued.is_denied >= denied:
                queued.drop("another transfer has begun")

    async def drain(self, within: float) -> None:
        """Return when no report waits for an answer, and after so many seconds in any case.

        Reports that the Panel denies are not waited for: they are sent again after a restart.
        """
        queued = [each for queue in self._queues.values() for each in queue if not each.is_denied]
        all_answered = DeferredList([when_fired(each.answer) for each in queued])
        await fires_within(all_answered, within, self._reactor)

    def stop(self) -> None:
        """Send nothing more; the state database keeps the reports."""
        for loop in tuple(self._loops.values()):
            loop.addErrback(lambda _: None)
            loop.cancel()

    async def _queue_recorded(
        self, recording: Awaitable[Report], unrecorded: Report
    ) -> PendingReport:
        """Send a report that is being recorded; `unrecorded` where that fails."""
        try:
            report = await recording
        except StorageError as error:
            self._log_unrecorded(unrecorded.server, error)
            report = unrecorded
        return PendingReport(self._queue(report))

    def _queue(self, report: Report) -> Deferred[bool]:
        age = 0.0 if report.begun is None else self._database.seconds_since(report.begun)
        first_minute = FirstMinute(self._reactor, age, report.commits_within)
        queued = QueuedReport(report, self._panel, first_minute)
        queue = self._queues.setdefault(report.queue, [])
        queue.append(queued)
        if len(queue) == 1:
            loop = Deferred.fromCoroutine(self._work_off(report.queue, queue))
            self._loops[report.queue] = loop
            loop.addErrback(self._log_broken, report.server)
        return queued.answer

    def _log_unrecorded(self, server: str, error: Exception) -> None:
        self._log.error("{server}: report not recorded: {error}", server=server, error=error)

    def _log_broken(self, failure: Failure, server: str) -> None:
        if not failure.check(CancelledError):
            self._log.failure("{server}: sending its reports failed", failure, server=server)

    async def _work_off(self, name: str, queue: list[QueuedReport]) -> None:
        try:
            while queue:
                queued = queue[0]
                accepted = await self._send(queued)
                queue.pop(0)
                if not queue:
                    self._queues.pop(name, None)
                queued.answer.callback(accepted)
        finally:
            self._loops.pop(name, None)

    async def _send(self, queued: QueuedReport) -> bool:
        report, pauses = queued.report, iter(BACKOFF)
        while not queued.dropped:
            try:
                accepted, answer = await queued.attempt()
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
        await self._record(self._database.close_report(report, queued.dropped), report)
        return False

    async def _log_attempt(self, report: Report, error: Exception, seconds: float) -> None:
        if not isinstance(error, PanelError):
            self._log.failure("{server}: sending a report failed", server=report.server)
        self._log.warn(
            "{server}: the Panel has not accepted its {outcome} yet, sending it again in "
            "{seconds:.0f} s: {error}",
            server=report.server,
            outcome=report.what,
            seconds=seconds,
            error=error,
        )
        await self._record(self._database.record_attempt(report, str(error)), report)

    async def _record(self, writing: Deferred[None], report: Report) -> None:
        # At worst it is sent once more after a restart: the Panel answers 409 to that of a
        # transfer, and takes that of an installation again.
        try:
            await writing
        except CancelledError:
            raise
        except Exception as error:  # the queue goes on in any case
            self._log.error(
                "{server}: answer to a report not recorded: {error}",
                server=report.server,
                error=error,
            )


#: Reports at a time.
CONCURRENT = 4
#: Seconds between two attempts to report the state of one server.
STATUS_BACKOFF = Backoff(1.0, 120.0, jitter=True)
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
        pauses = iter(STATUS_BACKOFF)
        while server in self._waiting:
            error = await self._slots.run(self._attempt, server)
            if error is None:
                pauses = iter(STATUS_BACKOFF)
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
