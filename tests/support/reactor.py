"""The reactor that the tests run on, and waiting for a state in it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from wingsd.util.reactor import Reactor, installed_reactor

reactor: Reactor = installed_reactor()


def until(condition: Callable[[], object]) -> Deferred[None]:
    """Return what fires when a condition holds; it fails after about ten seconds."""

    async def wait() -> None:
        for _ in range(2000):
            if condition():
                return
            await deferLater(reactor, 0.005)
        raise AssertionError("the condition did not come to hold")

    return Deferred.fromCoroutine(wait())
