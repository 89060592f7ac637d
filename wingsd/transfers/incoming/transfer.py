"""The transfer of one server to this node: its steps up to the Panel's answer, and its rollback.

A server arrives as `uploads` and `moves` say. `_commit` then puts a server that is whole
and durable into place, makes its environment and reports to the Panel. Each step that changes
something adds to the rollback how that is undone. An error in any step ends in `_fail`: it is
reported, rolled back, and raised again for the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.archive.quota import ArchiveLimits
from wingsd.backups.received import ReceivedBackups
from wingsd.backups.store import Backup
from wingsd.callbacks import PendingReport
from wingsd.config import TransfersConfig
from wingsd.docker.container import check_variables
from wingsd.docker.runtime import ContainerRuntime
from wingsd.errors import (
    ContainerNameTaken,
    DaemonRestarted,
    PanelError,
    ServerNotFound,
    StorageError,
    TransferCancelled,
    TransferRevoked,
    UploadTruncated,
    WingsdError,
    error_code,
)
from wingsd.histories import HistoriesOnDemand
from wingsd.panel.schemas import Configuration
from wingsd.servers import Server, Servers
from wingsd.servers.operations import Hold, Operation
from wingsd.statedb import TransferRecord
from wingsd.threadio import Feed, Workers
from wingsd.transfers.cancellation import SharedSlots
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.outgoing.left_backups import LeftBackups
from wingsd.transfers.steps import (
    ProgressMeter,
    ProgressReport,
    ReceiveStep,
    RollbackList,
    StepLog,
    StepLogs,
)
from wingsd.transfers.storage.quarantine import Quarantine
from wingsd.transfers.storage.shared_volume import Volume
from wingsd.transfers.storage.staging import InstallLogs, PartialCopies, Staging, WriteBack
from wingsd.util.reactor import ThreadedReactor

P = ParamSpec("P")
T = TypeVar("T")

#: Why the server cannot be started meanwhile.
HOLD = "the server is being transferred to this node"
NOT_REPORTED = "the server has arrived, and the Panel has not heard of it yet"
#: Seconds between two questions to a Panel that does not answer, after a restart.
PAUSE = 15.0
#: Seconds that a sender waits for a Panel that does not answer. The data is safe by then, and the
#: Panel gets a report.
PATIENCE = 30.0
_MIB = 1 << 20


@attrs.frozen(eq=False, repr=False)
class IncomingParts:
    """The collaborators of transfers to this node, and its directories for arriving servers."""

    step_logs: StepLogs
    staging: Staging
    backups: ReceivedBackups
    logs: InstallLogs
    volume: Volume
    quarantine: Quarantine
    copies: PartialCopies
    #: Threads for short and for long work on the disk. All that is done with `copies` is long:
    #: they are locked while one of them is removed.
    disk: Workers
    long: Workers
    write_back: WriteBack
    environment: ContainerRuntime
    servers: Servers
    reactor: ThreadedReactor
    #: Extract archives, and write what arrives of moves.
    workers: Workers
    #: Read back what has arrived of moves, behind that.
    rereaders: Workers
    #: As many as `workers` has threads. A transfer without a slot is not read from yet.
    slots: SharedSlots
    #: The user and group id of all files.
    owner: tuple[int, int]
    #: What one archive may take of this node; a server's own disk limit is added.
    limits: ArchiveLimits
    config: TransfersConfig
    histories: HistoriesOnDemand
    #: What servers have left here, also those that come back.
    left_backups: LeftBackups


class IncomingUpload(Protocol):
    """An upload whose body is not read before `deliver`. `size` is its bytes, 0 if not known.

    `pool` is the storage pool of the sender, and `mark` what it has left there; empty without.
    """

    content_type: str
    user_agent: str
    size: int
    pool: str
    mark: str

    def deliver(self, consumer: Feed) -> None:
        """Write the body to `consumer` from now on; `finish` or `fail` ends it.

        Its `write` and `finish` raise `WingsdError` where the body is not valid or not complete.
        Raises what `stop` was given before.
        """

    def stop(self, error: WingsdError) -> None:
        """Read no further, for the reason `error`."""

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call back when the sender disconnects while its body is not being read."""


