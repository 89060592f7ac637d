"""Kills of a whole evacuation: of either node, of both, or of the command, at a random moment."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.crash.engine import Broken, Campaign, until_none
from tests.crash.nodes import is_finished
from tests.crash.two_nodes import Containers
from tests.support.archives import seen
from tests.support.docker_engine import Engine
from tests.support.evacuated_nodes import FIRST_PORT, EvacuatedNodes
from tests.support.node_process import NodeProcess, reactor
from tests.support.settings import process_configuration

#: Who is killed.
VICTIMS = (
    ("source",),
    ("destination",),
    ("command",),
    ("source", "command"),
    ("source", "destination"),
)
#: Paths in a server's directory that its game changes, with the directory's own time.
CHANGING = (b"", b"/runs", b"/saved")
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

    #: Seconds at most from the beginning to a kill.
    latest: ClassVar[float] = 8.0

    def __init__(
        self, directory: Path, servers: int = 8, other_port: int = FIRST_PORT, **settings: Any
    ) -> None:
        self.nodes = EvacuatedNodes(directory, servers, other_port)
        self.nodes.panel.strict = True
        self._directory = directory
        self.source, self.other = self.nodes.source, self.nodes.destination
        self._settings = settings
        #: More of the configuration of both nodes.
        self.changes: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._deaths: Counter[str] = Counter()

    async def start(self) -> None:
        """Start both nodes, and fill the first one."""
        for node in (self.source, self.other):
            # A node that dies is not waited for as if only its answer were lost.
            node.transfers = {"answer_grace": 0, "disk_reserve": 0, "moves": {"batch": 1}}
        self.nodes.fill(**self._settings)
        await self.nodes.open(**self.changes)
        self._before = {each: self.files(self.source, each) for each in self.nodes.servers}

    async def close(self) -> None:
        await self.nodes.close()

    async def trial(self, number: int) -> str:
        victims = self.rng.choice(VICTIMS)
        self.plan_of_trial = kill = EvacuationKill(victims, self.rng.uniform(0, self.latest))
        await self.prepare()
        plan = self._directory / f"plan-{number}.json"
        process, ended = self.nodes.evacuate(self.source, plan)
        await deferLater(reactor, kill.after)
        if "command" in victims and not ended.called:
            process.signalProcess("KILL")
        for node in self._killed(victims):
            await node.kill()
            node.age_transfers()
        for node in self._killed(victims):
            await node.start_loaded(**self.changes)
        result = await ended
        for _ in range(MOST_RUNS):
            if result.status == 0:
                break
            _, again = self.nodes.evacuate(self.source, plan)
            result = await again
        if result.status:
            raise Broken(f"the evacuation does not end: {result.err}")
        self._deaths.update(victims)
        await until_none(self.unsettled)
        await self.check()
        self.source, self.other = self.other, self.source
        self.done = number
        return str(kill)

    async def prepare(self) -> None:
        """Make ready what is to be ready before the command."""

    def _killed(self, victims: tuple[str, ...]) -> list[NodeProcess]:
        named = {"source": self.source, "destination": self.other}
        return [named[each] for each in victims if each in named]

    async def unsettled(self) -> str:
        """Return what has not ended yet, empty when everything has."""
        for uuid in self.nodes.servers:
            if self.nodes.panel.in_transfer(uuid):
                return f"the Panel's transfer of {uuid} does not end"
            if (self.source.volumes / uuid).exists():
                return f"the source keeps the files of {uuid} in place"
        for node in (self.source, self.other):
            if not is_finished(node):
                return f"{node.directory.name} does not finish what it has begun"
        return ""

    def files(self, node: NodeProcess, uuid: str) -> Any:
        """Return the files of a server at a node, as far as nothing changes them."""
        return seen(node.volumes / uuid)

    async def check(self) -> None:
        """Check what must hold when everything has ended. Raises `Broken`."""
        for uuid, before in self._before.items():
            if self.nodes.panel.node_of(uuid) is not self.other.node:
                raise Broken(f"the Panel does not have {uuid} at the destination")
            if self.files(self.other, uuid) != before:
                raise Broken(f"{uuid} is not whole at the destination")
        for node in (self.source, self.other):
            lines = [*node.past, *node.log]
            for at, line in enumerate(lines):
                if "Traceback" in line:
                    text = "\n".join(lines[max(at - 2, 0) : at + 30])
                    raise Broken(f"{node.directory.name} has logged a traceback:\n{text}")

    def evidence(self) -> list[str]:
        every = (self.source, self.other)
        return ["\n".join((f"--- {node.directory.name}", *node.log[-40:])) for node in every]

    def summary(self) -> str:
        return ", ".join(f"{who}: {times}" for who, times in sorted(self._deaths.items()))


class RunningEvacuations(Evacuations):
    """The servers run before, on one engine, and after it at their new node, in one container.

    No two containers of a server run at any time. Each counts its runs in its files, and saves the
    count when it is stopped: so a run begins with what the one before has saved last.
    """

    GAME = (
        "cd /home/container; n=$(cat runs); n=$((n + 1)); echo $n > runs; echo listening on; "
        "read -r line; echo $n > saved"
    )
    latest = 20.0

    def __init__(self, directory: Path, engine: Engine, servers: int = 8) -> None:
        stop = process_configuration(stop={"type": "command", "value": "stop"})
        settings = {"image": engine.image, "invocation": self.GAME, "process": stop}
        # Both nodes are on one machine, where each port is used once.
        super().__init__(directory, servers, FIRST_PORT + 100, **settings)
        self._containers = {
            uuid: Containers(engine, self.nodes, uuid) for uuid in self.nodes.servers
        }
        # The network is removed after the containers.
        self.changes = {"docker": attrs.asdict(engine.config().docker)}
        for uuid in self.nodes.servers:
            engine.will_make_container(uuid)
        self._runs: dict[str, int] = {}
        self._begun = 0

    async def start(self) -> None:
        await super().start()
        for uuid in self.nodes.servers:
            for name in ("runs", "saved"):
                (self.source.volumes / uuid / name).write_text("0\n")

    async def prepare(self) -> None:
        for containers in self._containers.values():
            await containers.run()
        self._runs = {uuid: self._count(self.source, uuid, "runs") for uuid in self.nodes.servers}
        self._begun = int(time.time())

    def _count(self, node: NodeProcess, uuid: str, name: str) -> int:
        """Return a count in a server's files, 0 while it is being written."""
        return int((node.volumes / uuid / name).read_text() or 0)

    def files(self, node: NodeProcess, uuid: str) -> Any:
        found = super().files(node, uuid)
        return {path: each for path, each in found.items() if path not in CHANGING}

    async def unsettled(self) -> str:
        """Return what has not ended yet, also a start that is still to be tried."""
        if found := await super().unsettled():
            return found
        for uuid, containers in self._containers.items():
            if containers.running() != [str(self.other.volumes / uuid)] and not containers.owes:
                return f"{uuid} does not run at the destination, but: {containers.running()}"
        return ""

    async def check(self) -> None:
        await super().check()
        for uuid, containers in self._containers.items():
            await until_none(containers.fault)
            await until_none(partial(self._unsaved, uuid))
            most = await deferToThread(containers.most_at_once, self._begun)
            if most > 1:
                raise Broken(f"{most} containers of {uuid} ran at once")

    async def _unsaved(self, uuid: str) -> str:
        """Return what a server's present run lacks of the one before."""
        runs, saved = (self._count(self.other, uuid, each) for each in ("runs", "saved"))
        if saved == runs - 1 and runs > self._runs[uuid]:
            return ""
        return f"run {runs} of {uuid}, after {self._runs[uuid]}, has what run {saved} has saved"
