"""All transfers from this node: who may begin, and how they end."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from wingsd.errors import DaemonStopping, ServerBusy
from wingsd.servers import Server
from wingsd.transfers.cancellation import when_fired
from wingsd.transfers.collaborators import SendingCollaborators
from wingsd.transfers.coordinator import PanelSending, SendingCoordinator
from wingsd.transfers.errors import TransferInProgress, TransferNotActive
from wingsd.transfers.outgoing.request import TransferOrder
from wingsd.transfers.outgoing.transfer import OutgoingTransfer
from wingsd.transfers.ownership import OwnershipCheck
from wingsd.transfers.step_log import Progress
from wingsd.transfers.table import TransferTable, all_over

__all__ = ["HOLD", "OutgoingTransfers"]

#: Why the server cannot be started meanwhile.
HOLD = "the server is being transferred to another node"
#: Seconds that the Panel has to have a server deleted here that has moved, before it is asked.
DELETION_WITHIN = 600.0


class OutgoingTransfers(TransferTable[OutgoingTransfer]):
    """All transfers from this node, at most one for each server."""

    def __init__(self, means: SendingCollaborators) -> None:
        super().__init__()
        self._means = means
        self._left_behind: dict[str, OutgoingTransfer] = {}
        #: Those whose servers have moved and are just being deleted here.
        self._deleted: dict[str, OutgoingTransfer] = {}
        #: What the Panel is asked about transfers of an earlier daemon.
        self._asked_about: dict[str, OwnershipCheck] = {}
        self._stopping = False

    def start(
        self, server: Server, order: TransferOrder, authority: SendingCoordinator | None = None
    ) -> None:
        """Begin to send `server`; the rest is told by events, and to the Panel.

        The Panel's word counts, where there is no other `authority`. Raises `Conflict` while it
        is on its way already, `BadRequest` when `order` names no address, `DaemonStopping` after
        `stop`.
        """
        if self._stopping:
            raise DaemonStopping
        if self._under_way(server.uuid) is not None:
            raise TransferInProgress(
                "A transfer is already in progress for this server.", server.hold
            )
        if server.hold:
            advice = "" if server.disowned else "try again when that is over"
            raise ServerBusy(server.hold, advice)
        if authority is None:
            means = self._means
            authority = PanelSending(
                server.uuid, means.panel, means.outbox, means.reactor, means.answer_grace
            )
        transfer = OutgoingTransfer(server, order, self._means, authority)
        server.place_hold(HOLD)
        self._add(server.uuid, transfer)
        transfer.over.addCallback(self._note_left_behind, transfer)
        Deferred.fromCoroutine(transfer.run())

    def _note_left_behind(self, _: None, transfer: OutgoingTransfer) -> None:
        server = transfer.server.uuid
        if transfer.is_left_behind and not self._stopping:
            self._left_behind[server] = transfer
            self._means.reactor.callLater(DELETION_WITHIN, self._look_after, transfer)

    def _look_after(self, transfer: OutgoingTransfer) -> None:
        if transfer.is_left_behind and not self._stopping:
            looking = Deferred.fromCoroutine(transfer.look_after())
            looking.addCallback(lambda _: self._left_behind.pop(transfer.server.uuid, None))

    def _under_way(self, server: str) -> OutgoingTransfer | None:
        transfer = self._open.get(server)
        return None if transfer is None or transfer.is_over else transfer

    def cancel(self, server: str) -> None:
        """End the server's transfer, wherever it is; the server stays.

        Raises `Conflict` when there is none, or none any more: not once the server has moved.
        """
        transfer = self._under_way(server)
        verdict = self._asked_about.pop(server, None)
        if verdict is not None:
            verdict.hurry()
            return
        if transfer is None:
            raise TransferNotActive(
                "Server is not currently being transferred.",
                "there is no transfer from this node that could still be cancelled",
            )
        transfer.cancel()

    async def moves_within(self, grace: float, server: str, verdict: OwnershipCheck) -> bool:
        """Have `verdict` ask about what an earlier daemon was sending, until `cancel`."""
        self._asked_about[server] = verdict
        try:
            return await verdict.moves_within(grace)
        finally:
            self._asked_about.pop(server, None)

    async def release(self, server: str) -> None:
        """Make way for the server's deletion, which the Panel has ordered.

        When everything was sent by the Panel's own order, this one is its word that the server
        has moved, and comes while the destination still waits for it: so nothing is waited for
        here. Any other transfer is cancelled, and over when this returns. When the server's files
        are out of its place, `deleted` is to be called.
        """
        left_behind = self._left_behind.pop(server, None)
        if left_behind is not None:
            self._let_delete(left_behind)
        transfer = self._under_way(server)
        if transfer is None:
            return
        if transfer.is_sent and transfer.authority.deletes:
            self._let_delete(transfer)
        else:
            transfer.cancel()
            await when_fired(transfer.over)

    def _let_delete(self, transfer: OutgoingTransfer) -> None:
        transfer.deleted()
        self._deleted[transfer.server.uuid] = transfer

    def deleted(self, server: str) -> None:
        """End the transfer that made way. A daemon that dies before this leaves it to the next."""
        transfer = self._deleted.pop(server, None)
        if transfer is not None:
            transfer.finish()

    def stop(self) -> Deferred[Any]:
        """Give up what is not sent yet; the Deferred fires when the rest is at its end."""
        self._stopping = True
        transfers = tuple(self._open.values())
        over = all_over(transfers)
        for transfer in transfers:
            transfer.give_up(DaemonStopping())
        return over

    @property
    def progress(self) -> list[Progress]:
        """How far each is, those included that the Panel is still to have deleted here."""
        transfers = self._left_behind | self._open
        return [transfer.progress for transfer in transfers.values()]
