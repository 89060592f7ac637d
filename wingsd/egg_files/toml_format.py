"""TOML files: comments, order and layout are kept by tomlkit."""

from __future__ import annotations

import tomllib
from collections.abc import MutableMapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item

from wingsd.egg_files.changes import Refused
from wingsd.egg_files.nested_formats import NestedFile

__all__ = ["TomlFile"]


class TomlFile(NestedFile):
    """A TOML file. Raises Refused for what is no TOML."""

    def __init__(self, source: str) -> None:
        try:
            root = tomlkit.parse(source)
        except (TOMLKitError, ValueError) as error:
            raise Refused(f"it is not TOML: {error}") from error
        super().__init__(root, source)

    def plain(self, found: object) -> object:
        """Return the value without its layout."""
        return found.unwrap() if isinstance(found, Item) else found

    def put(self, node: Any, key: Any, value: object) -> None:
        """Put `value` there. A single value must come before every table to belong to `node`."""
        if isinstance(node, MutableMapping) and isinstance(node.get(key), MutableMapping):
            del node[key]
        super().put(node, key, value)

    def dump(self) -> str:
        """Return the text, which must say what was meant: tables out of order are delicate."""
        text = str(self.root.as_string())
        if not self._is_read_from(text):
            raise Refused("it could not be written as TOML that reads as it should")
        return text

    def _is_read_from(self, text: str) -> bool:
        try:
            return bool(tomllib.loads(text) == self.root.unwrap())
        except ValueError:
            # tomlkit has read what is no TOML, such as a lone carriage return, and kept it
            return False
