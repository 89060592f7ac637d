"""Changes of keys in the text of a configuration, and of the whole file in one step."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from wingsd.egg_files.changes import NotDone
from wingsd.errors import InvalidData
from wingsd.util.durable import replacing

if TYPE_CHECKING:
    from wingsd.egg_files.yaml_format import YamlFile

Value = str | bool | int | tuple[str, ...]


def edited(text: str, changes: Mapping[str, Value]) -> str:
    """Return the YAML `text` with other values of keys, which are given by their dotted paths.

    Missing keys and sections are added at the end. Raises `InvalidData` when the text cannot be
    changed, such as one with several documents.
    """
    from wingsd.egg_files.yaml_format import YamlFile  # noqa: PLC0415 (ruamel.yaml, 2 MiB)

    try:
        file = YamlFile(text)
        for path, value in changes.items():
            _set(file, path, value)
        return file.text()
    except NotDone as error:
        raise InvalidData(str(error)) from error


def _set(file: YamlFile, path: str, value: Value) -> None:
    *sections, name = path.split(".")
    node = file.root
    for section in sections:
        if not isinstance(node.get(section), MutableMapping):
            # Absent, null, or PHP's `[]`: the file was read before, so it is a section.
            file.put(node, section, {})
        node = node[section]
    if isinstance(value, tuple):
        file.put(node, name, [file.scalar(each, None) for each in value])
    else:
        file.put(node, name, file.scalar(value, node.get(name)))


class FileChanged(Exception):
    """Another program has changed the file meanwhile."""


def replace_file(
    path: str,
    content: bytes,
    *,
    expected: bytes | None = None,
    owner: tuple[int, int] | None = None,
) -> None:
    """Replace a file, with the mode 0600, on stable storage.

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
    with replacing(target) as file:
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        file.write(content)
        # Written and flushed before the comparison, which is the last step before the rename.
        file.flush()
        os.fsync(file.fileno())
        if expected is not None and target.read_bytes() != expected:
            raise FileChanged(str(target))
