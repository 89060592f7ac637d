"""Nodes that send moves, and how quickly they try again: fixtures of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.move_node import MoveNode, Mover
from tests.support.sender import KnownBudget, running_sender
from wingsd.config import LiveMovesConfig, MovesConfig
from wingsd.moves import stop_rule
from wingsd.transfers.outgoing import attached, move, rounds
from wingsd.transfers.peer import moves
from wingsd.util.retry import Backoff

BATCH = 256 << 10


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits after an error."""
    monkeypatch.setattr(moves, "PAUSES", Backoff(0.01, 0.02))
    monkeypatch.setattr(moves, "PROGRESS_EVERY", 0.01)
    monkeypatch.setattr(moves, "SOON", 0.01)
    monkeypatch.setattr(moves, "NO_SPACE_PAUSE", 0.01)
    monkeypatch.setattr(move, "RESUME_AFTER", 0.01)
    monkeypatch.setattr(attached, "FIRST", BATCH)


@pytest.fixture
def slow_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have rounds follow each other soon, and help little."""
    monkeypatch.setattr(stop_rule, "FIXED", 1000.0)
    monkeypatch.setattr(rounds, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(rounds, "REHEARSE_EVERY", 0.01)
    monkeypatch.setattr(rounds, "ROUND_EVERY", 0.05)
    monkeypatch.setattr(move, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(move, "Budget", KnownBudget)


@pytest.fixture
def sender(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mover]:
    """A node that moves a server, which a test may give other settings of moves."""
    config = MovesConfig(**{"patience": 600, **getattr(request, "param", {})})
    for made in running_sender(Mover, tmp_path, moves=config):
        (made.tree / "world" / "again").hardlink_to(made.tree / "world" / "level.dat")
        yield made


@pytest.fixture
def live_sender(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mover]:
    """A node whose server runs, which a test may give other settings of that."""
    live = LiveMovesConfig(**{"final_patience": 600, **getattr(request, "param", {})})
    moves = MovesConfig(patience=600)
    yield from running_sender(Mover, tmp_path, size=200_000, moves=moves, live=live)


@pytest.fixture
def node(sender: Mover) -> MoveNode:
    return sender.there
