"""Receiving, the second half: a server that is whole and durable becomes this node's.

Read `CommitPhase.run` from top to bottom: put the files into place, make the environment, report
to the Panel. A transfer that the end of an earlier daemon has interrupted is resumed here.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from wingsd.backups.local import Backup
from wingsd.callbacks import PendingReport
from wingsd.docker import Environment
from wingsd.panel.schemas import Configuration
from wingsd.servers import Server, Servers
from wingsd.servers.operations import Hold, Operation
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.errors import ContainerNameTaken, TransferRevoked
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import ReceiveStep, RollbackList
from wingsd.transfers.storage.incoming import ArrivingServer

__all__ = ["CommitPhase", "Remainder", "require_name"]

#: Seconds that a sender waits for a Panel that does not answer. The data is safe by then, and the
#: Panel gets a report.
PATIENCE = 30.0
#: Why the server cannot be started meanwhile.
NOT_REPORTED = "the server has arrived, and the Panel has not heard of it yet"


@attrs.frozen(eq=False, repr=False)
class Remainder:
    """The work of a transfer that is left after the answer to its sender.

    `done` fires at its end, or fails with the `WingsdError` that the transfer fails with.
    """

    done: Deferred[None] = attrs.field(factory=lambda: succeed(None))


async def require_name(environment: Environment, server: str) -> None:
    """Raise `Conflict` where another node's container on the engine has the server's name.

    A node of Pterodactyl's or Pelican's keeps its own until all of the server has moved, and this
    node's could not be made then. Raises `EnvironmentFailed` when the engine is silent.
    """
    conflict = await environment.name_conflict(server)
    if conflict:
        raise ContainerNameTaken(
            "the server cannot have a container on this node",
            f"{conflict}. Give each node an engine of its own; or stop the server, remove "
            "that container (docker rm), which its node makes again before a start, and send "
            "the server again",
        )


class CommitPhase:
    """Commits one server. How each change is undone is added to `rollback`."""

    def __init__(
        self,
        server: str,
        files: ArrivingServer,
        coordinator: ReceivingCoordinator,
        steps: StepLog[ReceiveStep],
        rollback: RollbackList,
        environment: Environment,
        servers: Servers,
        reactor: IReactorTime,
    ) -> None:
        self._server = server
        self._files = files
        self._coordinator = coordinator
        self._steps = steps
        self._rollback = rollback
        self._environment = environment
        self._servers = servers
        self._reactor = reactor
        #: Whether the Panel may know that the server is here: nothing is rolled back then.
        self.may_be_reported = False
        #: Whether the Panel has answered that it does not want the server here: it needs no report
        #: of the failure then.
        self.is_unwanted = False
        #: Whether there may be a container of the server.
        self.environment_begun = False
        #: Whether an earlier daemon has reported the success: what is in place is the server.
        self.was_reported = False
        #: Whether it is started when the Panel has accepted it, and a container of it was made on
        #: trial just now. The start makes that one, with the addresses that it has here.
        self.is_to_start = False
        #: What the sender has left in the storage pool.
        self.mark = ""
        self._success: PendingReport | None = None
        self._backups: list[Backup] = []

    async def run(
        self, server: Server, configuration: Configuration, size: int | None = None
    ) -> Remainder:
        """Make the server this node's; return when the sender may have its answer.

        `size` is how many bytes its files have, None where they are to be measured. What is left
        to do is done when the Panel has heard of it, and fails with `TransferRevoked` when it does
        not want the server here. Raises `TransferRevoked` too, and whatever a step fails with.
        """
        await self._put_into_place()
        server.files.received(size)
        await self._make_environment(configuration)
        return await self._report(server)

    @property
    def is_answered(self) -> bool:
        """Whether the Panel has answered the report of the success."""
        return self._success is not None and self._success.is_answered

    def _is_before(self, step: ReceiveStep) -> bool:
        return self._steps.lifecycle.before(step)

    async def _put_into_place(self) -> None:
        files, pooled = self._files, self._steps.pool != ""
        if self._is_before(ReceiveStep.SWAP):
            if not pooled:
                # By this a later daemon recognizes the files in the server's place.
                await self._steps.save_terms(inode=await files.inode())
            await self._steps.enter(ReceiveStep.SWAP)
        files.roll_back_backups()
        if not pooled:
            await files.swap(None if self.was_reported else self._steps.inode)
        elif self._is_before(ReceiveStep.REPORT):
            # Again: the sender may have taken long to send the attachments.
            await files.check_pool(self.mark)
        self._backups = await files.place_backups()

    async def _make_environment(self, configuration: Configuration) -> None:
        if self._is_before(ReceiveStep.ENVIRONMENT):
            await self._steps.enter(ReceiveStep.ENVIRONMENT)
        # Set before: an engine that is no longer waited for may still make the container.
        self.environment_begun = True
        if self._is_before(ReceiveStep.REPORT):
            work = self._try_or_create(configuration)
            await self._steps.cancel_scope.wait(Deferred.fromCoroutine(work))

    async def _try_or_create(self, configuration: Configuration) -> None:
        if self.is_to_start:
            await require_name(self._environment, self._server)
        else:
            await self._environment.create(configuration.settings)

    async def _report(self, server: Server) -> Remainder:
        if self._is_before(ReceiveStep.REPORT):
            await self._steps.enter(ReceiveStep.REPORT)
        report = await self._coordinator.report_success(self._backups)
        self._success = report
        # The Panel may delete the source's copy as soon as this is sent. From here on nothing is
        # rolled back, whatever happens, unless the Panel has plainly refused.
        self._rollback.clear()
        self.may_be_reported = True
        self._files.finish()
        while not await report.answered_within(PATIENCE, self._reactor):
            # A Panel that denies the transfer does answer: it soon decides.
            if not self._coordinator.is_denied:
                break
        if report.is_answered:
            await self._conclude(server, report)
            return Remainder()
        server.operations.hold = Hold(Operation.TRANSFER_IN, NOT_REPORTED)
        self._steps.announcer.warn(
            "the Panel does not answer; the report is sent as soon as it does"
        )
        return Remainder(Deferred.fromCoroutine(self._conclude(server, report)))

    async def _conclude(self, server: Server, report: PendingReport) -> None:
        if not await report.accepted():
            self.may_be_reported, self.is_unwanted = False, True
            self._rollback.add(self._files.restore)
            self._rollback.add(self._store_away)
            raise TransferRevoked
        await self._files.publish()
        self._servers.unshare(self._server)
        self._steps.advance(ReceiveStep.DONE)
        self._steps.close()
        server.release()
        if not self.is_to_start or self._coordinator.is_direct:
            # a start asks the Panel, too, for its settings
            await self._coordinator.complete(server)

    async def _store_away(self) -> None:
        # The received files are whole, so they are not deleted at once.
        self._servers.discard(self._server)
        await self._files.store_away(pooled=self._steps.pool != "", inode=self._steps.inode)
