"""Finds the parts of archives that a daemon has left, by their names. Blocking."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress

from wingsd.errors import StorageError
from wingsd.util.text import canonical_uuid

__all__ = ["left_parts"]

_PART = re.compile(r"\.([0-9a-f-]{36})\.[a-z0-9.]+\.part")


def left_parts(directory: str) -> list[tuple[str, str]]:
    """Return the place and the backup of each part in a directory of backups.

    Raises `StorageError`.
    """
    return list(_parts(directory))


def _parts(directory: str) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(
            f"{directory}: {error.strerror}", "the backups could not be read"
        ) from error
    for name in names:
        if canonical_uuid(name) == name:
            with suppress(OSError):
                inner = os.listdir(os.path.join(directory, name))
                yield from ((f"{name}/{place}", uuid) for place, uuid in _named(inner))
    yield from _named(names)


def _named(names: list[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        if found := _PART.fullmatch(name):
            yield name.removeprefix(".").removesuffix(".part"), found[1]
