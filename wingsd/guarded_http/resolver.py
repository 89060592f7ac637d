"""The addresses of a name, by the system's resolver.

It waits for a silent name server for ten seconds and more, and cannot be cancelled. Users choose
the names, so threads of their own look them up: neither the node's own connections nor its end
wait for these.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore

from wingsd.threadio import Workers

__all__ = ["LOOKUPS", "MAX_ADDRESSES", "Resolve", "host_resolver"]

T = TypeVar("T")
#: Names that are looked up at a time; others wait for their turn.
LOOKUPS = 8
#: Addresses of one name that are returned: an answer may have thousands, and each is judged.
MAX_ADDRESSES = 64

Resolve = Callable[[str, int], Deferred[list[str]]]
"""Returns the addresses of a name for connections to a port; none where it is not known."""


def host_resolver(workers: Workers) -> Resolve:
    """Return a resolver that asks the system's in these threads.

    A lookup that is cancelled keeps its turn until the system's resolver returns.
    """
    turns = DeferredSemaphore(LOOKUPS)

    def resolve(host: str, port: int) -> Deferred[list[str]]:
        return turns.acquire().addCallback(lambda _: look_up(host, port))

    def look_up(host: str, port: int) -> Deferred[list[str]]:
        found: Deferred[list[str]] = Deferred()
        looked_up = workers.run(_addresses, host, port)
        looked_up.addBoth(end)
        looked_up.chainDeferred(found)
        return found

    def end(result: T) -> T:
        turns.release()
        return result

    return resolve


def _addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a name, each once. Blocking."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    each_once = dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found)
    return list(islice(each_once, MAX_ADDRESSES))
