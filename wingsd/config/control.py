"""`control`: the socket by which `wingsctl` speaks to the daemon (all of it wingsd's own)."""

from __future__ import annotations

import attrs

from wingsd.config.checks import absolute_or_empty

__all__ = ["DEFAULT_SOCKET", "Control"]

DEFAULT_SOCKET = "/run/wingsd/control.sock"


@attrs.frozen
class Control:
    """`control`: who may open the socket may do what an operator may, and see every server."""

    #: The socket's path; empty is none.
    socket: str = attrs.field(default=DEFAULT_SOCKET, validator=absolute_or_empty)
    #: The group whose members may open it; empty is the daemon's own.
    group: str = ""
