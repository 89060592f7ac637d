"""A seed at its destination: a copy that follows its server for days, until a transfer takes it.

It is received as any move is. What it has stays, whoever ends it, unless the copy is forgotten.
"""

from __future__ import annotations

import json

import attrs
from twisted.python.failure import Failure

from wingsd.errors import StorageError, TransferCancelled
from wingsd.moves.destination import Resumption
from wingsd.statedb import TransferRecord
from wingsd.transfers.errors import SeedAdopted
from wingsd.transfers.incoming.moves.errors import SeedForgotten
from wingsd.transfers.incoming.moves.transfer import LONGER, MoveTransfer
from wingsd.transfers.steps import ReceiveStep

__all__ = ["SEED", "IncomingSeed"]

#: What metrics call it while the copy follows its server.
SEED = "seed"
#: Where the state of its move has that the source has begun a session.
_FOLLOWS = "follows"


class IncomingSeed(MoveTransfer):
    """The copy of one server that follows it."""

    async def _resume(self, entry: TransferRecord) -> None:
        try:
            record = await self.terms.database.move(entry.id)
        except StorageError as error:
            self._log.error("{server}: {error}", server=self.server, error=error)
        else:
            follows = record is not None and json.loads(record.state).get(_FOLLOWS) is True
            self.terms = attrs.evolve(self.terms, is_following=follows)
        await super()._resume(entry)

    def _on_session(self, held: Resumption) -> None:
        super()._on_session(held)
        entry = self._steps.entry
        if self.terms.is_following or entry is None:
            return
        self.terms = attrs.evolve(self.terms, is_following=True)
        self._silence.start(self.terms.silence + LONGER)
        noting = self.terms.database.set_move_state(entry, json.dumps({_FOLLOWS: True}))
        noting.addErrback(self._not_recorded)

    def _not_recorded(self, failure: Failure) -> None:
        self._log.error("{server}: {error}", server=self.server, error=failure.value)

    async def _receive_move(self) -> None:
        # Days in it are no reason for an alert, nor are hours without a byte.
        self._steps.names = {ReceiveStep.RECEIVE: SEED}
        self.changes.changed()
        await super()._receive_move()

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
