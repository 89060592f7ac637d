"""What tests of seeds share: two nodes, and a copy that follows their server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_in_process import NodeInProcess, NodePair, running_pair
from tests.support.reactor import until
from tests.support.sample_server import UUID
from tests.support.tokens import signed
from wingsd.config import LiveMovesConfig, MovesConfig, TransfersConfig
from wingsd.servers.operations import Operation
from wingsd.transfers.incoming.moves.transfer import MoveTransfer
from wingsd.transfers.outgoing import rounds, transfer
from wingsd.transfers.outgoing.source import SeedOrder, TransferRequest
from wingsd.transfers.steps import SeedFigures
from wingsd.util.retry import Backoff

__all__ = ["nodes", "quick"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits after a failure."""
    monkeypatch.setattr(rounds, "ROUND_PAUSES", Backoff(0.05, 0.2))
    monkeypatch.setattr(rounds, "ROUND_PATIENCE", 0.2)
    monkeypatch.setattr(rounds, "ASKED_EVERY", 0.05)
    monkeypatch.setattr(transfer, "TAKEN_EVERY", 0.05)


def settings(follow_every: float = 0.05, **moves: Any) -> TransfersConfig:
    """Return settings of a node that begins a round so often."""
    live = LiveMovesConfig(follow_every=follow_every)  # type: ignore[arg-type]
    return TransfersConfig(live=live, moves=MovesConfig(**moves))


@pytest.fixture
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodePair]:
    """Two nodes whose copies follow at once, or with other `settings`."""
    yield from running_pair(tmp_path, getattr(request, "param", settings()))


#: When a server is to be moved: in an hour, and so when a test says that this is over.
END = time.time() + 3600


async def begin(nodes: NodePair, stop_at: float | None = None) -> None:
    """Have a copy follow the server; return when it is whole."""
    nodes.source.panel.known[UUID] = nodes.configuration
    invitation = await nodes.destination.invite(follow=True)
    await nodes.send(invitation, seed=SeedOrder(stop_at))
    await until(lambda: figures(nodes).rounds > 0)


def come(node: NodeInProcess) -> None:
    """Have the time of the end come, by the clock of a node."""
    node.database.now = lambda: END + 1


def figures(nodes: NodePair) -> SeedFigures:
    progress = nodes.source.sender.progress
    found = progress[0].seed if progress else None
    return found or SeedFigures(0, 0, 0, None, None, None, "")


def copy(nodes: NodePair) -> Path:
    return Path(nodes.destination.staging.path) / UUID


def write(nodes: NodePair, name: str, data: bytes = b"written later") -> None:
    (nodes.source.data / UUID / "world" / name).write_bytes(data)


async def follows(nodes: NodePair, name: str) -> None:
    """See that what is written now comes to the copy."""
    write(nodes, name)
    await until((copy(nodes) / "world" / name).exists)


def kept(nodes: NodePair) -> list[str]:
    return [each.server for each in nodes.destination.partial_copies.kept()]


def is_used_as_ever(nodes: NodePair) -> bool:
    operations = nodes.source.servers.get(UUID).operations
    return not any(operations.runs(each) for each in Operation)


def received(nodes: NodePair) -> MoveTransfer:
    """Return the transfer by which the destination receives the server."""
    found = nodes.destination.receiver.find(UUID)
    assert isinstance(found, MoveTransfer)
    return found


class OrderingPanel:
    """The Panel of both nodes, which has ordered that the server moves to the destination."""

    def __init__(self, nodes: NodePair) -> None:
        self._nodes = nodes
        self.has_moved = False
        for node in (nodes.source, nodes.destination):
            self.be_of(node)

    def be_of(self, node: NodeInProcess) -> None:
        panel = node.panel

        async def owns(uuid: str) -> bool:
            return (node is self._nodes.destination) is self.has_moved

        async def transfer_succeeded(*_: Any, **__: Any) -> bool:
            self.has_moved = True
            return True

        panel.known[UUID] = self._nodes.configuration
        panel.owns, panel.transfer_succeeded = owns, transfer_succeeded

    async def see_moved(self) -> None:
        """Return when the server has moved, and the destination knows that it was accepted."""
        await until(lambda: self.has_moved)
        await until(lambda: self._nodes.destination.entries()[-1] == ("in", "success"))


def order(nodes: NodePair, destination: NodeInProcess) -> None:
    """Order the server's transfer, as its Panel does."""
    claims = {
        "iss": "https://panel.invalid",
        "aud": [destination.url],
        "jti": "order",
        "sub": UUID,
        "iat": int(time.time()),
        "nbf": int(time.time()) - 60,
        "exp": int(time.time()) + 900,
    }
    token = signed(claims, {}, destination.config.token)
    server = nodes.source.servers.get(UUID)
    url = f"{destination.url}/api/transfers"
    nodes.source.sender.start(server, TransferRequest(url, f"Bearer {token}"))
