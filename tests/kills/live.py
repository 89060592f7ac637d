"""Scenarios of running servers that move: nodes die, and one copy runs at most, at any time.

What runs is known by the engine that both nodes share.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from tests.kills.engine import Broken, Kill, until_none
from tests.kills.resumed import ContaineredResumed
from tests.support.docker_engine import Engine
from tests.support.sample_server import UUID

__all__ = ["Live"]


class Live(ContaineredResumed):
    """The server runs before each move, and after it: at its new node, or where it stays."""

    def __init__(self, directory: Path, engine: Engine, size: int = 48) -> None:
        super().__init__(directory, engine, size)
        self._engine = engine
        self._begun = 0

    def plan(self, rng: random.Random) -> Kill:
        """Return the next kill; the server always runs before."""
        kill = super().plan(rng)
        breaks = kill.variant.removeprefix("running").removeprefix(", ")
        variant = ", ".join(filter(None, ("running", breaks)))
        return Kill(kill.victims, kill.moment, variant=variant)

    async def begin(self, variant: str = "") -> None:
        """Have the server run, and the Panel move it."""
        self._begun = int(time.time())
        await super().begin(variant)

    async def unsettled(self) -> str:
        """Return what has not ended yet, also a start that is still to be tried."""
        left = await super().unsettled()
        if not left and not self._runs() and not self._containers.owes:
            where = "has moved" if self.pair.owner is self._destination else "stays"
            left = f"the server {where}, and does not run"
        return left

    async def check(self) -> None:
        await super().check()
        await until_none(self._misplaced)
        if most := await deferToThread(self._most_at_once):
            raise Broken(f"{most} containers of the server ran at once")

    async def _misplaced(self) -> str:
        home = str(self.pair.owner.files())
        return "" if self._runs() in ([], [home]) else f"it runs elsewhere: {self._runs()}"

    def _runs(self) -> list[str]:
        """Return the directories of the server's containers that run."""
        found = self._engine.client.containers(filters={"name": f"^/{UUID}$"})
        return [
            mount["Source"]
            for each in found
            for mount in each["Mounts"]
            if mount["Destination"] == "/home/container"
        ]

    def _most_at_once(self) -> int:
        """Return how many of its containers ran at once since the move began, 0 for one."""
        running: set[str] = set()
        most = 0
        found: Any = self._engine.client.events(
            since=self._begun,
            until=int(time.time()),
            filters={"type": "container", "event": ["start", "die"]},
            decode=True,
        )
        for event in found:
            if event["Actor"]["Attributes"].get("name") != UUID:
                continue
            if event["Action"] == "start":
                running.add(event["Actor"]["ID"])
            else:
                running.discard(event["Actor"]["ID"])
            most = max(most, len(running))
        return most if most > 1 else 0
