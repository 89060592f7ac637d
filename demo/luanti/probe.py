"""The shortest exchange with a Luanti server: one UDP packet of no player, and the answer.

The format is that of Luanti's network layer: a protocol number, a peer's number, a channel, and a
packet. A server gives a number to whom it does not know.
"""

from __future__ import annotations

import struct
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.protocol import DatagramProtocol

from demo.output import Failed

__all__ = ["ask"]

_PROTOCOL = 0x4F457403
_HEADER = struct.Struct(">IHB")
#: A reliable packet (3) with a sequence number, in it a control packet (0): your number is (1).
_NUMBER_GIVEN = struct.Struct(">IHB BH BB H")
_RELIABLE, _CONTROL, _SET_PEER_ID, _DISCONNECT = 3, 0, 1, 3
_NOBODY = 0
#: Seconds. UDP may be lost, so who needs an answer asks again.
_ANSWER_WITHIN = 2


class _Probe(DatagramProtocol):
    transport: Any

    def __init__(self, address: tuple[str, int]) -> None:
        self.number: Deferred[int] = Deferred()
        self._address = address

    def startProtocol(self) -> None:
        self.transport.write(_HEADER.pack(_PROTOCOL, _NOBODY, 0), self._address)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if self.number.called or len(datagram) != _NUMBER_GIVEN.size:
            return
        protocol, _, _, kind, _, inner, control, number = _NUMBER_GIVEN.unpack(datagram)
        if (protocol, kind, inner, control) == (_PROTOCOL, _RELIABLE, _CONTROL, _SET_PEER_ID):
            goodbye = _HEADER.pack(_PROTOCOL, number, 0) + bytes([_CONTROL, _DISCONNECT])
            self.transport.write(goodbye, self._address)
            self.number.callback(number)


async def ask(reactor: Any, host: str, port: int) -> int:
    """Send one packet, and return the peer's number. Raises `Failed` without an answer."""
    # A port of its own for each: an engine that forwards packets decides once for each flow.
    asking = _Probe((host, port))
    listening = reactor.listenUDP(0, asking)
    try:
        return await asking.number.addTimeout(_ANSWER_WITHIN, reactor)
    except TooLate:
        raise Failed(f"nothing answers on UDP {host}:{port}") from None
    finally:
        await listening.stopListening()
