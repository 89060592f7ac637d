"""The way to the system's journal: journald's socket for entries in its native form. Blocking."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Mapping

__all__ = ["SOCKET", "Journald", "is_journal"]

SOCKET = "/run/systemd/journal/socket"
#: Seconds for a journal that is busy. Once it was too busy, it is no longer waited for: a flood of
#: lines would stop the daemon for as long with each of them.
_PATIENCE = 1.0
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = {errno.EMSGSIZE, errno.ENOBUFS}


def is_journal(fileno: int, environ: Mapping[str, str]) -> bool:
    """Return whether what is written to `fileno` goes to the journal.

    By JOURNAL_STREAM, systemd.exec(5). It alone does not tell: whoever starts another program
    with its output elsewhere may leave the variable as it is.
    """
    try:
        status = os.fstat(fileno)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Journald:
    """journald's socket at `address`. What it does not take is lost; `lost` counts that."""

    def __init__(self, address: str = SOCKET) -> None:
        self.lost = 0
        self._address = address
        # Not connected: journald may be started anew.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def send(self, entry: bytes) -> bool:
        """Have an entry written; return whether journald took it."""
        self._socket.settimeout(0.0 if self.lost else _PATIENCE)
        try:
            try:
                self._socket.sendto(entry, self._address)
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
                self._send_large(entry)
        except OSError:
            self.lost += 1
            return False
        return True

    def _send_large(self, entry: bytes) -> None:
        """Hand over the entry as a file in memory that nobody can change any more."""
        with open(
            os.memfd_create("wingsd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb"
        ) as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
            self._socket.sendmsg([], [rights], 0, self._address)
