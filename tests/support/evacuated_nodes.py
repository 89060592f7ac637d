"""Two paired nodes with several servers, and a Panel that takes orders by Pelican's API."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from twisted.internet.defer import Deferred

from tests.support.application_api import KEY
from tests.support.forked_process import ForkedProcess
from tests.support.node_process import CommandResult, NodeProcess
from tests.support.sample_server import UUID as SAMPLE
from tests.support.settings import process_configuration, server_settings
from tests.support.two_nodes import TwoNodes

#: The first port of the source, and how many more ports each node has than there are servers.
FIRST_PORT, MORE_PORTS = 25600, 2


class EvacuatedNodes(TwoNodes):
    """The servers are at the source first; each node may send copies to the other one."""

    def __init__(self, directory: Path, count: int = 8, other_port: int = FIRST_PORT) -> None:
        """Make them; the ports of the second node begin with `other_port`."""
        super().__init__(directory)
        self._other_port = other_port
        self.key = directory / "panel.key"
        self.key.write_text(KEY)
        self.key.chmod(0o600)
        # As that of the sample, their containers are not those of a campaign on the same engine.
        first = UUID(SAMPLE).int & ~0xFFFF
        self.servers = [str(UUID(int=first | each)) for each in range(1, count + 1)]

    def fill(self, *, kib: int = 200, **settings: Any) -> None:
        """Put the servers on the source, each with some more KiB than the one before."""
        process = settings.pop("process", process_configuration())
        for number, uuid in enumerate(self.servers):
            port = FIRST_PORT + number
            described = server_settings(uuid, name=f"game {number + 1}", port=port, **settings)
            self.panel.add_server(described, self.source.node, process)
            self.panel.add_allocation(self.source.node, port, uuid)
            world = self.source.volumes / uuid / "world"
            world.mkdir(parents=True)
            data = hashlib.shake_128(uuid.encode()).digest(kib * 1024 * (number + 1))
            for part in range(4):
                (world / f"region.{part}.mca").write_bytes(data[part::4])
        for node, first in ((self.source, FIRST_PORT), (self.destination, self._other_port)):
            there = len(self.servers) + MORE_PORTS
            taken = {e.port for e in self.panel.allocations.values() if e.node is node.node}
            for port in range(first, first + there):
                if port not in taken:
                    self.panel.add_allocation(node.node, port)

    async def open(self, **changes: Any) -> None:
        """Start both nodes, and pair them in both directions."""
        for node in (self.source, self.destination):
            await node.start_loaded(**changes)
        for here, there in ((self.source, self.destination), (self.destination, self.source)):
            made = await there.wingsctl("pair", "--url", there.node.address, "--json")
            assert made.status == 0, made.err
            accepted = await here.wingsctl(
                "pair", "--accept", there.node.address, made.json["key"]
            )
            assert accepted.status == 0, accepted.err

    def words(self, source: NodeProcess, plan: Path, *more: str) -> Sequence[str]:
        """Return the words of the command that empties a node."""
        other = self.destination if source is self.source else self.source
        address = other.node.address.partition("//")[2]
        words = ["evacuate", "--plan", str(plan), "--panel-key-file", str(self.key)]
        # The nodes take themselves for Pterodactyl's.
        words += ["--family", "pelican", *more]
        return words if plan.exists() else [*words, "--to", address]

    def evacuate(
        self, source: NodeProcess, plan: Path, *more: str
    ) -> tuple[ForkedProcess, Deferred[CommandResult]]:
        """Start the command, or go on with its plan; return its process, and its result later."""
        return source.start_wingsctl(*self.words(source, plan, *more))
