"""TOML files: comments, order and layout are kept by tomlkit."""

from __future__ import annotations

import tomllib
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item

from wingsd.egg_files.changes import NotDone
from wingsd.egg_files.nested_formats import NestedFile


class TomlFile(NestedFile):
    """A TOML file. Raises NotDone for invalid TOML."""

    def __init__(self, source: str) -> None:
        try:
            root = tomlkit.parse(source)
        except (TOMLKitError, ValueError) as error:
            raise NotDone(f"it is not TOML: {error}") from error
        super().__init__(root, source)

    def plain(self, found: object) -> object:
        """Return the value without its layout."""
        return found.unwrap() if isinstance(found, Item) else found

    def put(self, node: Any, key: Any, value: object) -> None:
        """Put `value` there. A single value must precede every table to belong to `node`."""
        if isinstance(node, MutableMapping) and isinstance(node.get(key), MutableMapping):
            del node[key]
        super().put(node, key, value)

    def dump(self) -> str:
        """Return the text, after checking that it is read as intended (tables out of order)."""
        text = str(self.root.as_string())
        # tomlkit accepts and keeps invalid TOML, such as a lone carriage return
        with suppress(ValueError):
            if tomllib.loads(text) == self.root.unwrap():
                return text
        raise NotDone("the changed file would not be read as the same TOML")
