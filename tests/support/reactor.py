"""The reactor that the tests run on, and waiting for a state in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from wingsd.util.reactor import Reactor, installed_reactor

reactor: Reactor = installed_reactor()


class ClockedReactor(Clock):
    """The reactor, with a clock that the test advances."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


def until(condition: Callable[[], object]) -> Deferred[None]:
    """Return what fires when a condition holds; it fails after about three minutes."""

    async def wait() -> None:
        for _ in range(36_000):
            if condition():
                return
            await deferLater(reactor, 0.005)
        raise AssertionError("the condition did not come to hold")

    return Deferred.fromCoroutine(wait())
