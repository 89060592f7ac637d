"""When the watchdog is told that the daemon lives, and when not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from tests.logs import LoggedErrors
from tests.systemd.manager import Manager
from wingsd.systemd import Notifier, Watchdog
from wingsd.systemd.notify import STUCK_AFTER

ALIVE = {"WATCHDOG": "1"}


def test_it_is_told_at_once_and_twice_in_each_period(tmp_path: Path) -> None:
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


def test_it_is_not_while_the_journal_is_stuck(tmp_path: Path, logged_errors: LoggedErrors) -> None:
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
        (line,) = [line for line in logged_errors.lines if "journal of transfers" in line]
        assert "300 s" in line
        # It is asked once, and again only when it has answered.
        assert len(asked) == 1
        asked[0].callback(None)
        clock.advance(STUCK_AFTER / 4)
        assert manager.heard() == [ALIVE]
        assert len(asked) == 2
        watchdog.stop()