#: The work of a transfer that is left after the answer to its sender. It fires at its end, or
#: fails with the `WingsdError` that the transfer fails with.
Remainder = Deferred[None]


@attrs.define(eq=False, repr=False, slots=False)
class IncomingTransfer:
    """The transfer of one server to this node."""

    _log = Logger()

    server: str
    coordinator: ReceivingCoordinator
    _parts: IncomingParts
    #: Counts what has arrived.
    meter: ProgressMeter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        server, parts = self.server, self._parts
        #: Fires when the transfer is over, whatever its outcome, and all is cleaned up. That the
        #: Panel hears of a failure is the callback queue's task.
        self.over: Deferred[None] = Deferred()
        #: Fires when an earlier transfer of the server is cleaned up, for which this one waits.
        self.previous_over: Deferred[None] = succeed(None)
        self._environment = parts.environment
        self._servers = parts.servers
        self._reactor = parts.reactor
        self._rollback = RollbackList(server)
        #: The path of what was in the server's place before, which is renamed meanwhile.
        self._aside: str | None = None
        self._steps = StepLog(server, ReceiveStep, parts.step_logs, self.coordinator)
        self._steps.count = lambda: self.meter.done
        #: Whether staged backups stay after a failure, for the next transfer of the server.
        self._keeps_backups = False
        #: Whether the Panel may know that the server is here: nothing is rolled back then.
        self.has_arrived = False
        #: Whether the Panel has answered that it does not want the server here: it needs no report
        #: of the failure then.
        self._is_unwanted = False
        #: Whether there may be a container of the server.
        self._environment_begun = False
        #: Whether an earlier daemon has reported the success: what is in place is the server.
        self._was_reported = False
        #: Whether it is started when the Panel has accepted it, and a container of it was made on
        #: trial just now. The start makes that one, with the addresses that it has here.
        self._is_to_start = False
        #: What the sender has left in the storage pool.
        self._mark = ""
        self._success: PendingReport | None = None

    @property
    def size(self) -> int:
        """The number of bytes that are expected, 0 where that is not known."""
        raise NotImplementedError

    async def resume(self, entry: TransferRecord) -> None:
        """Complete or roll back what an earlier daemon has left unfinished."""
        await self._complete(Deferred.fromCoroutine(self._resume(entry)))

    async def _carry_out(self, work: Callable[[Configuration], Awaitable[Remainder]]) -> None:
        """Admit the server and do `work`; raise its failure when it is reported and rolled back.

        The rest is done after that: the sender, which is answered meanwhile, need not wait for a
        Panel that is slow, nor for the deletion of a large tree.
        """
        remainder: Remainder = succeed(None)
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
                await remainder
            except Exception as error:
                if not isinstance(error, WingsdError):
                    self._log.failure("{server}: transfer failed unexpectedly", server=self.server)
                await (await self._fail(error))
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
        if not self._steps.before(limit):
            return False
        self._steps.cancel_scope.cancel(reason)
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
        """Its progress; the seconds are those in this daemon."""
        return self._steps.progress(self.meter, self.size)

    @property
    def is_waiting(self) -> bool:
        """True while it waits for a slot."""
        return self._steps.cancel_scope.is_waiting

    @property
    def has_failed(self) -> bool:
        """True if it has failed; it may still be cleaning up."""
        return self._steps.current is ReceiveStep.FAILED

    @property
    def number(self) -> int | None:
        """Its number in the state database if it has succeeded, None otherwise."""
        return self._steps.number if self._steps.current is ReceiveStep.DONE else None

    @property
    def is_receiving(self) -> bool:
        """True while its archive is still to be received, in whole or in part."""
        return self._steps.before(ReceiveStep.VERIFY)

    @property
    def takes_a_place(self) -> bool:
        """True while it counts among the transfers that a node limits."""
        return self.is_receiving

    @property
    def gives_way(self) -> bool:
        """True if it ends for a later transfer of the server, and without a report."""
        return False

    def give_way(self) -> None:
        """End it for a later transfer of the server; see `gives_way`."""

    @property
    def is_answered(self) -> bool:
        """True if the Panel has answered that the server is here, or is not to be."""
        return self._success is not None and self._success.is_answered

    # The steps

    async def _admit(self) -> Configuration:
        """Ask about the server. Nothing has begun: a failure here is not reported."""
        try:
            await self._steps.cancel_scope.wait(self.previous_over)
            asking = Deferred.fromCoroutine(self.coordinator.admit())
            configuration = await self._steps.cancel_scope.wait(asking)
            # Before the archive is received: its container could not be made of these.
            check_variables(configuration.settings)
            self._claim(configuration)
        except Exception as error:
            self._log.warn(
                "{server}: transfer refused: {error}",
                server=self.server,
                code=error_code(error),
                error=error,
            )
            raise
        return configuration

    def _claim(self, configuration: Configuration) -> None:
        """Make the server this node's, held. Raises `ServerAlreadyExists`."""
        self._servers.admit(configuration, HOLD)
        self._rollback.add(self._forget)

    async def _begin(self, record: Callable[[str], Awaitable[int]] | None = None) -> None:
        """Record the transfer, and what its recovery needs; see `StepLog.begin`."""
        # First: a move that is recorded is never without what its recovery needs.
        await self.coordinator.begin()
        await self._steps.begin(record)

    async def _require_name(self) -> None:
        """Raise `ContainerNameTaken` where another node's container on the engine has its name.

        A node of Pterodactyl's or Pelican's keeps its own until all of the server has moved, and
        this node's could not be made then. Raises `EnvironmentFailed` when the engine is silent.
        """
        conflict = await self._environment.name_conflict(self.server)
        if conflict:
            raise ContainerNameTaken(
                "the server cannot have a container on this node",
                f"{conflict}. Give each node an engine of its own; or stop the server, remove "
                "that container (docker rm), which its node makes again before a start, and send "
                "the server again",
            )

    def _log_received(self, size: int, files: int, backups: int) -> None:
        """Log how much has arrived, and how fast."""
        seconds = self.meter.seconds
        self._log.info(
            "{server}: received {bytes} bytes, {files} files, {backups} backups, {seconds:.1f} s, "
            "{rate:.1f} MiB/s",
            server=self.server,
            bytes=size,
            files=files,
            backups=backups,
            seconds=seconds,
            rate=size / _MIB / max(seconds, 0.001),
        )

    # The disk, in a thread. Everything raises `StorageError`

    async def _run(
        self, work: Callable[Concatenate[str, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._parts.disk.run(work, self.server, *args, **kwargs)

    async def _run_long(self, work: Callable[[str], T]) -> T:
        return await self._parts.long.run(work, self.server)

    async def _flush(self) -> None:
        """Return when all that is staged is on stable storage: not so files in a pool."""
        if not self._steps.pool:
            await self._run_long(self._parts.staging.flush)
        await self._run_long(self._parts.backups.flush)

    # The commit

    async def _commit(
        self, server: Server, configuration: Configuration, size: int | None = None
    ) -> Remainder:
        """Make the server this node's; return when the sender may have its answer.

        `size` is how many bytes its files have, None where they are to be measured. What is left
        to do is done when the Panel has heard of it, and fails with `TransferRevoked` when it does
        not want the server here. Raises `TransferRevoked` too, and whatever a step fails with.
        """
        backups = await self._put_into_place()
        server.files.received(size)
        await self._make_environment(configuration)
        return await self._report(server, backups)

    async def _put_into_place(self) -> list[Backup]:
        """Put all that is staged into place; return the backups."""
        parts, pooled = self._parts, self._steps.pool != ""
        if self._steps.before(ReceiveStep.SWAP):
            if not pooled:
                # By this the recovery recognizes the files in the server's place.
                await self._steps.save_terms(inode=await self._run(parts.staging.inode))
            await self._steps.enter(ReceiveStep.SWAP)
        # On failure the backups are taken back that this daemon or an earlier one puts into place.
        self._rollback.add(partial(self._run, self._parts.backups.take_back))
        if not pooled:
            await self._swap()
        elif self._steps.before(ReceiveStep.REPORT):
            # Again: the sender may have taken long to send the attachments.
            await self._run(parts.volume.check, self._mark)
        # Raises `Conflict` where others are in their places.
        return await self._run(parts.backups.place)

    async def _swap(self) -> None:
        """Put the files into place; an earlier daemon may have done so, with that inode.

        Raises `DaemonRestarted` where they are neither staged nor in place: an earlier daemon has
        rolled back the transfer, and ended before it could record that. Raises `Conflict` where
        another node's may be in their place.
        """
        staging, inode = self._parts.staging, None if self._was_reported else self._steps.inode
        if await self._run(staging.holds):
            await self._free_place()
            await self._run(staging.swap)
        elif not await self._run(staging.is_in_place, inode):
            raise DaemonRestarted
        self._rollback.add(partial(self._run, staging.undo_swap))

    async def _free_place(self) -> None:
        parts = self._parts
        if parts.volume.pool:
            # It may be another node's by now, and in use.
            await self._run(parts.volume.require_free)
            return
        self._aside = await self._run(parts.staging.set_aside)
        if self._aside is None:
            return
        self._rollback.add(self._restore)
        self._log.warn(
            "{server}: the directory in its place was not a server of this node; it is now "
            "{aside}",
            server=self.server,
            aside=self._aside,
        )

    async def _restore(self) -> None:
        """Put back what was in the server's place before."""
        if self._aside is not None:
            await self._run(self._parts.staging.restore, self._aside)

    async def _make_environment(self, configuration: Configuration) -> None:
        if self._steps.before(ReceiveStep.ENVIRONMENT):
            await self._steps.enter(ReceiveStep.ENVIRONMENT)
        # Set before: an engine that is no longer waited for may still make the container.
        self._environment_begun = True
        if self._steps.before(ReceiveStep.REPORT):
            work = self._try_or_create(configuration)
            await self._steps.cancel_scope.wait(Deferred.fromCoroutine(work))

    async def _try_or_create(self, configuration: Configuration) -> None:
        if self._is_to_start:
            await self._require_name()
        else:
            await self._environment.create(configuration.settings)

    async def _report(self, server: Server, backups: list[Backup]) -> Remainder:
        if self._steps.before(ReceiveStep.REPORT):
            await self._steps.enter(ReceiveStep.REPORT)
        report = await self.coordinator.report_success(backups)
        self._success = report
        # The Panel may delete the source's copy as soon as this is sent. From here on nothing is
        # rolled back, whatever happens, unless the Panel has plainly refused.
        self._rollback.clear()
        self.has_arrived = True
        self._parts.staging.finish(self.server)
        while not await report.answered_within(PATIENCE, self._reactor):
            # A Panel that denies the transfer does answer: it soon decides.
            if not self.coordinator.is_denied:
                break
        if report.is_answered:
            await self._conclude(server, report)
            return succeed(None)
        server.operations.hold = Hold(Operation.TRANSFER_IN, NOT_REPORTED)
        self._steps.warn("the Panel does not answer; the report is sent as soon as it does")
        return Deferred.fromCoroutine(self._conclude(server, report))

    async def _conclude(self, server: Server, report: PendingReport) -> None:
        if not await report.accepted():
            self.has_arrived, self._is_unwanted = False, True
            self._rollback.add(self._restore)
            # The received files are whole, so they are not deleted at once.
            self._rollback.add(self._quarantine)
            self._rollback.add(self._forget)
            raise TransferRevoked
        await self._publish()
        self._servers.unshare(self.server)
        self._steps.advance(ReceiveStep.DONE)
        self._steps.close()
        self._parts.left_backups.wake()  # what it has left here before may stay
        server.release()
        if not self._is_to_start or self.coordinator.is_direct:
            # a start asks the Panel, too, for its settings
            await self.coordinator.complete(server)

    async def _publish(self) -> None:
        """Finish with the attachments: backups stay in place, the installation log gets there.

        What belongs to the partial copy of a move is removed. The server is here in any case, so
        what fails is only logged.
        """
        parts = self._parts
        for work in (parts.backups.publish, parts.logs.publish, parts.copies.finish):
            try:
                await self._run_long(work)
            except StorageError as error:
                self._log.error(
                    "{server}: attachments not stored: {error}", server=self.server, error=error
                )
            except Exception:
                self._log.failure("{server}: storing its attachments failed", server=self.server)

    async def _quarantine(self) -> None:
        """Put what is in place into quarantine."""
        steps, quarantine = self._steps, self._parts.quarantine
        await quarantine.store_away(self.server, pooled=steps.pool != "", inode=steps.inode)

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
        self._environment_begun = not steps.before(ReceiveStep.ENVIRONMENT)
        if step is ReceiveStep.FAILED:
            await self._clean_up()
        else:
            await (await self._resume_commit())

    async def _resume_commit(self) -> Remainder:
        steps, pool = self._steps, self._steps.pool
        if steps.before(ReceiveStep.SWAP):
            raise DaemonRestarted
        if not pool:
            self._rollback.add(partial(self._run_long, self._parts.staging.withdraw))
        # On failure the backups are taken back that this daemon or an earlier one puts into place.
        self._rollback.add(partial(self._run, self._parts.backups.take_back))
        if pool and steps.before(ReceiveStep.REPORT):
            # A Pelican source whose connection has ended takes the files as its own again, and
            # deletes them when the Panel then hears of a success.
            raise DaemonRestarted
        self._rollback.add(self._vacate)
        # Looked for first: it may be reported, and forgotten, while the Panel is asked.
        was_queued = self.coordinator.is_success_queued
        is_here, configuration = await self._ask_until_answered()
        if pool and not (is_here or was_queued):
            raise DaemonRestarted
        self._was_reported = is_here or was_queued
        if is_here:
            server = self._servers.get_or_add(configuration)
        else:
            server = self._servers.admit(configuration, HOLD)
            self._rollback.add(self._forget)
        if pool:
            self._servers.share(self.server, pool)
        return await self._commit(server, configuration)

    # Failure

    async def _fail(self, error: Exception) -> Remainder:
        """Report the failure and roll back; return the clean-up that remains."""
        steps = self._steps
        steps.fail(error)
        if self.has_arrived or steps.over:
            # An internal error: the callback queue continues, and no data is touched.
            return succeed(None)
        # Reported first, since the Panel's users wait for it, and a daemon that has to end must
        # not leave it out; the server may be used at its source again in any case.
        if not self._is_unwanted:
            is_known = steps.cancel_scope.reason is not None or isinstance(error, UploadTruncated)
            self._rollback.add(partial(self.coordinator.report_failure, is_known=is_known))
        await self._rollback.run()
        # From here on what is left must not be taken for a server; the recovery removes it too.
        await steps.enter_if_open(ReceiveStep.FAILED)
        return Deferred.fromCoroutine(self._clean_up())

    def _leftovers(self) -> RollbackList:
        """Return what removes what may still be here."""
        leftovers = RollbackList(self.server)
        if self._environment_begun:
            leftovers.add(lambda: self._environment.remove(self.server))
        leftovers.add(partial(self._run_long, self._parts.staging.discard))
        if not self._keeps_backups:
            leftovers.add(partial(self._run_long, self._parts.backups.discard))
        return leftovers

    async def _vacate(self) -> None:
        """Put into quarantine what an earlier daemon has put into place.

        It may have been reported to the Panel, and the source have deleted its own.
        """
        staging = self._parts.staging
        if await self._run(staging.holds):
            return
        if await self._run(staging.is_in_place, self._steps.inode):
            await self._quarantine()

    async def _clean_up(self) -> None:
        await self._leftovers().run()
        self._steps.close()
        self._log.info("{server}: the failed transfer is cleaned up", server=self.server)

    async def _forget(self) -> None:
        self._servers.discard(self.server)
