"""Sending a server: the chain of steps from the Panel's order to its word.

Read `OutgoingTransfer._send` from top to bottom: stop, retire the container, ask, send, await.
The server's files are only read. They go when the Panel has them deleted, and never before.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wingsd.errors import TransferCancelled, WingsdError
from wingsd.servers import Server
from wingsd.transfers.cancellation import slots_held
from wingsd.transfers.collaborators import SendingCollaborators
from wingsd.transfers.coordinator import SendingCoordinator
from wingsd.transfers.errors import DestinationError
from wingsd.transfers.formatting import readable_time
from wingsd.transfers.outgoing.request import TransferOrder, streams_of
from wingsd.transfers.outgoing.upload import Dispatch
from wingsd.transfers.peer.client import PeerClient
from wingsd.transfers.pool_negotiation import SourcePool
from wingsd.transfers.step_log import Progress
from wingsd.transfers.steps import SendStep

__all__ = ["MOVED", "OutgoingTransfer"]

#: Why a server is not started whose files still wait for the Panel to have them deleted.
MOVED = "the server has moved to another node"
#: Seconds between two lines that tell what is still waited for.
WAITING_EVERY = 60.0


class OutgoingTransfer:
    """One server on its way from this node."""

    _log = Logger()

    def __init__(
        self,
        server: Server,
        order: TransferOrder,
        means: SendingCollaborators,
        authority: SendingCoordinator,
    ) -> None:
        """Raise `BadRequest` when the order's address is none."""
        self.server = server
        self.authority = authority
        #: Fires when the transfer is over, whichever way. The outbox sees to it that the Panel
        #: hears of a failure.
        self.over: Deferred[None] = Deferred()
        self._means = means
        self._order = order
        self._destination = PeerClient(order.url, order.token, means.reactor, means.trust)
        self._course = means.step_logs.sending(server.uuid, authority)
        self._pool = SourcePool(server.uuid, order, means, by_hand=authority.by_hand)
        self._dispatch = Dispatch(server, order, means, self._course, self._pool)
        self._removals: tuple[str, ...] = ()
        self._retired = False
        self._settling: Deferred[bool] | None = None
        #: Whether it has moved, and the Panel has not had it deleted here yet.
        self.is_left_behind = False

    async def run(self) -> None:
        """Send the server; however that ends is told, and nothing is raised."""
        try:
            self.authority.begin()
            await self.authority.write_down(await self._course.begin())
            await self._send()
        except Exception as error:
            self._course.announcer.hide_progress()
            await self._fail(error)
        else:
            self._moved()
        finally:
            self._course.announcer.hide_progress()
            try:
                await self._pool.leave()
            finally:
                self.over.callback(None)

    def cancel(self) -> None:
        """End the transfer, wherever it is."""
        self._interrupt(TransferCancelled())

    def give_up(self, reason: WingsdError) -> None:
        """End it unless the destination has everything: it may then be moving already.

        Of what is still being sent within a pool, the Panel is asked. What the Panel is being
        asked about, the next daemon finds out.
        """
        if not self._dispatch.body_sent and self._settling is None:
            self._interrupt(reason)
        elif self._settling is not None and not self.authority.by_hand:
            self._settling.cancel()

    def deleted(self) -> None:
        """The Panel deletes the server here, which is its word that the server has moved.

        Only for one that `is_sent`. The destination is still to answer, and may.
        """
        self._moved()
        self.is_left_behind = False
        if self._settling is not None:
            self._settling.cancel()
        if not self._dispatch.body_sent:
            self._dispatch.abort()  # of what it has already

    def finish(self) -> None:
        """Its files are out of its place: nothing is left to a later daemon."""
        self._in_background(self._finish())

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._course.progress(self._dispatch.meter, self._dispatch.total)

    @property
    def is_waiting(self) -> bool:
        """Whether others are at work, and it is not its turn yet."""
        return self._course.chain.is_waiting

    @property
    def is_sent(self) -> bool:
        """Whether the destination may have everything. What is pooled, it has from the start."""
        return self._dispatch.may_be_taken

    @property
    def is_over(self) -> bool:
        """Whether the server has moved, or stays."""
        return self._course.life.over

    def _interrupt(self, reason: WingsdError) -> None:
        self._course.chain.interrupt(reason)
        self.authority.give_up(reason)
        self._dispatch.abort()

    # The chain

    async def _send(self) -> None:
        means, server = self._means, self.server
        # Asked first: a server need not stop for a destination that cannot be reached.
        await self._wait(self.authority.introduce())
        features = await self._wait(self._pool.ask(self._destination.features))
        warn = self._course.announcer.warn
        further = streams_of(self._order, means.streams, features, warn)

        # Nor for one of which a backup would be lost.
        if self._order.backups:
            await self._wait(self._dispatch.find_backups())
        # Nor for one that no destination would take.
        await self._wait(self._dispatch.check_size())
        await self._note_terms()

        await self._course.enter(SendStep.STOP)
        await self._wait(server.stop_within(means.stop_grace))

        await self._course.enter(SendStep.RETIRE)
        self._retired = True
        await self._wait(means.environment.remove(server.uuid))

        await self._course.enter(SendStep.SEND)
        async with slots_held(means.slots, 1 + further, self._course.chain):
            self._course.take_turn()
            streams = await self._dispatch.send(self._destination, features, further)

        if not self._course.life.over:  # The Panel's word may be faster.
            self._course.pass_on(SendStep.AWAIT)
            self._show_waiting("the destination has everything, and has not answered for")
        await streams.answered()

    def _show_waiting(self, what: str) -> None:
        """Print every minute what is waited for, and how long that has been."""
        since = self._means.reactor.seconds()

        def text() -> str:
            return f"{what} {readable_time(self._means.reactor.seconds() - since)}"

        self._course.announcer.show_progress(text, every=WAITING_EVERY)

    async def _note_terms(self) -> None:
        """Write down what must not be forgotten of this transfer, before it can be needed."""
        means, pool = self._means, self._pool.name
        if self._order.delete_backups and not pool:
            self._note_removals()
        inode = None if pool else await means.disk.run(means.volume.inode, self.server.uuid)
        await self._course.note_terms(pool, self._removals, inode)
        if pool:
            means.servers.share(self.server.uuid, pool)
            self._course.announcer.say(f"it is in the storage pool {pool}: its files stay there")

    def _note_removals(self) -> None:
        if self._pool.shares_backups:
            self._course.announcer.warn(
                "the destination has the same system.backup_directory: no backup is removed"
            )
        else:
            self._removals = tuple(backup.place for backup in self._dispatch.backups)

    async def _wait(self, work: Any) -> Any:
        return await self._course.chain.wait(Deferred.fromCoroutine(work))

    # The end

    async def _fail(self, error: Exception) -> None:
        """Find out whether it is a failure indeed, have the Panel told, and let the server go."""
        if self._course.life.over:
            if isinstance(error, CancelledError):
                return  # It was told to take no more.
            self._log.warn(
                "{server}: moved by the Panel's word, though the destination's was: {error}",
                server=self.server.uuid,
                error=error,
            )
            return
        error = self._course.chain.reason or error
        if not isinstance(error, WingsdError):
            self._log.failure("{server}: a mistake", server=self.server.uuid)
            error = WingsdError("an unforeseen error", "the reason is in the log of this node")
        if self.is_sent:
            await self._settle(error)
            return
        self._course.fail(error)
        # Told after the state: the server is the user's again at once.
        self._stays()
        await self.authority.tell_failure()

    async def _settle(self, error: WingsdError) -> None:
        """Have the Panel decide: the destination may have everything."""
        lost = isinstance(error, DestinationError) and error.may_complete
        is_waited_for = lost and self.authority.grace > 0
        if is_waited_for:
            await self._wait_for_lost(error)
        else:
            self._course.fail(error)
            self._course.pass_on(SendStep.SETTLE)
        if self._course.life.over:
            return  # The Panel has deleted the server here meanwhile.
        self._settling = Deferred.fromCoroutine(self.authority.has_moved(lost=lost))
        try:
            moved = await self._settling
        except CancelledError:
            return  # The same, or this daemon ends: then the next one asks.
        finally:
            self._settling = None
        if self._course.life.over:
            return
        if moved:
            self._course.announcer.say("it has moved: only its answer was lost")
            self._moved()
            return
        if is_waited_for:
            self._course.fail(error)
        self._course.announcer.say("it is still this node's")
        self._stays()

    async def _wait_for_lost(self, error: WingsdError) -> None:
        """Enter the grace of a destination that may still be at work; a later daemon goes on."""
        announcer = self._course.announcer
        announcer.warn(str(error))
        # Written down: of the time that is left a later daemon gives the rest.
        await self._course.fall_to(SendStep.SETTLE)
        announcer.say(
            "the destination may still be at work: for "
            f"{readable_time(self.authority.grace)} the Panel is asked whether the server has "
            "moved; cancel the transfer to end that now"
        )
        self._show_waiting("the Panel is asked whether the server has moved, for")

    def _stays(self) -> None:
        self._course.pass_on(SendStep.FAILED)
        self._means.servers.unshare(self.server.uuid)
        self.server.release()
        self._in_background(self._restore())

    async def _restore(self) -> None:
        if self._retired:
            await self.server.restore_environment()
        await self._pool.leave()
        self._course.close()

    def _moved(self) -> None:
        if self._course.life.over:
            return
        self._course.announcer.hide_progress()
        self._course.pass_on(SendStep.DONE)
        self.server.disown(MOVED)
        self.is_left_behind = self.authority.deletes
        if not self.authority.deletes:
            self._in_background(self._part())

    async def _part(self) -> None:
        await self.authority.part(self.server)
        self._course.close()

    async def _finish(self) -> None:
        """Remove what has moved, and nobody else does. The Panel has said that it has."""
        means, uuid = self._means, self.server.uuid
        if not self._is_back:  # Else what is here, backups too, may have come back with it.
            await means.removal.remove(uuid, self._removals)
            if self._pool.name:
                # Its files stay in sight: they do not make it one that is here by hand.
                await means.journal.delete_description(uuid)
        await self._pool.leave()
        self._course.close()

    @property
    def _is_back(self) -> bool:
        """Whether another transfer has brought, or brings, the server here again."""
        try:
            return self._means.servers.get(self.server.uuid) is not self.server
        except WingsdError:
            return False

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        # Nobody waits for it, but a daemon that ends before does it at its next start.
        Deferred.fromCoroutine(work).addErrback(self._mistake)

    def _mistake(self, failure: Failure) -> None:
        self._log.failure("{server}: a mistake", failure, server=self.server.uuid)

    async def look_after(self) -> None:
        """See what the Panel makes of a server that has moved, and that it did not have deleted.

        The destination may have answered before it could tell the Panel, and be lost since.
        """
        moved = not self._is_back and await self.authority.has_moved()
        if not self.is_left_behind:
            return
        self.is_left_behind = False
        if self._is_back:
            await self._finish()
        elif moved:
            self._means.servers.forget(self.server.uuid)
            await self._means.attic.store_away(
                self.server.uuid, pooled=self._pool.name != "", inode=self._course.inode
            )
            await self._finish()
        else:
            self._log.warn(
                "{server}: the destination took it, but the Panel has it here: it stays",
                server=self.server.uuid,
            )
            self._means.servers.unshare(self.server.uuid)
            self.server.release()
            self._course.close()
