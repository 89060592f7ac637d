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
from typing import IO

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


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file with the mode 0600, which replaces the one at `path` at the end.

    A crash leaves `path` either old or new, never half written; after an error it is as before.
    """
    # In the same directory, since a rename cannot leave a filesystem.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_directory(path.parent)


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file in place of another, of which it keeps owner and mode where it may.

    `mode` is that of a file that was not there. Raises `OSError`.
    """
    with replacing(path) as file:
        try:
            before = path.stat()
        except FileNotFoundError:
            os.fchmod(file.fileno(), mode)
        else:
            with suppress(PermissionError):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
        file.write(content)


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
