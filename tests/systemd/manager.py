"""A service manager that only listens."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from types import TracebackType

__all__ = ["Manager"]

#: Seconds for a message that another process is to send.
PATIENCE = 20.0


class Manager:
    """A datagram socket at `address`, as systemd has it; each message is its lines, parsed."""

    def __init__(self, directory: Path, *, abstract: bool = False) -> None:
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if abstract:
            self.address = f"@{self.address}"
        self._socket.bind(self.address.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self._socket.close()

    def heard(self) -> list[dict[str, str]]:
        """Return the messages that have arrived since the last call."""
        messages: list[dict[str, str]] = []
        while True:
            try:
                messages.append(self._receive())
            except BlockingIOError:
                return messages

    def wait_for(self, assignment: str) -> list[dict[str, str]]:
        """Return the messages up to and including one with this line, such as "READY=1".

        Blocking: run it in a thread.
        """
        key, _, value = assignment.partition("=")
        messages: list[dict[str, str]] = []
        end = time.monotonic() + PATIENCE
        self._socket.settimeout(PATIENCE)
        try:
            while not messages or messages[-1].get(key) != value:
                assert time.monotonic() < end, f"no {assignment!r} in {messages}"
                messages.append(self._receive())
        finally:
            self._socket.setblocking(False)
        return messages

    def _receive(self) -> dict[str, str]:
        message = self._socket.recv(4096).decode()
        return dict(line.split("=", 1) for line in message.split("\n"))
