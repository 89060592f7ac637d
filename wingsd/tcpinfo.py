"""What Linux tells of a TCP connection (`TCP_INFO`), as far as somebody here asks for it."""

from __future__ import annotations

import socket
import struct

import attrs

__all__ = ["TcpInfo", "tcp_info"]

# The beginning of `struct tcp_info` (linux/tcp.h), to which the kernel only ever adds at its end:
# tcpi_state, tcpi_probes, tcpi_unacked, and tcpi_last_ack_recv in milliseconds.
_LAYOUT = struct.Struct("=B2xB20xI28xI")
# tcp_states.h.
_ESTABLISHED = 1


@attrs.frozen
class TcpInfo:
    """A connection, as it is now.

    `unacknowledged` is how many segments the peer has not acknowledged; `probes`, how many times
    in a row it was asked whether it takes more, or is there, and said nothing; `silence`, the
    seconds since it acknowledged anything at all.
    """

    established: bool
    probes: int
    unacknowledged: int
    silence: float


def tcp_info(connection: socket.socket) -> TcpInfo:
    """Return what is known of a connection. Raises `OSError` for one that is not TCP."""
    found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)
    state, probes, unacknowledged, milliseconds = _LAYOUT.unpack(found)
    return TcpInfo(state == _ESTABLISHED, probes, unacknowledged, milliseconds / 1000)
