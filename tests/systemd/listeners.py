"""Sockets that only listen, as those of the service manager and of the journal."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
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


# A journal that only listens, and reads entries as systemd's documents describe them


SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def parse(data: bytes) -> dict[str, str]:
    """Return the fields of an entry in its native form."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        fields[name.decode()] = value.decode()
        data = rest
    return fields


class Journal(Datagrams):
    """A datagram socket at `address`, as journald has it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory / "journal"))
        #: How many entries came as a file.
        self.files = 0

    def read(self) -> dict[str, str]:
        """Return the next entry. Raises `BlockingIOError` when there is none."""
        data, descriptors, flags, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        for descriptor in descriptors:
            self.files += 1
            with open(descriptor, "rb") as file:
                # journald reads no file that could still change.
                assert fcntl.fcntl(file, fcntl.F_GET_SEALS) == SEALED
                assert not data
                data = os.pread(file.fileno(), 1 << 30, 0)
        return parse(data)

    def wait_for(self, text: str) -> dict[str, str]:
        """Return the first entry with `text` in its message. Blocking: run it in a thread."""
        self._socket.settimeout(PATIENCE)
        try:
            while True:
                entry = self.read()
                if text in entry["MESSAGE"]:
                    return entry
        finally:
            self._socket.setblocking(False)


# A service manager that only listens


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
