"""Direct transfers: moving servers from node to node without a Panel.

The destination is asked to expect a server, and issues a token for it, valid once. With it the
source sends first the server's description, then the server as any other. If the answer is lost,
it asks for the outcome by the token. Of an arrival and a cancellation the first one counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from wingsd.direct_transfers.incoming import DirectReceiving, IncomingDirectTransfers
from wingsd.direct_transfers.outgoing import OutgoingDirectTransfers
from wingsd.direct_transfers.servers import DirectServers
from wingsd.statedb import TransferRecord

__all__ = ["DirectTransfers"]


@attrs.frozen(eq=False, repr=False)
class DirectTransfers:
    """The direct transfers to and from this node. It is the `DirectRecovery`, too."""

    servers: DirectServers
    incoming: IncomingDirectTransfers
    outgoing: OutgoingDirectTransfers

    async def load(self, unfinished: Sequence[TransferRecord]) -> None:
        """Make the servers known that direct transfers have brought, and hold those sent away.

        Raises `StorageError`.
        """
        await self.servers.load({entry.server for entry in unfinished if entry.direct})
        await self.servers.hold_moved({entry.server for entry in unfinished})

    def receiving(self, server: str) -> DirectReceiving:
        """Return the coordinator of an incoming one that an earlier daemon left unfinished."""
        return self.incoming.resumed(server)

    def cancel(self, server: str) -> bool:
        """Stop expecting a server, and asking about it; return whether either was so."""
        cancelled = [each.cancel(server) for each in (self.incoming, self.outgoing)]
        return any(cancelled)
