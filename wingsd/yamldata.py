"""YAML as people write it, read with every fault at its place. Pure.

PyYAML finds faults of the syntax, and tells where. For a value that is not what its form or its
tag says (`2001-99-99`, `!!int x`), Python's own errors of all kinds come out of it.
"""

from __future__ import annotations

from typing import Any

import yaml

from wingsd.errors import InvalidData

__all__ = ["read_yaml"]

_MERGE = "tag:yaml.org,2002:merge"
_TWICE = "a key is there twice"


class _Loader(yaml.SafeLoader):
    """A safe loader that knows the place of values that cannot be made."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark) from None

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return the node of a map: YAML has each key once, PyYAML takes the last of several."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            # Of the key for merging there may be several.
            name = isinstance(key, yaml.ScalarNode) and (key.tag, key.value)
            if name in seen and key.tag != _MERGE:
                raise yaml.MarkedYAMLError(problem=_TWICE, problem_mark=key.start_mark)
            if name:
                seen.add(name)
        return node


def read_yaml(text: str) -> object:
    """Return the data of the one document in `text`.

    Raises `InvalidData` with the place of the fault, and with none of the text around it, which
    may be a secret.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"see line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        twice = getattr(error, "problem", None) == _TWICE
        raise InvalidData(f"{_TWICE}, {where}" if twice else where) from None
    except RecursionError:
        raise InvalidData("it is nested too deeply") from None
