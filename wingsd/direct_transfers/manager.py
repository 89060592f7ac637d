"""All direct transfers of this node, and the servers that they have brought."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.logger import Logger

from wingsd.direct_transfers.description import DirectServers
from wingsd.direct_transfers.incoming import DirectReceiving, IncomingDirectTransfers
from wingsd.direct_transfers.outgoing import OutgoingDirectTransfers
from wingsd.errors import StorageError
from wingsd.statedb import TransferRecord

__all__ = ["DirectTransfers"]


@attrs.frozen(eq=False, repr=False)
class DirectTransfers:
    """The direct transfers to and from this node. It is the `DirectRecovery`, too."""

    servers: DirectServers
    incoming: IncomingDirectTransfers
    outgoing: OutgoingDirectTransfers

    async def load(self, unfinished: Sequence[TransferRecord]) -> None:
        """Make the servers known that direct transfers have brought. Raises `StorageError`."""
        await self.servers.load({entry.server for entry in unfinished if entry.direct})

    async def release_to_panel(self) -> None:
        """Leave to the Panel the servers that it has here by now. An error is logged."""
        try:
            await self.servers.release_to_panel()
        except StorageError as error:
            _log.error("{error}", error=error)

    @property
    def outcomes(self) -> OutgoingDirectTransfers:
        """What became of outgoing ones that an earlier daemon left unfinished."""
        return self.outgoing

    def receiving(self, server: str) -> DirectReceiving:
        """Return the coordinator of an incoming one that an earlier daemon left unfinished."""
        return self.incoming.resumed(server)

    def cancel(self, server: str) -> bool:
        """Stop expecting a server, and asking about it; return whether either was so."""
        expected = self.incoming.cancel(server)
        return self.outgoing.cancel(server) or expected


_log = Logger()
