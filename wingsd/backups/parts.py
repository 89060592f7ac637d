"""The parts of archives that a daemon has left: complete ones, and those that nothing needs.

Blocking.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

from wingsd.backups.catalogue import CatalogueFiles
from wingsd.backups.making import MadeArchive
from wingsd.backups.store import BackupStore, part_name
from wingsd.errors import InvalidData, StorageError
from wingsd.statedb import BackupRecord
from wingsd.util.text import canonical_uuid

__all__ = ["made_before", "part_path", "remove_parts"]

_PART = re.compile(r"\.([0-9a-f-]{36})\.[a-z0-9.]+\.part")
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def part_path(store: BackupStore, place: str) -> str:
    """Return the path of the part of the archive that is to be at a place."""
    path = store.path(place)
    return os.path.join(os.path.dirname(path), part_name(place))


def made_before(store: BackupStore, record: BackupRecord) -> MadeArchive | None:
    """Return the complete archive whose part an earlier daemon has left, None without one.

    What is left of any other is removed. Raises `StorageError`.
    """
    path = part_path(store, record.place)
    try:
        directory = os.open(os.path.dirname(path), _LIST)
    except OSError:
        return None
    catalogue = None
    try:
        with suppress(InvalidData, OSError):
            catalogue = CatalogueFiles(directory).read(record.backup)
        with suppress(OSError):
            status = os.stat(os.path.basename(path), dir_fd=directory, follow_symlinks=False)
            if catalogue is not None and status.st_size == catalogue.bytes:
                return MadeArchive(path, record.place, catalogue, 0)
    finally:
        os.close(directory)
    store.remove_leftovers(record.place, record.backup)
    return None


def remove_parts(store: BackupStore, is_wanted: Callable[[str], bool]) -> None:
    """Remove the parts of all backups but the wanted ones, by their UUIDs.

    Raises `StorageError`.
    """
    for place, backup in _parts(store):
        if not is_wanted(backup):
            store.remove_leftovers(place, backup)


def _parts(store: BackupStore) -> Iterator[tuple[str, str]]:
    """Yield the place and the backup of each part."""
    try:
        names = os.listdir(store.directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{store.directory}: {error.strerror}", "the backups could not be read"
        ) from error
    for name in names:
        if canonical_uuid(name) == name:
            with suppress(OSError):
                inner = os.listdir(store.path(name))
                yield from ((f"{name}/{place}", uuid) for place, uuid in _named(inner))
    yield from _named(names)


def _named(names: list[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        if found := _PART.fullmatch(name):
            yield name.removeprefix(".").removesuffix(".part"), found[1]
