"""All transfers to this node: who may begin, and how they end with the daemon."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from wingsd.errors import DaemonStopping, ServerAlreadyExists, TransferCancelled
from wingsd.statedb import TransferRecord
from wingsd.transfers.cancellation import when_fired
from wingsd.transfers.collaborators import ReceivingCollaborators
from wingsd.transfers.coordinator import PanelReceiving, ReceivingCoordinator
from wingsd.transfers.errors import TooManyTransfers, TransferNotActive
from wingsd.transfers.incoming.transfer import IncomingTransfer
from wingsd.transfers.table import TransferTable, all_over

__all__ = ["IncomingTransfers"]


class IncomingTransfers(TransferTable[IncomingTransfer]):
    """All transfers to this node, at most one for each server."""

    def __init__(
        self, means: ReceivingCollaborators, *, places: int, stall_timeout: float
    ) -> None:
        """Receive at most `places` servers at once, those included that wait for their turn.

        `stall_timeout` is the seconds a sender may be silent, to be told to the next one.
        """
        super().__init__()
        self._means = means
        self._places = places
        self._stall_timeout = stall_timeout
        self._stopping = False

    def open(self, server: str, authority: ReceivingCoordinator | None = None) -> IncomingTransfer:
        """Return a new transfer of the server with the UUID `server`.

        The Panel's word counts, where there is no other `authority`. It waits for one that has
        failed, until that is tidied up. Raises `ServerAlreadyExists` while one is under way,
        `TooManyTransfers` while there is no place, `DaemonStopping` after `stop`.
        """
        if self._stopping:
            raise DaemonStopping
        before = self._open.get(server)
        if before is not None and not before.has_failed:
            # Not given up for the next one, though that has a newer token: the failure of a
            # transfer is told to the Panel by the server's name alone, and would end both.
            raise ServerAlreadyExists(
                "this server is already being received", self._prospects(before)
            )
        if sum(transfer.is_receiving for transfer in self._open.values()) >= self._places:
            raise TooManyTransfers(self._places)
        after = succeed(None) if before is None else when_fired(before.over)
        return self._begin(server, authority, after)

    def expect(self, server: str) -> None:
        """Take notice that the Panel has begun a transfer of the server to this node.

        The failure of an earlier one, which the Panel denies, would end it.
        """
        self._means.outbox.drop(server, denied=True)

    def pool_features(
        self, server: str, pool: str, mark: str, backups_mark: str
    ) -> Deferred[list[str]]:
        """Return what the sender of a server is answered about its storage pool and its marks."""
        features = self._means.volume.features
        return self._means.disk.run(features, server, pool, mark, backups_mark)

    def _prospects(self, transfer: IncomingTransfer) -> str:
        """Return since when a transfer goes on, and when it ends if its sender is gone."""
        now = transfer.progress
        so_far = f"the transfer under way began {now.seconds:.0f} s ago and is {now.words}"
        if not transfer.is_receiving:
            return f"{so_far}; wait for it to end"
        return (
            f"{so_far}; if its sender is gone, it ends after {self._stall_timeout:g} s of "
            "silence: send the server again then"
        )

    def resume(self, entry: TransferRecord, authority: ReceivingCoordinator | None = None) -> None:
        """Bring to its end what an earlier daemon did not."""
        transfer = self._begin(entry.server, authority, succeed(None))
        Deferred.fromCoroutine(transfer.resume(entry))

    def _begin(
        self, server: str, authority: ReceivingCoordinator | None, after: Deferred[None]
    ) -> IncomingTransfer:
        if authority is None:
            means = self._means
            authority = PanelReceiving(server, means.panel, means.outbox, means.reactor)
        transfer = IncomingTransfer(server, self._means, authority, after)
        self._add(server, transfer)
        return transfer

    def cancel(self, server: str) -> None:
        """End the server's transfer, wherever it is; nothing of it stays.

        Raises `Conflict` when there is none that can still be ended: not once success is told.
        """
        transfer = self._open.get(server)
        if transfer is None or not transfer.give_up(TransferCancelled(), verified=True):
            raise TransferNotActive(
                "Server is not currently being transferred.",
                "there is no transfer to this node that could still be cancelled",
            )

    async def release(self, server: str) -> None:
        """End the server's transfer, since the server is to be deleted; return when it is over.

        One whose success may have been told is not waited for: the Panel knows what it deletes.
        """
        transfer = self._open.get(server)
        if transfer is not None and transfer.give_up(TransferCancelled(), verified=True):
            await when_fired(transfer.over)

    def stop(self) -> Deferred[Any]:
        """Give up what is not verified yet; the Deferred fires when the rest is at its end.

        What has arrived and waits for the Panel to hear of it, waits for the next daemon.
        """
        self._stopping = True
        transfers = [transfer for transfer in self._open.values() if not transfer.has_arrived]
        over = all_over(transfers)
        for transfer in transfers:
            transfer.give_up(DaemonStopping())
        return over

    def abandon(self) -> None:
        """Give up what is verified as well, where the Panel has not been told of it."""
        for transfer in tuple(self._open.values()):
            transfer.give_up(DaemonStopping(), verified=True)
