"""A service manager that only listens."""

from __future__ import annotations

import time
from pathlib import Path

from tests.systemd.datagrams import PATIENCE, Datagrams


class Manager(Datagrams):
    """A datagram socket at `address`, as systemd has it; each message is its lines, parsed."""

    def __init__(self, directory: Path, *, abstract: bool = False) -> None:
        super().__init__(f"{'@' if abstract else ''}{directory / 'notify'}")

    def heard(self) -> list[dict[str, str]]:
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
