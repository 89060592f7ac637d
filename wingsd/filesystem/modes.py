"""Sets permission bits of files and directories, and of nothing that a symlink leads to."""

from __future__ import annotations

import os
import stat

from wingsd.filesystem.errors import FileTypeRefused
from wingsd.util.text import display

__all__ = ["set_mode_at"]


def set_mode_at(parent: int, name: bytes, mode: int) -> None:
    """Set the permission bits of the entry `name` of the directory `parent`.

    Set-id and sticky bits are left out, as in Wings. Raises OSError, and FileTypeRefused for a
    symlink, a FIFO, a socket or a device.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise FileTypeRefused(f"{display(name)} has no mode of its own")
        # fchmod(2) refuses O_PATH; this name of the descriptor means the very same file.
        os.chmod(f"/proc/self/fd/{fd}", mode & 0o777)
    finally:
        os.close(fd)
