"""What the node does by itself, whatever becomes of its transfers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.logs import LoggedErrors
from wingsd.config import Config, Docker, System
from wingsd.node import DAY, Node


def test_a_day_that_goes_wrong_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_errors: LoggedErrors
) -> None:
    system = System(root_directory=str(tmp_path), data=str(tmp_path / "volumes"))
    docker = Docker(enabled=False)
    config = Config("id", "token", "https://panel.invalid", system=system, docker=docker)
    clock: Any = Clock()
    node = Node(config, "tcp:0", clock)

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(node._journal, "forget", fail)
    node._daily.start(DAY)
    clock.advance(DAY)
    assert len(logged_errors.take(ZeroDivisionError)) == 2
    # As the end of the node does, which leaves the rest undone where this raises.
    node._daily.stop()
