"""Sends the data of one channel in as few packets, copies and calls of the kernel as it can.

asyncssh copies what it sends eight times, and fills the client's window anew with each message
that widens it, which ends in a short packet. It keeps the window, and all but the data.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import asyncssh

__all__ = ["DataConnection", "DataSender"]

#: Packets that are handed to the kernel at once: the client works on them while others are made.
_PACKETS = 8


class DataConnection(Protocol):
    """The connection of channels."""

    @property
    def exchanges_keys(self) -> bool:
        """Whether no data can be sent now. The channels are asked to flush when that ends."""

    def in_turn(self, work: Callable[[], None]) -> None:
        """Call a function when it is the connection's turn to work."""

    def send_data(self, channel: int, packets: Sequence[Sequence[memoryview]]) -> None:
        """Send packets with a channel's data, each of some pieces."""


class DataSender:
    """The data that `channel` is still to send, by packets of its connection.

    `sent` is called when there is less of it.
    """

    def __init__(
        self,
        connection: DataConnection,
        channel: asyncssh.SSHServerChannel[bytes],
        sent: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._sent = sent
        self._waiting: deque[memoryview] = deque()
        #: Bytes that wait.
        self.size = 0
        self._is_scheduled = False
        # asyncssh calls it when the window is wider, and before it closes the channel.
        self._flush_rest = channel._flush_send_buf
        channel._flush_send_buf = self._flush  # type: ignore[method-assign]

    def write(self, data: Iterable[bytes]) -> None:
        """Send these pieces one after the other."""
        for piece in data:
            self._waiting.append(memoryview(piece))
            self.size += len(piece)
        self._send()

    @property
    def pieces(self) -> int:
        """The number of pieces that wait."""
        return len(self._waiting)

    def clear(self) -> None:
        """Send nothing more."""
        self._waiting.clear()
        self.size = 0

    def _flush(self) -> None:
        if not self._waiting:
            self._flush_rest()
        elif not self._is_scheduled:
            # Once for all messages that have come together.
            self._is_scheduled = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._connection.in_turn, self._send_and_flush)

    def _send_and_flush(self) -> None:
        self._is_scheduled = False
        self._send()
        if not self._waiting:
            self._flush_rest()
        self._sent()

    def _send(self) -> None:
        channel = self._channel
        number = channel._send_chan
        if number is None:  # it is closed
            self.clear()
            return
        while self.size and channel._send_window and not self._connection.exchanges_keys:
            packets: list[list[memoryview]] = []
            while len(packets) < _PACKETS:
                size = min(self.size, channel._send_window, channel._send_pktsize)
                if not size:
                    break
                packets.append(self._take(size))
                channel._send_window -= size
                self.size -= size
            self._connection.send_data(number, packets)

    def _take(self, size: int) -> list[memoryview]:
        """Return the next `size` bytes, in pieces."""
        waiting, taken = self._waiting, []
        while size:
            piece = waiting.popleft()
            if len(piece) > size:
                waiting.appendleft(piece[size:])
                piece = piece[:size]
            size -= len(piece)
            taken.append(piece)
        return taken
