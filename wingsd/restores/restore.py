"""The restoring of one backup, with a success or a failure.

Nothing of the server is changed, and it is not stopped, before the whole archive is read and
verified. Then it is stopped as its egg says, not killed, and the new content put into its place at
once. From the record of that on a later daemon completes it; before it, nothing has changed. A
server that crashes while its backup is read is started at the end, as one that was stopped.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.callbacks import CallbackQueue
from wingsd.errors import DaemonStopping, RestoreFailed, ServerBusy, WingsdError
from wingsd.restores.announcements import Announcements
from wingsd.restores.content import RestoredContent
from wingsd.restores.leftovers import RestoreLeftovers
from wingsd.servers import Server
from wingsd.servers.operations import Operation
from wingsd.servers.power_states import PowerState
from wingsd.servers.running import SENT, RunningServers, start_when_possible
from wingsd.statedb import Outcome, RestoreRecord, StateDatabase
from wingsd.transfers.cancellation import CancelScope
from wingsd.util.text import readable_time

__all__ = ["ANSWER_PATIENCE", "STOP_WITHIN", "Restore", "RestoreReporting"]

#: Seconds that a running server may take to stop; Wings' figure.
STOP_WITHIN = 120.0
#: Seconds to wait for the Panel's answer before the event by which pages load the server again.
ANSWER_PATIENCE = 10.0
#: Seconds after the answer to the request in which its end is not reported: a Panel commits that
#: the server is being restored only when it has the answer, and a report before is without effect.
FIRST_MOMENT = 0.5


@attrs.frozen(eq=False, repr=False)
class RestoreReporting:
    """Where a restore is recorded, and its end reported.

    `running` has the servers that a transfer is to start.
    """

    database: StateDatabase
    callbacks: CallbackQueue
    running: RunningServers
    reactor: IReactorTime


class Restore:
    """The restoring of a backup for `server`, as recorded; `run` does it."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        record: RestoreRecord,
        content: RestoredContent,
        leftovers: RestoreLeftovers,
        announcements: Announcements,
        reporting: RestoreReporting,
    ) -> None:
        self.server = server
        self.record = record
        #: Fires when nothing more is done with the server's files, before the Panel has heard it.
        self.over: Deferred[None] = Deferred()
        self._content = content
        self._leftovers = leftovers
        self._announcements = announcements
        self._reporting = reporting
        self._scope = CancelScope()
        self._was_stopped = False
        self._moment: Deferred[None] = succeed(None)

    async def run(self) -> None:
        """Restore the backup, and report how that has ended."""
        self._moment = deferLater(self._reporting.reactor, FIRST_MOMENT)
        self.server.restart_later = self._restart_later
        outcome = await self._attempt()
        if outcome is None:
            self.over.callback(None)
        else:
            await self._end(outcome)

    async def _attempt(self) -> Outcome | None:
        """Return how it has ended, None where that is left to the next daemon."""
        try:
            await self._restore()
        except CancelledError:
            raise
        except WingsdError as error:
            if isinstance(self._scope.reason, DaemonStopping):
                return None
            if await self._content.is_undecided():
                self._log.critical(
                    "{server}: its files are out of place until this node is started again: "
                    "{error}",
                    server=self.server.uuid,
                    error=error,
                )
                return None
            self._announcements.failed(error)
        except Exception:
            self._log.failure("{server}: its backup was not restored", server=self.server.uuid)
            self._announcements.failed(None)
        else:
            return Outcome.SUCCESS
        finally:
            self._content.close()
        return Outcome.FAILURE

    def cancel(self, reason: WingsdError) -> None:
        """Have it fail for this reason, unless the content is being put into place already."""
        self._scope.cancel(reason)
        self._content.archive.abort(reason)

    # The steps

    async def _restore(self) -> None:
        content, scope, server = self._content, self._scope, self.server
        self._log.info(
            "{server}: restoring the backup {backup}: it is read and verified",
            server=server.uuid,
            backup=self.record.backup,
        )
        with self._announcements.reading(content.progress, content.archive.size):
            await content.stage(scope, keep_present=not self.record.truncate)
        await self._stop()
        await scope.wait(server.operations.ended(Operation.CHANGE_FILES))
        if not self.record.truncate:
            await content.lay_over()
        inode = await content.flush()
        scope.check()
        await self._reporting.database.commit_restore(server.uuid, inode)
        await content.put_into_place(inode)
        self._announcements.succeeded()
        await self._leftovers.retire(self.record)

    async def _stop(self) -> None:
        """Stop the server if it runs. Raises `RestoreFailed` when it does not stop in time."""
        server, scope = self.server, self._scope
        scope.check()
        if server.state is PowerState.OFFLINE:
            # An engine that has not answered yet may have it running.
            await scope.wait(Deferred.fromCoroutine(server.adopt()))
        if server.state is PowerState.OFFLINE:
            return
        await self._reporting.database.start_after_restore(server.uuid)
        self._was_stopped = True
        server.say("The backup is verified. The server is stopped to put it into place.")
        stopping = Deferred.fromCoroutine(server.stop_gently(STOP_WITHIN))
        if not await scope.wait(stopping):
            raise RestoreFailed(
                f"the server has not stopped within {readable_time(STOP_WITHIN)}; stop it, or "
                "kill it, and restore the backup again"
            )

    def _restart_later(self) -> None:
        """Have the server be started at the end, which has crashed."""
        self._was_stopped = True
        self.server.say("The server is started again when its backup is restored.")
        noting = self._reporting.database.start_after_restore(self.server.uuid)
        noting.addErrback(
            lambda failure: self._log.error(
                "{server}: a later daemon would not start it: {error}",
                server=self.server.uuid,
                error=failure.value,
            )
        )

    async def _end(self, outcome: Outcome) -> None:
        server, reporting = self.server, self._reporting
        await self._leftovers.withdraw(server.uuid)
        await self._moment
        report = await reporting.callbacks.add_restore(self.record, outcome)
        is_due = self._was_stopped and not isinstance(self._scope.reason, ServerBusy)
        # A transfer may take it before it is started here, and starts it then where it ends.
        server.starts_if_it_stays = is_due and server.state is PowerState.OFFLINE
        server.operations.release(Operation.RESTORE)
        server.restart_later = None
        if outcome is Outcome.SUCCESS:
            server.files.received(None)
        self._leftovers.delete(server.uuid)
        self.over.callback(None)
        await report.answered_within(ANSWER_PATIENCE, reporting.reactor)
        self._announcements.ended(outcome)
        if self._was_stopped:
            await self._start()

    async def _start(self) -> None:
        """Start the server again, which ran before, unless somebody was faster.

        Until this has returned, a later daemon would start it.
        """
        server, reporting = self.server, self._reporting
        if server.starts_if_it_stays and server.state is PowerState.OFFLINE:
            try:
                await start_when_possible(server, reporting.reactor)
            except WingsdError:  # It is shown in the console, and logged.
                if server.operations.runs(*SENT):
                    await reporting.running.leave_to_transfer(server)
                    return
        server.starts_if_it_stays = False
        await reporting.database.end_start(server.uuid)
