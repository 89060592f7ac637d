"""A journal that only listens, and reads entries as systemd's documents describe them."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from tests.systemd.datagrams import PATIENCE, Datagrams

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
