"""All direct transfers of this node, and the servers that they have brought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.logger import Logger

from wingsd.direct_transfers.description import DirectServers
from wingsd.errors import StorageError
from wingsd.statedb import TransferRecord
from wingsd.util.later import Later

if TYPE_CHECKING:
    from wingsd.direct_transfers.incoming import DirectReceiving, IncomingDirectTransfers
    from wingsd.direct_transfers.outgoing import OutgoingDirectTransfers

__all__ = ["DirectTransfers"]


class DirectTransfers:
    """The direct transfers to and from this node. It is the `DirectRecovery`, too.

    A node that has none saves what they import.
    """

    _log = Logger()

    def __init__(
        self,
        servers: DirectServers,
        incoming: Later[IncomingDirectTransfers],
        outgoing: Later[OutgoingDirectTransfers],
    ) -> None:
        self.servers = servers
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def incoming(self) -> IncomingDirectTransfers:
        """Those to this node. Raises the error of `Later.get`."""
        return self._incoming.get()

    @property
    def outgoing(self) -> OutgoingDirectTransfers:
        """Those from this node. Raises the error of `Later.get`."""
        return self._outgoing.get()

    async def load(self, unfinished: Sequence[TransferRecord]) -> None:
        """Make the servers known that direct transfers have brought, and hold those sent away.

        Raises `StorageError`.
        """
        await self.servers.load({entry.server for entry in unfinished if entry.direct})
        await self.servers.hold_moved({entry.server for entry in unfinished})

    async def release_to_panel(self) -> None:
        """Leave to the Panel the servers that it has here by now. An error is logged."""
        try:
            await self.servers.release_to_panel()
        except StorageError as error:
            self._log.error("{error}", error=error)

    @property
    def outcomes(self) -> OutgoingDirectTransfers:
        """What became of outgoing ones that an earlier daemon left unfinished."""
        return self.outgoing

    def receiving(self, server: str) -> DirectReceiving:
        """Return the coordinator of an incoming one that an earlier daemon left unfinished."""
        return self.incoming.resumed(server)

    def cancel(self, server: str) -> bool:
        """Stop expecting a server, and asking about it; return whether either was so."""
        made = (self._incoming.made, self._outgoing.made)
        cancelled = [each.cancel(server) for each in made if each is not None]
        return any(cancelled)
