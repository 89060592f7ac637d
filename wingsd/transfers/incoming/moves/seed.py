"""A seed at its destination: a copy that follows its server for days, until a transfer takes it.

It is received as any move is. What it has stays, whoever ends it, unless the copy is forgotten.
"""

from __future__ import annotations

from wingsd.errors import TransferCancelled
from wingsd.transfers.errors import SeedAdopted
from wingsd.transfers.incoming.commit import Remainder
from wingsd.transfers.incoming.moves.errors import SeedForgotten
from wingsd.transfers.incoming.moves.transfer import MoveTransfer
from wingsd.transfers.steps import ReceiveStep

__all__ = ["SEED", "IncomingSeed"]

#: What metrics call it while the copy follows its server.
SEED = "seed"


class IncomingSeed(MoveTransfer):
    """The copy of one server that follows it."""

    async def _receive_move(self) -> Remainder:
        # Days in it are no reason for an alert, nor are hours without a byte.
        self._steps.names = {ReceiveStep.RECEIVE: SEED}
        return await super()._receive_move()

    @property
    def takes_a_place(self) -> bool:
        """Return False: it receives little, for days."""
        return False

    def give_way(self) -> None:
        """End it for a transfer of the server, which gets what is here."""
        self.abort(SeedAdopted())

    def forget(self) -> bool:
        """End it, and remove what is here."""
        return self.abort(SeedForgotten())

    def _keeps_copy(self) -> bool:
        return isinstance(self._reason, TransferCancelled) or super()._keeps_copy()
