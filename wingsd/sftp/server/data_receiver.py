"""Takes in the data of one channel, and widens the client's window as long as it is read.

asyncssh keeps what comes while reading is paused in the pieces it came in: single bytes would take
a hundred times their size. Here all is handed on at once, and paused is the widening.
"""

from __future__ import annotations

from collections.abc import Callable

import asyncssh
from asyncssh.constants import MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import UInt32

__all__ = ["DataReceiver"]

#: States in which the channel is closed from this side, and data is dropped.
_CLOSED = frozenset(("close_pending", "closed"))


class DataReceiver:
    """Hands the data of `channel` to `received`: no more than its window since the last pause."""

    def __init__(
        self,
        channel: asyncssh.SSHServerChannel[bytes],
        received: Callable[[bytes | memoryview], None],
    ) -> None:
        self._channel = channel
        self._received = received
        self._window = channel.get_recv_window()
        self.is_paused = False
        channel._accept_data = self._accept  # type: ignore[method-assign,assignment]

    def pause(self) -> None:
        """Leave the window as it is."""
        self.is_paused = True

    def resume(self) -> None:
        """Widen it again."""
        self.is_paused = False
        self._widen()

    def _accept(self, data: bytes | memoryview, _: asyncssh.DataType = None) -> None:
        channel = self._channel
        if channel._send_state in _CLOSED:
            return
        channel._recv_window -= len(data)
        self._received(data)
        self._widen()

    def _widen(self) -> None:
        channel = self._channel
        missing = self._window - channel._recv_window
        if not self.is_paused and missing > self._window // 2:
            channel._recv_window = self._window
            channel.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(missing))
