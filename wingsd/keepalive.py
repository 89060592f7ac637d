"""TCP's own question whether a peer is still there.

A peer that vanished without a word (a power cut, a cable, a firewall that forgot) is silent like
one that has nothing to say. The kernel asks, and breaks the connection where nothing answers.
"""

from __future__ import annotations

import socket

__all__ = ["keep_alive"]

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
