"""A restore as `RestoreBackup` of the nodes in Go does it, for tests.

Facts from server/backup.go and server/filesystem/filesystem.go of pterodactyl/wings and
pelican-dev/wings, and tar.go of mholt/archives: each member of the tar, whatever its type, goes to
`Filesystem.Write(name, reader, size, mode)`, and then to `Chtimes`. Here Python's tarfile reads
the tar.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

__all__ = ["GoRestoreFailed", "restore_as_go"]

_UMASK = 0o022


class GoRestoreFailed(Exception):
    """The restore ended in the middle, at the member of this name."""


def restore_as_go(archive: Path, root: Path) -> list[str]:
    """Restore an archive in `root`; return the names of its members in order."""
    names = []
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            names.append(member.name)
            _write(tar, member, root / os.path.normpath(member.name))
    return names


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if path.is_dir():  # Stat, which follows symlinks
        raise GoRestoreFailed(f"{member.name}: is a directory")
    try:
        path.parent.mkdir(0o755, parents=True, exist_ok=True)
        mode = member.mode & 0o777 & ~_UMASK
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)
    except OSError as error:
        raise GoRestoreFailed(f"{member.name}: {error.strerror}") from error
    with open(fd, "wb") as file:
        if member.isreg() and member.size:  # links and directories have a size of 0
            content = tar.extractfile(member)
            assert content is not None
            while piece := content.read(1 << 20):
                file.write(piece)
    os.utime(path, (member.mtime, member.mtime))
