"""Changes of keys in the text of a configuration; all else stays as it is written."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING

from wingsd.errors import InvalidData

if TYPE_CHECKING:
    from wingsd.egg_files.yaml_format import YamlFile

__all__ = ["Value", "edited"]

Value = str | bool | int | tuple[str, ...]


def edited(text: str, changes: Mapping[str, Value]) -> str:
    """Return the YAML `text` with other values of keys, which are given by their dotted paths.

    Missing keys and sections are added at the end. Raises `InvalidData` when the text cannot be
    changed, such as one with several documents.
    """
    # Here, since ruamel.yaml takes some MiB, which a node saves whose Panel changes nothing.
    from wingsd.egg_files.changes import Refused  # noqa: PLC0415
    from wingsd.egg_files.yaml_format import YamlFile  # noqa: PLC0415

    try:
        file = YamlFile(text)
        for path, value in changes.items():
            _set(file, path, value)
        return file.text()
    except Refused as error:
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
