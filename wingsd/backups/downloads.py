"""Local backups that a browser downloads: found and opened. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from wingsd.backups.local import SUFFIXES
from wingsd.errors import StorageError, WingsdError
from wingsd.filesystem import OpenFile
from wingsd.filesystem.directory import open_regular
from wingsd.filesystem.errors import FileTypeRefused, IsDirectory
from wingsd.util.text import canonical_uuid, reading_advice

__all__ = ["BackupMissing", "open_backup"]

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class BackupMissing(WingsdError):
    """The server has no local backup with this UUID (404, with Wings' message)."""

    code = "backup-missing"
    status = 404

    def __init__(self, uuid: str) -> None:
        super().__init__(
            "The requested backup was not found on this server.",
            f"system.backup_directory has no file of the backup {uuid} of this server",
        )


def open_backup(directory: str, server: str, uuid: str) -> OpenFile | None:
    """Open the local backup of a server in the directory of all backups; None without it.

    It is in the directory of its server (Pelican), or beside the others, where nothing tells
    whose it is. `server` is empty where only the backup is named, which is then that of any
    server. Raises StorageError.
    """
    try:
        top = os.open(directory, _LIST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(directory, error) from error
    try:
        for place in _places(top, server):
            found = _open_in(top, place, uuid)
            if found is not None:
                return found
    except OSError as error:
        raise _unreadable(directory, error) from error
    finally:
        os.close(top)
    return None


def _places(top: int, server: str) -> Iterator[str]:
    """Yield the directories that the backup may be in."""
    if server:
        yield server
    yield "."
    if not server:
        yield from filter(canonical_uuid, os.listdir(top))


def _open_in(top: int, place: str, uuid: str) -> OpenFile | None:
    try:
        directory = os.open(place, _LIST, dir_fd=top)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        for suffix in SUFFIXES:
            with suppress(FileNotFoundError, IsDirectory, FileTypeRefused):
                return open_regular(directory, f"{uuid}.{suffix}".encode())
    finally:
        os.close(directory)
    return None


def _unreadable(directory: str, error: OSError) -> StorageError:
    return StorageError(f"{directory}: {reading_advice(error)}", "the backup could not be read")
