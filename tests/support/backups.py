"""Archives of backups, as nodes of Pterodactyl and Pelican make them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping

__all__ = ["MTIME", "packed_backup", "tar_of"]

#: The time of all files in them.
MTIME = 1_600_000_000


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar with regular files only, without `./`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), MTIME, 0o640
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def packed_backup(files: Mapping[str, bytes]) -> bytes:
    """Return the same as tar.gz."""
    return gzip.compress(tar_of(files), 1, mtime=0)
