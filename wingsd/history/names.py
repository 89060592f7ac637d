"""The names of points: each keeps its point in a history, such as a backup that is one.

They are in the file `names` of the history's directory, and in `names.copy`, which has the same
bytes. Both are replaced as a whole, so they are read without the history's lock. The first line is
the SHA-256 of the rest, which is JSON; docs/history.md has its keys. Blocking.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from attrs import asdict, field, frozen

from wingsd.errors import HistoryDamaged, HistoryVersionUnknown, StorageError
from wingsd.util.serialization import structure
from wingsd.util.text import reading_advice

VERSION = 1
"""The version of the format."""

FILES = (b"names", b"names.copy")
"""The names of both files."""


@frozen
class PointName:
    """A name of the point `number`, which has the root `root`, in hexadecimal.

    `made` is when it was given, in seconds since 1970, and `maker` who did that. `ignored` and
    `denied` are lines as in gitignore: files that do not belong to what has the name. `files` and
    `size` are the number of regular files that do, and their bytes.
    """

    name: str
    number: int
    root: str
    made: float
    maker: str
    files: int = 0
    size: int = 0
    ignored: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


@frozen
class _Content:
    version: int
    names: tuple[PointName, ...] = field(converter=tuple)


def encode_names(names: Iterable[PointName]) -> bytes:
    """Return the bytes of both files."""
    data = {"version": VERSION, "names": [asdict(each) for each in names]}
    text = json.dumps(data, indent=1).encode() + b"\n"
    return sha256(text).hexdigest().encode() + b"\n" + text


def load_names(directory: str) -> tuple[dict[str, PointName], bool]:
    """Return the names of a history's points, none without a history.

    And whether both files have them. Raises HistoryDamaged where neither can be used, and
    StorageError.
    """
    found: list[dict[str, PointName] | None] = []
    damage: StorageError | None = None
    for name in FILES:
        path, names = os.path.join(directory, os.fsdecode(name)), None
        try:
            names = _decoded(Path(path).read_bytes(), path)
        except FileNotFoundError:
            pass
        except OSError as error:
            damage = damage or HistoryDamaged(path, reading_advice(error))
        except StorageError as error:
            damage = damage or error
        found.append(names)
    first = next((each for each in found if each is not None), None)
    if first is None and damage is not None:
        raise damage
    return first or {}, found[0] == found[1]


def read_names(directory: str) -> dict[str, PointName]:
    """Return the names alone."""
    return load_names(directory)[0]


def _decoded(raw: bytes, path: str) -> dict[str, PointName]:
    digest, _, text = raw.partition(b"\n")
    if sha256(text).hexdigest().encode() != digest:
        raise HistoryDamaged(path, "it does not have its digest")
    try:
        data: Any = json.loads(text)
        version = data["version"]
        if version != VERSION:
            raise HistoryVersionUnknown(path, version, VERSION)
        names = structure(data, _Content).names
    except (ValueError, KeyError, TypeError) as error:
        raise HistoryDamaged(path, f"it makes no sense: {error}") from error
    return {each.name: each for each in names}
