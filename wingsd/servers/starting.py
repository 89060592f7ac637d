"""Starts of servers that nobody but this node will start: they wait for an engine and a Panel.

A stop that an earlier daemon has begun is finished first: what was asked to end may still run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import ceil
from typing import Protocol

from twisted.internet.defer import DeferredSemaphore, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from wingsd.errors import EnvironmentFailed
from wingsd.panel.http_client import PanelUnreachable
from wingsd.servers.power_states import PowerAction, PowerState
from wingsd.util.retry import Backoff

__all__ = [
    "BACKOFF",
    "StartedServer",
    "adopt_when_possible",
    "adopt_when_there",
    "finish_stop",
    "start_when_possible",
]

_log = Logger()

#: Seconds between two questions to an engine, or a Panel, that does not answer.
BACKOFF = Backoff(1.0, 60.0, jitter=True)
#: The end of an automatic start that has failed.
_STAYS_OFF = (
    "The server stays offline, and is not started by itself any more. See why the start failed: "
    "free its port or give it another one in the Panel, or correct its image; then start it."
)


class StartedServer(Protocol):
    """A server that is to be started."""

    uuid: str
    power_actions: int
    starts_if_it_stays: bool

    @property
    def state(self) -> PowerState:
        """The state of its program."""

    async def adopt(self) -> None:
        """Watch its program if it runs already."""

    async def power(self, action: PowerAction) -> None:
        """Run a power action."""

    def say(self, message: str) -> None:
        """Show a message in the console, and log it."""


async def adopt_when_possible(server: StartedServer, clock: IReactorTime) -> None:
    """Watch a server's program if it runs already; ask an engine again that fails."""
    for pause in BACKOFF:
        try:
            await server.adopt()
        except EnvironmentFailed:
            await deferLater(clock, pause)
        else:
            return


async def adopt_when_there(server: StartedServer, clock: IReactorTime) -> None:
    """Watch a server's program if it runs already, as soon as the engine answers.

    Raises `EnvironmentFailed` where the answer is that this cannot be done.
    """
    for pause in BACKOFF:
        try:
            await server.adopt()
        except EnvironmentFailed as error:
            if not error.is_silent:
                raise
            await deferLater(clock, pause)
        else:
            return


async def finish_stop(
    server: StartedServer,
    stop: Callable[[], Awaitable[object]],
    clock: IReactorTime,
    actions: int = 0,
) -> None:
    """Have a server end by `stop` that was asked to end before; a failure is logged.

    Not one that somebody has started or stopped since, when it had that many `power_actions`.
    """
    for pause in BACKOFF:
        await adopt_when_possible(server, clock)
        if server.state is PowerState.OFFLINE or server.power_actions != actions:
            return
        try:
            await stop()
        except EnvironmentFailed as error:
            if not error.is_silent:
                _log.warn(
                    "{server}: its stop was not finished: {error}", server=server.uuid, error=error
                )
                return
            await deferLater(clock, pause)
        else:
            return


def _is_repeated(server: StartedServer, repeat_for: float, left: float) -> bool:
    """Return whether a start that has failed is tried again, and say so."""
    if not repeat_for:
        return False
    if left <= 0:
        server.say(_STAYS_OFF)
        return False
    server.say(f"The start is tried again, for up to {ceil(left / 60)} min.")
    return True


async def start_when_possible(
    server: StartedServer,
    clock: IReactorTime,
    repeat_for: float = 0.0,
    slots: DeferredSemaphore | None = None,
) -> None:
    """Start a server; wait for an engine, or a Panel, that does not answer.

    What else fails is tried again for `repeat_for` seconds, unless it fails for good, and said in
    the console with what a person can do. Each attempt holds one of the `slots`.

    Raises as `Server.power`. Returns without a start when somebody starts or stops it meanwhile,
    or it was started although the engine has not answered.
    """
    run = maybeDeferred if slots is None else slots.run
    began, actions = clock.seconds(), server.power_actions
    server.starts_if_it_stays = slots is not None  # where a transfer takes it before its turn

    async def start() -> None:
        if server.power_actions == actions:
            await server.power(PowerAction.START)

    for pause in BACKOFF:
        try:
            await run(start)
        except (EnvironmentFailed, PanelUnreachable) as error:
            is_silent = isinstance(error, PanelUnreachable) or error.is_silent
            left = 0.0 if error.is_final else began + repeat_for - clock.seconds()
            if not is_silent and not _is_repeated(server, repeat_for, left):
                raise
            actions = server.power_actions
            server.starts_if_it_stays = True  # where a transfer takes it meanwhile
            await deferLater(clock, pause)
            await adopt_when_possible(server, clock)
            if server.power_actions != actions or server.state is not PowerState.OFFLINE:
                server.starts_if_it_stays = False
                return
        else:
            return
