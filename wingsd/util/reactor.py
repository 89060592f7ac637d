"""The type of Twisted's reactor, for what needs more of it than one interface.

Where one is enough, the annotation is that interface, most often `IReactorTime`. Twisted's own
annotations accept a `Reactor` wherever they ask for one of its interfaces.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import (
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
    """Everything that the daemon asks of a POSIX reactor."""


def installed_reactor() -> Reactor:
    """Return the reactor of this process; install Twisted's default one if there is none."""
    # Not at the top: the import installs a reactor, and `twistd --reactor` is to choose which.
    from twisted.internet import reactor  # noqa: PLC0415

    return cast(Reactor, reactor)
