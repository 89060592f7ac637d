"""Archives of backups, as nodes of Pterodactyl and Pelican make them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from typing import TypeVar

__all__ = ["MTIME", "packed_backup", "tar_of", "without_catalogues"]

T = TypeVar("T")
_CATALOGUE = ".catalogue.json"

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


def without_catalogues(files: Mapping[str, T]) -> dict[str, T]:
    """Return the files without the catalogues of backups that are among them, by their paths."""
    backups = {path.partition(".")[0] for path in files if not path.endswith(_CATALOGUE)}
    return {
        path: data
        for path, data in files.items()
        if not (path.endswith(_CATALOGUE) and path.removesuffix(_CATALOGUE) in backups)
    }
