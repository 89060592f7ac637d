"""Changes of directories that survive a crash, and failures of the disk as `StorageError`.

Blocking: run it in a thread.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from wingsd.errors import StorageError
from wingsd.util.text import disk_advice


def time_stamp() -> str:
    """Return the time as part of a file name; with microseconds no name is used twice."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


@contextmanager
def storage_errors(what: object, remedy: str = "") -> Iterator[None]:
    """Raise an `OSError` of this context as a `StorageError` about `what`, with advice."""
    try:
        yield
    except OSError as error:
        advice = "; ".join(filter(None, (disk_advice(error), remedy)))
        raise StorageError(f"{what}: {advice}") from error


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on stable storage. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file in place of another, of which it keeps owner and mode where it may.

    `mode` is that of a file that was not there. At no time, and after no crash, is it half
    written. Raises `OSError`.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            try:
                before = path.stat()
            except FileNotFoundError:
                os.fchmod(descriptor, mode)
            else:
                with suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_directory(path.parent)


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
