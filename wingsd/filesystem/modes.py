"""Sets permission bits of files and directories, and of nothing that a symlink leads to.

And tells which ones, and which owner, a new file has without that.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from wingsd.errors import FileTypeRefused
from wingsd.util.text import display

__all__ = ["is_own", "process_umask", "set_mode_at"]


def process_umask() -> int:
    """Return the process's umask from /proc: umask(2) would set it.

    With it the sticky bit, which open(2) may drop. All bits where /proc has none, so that every
    mode is set explicitly.
    """
    with suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8) | stat.S_ISVTX
    return 0o7777


def is_own(owner: tuple[int, int], directory: int) -> bool:
    """Return whether new files below a directory have this owner; the descriptor is open."""
    # below a set-group-id directory files get that directory's group instead
    inherits = os.fstat(directory).st_mode & stat.S_ISGID
    return owner == (os.geteuid(), os.getegid()) and not inherits


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
