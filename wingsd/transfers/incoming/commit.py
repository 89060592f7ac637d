"""The second half of receiving: a server that is whole and durable becomes this node's.

Read `Arrival.complete` from top to bottom: swap into place, environment, the Panel's word. It is
also where a transfer goes on that was cut off by the end of an earlier daemon.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from wingsd.backups.attachments import Backup
from wingsd.config import CALAGOPUS
from wingsd.errors import StorageError
from wingsd.panel.schemas import Configuration
from wingsd.servers import Server
from wingsd.transfers.cancellation import fires_within
from wingsd.transfers.collaborators import ReceivingCollaborators
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.errors import DaemonRestarted, TransferRevoked
from wingsd.transfers.step_log import StepLog
from wingsd.transfers.steps import ReceiveStep, RollbackList

__all__ = ["Arrival"]

#: Seconds that a sender waits for a Panel that does not answer. The data is safe by then, and
#: will be told.
PATIENCE = 30.0
#: Why the server cannot be started meanwhile.
NOT_TOLD = "the server has arrived, and the Panel has not heard of it yet"


class Arrival:
    """One server that has come whole. What it does is added to `undo`."""

    _log = Logger()

    def __init__(
        self,
        server: str,
        means: ReceivingCollaborators,
        authority: ReceivingCoordinator,
        course: StepLog[ReceiveStep],
        undo: RollbackList,
    ) -> None:
        self._server = server
        self._means = means
        self._authority = authority
        self._course = course
        self._undo = undo
        #: Whether the Panel may know the server to be here: nothing is undone then.
        self.may_be_told = False
        #: Whether the Panel has said that no transfer brings it here: a failure is no news then.
        self.is_unwanted = False
        #: Whether there may be a container of it.
        self.environment_begun = False
        #: Whether an earlier daemon has told that it is here: what is in its place is the server.
        self.was_told = False
        #: What the sender has left in the storage pool.
        self.mark = ""
        self._backups: list[Backup] = []
        #: Where what stood in the server's place is now.
        self._aside: str | None = None

    async def complete(
        self, server: Server, configuration: Configuration, size: int | None = None
    ) -> Deferred[None]:
        """Make the server this node's; return when the sender may have its answer.

        `size` is how many bytes its files have, None where they are to be measured.
        The Deferred fires when the Panel has heard of it, and fails with `TransferRevoked` when
        it does not want the server here. Raises `TransferRevoked` too, and whatever a step fails
        with.
        """
        await self._take_place()
        server.files.received(size)
        await self._make_environment(configuration)
        return await self._report(server)

    def _begins_before(self, step: ReceiveStep) -> bool:
        return self._course.life.before(step)

    async def _take_place(self) -> None:
        means, name = self._means, self._server
        if self._begins_before(ReceiveStep.SWAP):
            if not self._course.pool:
                # What a later daemon finds in the server's place, it can so tell from all else.
                inode = await means.disk.run(means.staging.inode, name)
                await self._course.note_terms(inode=inode)
            await self._course.enter(ReceiveStep.SWAP)
        # Also what an earlier daemon has put into place.
        self._undo.add(lambda: means.disk.run(means.backups.take_back, name))
        if not self._course.pool:
            await self._swap()
        elif self._begins_before(ReceiveStep.REPORT):
            # Again: the sender may have taken long to send what comes with them.
            await means.disk.run(means.volume.check, name, self.mark)
        self._backups = await means.disk.run(means.backups.place, name)

    async def _swap(self) -> None:
        means, name = self._means, self._server
        inode = None if self.was_told else self._course.inode
        if await means.disk.run(means.staging.holds, name):
            await self._make_room()
            await means.disk.run(means.staging.swap, name)
        elif not await means.disk.run(means.staging.is_in_place, name, inode):
            # Undone already, by a daemon that died before it could write that down.
            raise DaemonRestarted
        self._undo.add(lambda: means.disk.run(means.staging.undo_swap, name))

    async def _make_room(self) -> None:
        means, name = self._means, self._server
        if means.volume.pool:
            # It may be another node's by now, and in use.
            await means.disk.run(means.volume.require_free, name)
            return
        self._aside = await means.disk.run(means.staging.set_aside, name)
        if self._aside is None:
            return
        self._undo.add(self._put_back)
        self._log.warn(
            "{server}: a directory of its name was no server of this node; it is now {aside}",
            server=name,
            aside=self._aside,
        )

    async def _make_environment(self, configuration: Configuration) -> None:
        if self._begins_before(ReceiveStep.ENVIRONMENT):
            await self._course.enter(ReceiveStep.ENVIRONMENT)
        # Noted before: an engine that is given up on may still make the container.
        self.environment_begun = True
        if self._begins_before(ReceiveStep.REPORT):
            creating = self._means.environment.create(configuration.settings)
            await self._course.chain.wait(Deferred.fromCoroutine(creating))

    async def _report(self, server: Server) -> Deferred[None]:
        means, name = self._means, self._server
        if self._begins_before(ReceiveStep.REPORT):
            await self._course.enter(ReceiveStep.REPORT)
        told = await self._authority.tell_success(self._backups_to_tell())
        # The Panel may delete the source's copy as soon as this is sent. From here on nothing is
        # undone, whatever happens, unless the Panel has plainly said no.
        self._undo.clear()
        self.may_be_told = True
        means.staging.settle(name)
        while not await fires_within(told, PATIENCE, means.reactor):
            # A Panel that denies the transfer does answer: what comes of that is soon known.
            if not means.outbox.is_denied(name):
                break
        if told.called:
            await self._conclude(server, told)
            return succeed(None)
        server.hold = NOT_TOLD
        self._course.announcer.warn("the Panel does not answer; it is told as soon as it does")
        return Deferred.fromCoroutine(self._conclude(server, told))

    def _backups_to_tell(self) -> tuple[str, ...] | None:
        """Return the UUIDs that the Panel is told with the success; None where it asks for none.

        Whose Panel it is, is also told by the form of the backups: one Panel has both nodes.
        """
        its = self._means.family == CALAGOPUS
        its = its or any(backup.family == CALAGOPUS for backup in self._backups)
        return tuple(backup.uuid for backup in self._backups) if its else None

    async def _conclude(self, server: Server, told: Deferred[bool]) -> None:
        if not await told:
            self.may_be_told, self.is_unwanted = False, True
            self._undo.add(self._put_back)
            self._undo.add(self._store_away)
            raise TransferRevoked
        await self._settle()
        self._means.servers.unshare(self._server)
        self._course.pass_on(ReceiveStep.DONE)
        self._course.close()
        server.release()
        await self._authority.welcome(server)

    async def _settle(self) -> None:
        """Let what has come with the server be this node's. The server is here in any case."""
        means = self._means
        for settle in (means.backups.settle, means.logs.publish):
            try:
                await means.disk.run(settle, self._server)
            except StorageError as error:
                self._log.error("{server}: {error}", server=self._server, error=error)
            except Exception:
                self._log.failure("{server}: a mistake", server=self._server)

    async def _put_back(self) -> None:
        if self._aside is not None:
            means = self._means
            await means.disk.run(means.staging.restore, self._server, self._aside)

    async def _store_away(self) -> None:
        # What came here is whole, so it is not thrown away at once.
        self._means.servers.forget(self._server)
        course = self._course
        await self._means.attic.store_away(
            self._server, pooled=course.pool != "", inode=course.inode
        )
