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
from wingsd.config import LiveMovesConfig, TransfersConfig
from wingsd.servers.operations import Operation
from wingsd.transfers.outgoing import seed, seed_rounds
from wingsd.transfers.outgoing.seed_order import SeedOrder
from wingsd.transfers.step_log import SeedFigures
from wingsd.util.retry import Backoff


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have little be waited for after a failure."""
    monkeypatch.setattr(seed_rounds, "RETRIES", Backoff(0.05, 0.2))
    monkeypatch.setattr(seed_rounds, "PATIENCE", 0.2)
    monkeypatch.setattr(seed, "TAKEN_EVERY", 0.05)


def seeding_pair(directory: Path) -> Iterator[NodePair]:
    """Yield two nodes whose copies follow at once."""
    live: Any = LiveMovesConfig(follow_every=0.05)  # type: ignore[arg-type]
    yield from running_pair(directory, TransfersConfig(live=live))


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
    return [each.server for each in nodes.destination.partial_copies.get().kept()]


def is_used_as_ever(nodes: NodePair) -> bool:
    operations = nodes.source.servers.get(UUID).operations
    return not any(operations.runs(each) for each in Operation)
