"""Makes outgoing transfers. It imports what sends servers, which a node that sends none saves."""

from __future__ import annotations

import attrs

from wingsd.errors import BadRequest
from wingsd.servers import Server
from wingsd.transfers.coordinator import SendingCoordinator
from wingsd.transfers.outgoing.mover import Mover
from wingsd.transfers.outgoing.seed import SeedTransfer
from wingsd.transfers.outgoing.seed_order import SeedOrder
from wingsd.transfers.outgoing.source import SourceServers, SourceStorage, TransferRequest
from wingsd.transfers.outgoing.streams import SourcePool, Uploader
from wingsd.transfers.outgoing.transfer import OutgoingTransfer
from wingsd.transfers.outgoing.upload import OutgoingUpload
from wingsd.transfers.peer.peers import Peers
from wingsd.transfers.step_log import StepLog, StepLogs
from wingsd.transfers.steps import SendStep

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
        # A direct transfer starts nothing at its destination: its server is stopped first.
        mover = self.mover.without_following() if coordinator.is_direct else self.mover
        steps, upload = self._parts(server, request, coordinator, mover)
        return OutgoingTransfer(server, coordinator, steps, upload, self.servers, self.stop_grace)

    def make_seed(
        self,
        server: Server,
        request: TransferRequest,
        coordinator: SendingCoordinator,
        order: SeedOrder,
    ) -> SeedTransfer:
        """Return a seed that has not begun.

        Raises `BadRequest` as `make`, and where no server is sent while it runs.
        """
        if not self.mover.may_follow:
            raise BadRequest(
                "this node does not send servers while they run",
                "system.transfers.moves.enabled or system.transfers.live.enabled is off",
            )
        steps, upload = self._parts(server, request, coordinator, self.mover)
        servers, grace = self.servers, self.stop_grace
        return SeedTransfer(server, coordinator, steps, upload, servers, grace, order, self.mover)

    def _parts(
        self,
        server: Server,
        request: TransferRequest,
        coordinator: SendingCoordinator,
        mover: Mover,
    ) -> tuple[StepLog[SendStep], OutgoingUpload]:
        destination = self.peers.client(request.url, request.token)
        steps = self.step_logs.sending(server.uuid, coordinator)
        pool = SourcePool(server.uuid, request, self.storage, is_direct=coordinator.is_direct)
        upload = OutgoingUpload(
            server, request, destination, self.storage, self.uploader, steps, pool, mover
        )
        return steps, upload
