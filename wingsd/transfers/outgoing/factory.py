"""Makes outgoing transfers. It imports what sends servers, which a node that sends none saves."""

from __future__ import annotations

import attrs

from wingsd.servers import Server
from wingsd.transfers.coordinator import SendingCoordinator
from wingsd.transfers.outgoing.mover import Mover
from wingsd.transfers.outgoing.payload import SourcePool
from wingsd.transfers.outgoing.request import TransferRequest
from wingsd.transfers.outgoing.source import SourceServers, SourceStorage
from wingsd.transfers.outgoing.streams import Uploader
from wingsd.transfers.outgoing.transfer import OutgoingTransfer
from wingsd.transfers.outgoing.upload import OutgoingUpload
from wingsd.transfers.peer.peers import Peers
from wingsd.transfers.step_log import StepLogs

__all__ = ["OutgoingTransferFactory"]


@attrs.frozen(eq=False, repr=False)
class OutgoingTransferFactory:
    """Makes transfers, each of whose servers has `stop_grace` seconds to stop."""

    peers: Peers
    step_logs: StepLogs
    servers: SourceServers
    storage: SourceStorage
    uploader: Uploader
    stop_grace: float
    mover: Mover

    def make(
        self, server: Server, request: TransferRequest, coordinator: SendingCoordinator
    ) -> OutgoingTransfer:
        """Return a transfer that has not begun.

        Raises `BadRequest` when the URL of `request` is invalid.
        """
        destination = self.peers.client(request.url, request.token)
        steps = self.step_logs.sending(server.uuid, coordinator)
        pool = SourcePool(server.uuid, request, self.storage, is_direct=coordinator.is_direct)
        # A direct transfer has its own questions after a loss.
        mover = None if coordinator.is_direct else self.mover
        upload = OutgoingUpload(
            server, request, destination, self.storage, self.uploader, steps, pool, mover
        )
        return OutgoingTransfer(server, coordinator, steps, upload, self.servers, self.stop_grace)
