"""Kills of a whole evacuation: of either node, of both, or of the command, at a random moment."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater

from tests.crash.engine import Broken, Campaign, until_none
from tests.crash.nodes import is_finished
from tests.support.archives import seen
from tests.support.evacuated_nodes import EvacuatedNodes
from tests.support.node_process import NodeProcess, reactor

#: Who is killed.
VICTIMS = (
    ("source",),
    ("destination",),
    ("command",),
    ("source", "command"),
    ("source", "destination"),
)
#: Seconds at most from the beginning to a kill.
LATEST = 8.0
#: Runs of the command until all servers must have moved.
MOST_RUNS = 4


@attrs.frozen
class EvacuationKill:
    """Who is killed, and seconds after the beginning of the evacuation."""

    victims: tuple[str, ...]
    after: float

    def __str__(self) -> str:
        return f"{' and '.join(self.victims)} after {self.after:.2f} s"


class Evacuations(Campaign):
    """After each kill, the command goes on with its plan until all servers have moved.

    Each is once, whole, at the node that the Panel says; nothing is unfinished at either node.
    """

    def __init__(self, directory: Path, servers: int = 8) -> None:
        self.nodes = EvacuatedNodes(directory, servers)
        self.nodes.panel.strict = True
        self._directory = directory
        self._source, self._other = self.nodes.source, self.nodes.destination
        self._before: dict[str, Any] = {}
        self._deaths: Counter[str] = Counter()

    async def start(self) -> None:
        """Start both nodes, and fill the first one."""
        for node in (self._source, self._other):
            # A node that dies is not waited for as if only its answer were lost.
            node.transfers = {"answer_grace": 0, "disk_reserve": 0, "moves": {"batch": 1}}
        self.nodes.fill()
        await self.nodes.open()
        self._before = {each: seen(self._source.volumes / each) for each in self.nodes.servers}

    async def close(self) -> None:
        await self.nodes.close()

    async def trial(self, number: int) -> str:
        victims = self.rng.choice(VICTIMS)
        self.plan_of_trial = kill = EvacuationKill(victims, self.rng.uniform(0, LATEST))
        plan = self._directory / f"plan-{number}.json"
        process, ended = self.nodes.evacuate(self._source, plan)
        await deferLater(reactor, kill.after)
        if "command" in victims and not ended.called:
            process.signalProcess("KILL")
        for node in self._killed(victims):
            await node.kill()
            node.age_transfers()
        for node in self._killed(victims):
            await node.start_loaded()
        result = await ended
        for _ in range(MOST_RUNS):
            if result.status == 0:
                break
            _, again = self.nodes.evacuate(self._source, plan)
            result = await again
        if result.status:
            raise Broken(f"the evacuation does not end: {result.err}")
        self._deaths.update(victims)
        await until_none(self._unsettled)
        self._check()
        self._source, self._other = self._other, self._source
        self.done = number
        return str(kill)

    def _killed(self, victims: tuple[str, ...]) -> list[NodeProcess]:
        named = {"source": self._source, "destination": self._other}
        return [named[each] for each in victims if each in named]

    async def _unsettled(self) -> str:
        for uuid in self.nodes.servers:
            if self.nodes.panel.in_transfer(uuid):
                return f"the Panel's transfer of {uuid} does not end"
            if (self._source.volumes / uuid).exists():
                return f"the source keeps the files of {uuid} in place"
        for node in (self._source, self._other):
            if not is_finished(node):
                return f"{node.directory.name} does not finish what it has begun"
        return ""

    def _check(self) -> None:
        for uuid, before in self._before.items():
            if self.nodes.panel.node_of(uuid) is not self._other.node:
                raise Broken(f"the Panel does not have {uuid} at the destination")
            if seen(self._other.volumes / uuid) != before:
                raise Broken(f"{uuid} is not whole at the destination")
        for node in (self._source, self._other):
            if any("Traceback" in line for line in (*node.past, *node.log)):
                raise Broken(f"{node.directory.name} has logged a traceback")

    def evidence(self) -> list[str]:
        every = (self._source, self._other)
        return ["\n".join((f"--- {node.directory.name}", *node.log[-40:])) for node in every]

    def summary(self) -> str:
        return ", ".join(f"{who}: {times}" for who, times in sorted(self._deaths.items()))
