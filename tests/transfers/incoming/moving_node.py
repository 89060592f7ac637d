"""A node that takes moves over HTTP, between a fake Panel and fake containers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.support.move_client import MoveClient
from tests.support.reactor import reactor, until
from tests.support.receiver import Receiver
from tests.support.sample_server import UUID
from wingsd.threadio import Workers
from wingsd.transfers.manager import IncomingTransfers
from wingsd.transfers.recovery import clear_leftovers

LEVEL = bytes(range(256)) * 2000


def close_copies(receiver: IncomingTransfers) -> None:
    """Close the files of moves that are not to go on."""
    for transfer in receiver._open.values():
        inbox = getattr(transfer, "_inbox", None)
        if inbox is not None:
            inbox.upkeep.stop()
            inbox.copy._paths = None
            inbox.copy._close()


class MovingNode(Receiver):
    """The receiver, which listens."""

    def __init__(self, directory: Path, workers: Workers) -> None:
        super().__init__(directory, workers)
        self.panel.owned = [False] * 100
        self.http.open()
        self.issued = 0

    @property
    def url(self) -> str:
        return f"{self.http.address}/api/transfers"

    def token(self, server: str = UUID, **claims: Any) -> str:
        self.issued += 1
        now = int(time.time())
        payload = {"sub": server, "iat": now, "exp": now + 900, "unique_id": f"{self.issued}{now}"}
        return jwt.encode(payload | claims, self.config.token, "HS256")

    def client(self, root: Path, token: str | None = None) -> MoveClient:
        return MoveClient(self.url, UUID, self.token() if token is None else token, root)

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
        close_copies(self.receiver)

    def wait(self) -> Deferred[None]:
        """Return what a part waits for."""
        return Deferred()

    async def reaches(self, call: str) -> None:
        """Return when that was called."""
        await until(lambda: call in self.calls)

    def takes_requests(self) -> bool:
        """Return whether the move that an earlier one has left is open again."""
        return getattr(self.receiver.find(UUID), "_inbox", None) is not None

    async def recover(self) -> None:
        """Go on with what an earlier one has left."""
        unfinished, moves = self.store.unfinished(), self.store.open_moves()
        clear_leftovers(unfinished, self.staging, self.received_backups, (), moves)
        self.staging.delete_cleared()
        await self.callbacks.load()
        self.make_recovery(unfinished, moves).begin()


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


class Nodes:
    """Makes one node after the other in a directory."""

    def __init__(self, directory: Path) -> None:
        self.workers = Workers(reactor, "test", 6)
        self.workers.start()
        self._directory = directory
        self.made: list[MovingNode] = []

    def start(self) -> MovingNode:
        node = MovingNode(self._directory, self.workers)
        self.made.append(node)
        return node

    async def close(self) -> None:
        for node in self.made:
            await node.end()
        self.workers.stop()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    (tmp_path / "node").mkdir()
    made = Nodes(tmp_path / "node")
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))


@pytest.fixture
def node(nodes: Nodes) -> MovingNode:
    return nodes.start()


async def half_sent(node: MovingNode, source: Path) -> MoveClient:
    """Return a move all of whose files have arrived, and that is not committed."""
    client = node.client(source)
    await client.begin()
    await client.send()
    return client


async def rest(node: MovingNode) -> None:
    await until(lambda: not node.receiver.servers)


def kept(node: MovingNode) -> list[str]:
    return [copy.server for copy in node.partial_copies.kept()]
