"""What the service manager hears of a node's life, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tests.logs import LoggedErrors
from tests.systemd.manager import Manager
from wingsd.supervision import READY_WITHIN, SHOWN_EVERY, Supervision
from wingsd.systemd import Notifier


class FakeNode(Service):
    """A node that starts and ends when the test says so."""

    def __init__(self) -> None:
        self.booted: Deferred[bool] = Deferred()
        self.doing = "waits"
        self.ended: Deferred[None] = Deferred()

    def pulse(self) -> Deferred[None]:
        return succeed(None)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self.ended


class World:
    """A manager that listens, a node, and what supervises it."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.clock = Clock()
        self.node: Any = FakeNode()
        self.supervision = Supervision(self.node, Notifier(manager.address), 30.0, self.clock)

    def heard(self, key: str) -> list[str]:
        """Return the values of `key` in what the manager has heard since the last call."""
        return [message[key] for message in self.manager.heard() if key in message]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Manager(tmp_path) as manager:
        yield World(manager)


def test_it_is_ready_when_the_node_has_booted_and_not_before(world: World) -> None:
    world.supervision.startService()
    assert world.node.running
    assert not [message for message in world.manager.heard() if "READY" in message]
    world.node.doing = "serves"
    world.node.booted.callback(True)
    assert world.manager.heard()[-1] == {"READY": "1", "STATUS": "serves"}
    world.clock.advance(READY_WITHIN)
    assert world.heard("READY") == []


def test_a_start_that_may_take_long_has_more_time_from_the_first_moment(world: World) -> None:
    world.supervision.startService()
    first, second = world.manager.heard()[:2]
    assert first["STATUS"].startswith("starting")
    assert second == {"EXTEND_TIMEOUT_USEC": "60000000"}


def test_a_panel_that_is_down_does_not_keep_it_from_being_ready(world: World) -> None:
    world.supervision.startService()
    world.clock.advance(READY_WITHIN - 0.1)
    assert world.heard("READY") == []
    world.clock.advance(0.1)
    assert world.heard("READY") == ["1"]
    world.node.booted.callback(True)
    assert world.heard("READY") == []


def test_a_node_that_cannot_boot_is_never_ready(world: World) -> None:
    world.supervision.startService()
    world.node.booted.callback(False)
    world.clock.advance(READY_WITHIN)
    assert world.heard("READY") == []


def test_what_it_does_is_shown_when_it_changes(world: World) -> None:
    world.supervision.startService()
    assert world.heard("STATUS")[-1] == "waits"
    world.clock.advance(SHOWN_EVERY)
    assert world.heard("STATUS") == []
    world.node.doing = "receives"
    world.clock.advance(SHOWN_EVERY)
    assert world.heard("STATUS") == ["receives"]


def test_the_watchdog_hears_of_it_until_all_is_over(world: World) -> None:
    world.supervision.startService()
    assert world.heard("WATCHDOG") == ["1"]
    stopped = world.supervision.stopService()
    (told,) = world.manager.heard()
    assert (told["STOPPING"], told["STATUS"]) == ("1", "ending: waits")
    assert int(told["EXTEND_TIMEOUT_USEC"]) > 9_000_000
    world.clock.advance(15.0)
    assert world.heard("WATCHDOG") == ["1"]
    assert not stopped.called
    world.node.ended.callback(None)
    assert stopped.called
    world.clock.advance(60.0)
    assert world.manager.heard() == []


def test_a_manager_that_cannot_be_told_is_named_in_the_log(
    tmp_path: Path, logged_errors: LoggedErrors
) -> None:
    node: Any = FakeNode()
    supervision = Supervision(node, Notifier(str(tmp_path / "none")), None, Clock())
    supervision.startService()
    node.booted.callback(True)
    assert [line for line in logged_errors.lines if "service manager could not be told" in line]


def test_without_a_manager_only_the_node_runs() -> None:
    clock, node = Clock(), FakeNode()
    of: Any = node
    supervision = Supervision(of, Notifier(), None, clock)
    supervision.startService()
    assert node.running
    assert clock.getDelayedCalls() == []
