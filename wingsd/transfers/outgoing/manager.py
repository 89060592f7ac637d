"""All outgoing transfers of this node."""

from __future__ import annotations

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
from wingsd.transfers.outgoing.request import TransferRequest
from wingsd.transfers.step_log import ProgressReport
from wingsd.transfers.table import TransferTable, all_over
from wingsd.util.deferreds import when_fired
from wingsd.util.later import Later

if TYPE_CHECKING:
    from wingsd.transfers.outgoing.factory import OutgoingTransferFactory
    from wingsd.transfers.outgoing.transfer import OutgoingTransfer, ResumedMove

__all__ = ["HOLD", "OutgoingTransfers"]

#: Why the server cannot be started meanwhile.
HOLD = "the server is being transferred to another node"
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

        Without a `coordinator` it is the Panel. Raises `Conflict` while a transfer of it is in
        progress, `BadRequest` when the URL of `request` is invalid, `DaemonStopping` after `stop`,
        and the error of `Later.get`.
        """
        if self._stopping:
            raise DaemonStopping
        if self._in_progress(server.uuid) is not None:
            raise TransferInProgress(
                "A transfer is already in progress for this server.", server.hold
            )
        server.operations.check(Operation.TRANSFER_OUT)
        coordinator = coordinator or self._coordinators.sending(server.uuid)
        transfer = self._factory.get().make(server, request, coordinator)
        server.place_hold(Operation.TRANSFER_OUT, HOLD)
        self._run(transfer)

    def go_on(
        self,
        server: Server,
        entry: TransferRecord,
        record: MoveRecord,
        coordinator: SendingCoordinator,
    ) -> None:
        """Go on with the move of an earlier daemon, which holds the server already.

        Raises the errors of `start`.
        """
        from wingsd.transfers.outgoing.mover import request_of  # noqa: PLC0415 (as the factory)
        from wingsd.transfers.outgoing.transfer import ResumedMove  # noqa: PLC0415

        if self._stopping:
            raise DaemonStopping
        transfer = self._factory.get().make(server, request_of(record), coordinator)
        self._run(transfer, ResumedMove(entry, record))

    def _run(self, transfer: OutgoingTransfer, resumed: ResumedMove | None = None) -> None:
        self._add(transfer.server.uuid, transfer)
        transfer.over.addCallback(self._note_left_behind, transfer)
        Deferred.fromCoroutine(transfer.run(resumed))

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
        transfer = self._in_progress(server)
        if transfer is None:
            return
        if transfer.is_sent and transfer.coordinator.orders_deletion:
            self._confirm(transfer)
        else:
            transfer.cancel()
            await when_fired(transfer.over)

    def _confirm(self, transfer: OutgoingTransfer) -> None:
        transfer.confirm()
        self._deleting[transfer.server.uuid] = transfer

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
        transfers = tuple(self._open.values())
        over = all_over(transfers)
        for transfer in transfers:
            transfer.abort(DaemonStopping())
        return over

    @property
    def progress(self) -> list[ProgressReport]:
        """How far each is, including those that the Panel is still to have deleted here."""
        transfers = self._left_behind | self._open
        return [transfer.progress for transfer in transfers.values()]
