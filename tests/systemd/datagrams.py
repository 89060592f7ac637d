"""A datagram socket that only listens, as the service manager and the journal have theirs."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

#: Seconds for a message that another process is to send.
PATIENCE = 60.0


class Datagrams:
    """A socket at `address`, where a first `@` is that of an abstract one. It does not block."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self._socket.close()
