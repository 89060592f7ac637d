"""Sockets: keepalive, the state of TCP, and how a listening port takes connections.

A peer that vanished without a word (a power cut, a cable, a firewall that forgot) is silent like
one that has nothing to say. The kernel asks, and breaks the connection where nothing answers.

Each new connection costs a TLS handshake, a millisecond or more. Twisted takes a hundred or more
in one turn of the reactor, in which all other clients then wait.

Where none can be opened any more, Twisted gives up a descriptor that it keeps for this, and takes
and closes by it whoever waits. But a thread may be quicker to have it, and it is gone for good:
from then on the port is told of the same connection in each turn of the reactor, to no avail. That
costs a whole core and thousands of lines a second in the log (Twisted 24.11 and 26.10; its issue
5368 brought the spare descriptor).
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import attrs

__all__ = ["ACCEPTS", "REST", "TcpInfo", "accept_few", "keep_alive", "tcp_info"]

#: Seconds until a silent peer is asked, seconds between the questions, and how many of them it may
#: leave unanswered: two minutes in all.
IDLE = 60
INTERVAL = 15
PROBES = 4


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel ask. A listening socket passes it on to all that it accepts (Linux does)."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


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


#: Connections that are taken in one turn of the reactor.
ACCEPTS = 32

#: Seconds until it is tried again. Those that wait meanwhile stay in the socket's queue.
REST = 0.5


def accept_few(port: Any, reactor: Any) -> None:
    """Have `port`, a listening one of Twisted's, take at most `ACCEPTS` connections a turn.

    When it took none, it looks away for `REST` seconds.

    It is told of connections only where there are some, whatever then keeps it from them: no free
    descriptor in the process or the system, or no memory.
    """
    accept = port.doRead

    def accept_or_rest() -> None:
        port.numberAccepts = ACCEPTS  # Twisted raises it
        taken = port.sessionno  # the number that the next connection gets
        accept()
        if port.sessionno == taken and port.connected:
            port.stopReading()
            reactor.callLater(REST, look_again)

    def look_again() -> None:
        if port.connected and not port.disconnecting:
            port.startReading()

    port.doRead = accept_or_rest
