"""All outgoing transfers of this node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from wingsd.errors import DaemonStopping, TransferCancelled
from wingsd.servers import Server
from wingsd.servers.operations import Operation
from wingsd.statedb import MoveRecord, TransferRecord
from wingsd.transfers.coordinator import PanelCoordinators, PanelSending, SendingCoordinator
from wingsd.transfers.errors import TransferInProgress, TransferNotActive
from wingsd.transfers.outgoing.source import TransferRequest
from wingsd.transfers.step_log import ProgressReport, SeedFigures
from wingsd.transfers.steps import SendStep
from wingsd.transfers.table import TransferTable, all_over
from wingsd.util.deferreds import when_fired
from wingsd.util.later import Later

if TYPE_CHECKING:
    from wingsd.transfers.outgoing.factory import OutgoingTransferFactory
    from wingsd.transfers.outgoing.mover import ResumedMove
    from wingsd.transfers.outgoing.seed import SeedTransfer
    from wingsd.transfers.outgoing.seed_order import SeedOrder
    from wingsd.transfers.outgoing.transfer import OutgoingTransfer

__all__ = ["OutgoingTransfers"]

#: Seconds that the Panel has to have a server deleted here that has moved, before it is asked.
DELETION_WITHIN = 600.0


class OutgoingTransfers(TransferTable["OutgoingTransfer"]):
    """All transfers from this node, at most one for each server."""

    def __init__(
        self,
        reactor: IReactorTime,
        coordinators: PanelCoordinators,
        factory: Later[OutgoingTransferFactory],
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._coordinators = coordinators
        self._factory = factory
        self._left_behind: dict[str, OutgoingTransfer] = {}
        #: Those that keep copies up to date, which are among the others.
        self._seeds: dict[str, SeedTransfer] = {}
        self._checks: set[Deferred[None]] = set()
        #: Those whose servers have moved and are being deleted here.
        self._deleting: dict[str, OutgoingTransfer] = {}
        #: Those of an earlier daemon about which the Panel is asked.
        self._asked: dict[str, PanelSending] = {}
        self._stopping = False

    def start(
        self,
        server: Server,
        request: TransferRequest,
        coordinator: SendingCoordinator | None = None,
    ) -> None:
        """Begin to send `server`; its progress and outcome are events.

        Without a `coordinator` it is the Panel, whose order ends a seed of the server. Raises
        `Conflict` while another transfer of it is in progress, `BadRequest` when the URL of
        `request` is invalid, `DaemonStopping` after `stop`, and the error of `Later.get`.
        """
        seed = self._seeds.get(server.uuid) if coordinator is None else None
        gives_way = seed is not None and seed.gives_way and self.find(server.uuid) is seed
        self._check_free(server, None if gives_way else server.hold)
        server.operations.check(Operation.TRANSFER_OUT)
        coordinator = coordinator or self._coordinators.sending(server.uuid)
        transfer = self._factory.get().make(server, request, coordinator)
        transfer.take()
        if seed is None:
            self._run(transfer)
        else:
            # Recorded at once; the seed goes on until the destination has answered.
            self._begin(transfer, transfer.run(seed=seed.hand_over))
            transfer.over.addCallback(seed.drop_left)
            transfer.over.addCallback(self._put_back, seed)

    def seed(
        self,
        server: Server,
        request: TransferRequest,
        coordinator: SendingCoordinator,
        order: SeedOrder,
    ) -> None:
        """Begin to keep a copy of `server` up to date at its destination; it is used as ever.

        Raises as `start`, `ServerBusy` where something has its files for itself, and `BadRequest`
        where this node does not send servers that run.
        """
        self._check_free(server, server.hold)
        server.operations.check(Operation.CHANGE_FILES)
        self._add_seed(self._factory.get().make_seed(server, request, coordinator, order))

    def _check_free(self, server: Server, hold: str | None) -> None:
        """Raise `TransferInProgress` unless a transfer may begin; `hold` is None if one ends."""
        if self._stopping:
            raise DaemonStopping
        if hold is not None and self._in_progress(server.uuid) is not None:
            advice = "see wingsctl transfers; wingsctl cancel ends a copy that follows the server"
            raise TransferInProgress(
                "A transfer is already in progress for this server.", hold or advice
            )

    def go_on(
        self,
        server: Server,
        entry: TransferRecord,
        record: MoveRecord,
        coordinator: SendingCoordinator,
    ) -> bool:
        """Go on with the move of an earlier daemon, which holds the server already.

        Return False where its commit may have been asked for, and it is not known how to go on.
        Raises the errors of `start`.
        """
        from wingsd.transfers.outgoing.mover import (  # noqa: PLC0415 (as the factory)
            ResumedMove,
            begun_of,
            request_of,
        )
        from wingsd.transfers.outgoing.seed_order import is_seed, seed_of  # noqa: PLC0415

        if self._stopping:
            raise DaemonStopping
        if entry.step == SendStep.AWAIT.name and begun_of(record) is None:
            return False
        resumed, request = ResumedMove(entry, record), request_of(record)
        if not is_seed(entry, record):
            self._run(self._factory.get().make(server, request, coordinator), resumed)
            return True
        order = seed_of(record)
        if order is None or self._in_progress(server.uuid) is not None:
            return False  # a transfer of it was ordered before this
        seed = self._factory.get().make_seed(server, request, coordinator, order)
        self._add_seed(seed, resumed)
        return True

    def _add_seed(self, seed: SeedTransfer, resumed: ResumedMove | None = None) -> None:
        uuid = seed.server.uuid
        self._seeds[uuid] = seed
        seed.take()
        self._run(seed, resumed)

        def remove(_: None) -> None:
            if self._seeds.get(uuid) is seed:
                del self._seeds[uuid]

        seed.over.addCallback(remove)

    def _put_back(self, _: None, seed: SeedTransfer) -> None:
        """Have a seed be found that goes on, as the transfer of its server has failed before."""
        if self._seeds.get(seed.server.uuid) is seed and seed.gives_way:
            self._open.setdefault(seed.server.uuid, seed)

    def _run(self, transfer: OutgoingTransfer, resumed: ResumedMove | None = None) -> None:
        self._begin(transfer, transfer.run(resumed))

    def _begin(self, transfer: OutgoingTransfer, run: Coroutine[Deferred[Any], Any, None]) -> None:
        self._add(transfer.server.uuid, transfer)
        transfer.over.addCallback(self._note_left_behind, transfer)
        Deferred.fromCoroutine(run)

    def _note_left_behind(self, _: None, transfer: OutgoingTransfer) -> None:
        if transfer.is_left_behind and not self._stopping:
            self._left_behind[transfer.server.uuid] = transfer
            checking = Deferred.fromCoroutine(self._check_left_behind(transfer))
            self._checks.add(checking)
            checking.addErrback(transfer.log_failure)
            checking.addBoth(lambda _: self._checks.discard(checking))

    async def _check_left_behind(self, transfer: OutgoingTransfer) -> None:
        await deferLater(self._reactor, DELETION_WITHIN)
        if transfer.is_left_behind:
            try:
                await transfer.check_left_behind()
            finally:
                self._left_behind.pop(transfer.server.uuid, None)

    def _in_progress(self, server: str) -> OutgoingTransfer | None:
        transfer = self._open.get(server)
        return None if transfer is None or transfer.is_over else transfer

    def cancel(self, server: str) -> None:
        """Cancel the server's transfer in any step; the server stays.

        Raises `Conflict` when there is no transfer, or none any more: not once it has moved.
        """
        coordinator = self._asked.pop(server, None)
        if coordinator is not None:
            coordinator.stop_waiting(TransferCancelled())
            return
        transfer = self._in_progress(server)
        if transfer is None:
            raise TransferNotActive(
                "Server is not currently being transferred.",
                "there is no transfer from this node that could still be cancelled",
            )
        transfer.cancel()

    async def has_moved(self, server: str, coordinator: PanelSending) -> bool:
        """Return whether a server has moved that an earlier daemon was sending.

        Until that is known, `cancel` ends its grace.
        """
        self._asked[server] = coordinator
        try:
            return await coordinator.has_moved(lost=True)
        finally:
            self._asked.pop(server, None)

    def give_up(self, record: MoveRecord) -> None:
        """Have the destination of an earlier daemon's move hear that it has failed."""
        Deferred.fromCoroutine(self._factory.get().mover.give_up(record))

    async def end_move(self, record: MoveRecord) -> None:
        """Have the destination of a move end it, and keep what has arrived.

        It is asked once. Raises `DestinationError` where it gives no answer.
        """
        await self._factory.get().mover.end(record, 0.0)

    async def release(self, server: str) -> None:
        """End the server's transfer before its deletion, which the Panel has ordered.

        When everything was sent by the Panel's order, the deletion confirms that the server has
        moved, and comes while the destination still waits for it: it is not delayed here. Any
        other transfer is cancelled, and over when this returns. When the server's files are out
        of place, `deleted` is to be called.
        """
        left_behind = self._left_behind.pop(server, None)
        if left_behind is not None:
            self._confirm(left_behind)
        while (transfer := self._in_progress(server)) is not None:
            if transfer.is_sent and transfer.coordinator.orders_deletion:
                self._confirm(transfer)
                return
            transfer.cancel(is_deleted=True)
            await when_fired(transfer.over)  # after one that has failed a seed may go on

    def _confirm(self, transfer: OutgoingTransfer) -> None:
        transfer.confirm()
        self._deleting[transfer.server.uuid] = transfer

    def put_away(self, server: str) -> Callable[[], Awaitable[None]] | None:
        """Return what puts the files of a server away that has moved, and is being deleted here.

        None where they are to be deleted.
        """
        transfer = self._deleting.get(server)
        return transfer.put_away if transfer is not None and transfer.keeps_files else None

    def deleted(self, server: str) -> None:
        """Finish the transfer of a server that has been deleted.

        When the daemon dies before this, the next one finishes it.
        """
        transfer = self._deleting.pop(server, None)
        if transfer is not None:
            transfer.finish()

    def stop(self) -> Deferred[Any]:
        """Abort what is not sent yet; the Deferred fires when all transfers are over.

        The next daemon goes on with moves.
        """
        self._stopping = True
        # The next daemon asks about these.
        for checking in tuple(self._checks):
            checking.cancel()
        transfers = {*self._open.values(), *self._seeds.values()}
        over = all_over(transfers)
        for transfer in transfers:
            transfer.abort(DaemonStopping())
        return over

    @property
    def seeds(self) -> list[SeedFigures]:
        """How far the copies are that follow servers."""
        found = (seed.progress.seed for seed in self._seeds.values())
        return [each for each in found if each is not None]

    @property
    def progress(self) -> list[ProgressReport]:
        """How far each is, including those that the Panel is still to have deleted here."""
        transfers = self._left_behind | self._open
        return [transfer.progress for transfer in transfers.values()]
