"""Replaces a file in one step, with its owner, readable by nobody else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from wingsd.util.durable import sync_directory

__all__ = ["FileChanged", "replace_file"]


class FileChanged(Exception):
    """The file has been changed by somebody else meanwhile."""


def replace_file(
    path: str,
    content: bytes,
    *,
    expected: bytes | None = None,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write a file anew with the mode 0600, on stable storage.

    A symlink stays, and its target is written. The owner stays, too; `owner`, user and group id,
    is that of a file that does not exist. `expected` is what the file must contain still.
    Raises `OSError`, and `FileChanged`; the file is then as before.
    """
    target = Path(path).resolve()
    try:
        before = target.stat()
    except FileNotFoundError:
        if expected is not None:
            raise
    else:
        owner = (before.st_uid, before.st_gid)
    # Made with the mode 0600. In the same directory, since a rename cannot leave a filesystem.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        _check(target, expected)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    sync_directory(target.parent)


def _check(target: Path, expected: bytes | None) -> None:
    if expected is not None and target.read_bytes() != expected:
        raise FileChanged(str(target))
