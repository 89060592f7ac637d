"""The other nodes of transfers, each with a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from wingsd.threadio import TokenBucket
from wingsd.transfers.peer.tls import PeerTls
from wingsd.util.reactor import Reactor

if TYPE_CHECKING:
    from wingsd.transfers.peer.client import PeerClient
    from wingsd.transfers.peer.moves import MoveRequests

__all__ = ["Peers"]


@attrs.frozen(eq=False, repr=False)
class Peers:
    """The other nodes, connected to by this reactor and verified by `tls`."""

    reactor: Reactor
    tls: PeerTls

    def client(
        self, url: str, authorization: str, address_source: str = "in the Panel"
    ) -> PeerClient:
        """Return a client of the node at `url`. Raises the errors of `PeerClient`."""
        # Here, since many nodes never send, and h11 compiles its expressions when it is imported.
        from wingsd.transfers.peer.client import PeerClient  # noqa: PLC0415

        return PeerClient(url, authorization, self.reactor, self.tls, address_source)

    def move_requests(
        self, url: str, stall_timeout: float, bucket: TokenBucket | None
    ) -> MoveRequests:
        """Return what sends requests of moves to the node at `url`; see `MoveRequests`.

        Raises the errors of `PeerAddress`.
        """
        from wingsd.transfers.peer.address import PeerAddress  # noqa: PLC0415 (as above)
        from wingsd.transfers.peer.moves import MoveRequests  # noqa: PLC0415

        address = PeerAddress(url, self.reactor, self.tls, "in the Panel")
        return MoveRequests(address, self.reactor, stall_timeout, bucket)
