"""Turns of servers in the threads for work on files."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from wingsd.errors import FilesBusy
from wingsd.files.tasks import Lane


class Worker:
    """Works of servers that hold a turn until they are told to end."""

    def __init__(self, *, each: int, waiting: int) -> None:
        nobody: Any = None
        self.lane = Lane(nobody, each=each, waiting=waiting)
        self.running: list[str] = []
        # A work that nothing refers to is collected, and passes its turn on.
        self._ends: list[Deferred[None]] = []

    async def _work(self, server: str, end: Deferred[None]) -> None:
        async with self.lane.turn(server):
            self.running.append(server)
            await end
            self.running.remove(server)

    def begin(self, server: str) -> tuple[Deferred[None], Deferred[None]]:
        """Return what ends the work, and its result."""
        end: Deferred[None] = Deferred()
        self._ends.append(end)
        return end, Deferred.fromCoroutine(self._work(server, end))

    def end_all(self) -> None:
        """End every work that was begun, also those that get their turn meanwhile."""
        for end in self._ends:
            if not end.called:
                end.callback(None)


def test_a_servers_works_wait_for_each_other_in_order() -> None:
    worker = Worker(each=2, waiting=8)
    ends = [worker.begin("a") for _ in range(4)]
    assert worker.running == ["a", "a"]
    other, _ = worker.begin("b")
    assert worker.running == ["a", "a", "b"]
    ends[0][0].callback(None)
    assert worker.running == ["a", "b", "a"]
    for end, _ in ends[1:]:
        end.callback(None)
    other.callback(None)
    assert worker.running == []
    assert all(result.called for _, result in ends)


def test_too_many_that_wait_are_refused_of_one_server_first() -> None:
    worker = Worker(each=1, waiting=8)
    for _ in range(3):
        worker.begin("a")
    _, refused = worker.begin("a")
    assert isinstance(refused.addErrback(lambda failure: failure.value).result, FilesBusy)
    for server in ("b", "c", "d"):
        for _ in range(3):
            worker.begin(server)
    worker.begin("e")
    _, refused = worker.begin("e")
    assert isinstance(refused.addErrback(lambda failure: failure.value).result, FilesBusy)
    assert worker.running == ["a", "b", "c", "d", "e"]
    # Works that are collected instead would end each other in any order.
    worker.end_all()
    assert worker.running == []


def test_one_that_fails_passes_its_turn_on() -> None:
    worker = Worker(each=1, waiting=8)
    first, failed = worker.begin("a")
    second, _ = worker.begin("a")
    first.errback(RuntimeError("a mistake"))
    assert failed.addErrback(lambda failure: str(failure.value)).result == "a mistake"
    assert worker.running == ["a", "a"]
    second.callback(None)


def test_one_that_is_cancelled_while_it_waits_takes_no_turn() -> None:
    worker = Worker(each=1, waiting=8)
    first, _ = worker.begin("a")
    _, waits = worker.begin("a")
    waits.addErrback(lambda failure: failure.trap(CancelledError))
    waits.cancel()
    first.callback(None)
    assert worker.running == []
    last, _ = worker.begin("a")
    assert worker.running == ["a"]
    last.callback(None)
