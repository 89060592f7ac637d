"""The commands of the tests and benchmarks, as coroutines that clean up when they are stopped."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater, react

from wingsd.util.deferreds import when_fired

__all__ = ["run_command"]

Work: TypeAlias = Coroutine[Deferred[Any], Any, None]


def run_command(command: Callable[[], Work]) -> None:
    """Run the reactor until the command has ended, and exit.

    SIGINT and SIGTERM cancel it; what it has begun, such as nodes, mounts and network namespaces,
    is ended by its own clean-up, which is waited for. Raises `SystemExit`.
    """

    def main(reactor: Any) -> Deferred[None]:
        running = Deferred.fromCoroutine(_ended(reactor, command))

        def cancel() -> Deferred[None]:
            ended = when_fired(running)
            running.cancel()
            return ended

        reactor.addSystemEventTrigger("before", "shutdown", cancel)
        return running

    react(main)


async def _ended(reactor: Any, command: Callable[[], Work]) -> None:
    await deferLater(reactor, 0)  # until it runs, and has its handlers of signals
    try:
        await command()
    except CancelledError:
        raise SystemExit("stopped by a signal") from None
