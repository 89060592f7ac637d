"""The parts of archives that a daemon has left: complete ones, and those that nothing needs.

Blocking.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from wingsd.backups.catalogue import CatalogueFiles
from wingsd.backups.left_parts import left_parts
from wingsd.backups.making import MadeArchive
from wingsd.backups.store import BackupStore, part_name
from wingsd.errors import InvalidData
from wingsd.statedb import BackupRecord

__all__ = ["made_before", "part_path", "remove_parts"]

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

    A part beside its archive, which was to replace that, is settled. Raises `StorageError`.
    """
    for place, backup in left_parts(store.directory):
        if is_wanted(backup):
            continue
        if store.at(place) is not None:
            store.settle_part(place, backup)
        else:
            store.remove_leftovers(place, backup)
