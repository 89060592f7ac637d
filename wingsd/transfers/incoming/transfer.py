"""Receiving one server: the steps of an incoming transfer, from its upload to the Panel's answer.

Read `IncomingTransfer._receive` from top to bottom: receive (`receive`), verify, make durable;
`commit` has the rest. Each step that changes something adds to the rollback how that is undone. An
error in any step ends in `_fail`: it is reported, rolled back, and raised again for the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.docker import Environment
from wingsd.docker.container import check_variables
from wingsd.errors import ServerNotFound, TransferCancelled, WingsdError, error_code
from wingsd.panel.http_client import PanelError
from wingsd.panel.schemas import Configuration
from wingsd.servers import Servers
from wingsd.statedb import TransferRecord
from wingsd.transfers.console import ProgressMeter
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.errors import DaemonRestarted, UploadTruncated
from wingsd.transfers.incoming.commit import CommitPhase, Remainder, require_name
from wingsd.transfers.incoming.receive import ReceivePhase
from wingsd.transfers.incoming.uploads import Extraction, IncomingUpload, UploadGroup
from wingsd.transfers.step_log import ProgressReport, StepLogs
from wingsd.transfers.steps import ReceiveStep, RollbackList
from wingsd.transfers.storage.incoming import ArrivingServer, IncomingStorage
from wingsd.util.deferreds import when_fired

__all__ = ["IncomingParts", "IncomingTransfer"]

#: Why the server cannot be started meanwhile.
HOLD = "the server is being transferred to this node"
#: Seconds between two questions to a Panel that does not answer, after a restart.
PAUSE = 15.0


class Arrival(Protocol):
    """How far the bytes of a server have arrived; `size` is how many are expected, or 0."""

    meter: ProgressMeter

    @property
    def size(self) -> int: ...


@attrs.frozen(eq=False, repr=False)
class IncomingParts:
    """What transfers to this node are made of: they are extracted and put into `storage`."""

    step_logs: StepLogs
    storage: IncomingStorage
    extraction: Extraction
    environment: Environment
    servers: Servers
    reactor: IReactorTime


class IncomingTransfer:
    """The transfer of one server to this node, which arrives by uploads."""

    _log = Logger()

    def __init__(
        self, server: str, coordinator: ReceivingCoordinator, parts: IncomingParts
    ) -> None:
        self.server = server
        self.coordinator = coordinator
        #: Fires when the transfer is over, whatever its outcome, and all is cleaned up. That the
        #: Panel hears of a failure is the callback queue's task.
        self.over: Deferred[None] = Deferred()
        self._previous_over: Deferred[None] = succeed(None)
        self._environment = parts.environment
        self._servers = parts.servers
        self._reactor = parts.reactor
        self._rollback = rollback = RollbackList(server)
        self._files = files = ArrivingServer(server, parts.storage, rollback)
        self._steps = steps = parts.step_logs.receiving(server, coordinator)
        self._receive_phase = ReceivePhase(server, files, parts.extraction, steps)
        self._arrival: Arrival = self._receive_phase
        self._commit_phase = CommitPhase(
            server,
            files,
            coordinator,
            steps,
            rollback,
            parts.environment,
            parts.servers,
            parts.reactor,
        )
        #: Whether staged backups stay after a failure, for the next transfer of the server.
        self._keeps_backups = False
        self._upload: IncomingUpload | None = None
        self._group: UploadGroup | None = None
        steps.count = lambda: self._arrival.meter.done

    def begin_after(self, previous: IncomingTransfer) -> None:
        """Begin when `previous`, which has failed, is cleaned up."""
        self._previous_over = when_fired(previous.over)

    async def run(self, upload: IncomingUpload, group: UploadGroup) -> None:
        """Receive the server by the first upload of `group` and the others in it.

        Raises the `WingsdError` that the sender is to read.
        """
        self._upload, self._group = upload, group
        upload.when_gone(self._on_sender_gone)
        group.when_failed(self._on_group_failed)
        await self._carry_out(partial(self._receive, upload, group))

    async def resume(self, entry: TransferRecord) -> None:
        """Complete or roll back what an earlier daemon has left unfinished."""
        await self._complete(Remainder(Deferred.fromCoroutine(self._resume(entry))))

    async def _carry_out(self, work: Callable[[Configuration], Awaitable[Remainder]]) -> None:
        """Admit the server and do `work`; raise its failure when it is reported and rolled back.

        The rest is done after that: the sender, which is answered meanwhile, need not wait for a
        Panel that is slow, nor for the deletion of a large tree.
        """
        remainder = Remainder()
        try:
            configuration = await self._admit()
            try:
                remainder = await work(configuration)
            except Exception as error:
                remainder = await self._fail(error)
                raise
        finally:
            Deferred.fromCoroutine(self._complete(remainder))

    async def _complete(self, remainder: Remainder) -> None:
        """Do the rest, and come to the end: `over` fires, whatever is raised."""
        try:
            try:
                await remainder.done
            except Exception as error:
                if not isinstance(error, WingsdError):
                    self._log.failure("{server}: transfer failed unexpectedly", server=self.server)
                await (await self._fail(error)).done
        except Exception:
            self._log.failure(
                "{server}: the failed transfer is not rolled back; the next start of the daemon "
                "does that",
                server=self.server,
            )
        finally:
            try:
                self._steps.leave_open()  # unless it is closed
            finally:
                self.over.callback(None)

    def abort(self, reason: WingsdError, *, verified: bool = False) -> bool:
        """End the transfer if its archive is not verified yet; with `verified`, also later.

        Return whether it ends: one whose success may have been reported continues in any case.
        """
        limit = ReceiveStep.REPORT if verified else ReceiveStep.DURABLE
        if not self._steps.lifecycle.before(limit):
            return False
        self._steps.cancel_scope.cancel(reason)
        if self._upload is not None and self._group is not None:
            self._upload.stop(reason)
            self._group.stop(reason)
        return True

    def release(self, *, keeps: bool) -> bool:
        """End it, since the server is to be deleted here; return whether it ends.

        With `keeps` what has arrived of a move stays.
        """
        return self.abort(TransferCancelled(), verified=True)

    def forget(self) -> bool:
        """End it and remove what has arrived, if it is a seed; return whether it is."""
        return False

    @property
    def progress(self) -> ProgressReport:
        """How far it is; its seconds are those in this daemon."""
        return self._steps.progress(self._arrival.meter, self._arrival.size)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a slot."""
        return self._steps.cancel_scope.is_waiting

    @property
    def has_failed(self) -> bool:
        """Whether it has failed; it may still be cleaning up."""
        return self._steps.lifecycle.step is ReceiveStep.FAILED

    @property
    def has_succeeded(self) -> bool:
        """Whether the server is here, and the Panel has accepted that."""
        return self._steps.lifecycle.step is ReceiveStep.DONE

    @property
    def number(self) -> int | None:
        """Its number in the state database; None where it was not recorded."""
        return self._steps.announcer.transfer

    @property
    def is_receiving(self) -> bool:
        """Whether its archive is still to be received, in whole or in part."""
        return self._steps.lifecycle.before(ReceiveStep.VERIFY)

    @property
    def takes_a_place(self) -> bool:
        """Whether it is one of those of which a node takes so many at a time."""
        return self.is_receiving

    @property
    def has_arrived(self) -> bool:
        """Whether the server is here, and only the Panel may not have heard of it."""
        return self._commit_phase.may_be_reported

    @property
    def gives_way(self) -> bool:
        """Whether it ends for a later transfer of the server, and without a report."""
        return False

    def give_way(self) -> None:
        """End it for a later transfer of the server; see `gives_way`."""

    @property
    def is_answered(self) -> bool:
        """Whether the Panel has answered that the server is here, or is not to be."""
        return self._commit_phase.is_answered

    def _on_sender_gone(self) -> None:
        # It can no longer be answered, and every sender then keeps the server as its own.
        self.abort(
            UploadTruncated("the sender disconnected before the answer", "send the server again"),
            verified=True,
        )

    def _on_group_failed(self, error: WingsdError) -> None:
        # Before, it is raised where the group is awaited, and so reported.
        if not self._steps.lifecycle.before(ReceiveStep.RECEIVE):
            self.abort(error, verified=True)

    # The steps

    async def _admit(self) -> Configuration:
        """Ask about the server. Nothing has begun: a failure here is not reported."""
        try:
            await self._steps.cancel_scope.wait(self._previous_over)
            asking = Deferred.fromCoroutine(self.coordinator.admit())
            configuration = await self._steps.cancel_scope.wait(asking)
            # Before the archive is received: its container could not be made of these.
            check_variables(configuration.settings)
            self._servers.admit(configuration, HOLD)
        except Exception as error:
            self._log.warn(
                "{server}: transfer refused: {code}: {error}",
                server=self.server,
                code=error_code(error),
                error=error,
            )
            raise
        self._rollback.add(self._forget)
        return configuration

    async def _receive(
        self, upload: IncomingUpload, group: UploadGroup, configuration: Configuration
    ) -> Remainder:
        steps, scope = self._steps, self._steps.cancel_scope
        await self._begin()
        pooled = await self._is_in_pool(upload)
        received = await self._receive_phase.receive(
            upload, group, configuration.settings, pooled=pooled
        )

        await steps.enter(ReceiveStep.VERIFY)
        received.verify()

        await steps.enter(ReceiveStep.DURABLE)
        await scope.wait(Deferred.fromCoroutine(self._files.flush(pooled=pooled)))
        self._receive_phase.log_figures(received)

        server = self._servers.get(self.server)
        return await self._commit_phase.run(server, configuration, received.unpacked_bytes)

    async def _begin(self) -> None:
        """Record the transfer, and what a later daemon needs; see that the engine can have it."""
        self.coordinator.begin()
        # First: a move that is recorded is never without what a later daemon needs for it.
        await self.coordinator.save()
        await self._record()
        await self._steps.cancel_scope.wait(Deferred.fromCoroutine(self._check_engine()))

    async def _record(self) -> None:
        await self._steps.begin()

    async def _check_engine(self) -> None:
        """See `require_name`."""
        await require_name(self._environment, self.server)

    async def _is_in_pool(self, upload: IncomingUpload) -> bool:
        """Return whether the files are here, in a storage pool that the sender has as well."""
        if self.coordinator.is_direct:
            return False
        if not await self._files.is_in_pool(upload.pool, upload.mark):
            return False
        pool = self._files.pool
        await self._steps.save_terms(pool)
        self._servers.share(self.server, pool)
        self._steps.announcer.say(f"its files are here, in the storage pool {pool}")
        self._commit_phase.mark = upload.mark
        return True

    # After a restart

    async def _ask_until_answered(self) -> tuple[bool, Configuration]:
        """Return whether the server has moved here, and its description."""
        while True:
            try:
                return await self.coordinator.recheck()
            except ServerNotFound:
                raise
            except PanelError as error:
                self._log.warn(
                    "{server}: the outcome of its transfer is not known yet: {error}",
                    server=self.server,
                    error=error,
                )
            await self._steps.cancel_scope.wait(deferLater(self._reactor, PAUSE))

    async def _resume(self, entry: TransferRecord) -> None:
        steps, step = self._steps, ReceiveStep[entry.step]
        steps.resume(entry, step)
        self._commit_phase.environment_begun = not steps.lifecycle.before(ReceiveStep.ENVIRONMENT)
        if step is ReceiveStep.FAILED:
            await self._clean_up()
        else:
            await (await self._resume_commit()).done

    async def _resume_commit(self) -> Remainder:
        lifecycle, pool = self._steps.lifecycle, self._steps.pool
        if lifecycle.before(ReceiveStep.SWAP):
            raise DaemonRestarted
        if not pool:
            self._files.roll_back_files()
        self._files.roll_back_backups()
        if pool and lifecycle.before(ReceiveStep.REPORT):
            # A Pelican source whose connection has ended takes the files as its own again, and
            # deletes them when the Panel then hears of a success.
            raise DaemonRestarted
        self._rollback.add(self._vacate)
        # Looked for first: it may be reported, and forgotten, while the Panel is asked.
        was_queued = self.coordinator.is_success_queued
        is_here, configuration = await self._ask_until_answered()
        if pool and not (is_here or was_queued):
            raise DaemonRestarted
        self._commit_phase.was_reported = is_here or was_queued
        if is_here:
            server = self._servers.get_or_add(configuration)
        else:
            server = self._servers.admit(configuration, HOLD)
            self._rollback.add(self._forget)
        if pool:
            self._servers.share(self.server, pool)
        return await self._commit_phase.run(server, configuration)

    # Failure

    async def _fail(self, error: Exception) -> Remainder:
        """Report the failure and roll back; return the clean-up that remains."""
        steps, commit = self._steps, self._commit_phase
        steps.fail(error)
        if commit.may_be_reported or steps.lifecycle.over:
            # An internal error: the callback queue continues, and no data is touched.
            return Remainder()
        # Reported first, since the Panel's users wait for it, and a daemon that has to end must
        # not leave it out; the server may be used at its source again in any case.
        if not commit.is_unwanted:
            is_known = steps.cancel_scope.reason is not None or isinstance(error, UploadTruncated)
            self._rollback.add(partial(self.coordinator.report_failure, is_known=is_known))
        await self._rollback.run()
        # From here on what is left must not be taken for a server; a later daemon removes it too.
        await steps.enter_if_open(ReceiveStep.FAILED)
        return Remainder(Deferred.fromCoroutine(self._clean_up()))

    async def _vacate(self) -> None:
        await self._files.vacate(pooled=self._steps.pool != "", inode=self._steps.inode)

    def _leftovers(self) -> RollbackList:
        """Return what removes what may still be here."""
        leftovers = RollbackList(self.server)
        if self._commit_phase.environment_begun:
            leftovers.add(lambda: self._environment.remove(self.server))
        leftovers.add(self._files.discard_files)
        if not self._keeps_backups:
            leftovers.add(self._files.discard_backups)
        return leftovers

    async def _clean_up(self) -> None:
        await self._leftovers().run()
        self._steps.close()
        self._log.info("{server}: the failed transfer is cleaned up", server=self.server)

    async def _forget(self) -> None:
        self._servers.discard(self.server)
