"""A step log alone: its clock, its observer and its events, without a state database."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from tests.support.recording_observer import RecordingObserver
from tests.support.sample_server import UUID
from wingsd.errors import StorageError
from wingsd.events import Event, EventBus
from wingsd.statedb import Direction, TransferRecord
from wingsd.transfers.steps import ReceiveStep, StepLog, StepLogs


class Database:
    """Takes everything at once, or refuses to take anything."""

    refuses: StorageError | None = None

    def begin(self, *_: object, direct: bool) -> Deferred[int]:
        return succeed(1) if self.refuses is None else fail(self.refuses)

    def enter(self, *_: object) -> Deferred[None]:
        return succeed(None)


class StepLogHarness:
    """A step log, its clock and its observer, and what a browser would get of it."""

    def __init__(self, steps: Any, server: str = UUID) -> None:
        self.clock, self.heard, self.database = Clock(), RecordingObserver(), Database()
        self.events: list[Event] = []
        bus = EventBus()
        bus.subscribe(server, self.events.append)
        authority: Any = SimpleNamespace(is_direct=False, step_texts={})
        database: Any = self.database
        logs = StepLogs(database, bus, self.heard, self.clock)
        self.step_log: StepLog[Any] = StepLog(server, steps, logs, authority)

    async def begin(self) -> None:
        await self.step_log.begin()

    def resume(self, step: ReceiveStep) -> None:
        self.step_log.resume(TransferRecord(1, UUID, Direction.IN, step.name, 0, 0), step)

    def said(self) -> list[str]:
        lines = [event.args[0] for event in self.events if event.name == "transfer logs"]
        return [line.partition(" Node]:\x1b[0m ")[2] for line in lines]

    def states(self) -> list[str]:
        return [event.args[0] for event in self.events if event.name == "transfer status"]
