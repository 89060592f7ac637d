"""What the service manager hears of a node's life, in which order."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application, Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, textFileLogObserver

from tests.support.logged_errors import Logged
from tests.systemd.listeners import Manager
from wingsd.app.service import READY_WITHIN, STATUS_INTERVAL, Supervision
from wingsd.systemd.sd_daemon import Notifier


class FakeNode(Service):
    """A node that starts and ends when the test says so."""

    def __init__(self) -> None:
        self.booted: Deferred[bool] = Deferred()
        self.status = "waits"
        self.ended: Deferred[None] = Deferred()

    def ping_database(self) -> Deferred[None]:
        return succeed(None)

    def stopService(self) -> Deferred[None]:
        self.running = 0
        return self.ended


class ReactorClock(Clock):
    """A clock that is told from elsewhere what to do, as a reactor is."""

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        self.callLater(0, function, *args)


def manual_clock() -> Any:
    return Clock()


class Harness:
    """A manager that listens, a node, and what supervises it."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        clock: Any = ReactorClock()
        self.clock = clock
        self.reloads: list[float] = []
        node: Any = FakeNode()
        self.node = node
        notifier = Notifier(manager.address)
        self.supervision = Supervision(node, self.reload, self.clock, notifier, 30.0)

    def reload(self) -> None:
        """Be what is called on SIGHUP; it fails the second time."""
        assert not self.reloads
        self.reloads.append(self.clock.seconds())

    def heard(self, key: str) -> list[str]:
        """Return the values of `key` in what the manager has heard since the last call."""
        return [message[key] for message in self.manager.heard() if key in message]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Manager(tmp_path) as manager:
        yield Harness(manager)


def hang_up() -> None:
    """Have the handler of SIGHUP called."""
    handler: Any = signal.getsignal(signal.SIGHUP)
    handler(signal.SIGHUP, None)


def test_it_is_ready_when_the_node_has_booted_and_not_before(harness: Harness) -> None:
    harness.supervision.startService()
    assert harness.node.running
    assert not [message for message in harness.manager.heard() if "READY" in message]
    harness.node.status = "serves"
    harness.node.booted.callback(True)
    assert harness.manager.heard()[-1] == {"READY": "1", "STATUS": "serves"}
    harness.clock.advance(READY_WITHIN)
    assert harness.heard("READY") == []


def test_a_start_that_may_take_long_has_more_time_from_the_first_moment(harness: Harness) -> None:
    harness.supervision.startService()
    first, second = harness.manager.heard()[:2]
    assert first["STATUS"].startswith("starting")
    assert second == {"EXTEND_TIMEOUT_USEC": "60000000"}


def test_a_panel_that_is_down_does_not_keep_it_from_being_ready(harness: Harness) -> None:
    harness.supervision.startService()
    harness.clock.advance(READY_WITHIN - 0.1)
    assert harness.heard("READY") == []
    harness.clock.advance(0.1)
    assert harness.heard("READY") == ["1"]
    harness.node.booted.callback(True)
    assert harness.heard("READY") == []


def test_a_node_that_cannot_boot_is_never_ready(harness: Harness) -> None:
    harness.supervision.startService()
    harness.node.booted.callback(False)
    harness.clock.advance(READY_WITHIN)
    assert harness.heard("READY") == []


def test_what_it_does_is_shown_when_it_changes(harness: Harness) -> None:
    harness.supervision.startService()
    assert harness.heard("STATUS")[-1] == "waits"
    harness.clock.advance(STATUS_INTERVAL)
    assert harness.heard("STATUS") == []
    harness.node.status = "receives"
    harness.clock.advance(STATUS_INTERVAL)
    assert harness.heard("STATUS") == ["receives"]


def test_the_watchdog_hears_of_it_until_all_is_over(harness: Harness) -> None:
    harness.supervision.startService()
    assert harness.heard("WATCHDOG") == ["1"]
    stopped = harness.supervision.stopService()
    (told,) = harness.manager.heard()
    assert (told["STOPPING"], told["STATUS"]) == ("1", "stopping: waits")
    assert int(told["EXTEND_TIMEOUT_USEC"]) > 9_000_000
    harness.clock.advance(15.0)
    assert harness.heard("WATCHDOG") == ["1"]
    assert not stopped.called
    harness.node.ended.callback(None)
    assert stopped.called
    harness.clock.advance(60.0)
    assert harness.manager.heard() == []


def test_an_unreachable_manager_is_logged(tmp_path: Path, logged: Logged) -> None:
    node: Any = FakeNode()
    notifier = Notifier(str(tmp_path / "none"))
    supervision = Supervision(node, lambda: None, manual_clock(), notifier)
    supervision.startService()
    node.booted.callback(True)
    assert [line for line in logged.lines if "readiness not reported" in line]


def test_without_a_manager_only_the_node_runs() -> None:
    clock: Any = Clock()
    node: Any = FakeNode()
    supervision = Supervision(node, lambda: None, clock, Notifier())
    supervision.startService()
    assert node.running
    assert clock.getDelayedCalls() == []


def test_a_reload_is_notified_from_begin_to_end(harness: Harness) -> None:
    harness.supervision.startService()
    harness.node.booted.callback(True)
    harness.manager.heard()
    hang_up()
    # Not in the handler, which interrupts anything.
    assert not harness.reloads
    harness.clock.advance(0)
    assert harness.reloads
    begun, ended = harness.manager.heard()
    assert begun.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert ended == {"READY": "1", "STATUS": "waits"}


def test_a_reload_that_fails_ends_all_the_same(harness: Harness, logged: Logged) -> None:
    harness.supervision.startService()
    harness.node.booted.callback(True)
    for _ in range(2):
        hang_up()
        harness.clock.advance(0)
    assert harness.heard("READY") == ["1"] * 3
    assert logged.take(AssertionError)


def test_before_the_node_serves_a_reload_does_not_say_that_it_does(harness: Harness) -> None:
    harness.supervision.startService()
    hang_up()
    harness.clock.advance(0)
    assert harness.reloads
    assert not [told for told in harness.manager.heard() if {"RELOADING", "READY"} & told.keys()]


def test_twistd_gets_the_observer() -> None:
    node: Any = FakeNode()
    observer = textFileLogObserver(io.StringIO())
    application = Application("wingsd")
    supervision = Supervision(node, lambda: None, manual_clock(), Notifier(), observer=observer)
    supervision.setServiceParent(application)
    assert application.getComponent(ILogObserver) is observer
