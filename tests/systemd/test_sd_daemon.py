"""What systemd is sent, over a socket as it has one; and by the watchdog."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tests.support.logged_errors import Logged
from tests.systemd.listeners import Manager
from wingsd.systemd import sd_daemon
from wingsd.systemd.sd_daemon import STUCK_AFTER, Notifier, Watchdog, watchdog_period


@pytest.fixture(params=[False, True], ids=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    with Manager(tmp_path, abstract=request.param) as made:
        yield made


def test_each_word_is_what_the_protocol_wants(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.status("starting")
    notifier.ready("serves")
    notifier.alive()
    notifier.stopping("ending", 9.5)
    assert manager.heard() == [
        {"STATUS": "starting"},
        {"READY": "1", "STATUS": "serves"},
        {"WATCHDOG": "1"},
        {"STOPPING": "1", "STATUS": "ending", "EXTEND_TIMEOUT_USEC": "9500000"},
    ]
    assert notifier.error is None


def test_a_reload_is_notified_with_its_time(manager: Manager) -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    Notifier(manager.address).reloading()
    after = time.clock_gettime(time.CLOCK_MONOTONIC)
    (told,) = manager.heard()
    assert told.keys() == {"RELOADING", "MONOTONIC_USEC"}
    assert before - 0.001 <= int(told["MONOTONIC_USEC"]) / 1_000_000 <= after


def test_a_status_stays_on_one_line_and_says_nothing_else(manager: Manager) -> None:
    Notifier(manager.address).status("two\nREADY=1  words")
    assert manager.heard() == [{"STATUS": "two READY=1 words"}]


def test_a_long_start_is_extended(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd_daemon, "_EXTENDED_EVERY", 0.001)
    with Notifier(manager.address).extending():
        for _ in range(3):
            assert manager.wait_for("EXTEND_TIMEOUT_USEC=60000000")
    manager.heard()
    assert manager.heard() == []


def test_extensions_are_limited(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd_daemon, "_EXTENDED_FOR", 0.0)
    with Notifier(manager.address).extending():
        pass
    assert manager.heard() == []


def test_a_manager_that_is_gone_raises_nothing_and_is_known(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        address = manager.address
    notifier = Notifier(address)
    notifier.ready("serves")
    assert isinstance(notifier.error, ConnectionRefusedError)


def test_a_silent_manager_is_not_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd_daemon, "_SEND_TIMEOUT", 0.01)
    with Manager(tmp_path) as manager:
        notifier = Notifier(manager.address)
        while notifier.error is None:
            notifier.alive()
        assert isinstance(notifier.error, TimeoutError)
        assert manager.heard()
        notifier.alive()
        assert notifier.error is None


def test_without_a_manager_there_is_nothing_to_do() -> None:
    notifier = Notifier.from_environment({})
    with notifier.extending():
        notifier.ready("serves")
    assert not notifier.is_enabled
    assert notifier.error is None


def test_what_the_daemon_starts_cannot_speak_for_it(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    assert Notifier.from_environment(environ).is_enabled
    watchdog_period(environ)
    assert environ == {}


@pytest.mark.parametrize(
    ("environ", "period"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
    ],
)
def test_a_configured_watchdog_is_notified(environ: dict[str, str], period: float | None) -> None:
    assert watchdog_period(environ) == period


ALIVE = {"WATCHDOG": "1"}


@pytest.mark.promise("hung-daemon-is-restarted")
def test_the_watchdog_is_notified_twice_in_each_period(tmp_path: Path) -> None:
    clock = Clock()
    with Manager(tmp_path) as manager:
        watchdog = Watchdog(Notifier(manager.address), 30.0, lambda: succeed(None), clock)
        watchdog.start()
        assert manager.heard() == [ALIVE]
        clock.advance(14.9)
        assert manager.heard() == []
        clock.advance(0.1)
        assert manager.heard() == [ALIVE]
        clock.pump([15.0] * 4)
        assert manager.heard() == [ALIVE] * 4
        watchdog.stop()
        clock.advance(60)
        assert manager.heard() == []


@pytest.mark.promise("hung-daemon-is-restarted")
def test_no_watchdog_notice_while_the_database_hangs(tmp_path: Path, logged: Logged) -> None:
    clock = Clock()
    asked: list[Deferred[Any]] = []

    def pulse() -> Deferred[Any]:
        asked.append(Deferred())
        return asked[-1]

    with Manager(tmp_path) as manager:
        watchdog = Watchdog(Notifier(manager.address), STUCK_AFTER / 2, pulse, clock)
        watchdog.start()
        clock.pump([STUCK_AFTER / 4] * 3)
        assert manager.heard() == [ALIVE] * 4
        clock.pump([STUCK_AFTER / 4] * 3)
        assert manager.heard() == []
        (line,) = [line for line in logged.lines if "state database" in line]
        assert "300 s" in line
        # It is asked once, and again only when it has answered.
        assert len(asked) == 1
        asked[0].callback(None)
        clock.advance(STUCK_AFTER / 4)
        assert manager.heard() == [ALIVE]
        assert len(asked) == 2
        watchdog.stop()
