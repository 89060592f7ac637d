"""A reactor in the hands of a test."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

__all__ = ["Reactor"]


class Reactor(Clock):
    """A clock whose calls from threads are made when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)
