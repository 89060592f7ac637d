"""What the node does by itself, whatever becomes of its transfers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.task import Clock

from tests.metrics.exposed import FakePassage
from tests.support.logged_errors import Logged
from wingsd.api.context import NodeContext
from wingsd.app.daemon import DAY, Node, summary
from wingsd.app.wiring import build_node
from wingsd.config import Config, DockerConfig, SystemConfig


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path: Path, clock: Any) -> Node:
    system = SystemConfig(root_directory=str(tmp_path), data=str(tmp_path / "volumes"))
    docker = DockerConfig(enabled=False)
    config = Config("id", "token", "https://panel.invalid", system=system, docker=docker)
    return build_node(config, "tcp:0", clock)


def test_requests_get_all_the_objects_of_the_node(node: Node) -> None:
    assert vars(node.context).keys() >= NodeContext.__annotations__.keys()


def test_it_says_what_it_does_and_how_far_that_has_come(node: Node) -> None:
    node.context.receiver._open["a"] = None  # type: ignore[assignment]  # whatever it is
    node._moved.transfer_begun(FakePassage("in", moved=1024))
    unknown = "waits for the Panel to tell which servers it has"
    assert node.status == f"{unknown}; receiving a (1.0 KiB so far)"


def test_a_failed_daily_task_runs_again_the_next_day(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(node.context.database, "prune", Mock(side_effect=ZeroDivisionError))
    node._daily.start(DAY)
    clock.advance(DAY)
    assert len(logged.take(ZeroDivisionError)) == 2
    # As the end of the node does, which leaves the rest undone where this raises.
    node._daily.stop()


@pytest.mark.parametrize(
    ("count", "receiving", "sending", "line"),
    [
        (None, [], [], "waits for the Panel to tell which servers it has; no transfer under way"),
        (0, [], [], "0 servers; no transfer under way"),
        (1, ["a"], [], "1 server; receiving a"),
        (12, ["a"], ["b", "c"], "12 servers; receiving a, sending 2 servers"),
    ],
)
def test_the_summary_has_the_servers_and_the_transfers(
    count: int | None, receiving: list[str], sending: list[str], line: str
) -> None:
    assert summary(count, receiving, sending) == line


def test_the_summary_has_the_bytes_so_far() -> None:
    line = "1 server; receiving a (1.5 GiB so far), sending 2 servers (1.0 KiB so far)"
    assert summary(1, ["a"], ["b", "c"], 1536 << 20, 1024) == line
