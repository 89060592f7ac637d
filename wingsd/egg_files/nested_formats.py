"""Egg files of nested maps and lists, such as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, MutableMapping, MutableSequence
from typing import Any

from wingsd.egg_files.changes import (
    ALL,
    Change,
    NotDone,
    Scalar,
    Step,
    parse_path,
    quoted,
    scalar_text,
)

_CONTAINER = (MutableMapping, MutableSequence)


class NestedFile:
    """Nested data below `root`; `changed` says whether a value was changed.

    A subclass converts its library's scalars: `plain` and `scalar`, to Python's and back.
    """

    def __init__(self, root: object, source: str) -> None:
        if not isinstance(root, _CONTAINER):
            raise NotDone("it holds neither keys nor a list")
        self.root: Any = root
        self.source = source
        self.changed = False

    def plain(self, found: object) -> object:
        """Return a scalar as a plain str, bool, int or float, and anything else unchanged."""
        return found

    def scalar(self, new: Scalar, found: object) -> object:
        """Return the value to put in the place of `found`."""
        return new

    def key(self, name: str) -> str:
        """Return the key to make for a name that is not there."""
        return name

    def dump(self) -> str:
        """Return the text of the changed data."""
        raise NotImplementedError

    def text(self) -> str:
        """Return the file's text, the source itself where nothing was changed."""
        return self.dump() if self.changed else self.source

    def apply(self, change: Change) -> None:
        """Set the value at the path `change.match`, making what is missing on the way.

        Below a wildcard only children that exist, and are maps or lists themselves, take part. An
        element can be added to a list only as its first. Raises NotDone where the path leads
        through a single value or beyond a list's end.
        """
        self._descend(self.root, parse_path(change.match), change)

    def put(self, node: Any, key: Any, value: object) -> None:
        """Put `value` into `node`, in the place of what is there or as something new."""
        if isinstance(node, MutableSequence) and key == len(node):
            node.append(value)
        elif isinstance(node, MutableMapping) and key not in node:
            node[self.key(key)] = value
        else:
            node[key] = value
        self.changed = True

    def _descend(self, node: Any, path: list[Step], change: Change) -> None:
        step, rest = path[0], path[1:]
        if step is not ALL:
            self._at(node, _key(node, step), rest, change)
            return
        refused: NotDone | None = None
        for key in _keys(node):
            try:
                if not rest or isinstance(node[key], _CONTAINER):
                    self._at(node, key, rest, change)
            except NotDone as error:
                refused = error
        if refused is not None:
            raise refused

    def _at(self, node: Any, key: Any, rest: list[Step], change: Change) -> None:
        found = _get(node, key)
        plain = self.plain(found)
        if rest and plain is not None:
            if not isinstance(found, _CONTAINER):
                raise NotDone(f"{quoted(key)} is a single value, nothing can be below it")
            self._descend(found, rest, change)
            return
        new = change.new_value(plain)
        if new is None or ALL in rest:
            return
        if rest:
            self.put(node, key, self._built(rest, self.scalar(new, None)))
        elif (type(new), new) != (type(plain), plain):
            self.put(node, key, self.scalar(new, found))

    def _built(self, rest: list[Step], value: object) -> object:
        """Return `value` inside of the maps and lists that are missing on the way to it."""
        for step in reversed(rest):
            if step == 0 and isinstance(step, int):
                value = [value]
            elif isinstance(step, int):
                raise NotDone(f"there is no list that has the index {step}")
            elif isinstance(step, str):
                value = {self.key(step): value}
        return value


def _keys(node: Any) -> Iterable[Any]:
    return range(len(node)) if isinstance(node, MutableSequence) else list(node)


def _key(node: Any, step: Step) -> Any:
    """Return the key or index that `node` itself knows `step` by."""
    if isinstance(node, MutableSequence):
        index = int(step) if isinstance(step, str) and step.isdecimal() else step
        if not isinstance(index, int):
            raise NotDone(f"there is a list where {quoted(step)} should be")
        if index >= max(len(node), 1):
            raise NotDone(f"the list has {len(node)} entries, none with the index {index}")
        return index
    if isinstance(step, int):
        raise NotDone(f"there are keys where a list with the index {step} should be")
    if step in node:
        return step
    # YAML's keys may be numbers or booleans
    return next((key for key in node if scalar_text(key) == step), step)


def _get(node: Any, key: Any) -> Any:
    if isinstance(node, MutableSequence):
        return node[key] if key < len(node) else None
    return node.get(key)


_INDENT = re.compile(r"[\[{][ \t]*\n([ \t]+)")
_DEFAULT_INDENT = "  "


class JsonFile(NestedFile):
    """A JSON file; an empty one is an empty map. Raises NotDone for invalid JSON."""

    def __init__(self, source: str) -> None:
        try:
            root = json.loads(source, parse_float=_finite) if source.strip() else {}
        except ValueError as error:
            raise NotDone(f"it is not JSON: {error}") from error
        super().__init__(root, source)

    def text(self) -> str:
        """Return the text; that of an empty file is an empty map."""
        return super().text() if self.source.strip() else self.dump()

    def dump(self) -> str:
        """Return the data as the file wrote it: on one line, or with its own indentation."""
        found = _INDENT.search(self.source)
        one_line = self.source.strip() and "\n" not in self.source.strip()
        indent = None if one_line else found[1] if found else _DEFAULT_INDENT
        end = "" if self.source.strip() and not self.source.endswith("\n") else "\n"
        return json.dumps(self.root, ensure_ascii=False, indent=indent) + end


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"the number {literal[:20]} is too large")
    return number
