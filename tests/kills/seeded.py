"""Scenarios of transfers that go on with a seed: a copy follows the server when it is ordered."""

from __future__ import annotations

import random
import shlex
from contextlib import suppress
from datetime import datetime, timedelta

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.kills.engine import Broken, Kill, is_finished
from tests.kills.resumed import Resumed
from tests.support.nodes import NodeError
from tests.support.reactor import reactor
from tests.support.sample_server import UUID

__all__ = ["Seeded"]

#: Which share of the copies is to be moved without the Panel, at a time before the order.
DUE = 1 / 3
#: Seconds until that time, and at most from then to the order.
DUE_IN, ORDERED_WITHIN = 4, 2.0
#: Seconds until a node is asked again that has died, or has the server in a transfer.
AGAIN = 0.3


class Seeded(Resumed):
    """What holds for moves holds for these: also, nothing of the copy is sent again.

    The Panel's order comes while the copy may still be on its way. A copy that follows is ended by
    that; where a kill is in between, it goes on, and the next order ends it.

    A copy that is `due` is moved by itself, unless the order comes before. The Panel's
    administrator then says that the server is at the other node.
    """

    _is_due = False
    _delay = 0.0
    #: Fires with whether the server has moved before the order.
    _ordering: Deferred[bool] | None = None

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; a third of them are about the time at which a copy is due."""
        kill = super().plan(rng)
        is_due, self._delay = rng.random() < DUE, rng.uniform(0, ORDERED_WITHIN)
        variant = ", ".join(["due", *filter(None, [kill.variant])])
        return attrs.evolve(kill, variant=variant) if is_due else kill

    async def begin(self, variant: str = "") -> None:
        """Have a copy follow the server, and the Panel move it then or, if it is due, later."""
        self._is_due = variant.startswith("due")
        await super().begin(variant)

    async def _order(self) -> None:
        due = await self.copy()
        if not self._is_due:
            await super()._order()
            return
        await deferLater(reactor, max((due - datetime.now()).total_seconds(), 0.0))
        self._ordering = Deferred.fromCoroutine(self._order_later())

    async def copy(self) -> datetime:
        """Start a seed of the server; return when its switch-over is due."""
        source, destination = self.nodes.values()
        url = ("--url", destination.node.address)
        invited = await destination.wingsctl("receive", UUID, "--follow", *url, "--json")
        if invited.status:
            raise Broken(f"the copy is not expected: {invited.err}")
        due = datetime.now() + timedelta(seconds=DUE_IN)
        options = ("--stop-at", f"{due:%Y-%m-%d %H:%M:%S}", "--delete") if self._is_due else ()
        seeded = await source.wingsctl(*shlex.split(invited.json["send"])[1:], *options)
        if seeded.status and "already in progress" not in seeded.err:
            raise Broken(f"no copy follows the server: {seeded.err}")
        return due

    async def _order_later(self) -> bool:
        """Have the Panel order the transfer; return whether the server has moved before."""
        source, destination = self.nodes.values()
        await deferLater(reactor, self._delay)
        while True:
            with suppress(NodeError):  # it has died, or moves the server already
                await super()._order()
                return False
            has_moved = destination.files().is_dir() and not source.files().is_dir()
            if has_moved and all(map(is_finished, (source, destination))):
                return True
            await deferLater(reactor, AGAIN)

    async def _assign(self) -> None:
        """Have the Panel know where the server is, and the nodes hear of that."""
        nodes = self.nodes.values()
        assert self._destination is not None
        self.pair.panel.assign(UUID, self._destination.node)
        for node in nodes:
            await node.kill()
            await super().restart(node)

    async def unsettled(self) -> str:
        """Return what has not ended yet, but for a copy that follows: that is cancelled."""
        if self._ordering is not None:
            if not self._ordering.called:
                return "the Panel has not ordered it, and it has not moved"
            ordering, self._ordering = self._ordering, None
            if await ordering:
                await self._assign()
        if not self.pair.panel.in_transfer(UUID):
            for node in self.nodes.values():
                await node.wingsctl("cancel", UUID)
        return await super().unsettled()
