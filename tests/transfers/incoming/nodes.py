"""Nodes that take moves over HTTP from a test: with fakes alone, or with servers of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
import jwt
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.harness import Harness
from tests.support.move_client import MoveClient
from tests.support.node_in_process import NodeInProcess, description
from tests.support.reactor import reactor, until
from tests.support.receiver import Receiver
from tests.support.sample_server import UUID
from wingsd.config import TransfersConfig
from wingsd.panel.schemas import configuration_from_panel
from wingsd.threadio import Workers
from wingsd.transfers.recovery import clear_leftovers

LEVEL = bytes(range(256)) * 2000


class _TakesMoves(Harness):
    """A destination, for which a test makes tokens."""

    @property
    def uploads(self) -> str:
        """The address of its transfers."""
        return f"{self.http.address}/api/transfers"

    @property
    def inbox(self) -> Any:
        """The inbox of the move that is open, if it is."""
        return getattr(self.receiver.find(UUID), "_inbox", None)

    def token(self, server: str = UUID, **claims: Any) -> str:
        now, unique = int(time.time()), f"{time.monotonic_ns()}"
        payload = {"sub": server, "iat": now, "exp": now + 900, "unique_id": unique}
        return jwt.encode(payload | claims, self.config.token, "HS256")

    def client(self, root: Path, token: str | None = None) -> MoveClient:
        return MoveClient(self.uploads, UUID, self.token() if token is None else token, root)

    async def half_sent(self, source: Path, **begun: Any) -> MoveClient:
        """Return a move all of whose files have arrived, and that is not committed."""
        client = self.client(source)
        await client.begin(**begun)
        await client.send()
        return client

    async def rest(self) -> None:
        """Return when no transfer is under way."""
        await until(lambda: not self.receiver.servers)

    def has_level(self) -> bool:
        """Return whether the server's large file is in its place, and whole."""
        return (self.data / UUID / "world" / "level.dat").read_bytes() == LEVEL

    def damage_level(self) -> None:
        """Have the disk change what has arrived of that file."""
        staged = Path(self.staging.path) / UUID / "world" / "level.dat"
        with staged.open("r+b") as file:
            file.write(b"damaged")

    def close_copies(self) -> None:
        """Close the files of moves that are not to go on."""
        for transfer in self.receiver._open.values():
            inbox: Any = getattr(transfer, "_inbox", None)
            if inbox is not None:
                inbox.upkeep.stop()
                inbox.copy._paths = None
                inbox.copy._close()


class MovingNode(Receiver, _TakesMoves):
    """The receiver, which listens."""

    def __init__(self, directory: Path, workers: Workers) -> None:
        super().__init__(directory, workers)
        self.panel.owned = [False] * 100
        self.http.open()

    async def stop(self) -> None:
        """Stop as a daemon does."""
        await self.receiver.stop()
        await self.end()

    async def end(self) -> None:
        """End at once, as if killed: only the files are closed."""
        await self.http.close()
        await self.http.site.drain(0)
        self.close()
        self.heard.answers.clear()  # errors, whose tracebacks have open files
        self.close_copies()

    async def reaches(self, call: str) -> None:
        """Return when that was called."""
        await until(lambda: call in self.calls)

    def takes_requests(self) -> bool:
        """Return whether the move that an earlier one has left is open again."""
        return self.inbox is not None

    def copies(self) -> list[str]:
        """Return the servers of which something is kept of a failed move."""
        return [copy.server for copy in self.partial_copies.kept()]

    async def take_over(self, _: MovingNode) -> None:
        await self.recover()

    async def recover(self) -> None:
        """Go on with what an earlier one has left."""
        unfinished, moves = self.store.unfinished(), self.store.open_moves()
        clear_leftovers(unfinished, self.staging, self.received_backups, (), moves)
        self.staging.delete_cleared()
        await self.callbacks.load()
        self.make_recovery(unfinished, moves).begin()


class RunningNode(NodeInProcess, _TakesMoves):
    """A node with a Panel and real servers; `live` are settings of moves of running servers."""

    panel: Any

    def __init__(self, directory: Path, workers: Workers, **live: Any) -> None:
        usual = TransfersConfig()
        transfers = attrs.evolve(usual, live=attrs.evolve(usual.live, **live))
        super().__init__(directory, workers, 0, transfers)
        self.panel.faults.clear()
        self.panel.owned = False
        self.describe_as()
        self.servers.loaded = True
        #: What consoles are shown.
        self.told: list[str] = []
        self.bus.subscribe(UUID, lambda event: self.told.extend(event.args))

    def describe_as(self, **settings: Any) -> None:
        """Have the Panel describe the server with some settings."""
        self.panel.known[UUID] = configuration_from_panel(description(**settings))

    @property
    def runs(self) -> bool:
        return UUID in self.environment.running

    def says(self, text: str) -> bool:
        return any(text in line for line in self.told)

    async def end(self) -> None:
        await self.close()
        self.close_copies()

    async def take_over(self, last: RunningNode) -> None:
        """Have the Panel and the containers of an earlier one; go on as a daemon at its start."""
        self.panel.owned, self.panel.known = last.panel.owned, last.panel.known
        self.environment.containers |= last.environment.containers
        await self.callbacks.load()
        await self.arrived.load()
        await self.recover()
        if self.panel.owned:
            self.servers.get_or_add(await self.panel.describe(UUID))
        self.arrived.start_left()


Kind = TypeVar("Kind", MovingNode, RunningNode)


class Nodes(Generic[Kind]):
    """Makes one node after the other in a directory."""

    def __init__(self, directory: Path, kind: type[Kind]) -> None:
        self._workers = Workers(reactor, "test", 6)
        self._workers.start()
        self._directory = directory
        self._kind: type[Kind] = kind
        self._made: list[Kind] = []

    def start(self, **options: Any) -> Kind:
        self._made.append(self._kind(self._directory, self._workers, **options))
        return self._made[-1]

    async def replace(self) -> Kind:
        """Have the last node end as if killed, and another one take its place."""
        await self._made[-1].end()
        return self.start()

    async def next(self, client: MoveClient | None = None) -> Kind:
        """Replace the last node by one that goes on with its work, and that a client asks."""
        node = await self.replace()
        if client is not None:
            client.move_to(node.uploads)
        await node.take_over(self._made[-2])
        return node

    async def close(self) -> None:
        await self._made[-1].end()
        self._workers.stop()


def _made(directory: Path, kind: type[Kind]) -> Iterator[Nodes[Kind]]:
    (directory / "node").mkdir()
    nodes = Nodes(directory / "node", kind)
    yield nodes
    pytest_twisted.blockon(Deferred.fromCoroutine(nodes.close()))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes[MovingNode]]:
    yield from _made(tmp_path, MovingNode)


@pytest.fixture
def running_nodes(tmp_path: Path) -> Iterator[Nodes[RunningNode]]:
    yield from _made(tmp_path, RunningNode)


@pytest.fixture
def node(nodes: Nodes[MovingNode]) -> MovingNode:
    return nodes.start()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The files of a server."""
    root = tmp_path / "source"
    (root / "world").mkdir(parents=True)
    (root / "world" / "level.dat").write_bytes(LEVEL)
    (root / "server.properties").write_text("port=25565\n")
    (root / "latest").symlink_to("world")
    (root / "empty").write_bytes(b"")
    return root
