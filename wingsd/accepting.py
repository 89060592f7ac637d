"""How a listening port takes connections: few in a turn, and none while the process is full.

Each new connection costs a TLS handshake, a millisecond or more. Twisted takes a hundred or more
in one turn of the reactor, in which all other clients then wait.

Where none can be opened any more, Twisted gives up a descriptor that it keeps for this, and takes
and closes by it whoever waits. But a thread may be quicker to have it, and it is gone for good:
from then on the port is told of the same connection in each turn of the reactor, to no avail. That
costs a whole core and thousands of lines a second in the log (Twisted 24.11 and 26.10; its issue
5368 brought the spare descriptor).
"""

from __future__ import annotations

from typing import Any

__all__ = ["ACCEPTS", "REST", "accept_few"]

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
