"""What tests of a server's directory ask of the disk itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from wingsd.filesystem.paths import ServerPath
from wingsd.filesystem.root import ServerRoot

p = ServerPath.parse


def names(root: ServerRoot, path: str = "/") -> list[str]:
    with root.directory(p(path)) as directory:
        return sorted(entry.text for entry in directory.entries())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def special(home: Path, link: str = "file") -> dict[str, int]:
    """Make one of everything that is neither file nor directory; return the kinds."""
    os.mkfifo(home / "fifo")
    os.mknod(home / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(home / "socket", stat.S_IFSOCK | 0o666)
    (home / "link").symlink_to(link)
    return {name: (home / name).lstat().st_mode for name in ("fifo", "device", "socket", "link")}
