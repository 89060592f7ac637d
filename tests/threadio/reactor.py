"""A reactor and a lock in the hands of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable

from twisted.internet.task import Clock

__all__ = ["Reactor", "Waits"]


class Reactor(Clock):
    """A clock whose calls from threads are made when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)


class Waits(threading.Condition):
    """Tells when a thread begins to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.set()  # under the lock: who takes that next finds the thread asleep
        return super().wait(timeout)
