"""Receiving a server: the chain of steps from an opened upload to the Panel's word.

Read `IncomingTransfer._receive` from top to bottom: receive (`reception`), verify, make durable;
`arrival` has the rest: swap into place, environment, Panel. Each step that changes something
leaves behind how to undo it, and any failure, wherever it comes from, ends in `_fail`: undone,
told, and raised again for the answer.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.docker.container import check_variables
from wingsd.errors import ServerNotFound, WingsdError
from wingsd.panel.errors import PanelError
from wingsd.panel.schemas import Configuration
from wingsd.statedb import TransferRecord
from wingsd.transfers.collaborators import ReceivingCollaborators
from wingsd.transfers.coordinator import ReceivingCoordinator
from wingsd.transfers.errors import ContainerNameTaken, DaemonRestarted, UploadTruncated
from wingsd.transfers.incoming.commit import Arrival
from wingsd.transfers.incoming.receive import Reception
from wingsd.transfers.incoming.uploads import ALONE, IncomingUpload, SiblingUploads
from wingsd.transfers.pool_negotiation import finds_files
from wingsd.transfers.step_log import Progress
from wingsd.transfers.steps import ReceiveStep, RollbackList

__all__ = ["IncomingTransfer"]

#: Why the server cannot be started meanwhile.
HOLD = "the server is being transferred to this node"
#: Seconds between two questions to a Panel that does not answer, after a restart.
PAUSE = 15.0


class IncomingTransfer:
    """One server on its way to this node; it begins when `after` has fired."""

    _log = Logger()

    def __init__(
        self,
        server: str,
        means: ReceivingCollaborators,
        authority: ReceivingCoordinator,
        after: Deferred[None],
    ) -> None:
        self.server = server
        self.authority = authority
        #: Fires when the transfer is over, whichever way, and all is tidied up. The outbox sees to
        #: it that the Panel hears of a failure.
        self.over: Deferred[None] = Deferred()
        self._after = after
        self._means = means
        self._course = means.step_logs.receiving(server, authority)
        self._undo = RollbackList(server)
        self._reception = Reception(server, means, self._course, self._undo)
        self._course.count = lambda: self._reception.meter.done
        self._arrival = Arrival(server, means, authority, self._course, self._undo)
        self._upload: IncomingUpload | None = None
        self._others: SiblingUploads = ALONE

    async def run(self, upload: IncomingUpload, others: SiblingUploads = ALONE) -> None:
        """Receive the server. Raises the `WingsdError` that the sender is to read."""
        self._upload, self._others = upload, others
        upload.when_gone(self._sender_gone)
        others.when_failed(self._stream_failed)
        rest: Deferred[None] = succeed(None)
        try:
            configuration = await self._admit()
            try:
                rest = await self._receive(upload, configuration)
            except Exception as error:
                rest = await self._fail(error)
                raise
        finally:
            # The sender has its answer meanwhile: neither a Panel that is slow nor a large tree
            # that has to go is its concern.
            self._go_on(rest)

    async def resume(self, entry: TransferRecord) -> None:
        """Bring to its end, well or not, what an earlier daemon did not."""
        step = ReceiveStep[entry.step]
        self._course.resume(entry, step)
        self._arrival.environment_begun = not self._course.life.before(ReceiveStep.ENVIRONMENT)
        if step is ReceiveStep.FAILED:
            self._go_on(Deferred.fromCoroutine(self._tidy_up()))
            return
        try:
            rest = await self._arrive()
        except Exception as error:
            rest = await self._fail(error)
        self._go_on(rest)

    def _go_on(self, rest: Deferred[None]) -> None:
        Deferred.fromCoroutine(self._see_it_through(rest))

    async def _see_it_through(self, rest: Deferred[None]) -> None:
        try:
            try:
                await rest
            except WingsdError as error:
                await (await self._fail(error))
        except Exception:
            self._log.failure("{server}: a mistake", server=self.server)
        finally:
            self._course.abandon()  # unless it has its end
            self.over.callback(None)

    def give_up(self, reason: WingsdError, *, verified: bool = False) -> bool:
        """End a transfer whose archive is not verified yet; with `verified`, any other too.

        Return whether it ends: one whose success may have been told goes on in any case.
        """
        border = ReceiveStep.REPORT if verified else ReceiveStep.DURABLE
        if not self._course.life.before(border):
            return False
        self._course.chain.interrupt(reason)
        if self._upload is not None:
            self._upload.stop(reason)
            self._others.stop(reason)
        return True

    @property
    def progress(self) -> Progress:
        """How far it is; its seconds are those in this daemon."""
        return self._course.progress(self._reception.meter, self._reception.size)

    @property
    def is_waiting(self) -> bool:
        """Whether others are at work, and it is not its turn yet."""
        return self._course.chain.is_waiting

    @property
    def has_failed(self) -> bool:
        """Whether it has, though its traces may still have to go."""
        return self._course.life.step is ReceiveStep.FAILED

    @property
    def is_receiving(self) -> bool:
        """Whether its archive is still to come, in whole or in part."""
        return self._course.life.before(ReceiveStep.VERIFY)

    @property
    def has_arrived(self) -> bool:
        """Whether the server is here, and only the Panel may not have heard of it."""
        return self._arrival.may_be_told

    def _sender_gone(self) -> None:
        # It can no longer be told, and every sender then takes the server to be still with it.
        self.give_up(
            UploadTruncated("the sender went away before its answer", "send the server again"),
            verified=True,
        )

    def _stream_failed(self, error: WingsdError) -> None:
        # Before, it is raised where the others are waited for: so it comes to be told.
        if not self._course.life.before(ReceiveStep.RECEIVE):
            self.give_up(error, verified=True)

    # The chain

    async def _admit(self) -> Configuration:
        """Ask about the server. Nothing has begun: a failure here is not told."""
        try:
            await self._course.chain.wait(self._after)
            asking = Deferred.fromCoroutine(self.authority.admit())
            configuration = await self._course.chain.wait(asking)
            # Before the archive comes: its container could not be made of these.
            check_variables(configuration.settings)
            self._means.servers.admit(configuration, HOLD)
        except WingsdError as error:
            self._log.warn(
                "{server}: transfer refused: {code}: {error}",
                server=self.server,
                code=error.code,
                error=error,
            )
            raise
        self._undo.add(self._forget)
        return configuration

    async def _receive(
        self, upload: IncomingUpload, configuration: Configuration
    ) -> Deferred[None]:
        means, course = self._means, self._course
        self.authority.begin()
        await course.begin()
        await self.authority.write_down()
        await course.chain.wait(Deferred.fromCoroutine(self._check_engine()))
        pooled = not self.authority.by_hand and await finds_files(self.server, upload, means)
        if pooled:
            await self._join(means.volume.pool, upload.mark)
        received = await self._reception.receive(
            upload, configuration.settings, self._others, pooled=pooled
        )

        await course.enter(ReceiveStep.VERIFY)
        received.verify()

        await course.enter(ReceiveStep.DURABLE)
        if not pooled:
            await course.chain.wait(means.disk.run(means.staging.flush, self.server))
        await course.chain.wait(means.disk.run(means.backups.flush, self.server))
        self._reception.say_figures(received)

        server = means.servers.get(self.server)
        return await self._arrival.complete(server, configuration, received.unpacked_bytes)

    async def _check_engine(self) -> None:
        """Raise `Conflict` where another node's container on the engine has the server's name.

        A node of Pterodactyl's or Pelican's keeps its own until all of the server has moved, and
        this node's could not be made then. Raises `EnvironmentFailed` when the engine is silent.
        """
        conflict = await self._means.environment.name_conflict(self.server)
        if conflict:
            raise ContainerNameTaken(
                "the server cannot have a container on this node",
                f"{conflict}. Give each node an engine of its own; or stop the server, remove "
                "that container (docker rm), which its node makes again before a start, and send "
                "the server again",
            )

    async def _join(self, pool: str, mark: str) -> None:
        """Take the files for those in the storage pool, which the sender has as well."""
        await self._course.note_terms(pool)
        self._means.servers.share(self.server, pool)
        self._course.announcer.say(f"its files are here, in the storage pool {pool}")
        self._arrival.mark = mark

    # After a restart

    async def _ask_until_answered(self) -> tuple[bool, Configuration]:
        """Return whether the server has moved here, and its description."""
        while True:
            try:
                return await self.authority.ask_again()
            except ServerNotFound:
                raise
            except PanelError as error:
                self._log.warn(
                    "{server}: what became of its transfer is not known yet: {error}",
                    server=self.server,
                    error=error,
                )
            await self._course.chain.wait(deferLater(self._means.reactor, PAUSE))

    async def _arrive(self) -> Deferred[None]:
        means = self._means
        if self._course.life.before(ReceiveStep.SWAP):
            raise DaemonRestarted
        pool = self._course.pool
        if not pool:
            self._undo.add(lambda: means.disk.run(means.staging.withdraw, self.server))
        self._undo.add(lambda: means.disk.run(means.backups.take_back, self.server))
        if pool and self._course.life.before(ReceiveStep.REPORT):
            # A Pelican source for which this connection has ended takes the files for its own
            # again, and deletes them when the Panel then hears of a success.
            raise DaemonRestarted
        self._undo.add(self._vacate)
        # Looked for first: it may be told, and forgotten, while the Panel is asked.
        is_told = means.outbox.success_of(self.server) is not None
        ours, configuration = await self._ask_until_answered()
        if pool and not (ours or is_told):
            raise DaemonRestarted
        self._arrival.was_told = ours or is_told
        if ours:
            server = means.servers.get_or_add(configuration)
        else:
            server = means.servers.admit(configuration, HOLD)
            self._undo.add(self._forget)
        if pool:
            means.servers.share(self.server, pool)
        return await self._arrival.complete(server, configuration)

    # What undoes it

    async def _fail(self, error: Exception) -> Deferred[None]:
        """Undo everything, and have it told; return what goes on after that."""
        course, arrival = self._course, self._arrival
        course.fail(error)
        if arrival.may_be_told:
            # A mistake of ours: the outbox goes on, and no data is touched.
            return succeed(None)
        # Told first, since it is what the Panel's users wait for, and what a daemon that has to
        # end must not leave out; the server's place is the source's own again in any case.
        if not arrival.is_unwanted:
            await self.authority.tell_failure()
        await self._undo.run()
        # From here on nobody may take what is left for a server; the next daemon removes it too.
        await course.fall_to(ReceiveStep.FAILED)
        return Deferred.fromCoroutine(self._tidy_up())

    async def _vacate(self) -> None:
        """Let what an earlier daemon has put into place stand there no longer.

        The Panel may have heard of it, and the source have deleted its own: it is kept apart.
        """
        means, course = self._means, self._course
        if await means.disk.run(means.staging.holds, self.server):
            return
        if await means.disk.run(means.staging.is_in_place, self.server, course.inode):
            await means.attic.store_away(self.server, pooled=course.pool != "", inode=course.inode)

    async def _tidy_up(self) -> None:
        means = self._means
        tidy = RollbackList(self.server)
        if self._arrival.environment_begun:
            tidy.add(lambda: means.environment.remove(self.server))
        tidy.add(lambda: means.disk.run(means.staging.discard, self.server))
        tidy.add(lambda: means.disk.run(means.backups.discard, self.server))
        await tidy.run()
        self._course.close()
        self._log.info("{server}: the failed transfer is cleaned up", server=self.server)

    async def _forget(self) -> None:
        self._means.servers.forget(self.server)
