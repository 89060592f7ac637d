"""A node that takes moves over HTTP from a test, with servers of its own and fake containers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import jwt
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed

from tests.support.move_client import MoveClient
from tests.support.node_in_process import NodeInProcess, SilentPanel, description
from tests.support.reactor import reactor
from tests.support.sample_server import UUID
from tests.transfers.incoming.moving_node import close_copies
from wingsd.config import TransfersConfig
from wingsd.errors import WingsdError
from wingsd.panel.schemas import configuration_from_panel
from wingsd.threadio import Workers


class RunningPanel(SilentPanel):
    """A Panel that moves the server when it hears of the success, unless `answer` says else.

    Methods wait for what `waits` has for their names, and raise what `faults` has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owned: set[str] = set()
        self.settings: dict[str, Any] = {}
        self.waits: dict[str, Deferred[None]] = {}
        self.faults: dict[str, WingsdError] = {}

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        await self.waits.get(name, succeed(None))
        if name in self.faults:
            raise self.faults[name]

    async def owns(self, uuid: str) -> bool:
        await self._called("owns")
        return uuid in self.owned

    async def describe(self, uuid: str) -> Any:
        await self._called("describe")
        return configuration_from_panel(description(**self.settings))

    async def transfer_succeeded(self, uuid: str, backups: Any = None) -> None:
        await self._called("success")
        self.owned.add(uuid)

    async def transfer_failed(self, uuid: str) -> bool:
        if self.is_gone:
            await Deferred()
        await self._called("failure")
        return True


class RunningNode(NodeInProcess):
    """A node with a Panel and real servers; tokens are made for it."""

    panel: RunningPanel
    panel_kind = RunningPanel
    #: What consoles are shown.
    told: list[str]

    def client(self, root: Path) -> MoveClient:
        now = int(time.time())
        claims = {"sub": UUID, "iat": now, "exp": now + 900, "unique_id": f"{time.monotonic_ns()}"}
        token = jwt.encode(claims, self.config.token, "HS256")
        return MoveClient(f"{self.url}/api/transfers", UUID, token, root)

    @property
    def runs(self) -> bool:
        return UUID in self.environment.running

    def says(self, text: str) -> bool:
        return any(text in line for line in self.told)

    async def close(self) -> None:
        await super().close()
        close_copies(self.receiver)

    async def boot(self) -> None:
        """Go on as a daemon does after its start."""
        await self.callbacks.load()
        await self.arrived.load()
        await self.recover()
        self.servers.loaded = True
        for uuid in self.panel.owned:
            self.servers.get_or_add(await self.panel.describe(uuid))
        self.arrived.start_left()


class RunningNodes:
    """Makes one node after the other in a directory; they share the Panel and the containers."""

    def __init__(self, directory: Path) -> None:
        self.workers = Workers(reactor, "test", 6)
        self.workers.start()
        self._directory = directory
        self._made: list[RunningNode] = []

    def start(self, **live: Any) -> RunningNode:
        transfers = TransfersConfig()
        live_config = attrs.evolve(transfers.live, **live)
        node = RunningNode(
            self._directory, self.workers, 0, attrs.evolve(transfers, live=live_config)
        )
        node.servers.loaded = True
        node.told = []
        node.bus.subscribe(UUID, lambda event: node.told.extend(event.args))
        self._made.append(node)
        return node

    async def next(self) -> RunningNode:
        """Have the last node end as if killed, and another one take its place."""
        last = self._made[-1]
        await last.close()
        node = self.start()
        node.panel.owned, node.panel.settings = last.panel.owned, last.panel.settings
        node.environment.containers |= last.environment.containers
        await node.boot()
        return node

    async def close(self) -> None:
        await self._made[-1].close()
        self.workers.stop()


@pytest.fixture
def running_nodes(tmp_path: Path) -> Iterator[RunningNodes]:
    (tmp_path / "node").mkdir()
    made = RunningNodes(tmp_path / "node")
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))
