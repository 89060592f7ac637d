"""A reactor and a lock in the hands of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from twisted.internet.task import Clock
from zope.interface import implementer

from wingsd.util.reactor import ThreadedReactor


@implementer(ThreadedReactor)
class ManualReactor(Clock):
    """A clock whose calls from threads are made when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], object]] = []

    def callFromThread(
        self,
        callable: Callable[..., object],  # noqa: A002 - the interface's name
        *args: object,
        **kwargs: object,
    ) -> None:
        self.waiting.append(partial(callable, *args, **kwargs))


class Waits(threading.Condition):
    """Tells when a thread begins to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.set()  # under the lock: who takes that next finds the thread asleep
        return super().wait(timeout)
