"""Changes of directories that survive a crash, and failures of the disk as `StorageError`.

Blocking: run it in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from wingsd.errors import StorageError
from wingsd.util.text import disk_advice

__all__ = ["move", "storage_errors", "sync_directory", "time_stamp"]


def time_stamp() -> str:
    """Return the time as part of a file name; with microseconds no name is used twice."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


@contextmanager
def storage_errors(what: object) -> Iterator[None]:
    """Raise an `OSError` of this context as a `StorageError` about `what`, with advice."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {disk_advice(error)}") from error


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on stable storage. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path, *, durable: bool) -> None:
    """Rename a file or directory within a filesystem; with `durable`, on stable storage.

    A rename that cannot be made durable is undone. Raises `StorageError`.
    """
    with storage_errors(f"{source} cannot be moved to {target}"):
        source.rename(target)
        if not durable:
            return
        try:
            for directory in {source.parent, target.parent}:
                sync_directory(directory)
        except OSError:
            target.rename(source)
            raise
