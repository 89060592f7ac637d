"""Writes one file that comes with a server, as it comes. Blocking: run it in a thread."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from wingsd.archive import demand_room
from wingsd.diskadvice import disk_advice
from wingsd.errors import StorageError

__all__ = ["sync_directory", "write_file"]

#: Bytes after which the filesystem is asked how much is free.
_STEP = 8 << 20


def write_file(path: Path, blocks: Iterable[bytes], *, reserve: int, durable: bool) -> str:
    """Write a new file that only this process's user may read; return its SHA-256 in hexadecimal.

    `reserve` is the bytes that it leaves free. With `durable` its data is on stable storage when
    this returns; its name is for the directory to tell. Raises `StorageError`, and whatever
    `blocks` raises; what was written until then stays.
    """
    digest = hashlib.sha256()
    unseen = _STEP
    try:
        with open(path, "xb", buffering=0, opener=_private) as file:
            for block in blocks:
                unseen += len(block)
                if reserve and unseen >= _STEP:
                    unseen = 0
                    demand_room(os.fstatvfs(file.fileno()), reserve, path.name, len(block))
                digest.update(block)
                _write(file.fileno(), block)
            if durable:
                os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {disk_advice(error)}") from error
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Return when the names in a directory are on stable storage. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _write(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
