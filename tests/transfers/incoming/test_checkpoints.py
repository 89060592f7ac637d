"""Flushes of what has arrived of a move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.support.logged_errors import Logged
from wingsd.errors import StorageError
from wingsd.transfers.incoming.moves.partial_copy import CopyThread


class Threads:
    """The threads of a copy, whose work ends when a test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.working: dict[str, Deferred[Any]] = {}
        self.batches = frozenset({1})

    def start(self) -> None:
        """They are the test's."""

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        self.begun.append(work.__name__)
        return self.working.setdefault(work.__name__, Deferred())

    def sync(self) -> None:
        """Flush."""

    def written(self) -> None:
        """Return what was written."""

    def proven(self) -> None:
        """Record that it is on stable storage."""

    def prepare_root(self) -> None:
        """Make the digests."""

    def note_failure(self) -> None:
        """Note that a flush has failed."""


@pytest.fixture
def threads() -> Threads:
    return Threads()


@pytest.fixture
def flushing(threads: Threads) -> Deferred[None]:
    """A flush, beside which the digests of the root are made."""
    parts: Any = threads
    copy = CopyThread("server", parts, parts, parts, None, Clock())
    return Deferred.fromCoroutine(copy.prepare_root())


@pytest.mark.parametrize("ended", [[], ["written"], ["written", "prepare_root"], ["prepare_root"]])
def test_one_that_is_cancelled_is_no_error(
    threads: Threads, flushing: Deferred[None], ended: list[str], logged: Logged
) -> None:
    for work in ended:
        threads.working[work].callback(threads)
    flushing.cancel()
    found: list[Any] = []
    flushing.addErrback(found.append)
    assert found[0].check(CancelledError)
    assert threads.begun == ["written", "prepare_root", *["sync"] * ("written" in ended)]
    assert logged.lines == []


def test_one_that_fails_is_told_and_all_else_is_done(
    threads: Threads, flushing: Deferred[None], logged: Logged
) -> None:
    threads.working["written"].callback(threads)
    threads.working["sync"].errback(StorageError("the disk is full"))
    threads.working["note_failure"].callback(None)
    threads.working["prepare_root"].callback(None)
    assert flushing.called
    assert threads.begun == ["written", "prepare_root", "sync", "note_failure"]
    assert any("the disk is full" in line for line in logged.lines)
