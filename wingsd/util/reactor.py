"""The type of Twisted's reactor with the interfaces that the daemon uses, and timers.

Where one is enough, the annotation is that interface, most often `IReactorTime`. Twisted's own
annotations accept a `Reactor` wherever they ask for one of its interfaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorSocket,
    IReactorSSL,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
    IReactorUNIX,
)
from twisted.internet.task import LoopingCall


class ThreadedReactor(IReactorTime, IReactorFromThreads):
    """A reactor by its clock and its threads: delayed calls, and calls from other threads."""


class Reactor(
    ThreadedReactor,
    IReactorCore,
    IReactorFDSet,
    IReactorPluggableNameResolver,
    IReactorProcess,
    IReactorSocket,
    IReactorSSL,
    IReactorTCP,
    IReactorThreads,
    IReactorUNIX,
):
    """The interfaces of a POSIX reactor that the daemon uses."""


class Timer:
    """One delayed call at a time, by the clock of a reactor."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None

    @property
    def is_running(self) -> bool:
        """True from the start until the call begins, or is cancelled."""
        return self._call is not None

    def start(self, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in so many seconds, in place of the call that was to come."""
        self.cancel()
        self._call = self._clock.callLater(seconds, self._run, function, *arguments)

    def cancel(self) -> None:
        """Drop the call, if there is one to come."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _run(self, function: Callable[..., object], *arguments: object) -> None:
        # The call refers to the function's owner, which is to be freed when it is done.
        self._call = None
        function(*arguments)


class Periodic(LoopingCall):
    """Calls a function every so many seconds by the clock of a reactor, while it is started."""

    def __init__(
        self, clock: IReactorTime, function: Callable[..., object], *arguments: object
    ) -> None:
        super().__init__(function, *arguments)
        self.clock = clock

    def stop(self) -> None:
        """Call it no more. It may be stopped already."""
        if self.running:
            super().stop()


def installed_reactor() -> Reactor:
    """Return the reactor of this process; install Twisted's default one if there is none."""
    # Not at the top: the import installs a reactor, and `twistd --reactor` is to choose which.
    from twisted.internet import reactor  # noqa: PLC0415

    return cast(Reactor, reactor)
