"""Both parts of moving servers by hand, as the rest of the node has to do with them."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from wingsd.direct_transfers.collaborators import DirectTransferCollaborators
from wingsd.direct_transfers.incoming import HandReceiving, IncomingDirectTransfers
from wingsd.direct_transfers.outgoing import OutgoingDirectTransfers
from wingsd.errors import StorageError
from wingsd.statedb import TransferRecord

__all__ = ["DirectTransfers"]


class DirectTransfers:
    """Moves by hand to and from this node."""

    _log = Logger()

    def __init__(self, means: DirectTransferCollaborators) -> None:
        self.arrivals = IncomingDirectTransfers(means)
        self.departures = OutgoingDirectTransfers(means)

    async def load(self, unfinished: Sequence[TransferRecord]) -> None:
        """Make the servers known that are here by hand. Raises `StorageError`."""
        await self.arrivals.load({entry.server for entry in unfinished if entry.direct})

    async def hand_over(self) -> None:
        """Leave to the Panel what it has here now. What cannot be written down is logged."""
        try:
            await self.arrivals.hand_over()
        except StorageError as error:
            self._log.error("{error}", error=error)

    def receiving(self, server: str) -> HandReceiving:
        """Return the word for a server that was on its way here when an earlier daemon ended."""
        return self.arrivals.resume(server)

    def settle(self, entry: TransferRecord) -> None:
        """Find out what became of a server that an earlier daemon was sending."""
        self.departures.resume(entry)

    def cancel(self, server: str) -> bool:
        """Expect a server no longer, and do not ask about it; return whether that was so."""
        expected = self.arrivals.cancel(server)
        return self.departures.cancel(server) or expected
