"""An activity log with a real state database, a test clock and a Panel in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support import SynchronousWorkers
from tests.support.database import opened
from tests.support.faults import meet
from tests.support.state import is_activity
from wingsd.activity import ActivityLog
from wingsd.errors import PanelRefused, StorageError
from wingsd.statedb import StateDatabase, Store

UUID = "8d2f5a14-6e2b-4c43-9d57-0c4c5e1c7f10"
USER = "2f0c0b1e-5d0a-4d57-8d0c-6b1f3c7a9e21"
IP = "192.0.2.1"
COMMAND = "server:console.command"
#: Seconds since the epoch, to begin with.
BEGIN = 1_700_000_000.0


class ActivityPanel:
    """A Panel that takes activity: the whole of a call or nothing of it, as a real one."""

    def __init__(self) -> None:
        #: The entries of each call, and of all calls that were accepted.
        self.calls: list[list[Any]] = []
        self.accepted: list[Any] = []
        #: Whether an entry is refused.
        self.refuses: Callable[[Any], bool] = lambda entry: not is_activity(entry)
        self.status = 422
        #: What the next calls meet: an error that is raised, or something to wait for.
        self.faults: list[Exception | Deferred[None]] = []

    async def post_once(self, operation: str, path: str, body: Any) -> None:
        assert (operation, path, list(body)) == ("activity", "/activity", ["data"])
        self.calls.append(body["data"])
        await meet(self.faults.pop(0) if self.faults else None)
        if any(map(self.refuses, body["data"])):
            raise PanelRefused("the Panel refused this node's request", "a field", self.status)
        self.accepted += body["data"]

    @property
    def commands(self) -> list[Any]:
        return [entry["metadata"]["command"] for entry in self.accepted]


class ActivityNode:
    """The log of a node; `restart` is the next daemon."""

    def __init__(self, directory: Path, **limits: int) -> None:
        self.clock = Clock()
        self.panel = ActivityPanel()
        self.store = Store(str(directory))
        #: What the next writes of the state database fail with.
        self.faults: list[StorageError] = []
        #: How many writes there were since the start.
        self.writes = 0
        self.start(**limits)

    def start(self, most: int = 100_000, interval: int = 60, count: int = 100) -> None:
        opened(self.store)
        if connection := self.store._connection:
            connection.execute("PRAGMA synchronous = OFF")
        workers: Any = SynchronousWorkers()
        self.database: Any = StateDatabase(self.store, workers, self.now)
        for name in ("add_activity", "delete_activity", "trim_activity"):
            setattr(self.database, name, self._failing(getattr(self.database, name)))
        panel: Any = self.panel
        self.log = ActivityLog(self.database, panel, self.clock, most, interval, count, self.now)
        Deferred.fromCoroutine(self.log.start())
        self.writes = 0

    def _failing(self, method: Callable[..., Deferred[Any]]) -> Callable[..., Deferred[Any]]:
        def call(*args: Any) -> Deferred[Any]:
            self.writes += 1
            if self.faults:
                raise self.faults.pop(0)
            return method(*args)

        return call

    def now(self) -> float:
        return BEGIN + float(self.clock.seconds())

    def type(self, *commands: object, **changes: Any) -> None:
        """Record that a user has typed these commands."""
        for command in commands:
            metadata = {"command": command}
            self.log.record(
                UUID, COMMAND, **{"metadata": metadata, "user": USER, "ip": IP} | changes
            )

    def stored(self) -> list[str]:
        """Return the metadata of the stored entries."""
        return [entry.metadata for entry in self.store.activity(0, 1_000_000)]

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)

    def kill(self) -> None:
        """End it at once: nothing more is stored."""
        Deferred.fromCoroutine(self.log.stop_sending(0))
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.store.close()

    def restart(self, **limits: int) -> None:
        self.kill()
        self.start(**limits)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ActivityNode]:
    made = ActivityNode(tmp_path)
    yield made
    made.kill()
