"""Scenarios of transfers that go on with a seed: a copy follows the server when it is ordered."""

from __future__ import annotations

import shlex

from tests.kills.engine import Broken
from tests.kills.resumed import Resumed
from tests.support.sample_server import UUID

__all__ = ["Seeded"]


class Seeded(Resumed):
    """What holds for moves holds for these: also, nothing of the copy is sent again.

    The Panel's order comes while the copy may still be on its way. A copy that follows is ended by
    that; where a kill is in between, it goes on, and the next order ends it.
    """

    async def _order(self) -> None:
        source, destination = self.nodes.values()
        url = ("--url", destination.node.address)
        invited = await destination.wingsctl("receive", UUID, "--follow", *url, "--json")
        if invited.status:
            raise Broken(f"the copy is not expected: {invited.err}")
        seeded = await source.wingsctl(*shlex.split(invited.json["send"])[1:])
        if seeded.status and "already in progress" not in seeded.err:
            raise Broken(f"no copy follows the server: {seeded.err}")
        await super()._order()

    async def unsettled(self) -> str:
        """Return what has not ended yet, but for a copy that follows: that is cancelled."""
        if not self.pair.panel.in_transfer(UUID):
            for node in self.nodes.values():
                await node.wingsctl("cancel", UUID)
        return await super().unsettled()
