"""A queue of reports on a clock, a database on the disk, and a Panel with prepared answers."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.support import SynchronousWorkers
from tests.support.database import opened
from tests.support.faults import meet
from wingsd.callbacks import CallbackQueue
from wingsd.errors import PanelRefused, PanelUnreachable, ServerNotAssigned
from wingsd.statedb import Direction, Outcome, StateDatabase, Store

A, B = "a-server", "b-server"
YEAR = 365 * 24 * 3600.0
DOWN = PanelUnreachable("down", "x")


def refused(code: int, retry_after: float = 0) -> PanelRefused:
    return PanelRefused("no", f"it was answered {code}", code, retry_after)


def answer_to(adding: Coroutine[Any, Any, object]) -> Deferred[bool]:
    """Return what becomes of a report that is added."""
    pending: Any = Deferred.fromCoroutine(adding).result
    return pending.answer  # type: ignore[no-any-return]


class AnsweringPanel:
    """Answers each call with the next of its server's `answers`; an exception is raised."""

    def __init__(self) -> None:
        self.answers: dict[str, list[object]] = {}
        self.calls: list[tuple[str, str]] = []
        #: The bodies of reports about backups.
        self.bodies: list[object] = []
        #: Whether it describes a server to this node.
        self.describes = True

    async def _answer(self, call: str, server: str) -> bool:
        self.calls.append((call, server))
        answers = self.answers.get(server)
        return bool(await meet(answers.pop(0) if answers else True))

    async def owns(self, server: str) -> bool:
        return await self._answer("owns", server)

    async def describe(self, server: str) -> None:
        if not self.describes:
            raise ServerNotAssigned("not for this node")

    async def transfer_succeeded(
        self, server: str, backups: tuple[str, ...] | None = None
    ) -> None:
        await self._answer("success", server)

    async def transfer_failed(self, server: str) -> bool:
        return await self._answer("failure", server)

    async def report(self, operation: str, path: str, body: object) -> None:
        self.bodies.append(body)
        await self._answer(path, path.split("/")[2])

    async def installed(self, server: str, *, successful: bool, reinstall: bool) -> None:
        how = "installed" if successful else "not installed"
        await self._answer(f"{how} again" if reinstall else how, server)

    async def restored(self, backup: str, server: str, *, successful: bool) -> None:
        how = "restored" if successful else "not restored"
        await self._answer(f"{how} {backup}", server)


class QueueHarness:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.panel = AnsweringPanel()
        self.clock = Clock()
        #: By how much the wall clock is ahead of the one that nobody sets.
        self.set_by = 0.0
        self._open()

    def restart(self) -> None:
        """Be the next daemon."""
        self.callbacks.stop()
        self.store.close()
        self._open()
        Deferred.fromCoroutine(self.callbacks.load())

    def _open(self) -> None:
        self.store = opened(Store(str(self.directory)))
        workers: Any = SynchronousWorkers()
        self.database = StateDatabase(
            self.store, workers, lambda: self.clock.seconds() + self.set_by
        )
        panel: Any = self.panel
        self.callbacks = CallbackQueue(panel, self.database, self.clock)

    def begin(self, *, seconds_ago: float) -> None:
        begun = self.clock.seconds() - seconds_ago
        self.store.begin(begun, A, Direction.IN, "RECEIVE")

    def tell(self, outcome: Outcome, server: str = A) -> Deferred[bool]:
        return answer_to(self.callbacks.add(server, outcome))

    def unsettled(self) -> list[str]:
        return [report.server for report in self.store.unsettled()]


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[QueueHarness]:
    made = QueueHarness(tmp_path)
    yield made
    made.callbacks.stop()
    made.store.close()
