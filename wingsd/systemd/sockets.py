"""The listening socket that systemd passes to a service, sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import count
from typing import Any

import attrs
from twisted.internet.endpoints import serverFromString

from wingsd.errors import ConfigError

__all__ = ["passed_endpoint"]

_TCP = {socket.AF_INET: "INET", socket.AF_INET6: "INET6"}


@attrs.frozen
class _Passed:
    """A socket by its place among those passed; `domain` is empty when nobody listens on TCP."""

    index: int
    domain: str

    @property
    def endpoint(self) -> str:
        return f"systemd:domain={self.domain}:index={self.index}"


def passed_endpoint(reactor: Any) -> str | None:
    """Return the endpoint of the TCP socket that was passed, None without one.

    Sockets of other kinds are for other purposes. Raises `ConfigError` where several would do.
    """
    found = [passed for passed in _passed(reactor) if passed.domain]
    if len(found) > 1:
        ways = " or ".join(f"--endpoint {passed.endpoint}" for passed in found)
        raise ConfigError(
            f"systemd passes {len(found)} sockets that this node could listen on: leave one in "
            f"the socket unit (ListenStream=), or choose by {ways}"
        )
    return found[0].endpoint if found else None


def _passed(reactor: Any) -> Iterator[_Passed]:
    for index in count():
        try:
            # Twisted has taken the variables out of the environment, and is the one to ask.
            endpoint: Any = serverFromString(reactor, f"systemd:domain=INET:index={index}")
        except LookupError:
            return
        yield _Passed(index, _domain(endpoint.fileno))


def _domain(fileno: int) -> str:
    try:
        with socket.socket(fileno=os.dup(fileno)) as passed:
            listens = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return _TCP.get(passed.family, "") if listens else ""
    except OSError:  # no socket
        return ""
