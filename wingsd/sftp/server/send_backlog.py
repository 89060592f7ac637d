"""Stops a connection whose client does not read what it is sent.

asyncssh answers whatever comes, and keeps what the socket does not take: a client that has granted
a window without an end, and then reads nothing, would have the whole process's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

__all__ = ["SendBacklog"]

#: Bytes that wait for the socket, above which the client is not read from, and below which it is.
_HIGH, _LOW = 1 << 20, 1 << 19


class SendBacklog:
    """What waits for the socket of a connection. `changed` is called with whether it is full."""

    def __init__(
        self, conn: asyncssh.SSHServerConnection, changed: Callable[[bool], None]
    ) -> None:
        self.is_full = False
        self._changed = changed
        transport = conn._transport  # asyncssh has no other way to it
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        # asyncio calls them of its protocol, which does nothing by itself.
        conn.pause_writing = self._pause  # type: ignore[method-assign]
        conn.resume_writing = self._resume  # type: ignore[method-assign]
        transport.set_write_buffer_limits(_HIGH, _LOW)

    def _pause(self) -> None:
        self.is_full = True
        self._transport.pause_reading()
        self._changed(True)

    def _resume(self) -> None:
        self.is_full = False
        self._transport.resume_reading()
        self._changed(False)
