"""Restoring backups, and points of histories: prepared beside a server's files, and exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from wingsd.histories import HistoriesOnDemand
from wingsd.statedb import RewindRecord

if TYPE_CHECKING:
    from wingsd.restores.manager import Restores
    from wingsd.restores.rewinding import Rewinds


@attrs.define(eq=False, repr=False, slots=False)
class RewindsOnDemand:
    """The node's `Rewinds`, made when a server is rewound, and what they are made of.

    `restores` report restores of backups, show their ends, and have what rewinds use as well.
    """

    _histories: HistoriesOnDemand
    _restores: Restores
    #: None as long as none was made or found.
    made: Rewinds | None = attrs.field(default=None, init=False)

    def get(self) -> Rewinds:
        """Return them; make them if this was not done yet."""
        if self.made is None:
            # Here, since a node on which no server is rewound saves their memory.
            from wingsd.restores.rewinding import Rewinds  # noqa: PLC0415

            self.made = Rewinds(self._histories, self._restores)
        return self.made

    def recover(self, records: Sequence[RewindRecord]) -> list[str]:
        """Complete the changes that an earlier daemon has begun; return what it is to start.

        Blocking, at the daemon's start, before the servers are loaded.
        """
        return self.get().recover(records) if records else []

    async def settle(self) -> set[str]:
        """Settle what was recovered, when the servers are loaded.

        Return the servers that it starts itself.
        """
        return await self.made.settle() if self.made is not None else set()

    async def clean(self) -> None:
        """Forget rewinds of some days ago, which can be undone no more. Daily."""
        if self.made is not None:
            await self.made.clean()

    async def release(self, uuid: str) -> None:
        """End the rewind of a server that is to be deleted; return when that is over."""
        if self.made is not None:
            await self.made.release(uuid)

    async def stop(self) -> None:
        """End what can be ended. The next start completes the rest."""
        if self.made is not None:
            await self.made.stop()
