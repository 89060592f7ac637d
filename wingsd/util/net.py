"""Sockets: TCP keepalive, TCP_INFO, and limits for accepting connections."""

from __future__ import annotations

import socket
import struct
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

__all__ = ["ACCEPTS", "PAUSE", "TcpInfo", "keep_alive", "limit_accepts", "tcp_info"]

#: Seconds until the first probe of an idle connection, between two probes, and the number of
#: probes without answer that break it: two minutes in all.
IDLE = 60
INTERVAL = 15
PROBES = 4


def keep_alive(connection: socket.socket) -> None:
    """Enable TCP keepalive: it finds a peer that vanished, after a power cut for example.

    Linux applies the options of a listening socket to the connections that it accepts.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


# The start of `struct tcp_info` (linux/tcp.h), which the kernel only ever extends at its end:
# tcpi_state, tcpi_probes, tcpi_unacked, and tcpi_last_ack_recv in milliseconds.
_LAYOUT = struct.Struct("=B2xB20xI28xI")
# tcp_states.h.
_ESTABLISHED = 1


@attrs.frozen
class TcpInfo:
    """The state of a TCP connection.

    `unacknowledged` counts the segments not acknowledged, `probes` the window or keepalive probes
    in a row without answer; `silence` is the seconds since the last acknowledgement.
    """

    established: bool
    probes: int
    unacknowledged: int
    silence: float


def tcp_info(connection: socket.socket) -> TcpInfo:
    """Return the state of a connection. Raises `OSError` for one that is not TCP."""
    found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)
    state, probes, unacknowledged, milliseconds = _LAYOUT.unpack(found)
    return TcpInfo(state == _ESTABLISHED, probes, unacknowledged, milliseconds / 1000)


#: Connections accepted in one turn of the reactor.
ACCEPTS = 32

#: Seconds of a pause. Connections that wait meanwhile stay in the socket's queue.
PAUSE = 0.5


def limit_accepts(port: Any, reactor: IReactorTime) -> None:
    """Have `port`, a listening port of Twisted, accept at most `ACCEPTS` connections a turn.

    Each new connection costs a TLS handshake, a millisecond or more. Twisted accepts a hundred or
    more in one turn of the reactor, in which all other clients wait.

    When it could accept none, it pauses for `PAUSE` seconds: it is readable, but descriptors or
    memory are used up. Twisted then closes a spare descriptor (its issue 5368) to accept and close
    a waiting connection. If another thread takes that descriptor first, it is lost, and the port
    stays readable in each turn: a whole core, and thousands of log lines a second (Twisted 24.11
    and 26.10).
    """
    accept = port.doRead

    def accept_or_pause() -> None:
        port.numberAccepts = ACCEPTS  # Twisted raises it
        taken = port.sessionno  # the number that the next connection gets
        accept()
        if port.sessionno == taken and port.connected:
            port.stopReading()
            reactor.callLater(PAUSE, resume)

    def resume() -> None:
        if port.connected and not port.disconnecting:
            port.startReading()

    port.doRead = accept_or_pause
