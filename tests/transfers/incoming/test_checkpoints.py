"""Flushes of what has arrived of a move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.support.logged_errors import Logged
from wingsd.errors import StorageError
from wingsd.transfers.incoming.moves.partial_copy import CopyUpkeep


class Reactor(Clock):
    """A reactor whose threads are the test's."""

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        function(*args)


class Disk:
    """Threads whose work ends when a test says so, and the copy that they flush."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.working: list[Deferred[Any]] = []
        #: Has the disk write.
        self.write: Callable[[], object] = lambda: None

    def checkpoint(self, least: int, writing: Callable[[], object]) -> int:
        """Be flushed."""
        return 0

    def prepare_root(self) -> None:
        """Be gone through beside it."""

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        self.begun.append(work.__name__)
        self.write = args[1] if args else self.write
        self.working.append(Deferred())
        return self.working[-1]


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def flushing(disk: Disk) -> Deferred[None]:
    """A flush, beside which something else is done."""
    parts: Any = disk
    reactor: Any = Reactor()
    upkeep = CopyUpkeep("server", parts, parts, None, reactor)
    return Deferred.fromCoroutine(upkeep.prepare_root())


@pytest.mark.parametrize(("moment", "begun"), [("before", 1), ("beside", 2), ("after", 2)])
def test_one_that_is_cancelled_is_no_error(
    disk: Disk, flushing: Deferred[None], moment: str, begun: int, logged: Logged
) -> None:
    if moment != "before":
        disk.write()
    if moment == "after":
        disk.working[1].callback(None)
    flushing.cancel()
    found: list[Any] = []
    flushing.addErrback(found.append)
    assert found[0].check(CancelledError)
    assert len(disk.begun) == begun
    assert logged.lines == []


def test_one_that_fails_is_told_and_all_else_is_done(
    disk: Disk, flushing: Deferred[None], logged: Logged
) -> None:
    disk.working[0].errback(StorageError("the disk is full"))
    disk.working[1].callback(None)
    assert flushing.called
    assert disk.begun == ["checkpoint", "prepare_root"]
    assert any("the disk is full" in line for line in logged.lines)
