"""The addresses of a name, by the system's resolver."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

__all__ = ["Resolve", "host_resolver"]

Resolve = Callable[[str, int], Deferred[list[str]]]
"""Returns the addresses of a name for connections to a port; none where it is not known."""


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects the addresses of one name, each once."""

    def __init__(self) -> None:
        self.complete: Deferred[list[str]] = Deferred()
        self._found: dict[str, None] = {}

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Take the beginning."""

    def addressResolved(self, address: IAddress) -> None:
        """Take one address."""
        self._found[address.host.partition("%")[0]] = None  # type: ignore[attr-defined]

    def resolutionComplete(self) -> None:
        """Take the end."""
        if not self.complete.called:  # not cancelled
            self.complete.callback(list(self._found))


def host_resolver(reactor: IReactorPluggableNameResolver) -> Resolve:
    """Return the resolver of a reactor, which asks the system's in a thread."""

    def resolve(host: str, port: int) -> Deferred[list[str]]:
        found = _Addresses()
        reactor.nameResolver.resolveHostName(found, host, port)
        return found.complete

    return resolve
